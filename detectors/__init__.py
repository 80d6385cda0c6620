"""Detectors, trained alike in every arm of the comparison and scored by one measure."""
