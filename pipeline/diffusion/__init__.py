"""Inpainting diffusion: the parts of a pipeline, what its networks are fed, and how it samples."""
