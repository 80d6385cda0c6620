"""Drawn surfaces and defects: the sample set needs no download and no licence."""
