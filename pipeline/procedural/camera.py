"""From reflectance to a photo: uneven light, exposure, lens blur, sensor noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.images import Picture
from pipeline.procedural.noise import Plane, grid, soften, unit_noise


def expose(rng: np.random.Generator, reflectance: Plane) -> Picture:
    """Photograph an (H, W) or (H, W, 3) reflectance to (H, W) or (H, W, 3) uint8.

    Light falls off across the picture and gain, gamma, blur (up to 0.8 px) and noise (up to 3 grey levels) differ from photo
    to photo; half of the photos go through JPEG.
    """
    size = reflectance.shape[0]
    rows, columns = (axis / size - 0.5 for axis in grid(size))
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0.02, 0.25) * (rows * np.float32(np.sin(angle)) + columns * np.float32(np.cos(angle)))
    light += 0.015 * unit_noise(rng, size, (size / 4, size / 4))
    light *= rng.uniform(0.8, 1.15)
    signal = np.clip(np.clip(reflectance, 0.01, 1.2) * (light if reflectance.ndim == 2 else light[..., None]), 0, 1)
    if rng.random() < 0.6:
        signal = soften(signal, rng.uniform(0.3, 0.8))
    grey = 255 * signal ** np.float32(rng.uniform(0.85, 1.15))
    grey += np.float32(rng.uniform(0.3, 3.0)) * rng.standard_normal(grey.shape[:2], dtype=np.float32).reshape(
        *grey.shape[:2], *(1,) * (grey.ndim - 2)
    )
    photo = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return _jpeg(photo, int(rng.integers(70, 98))) if rng.random() < 0.5 else photo


def _jpeg(photo: Picture, quality: int) -> Picture:
    written, data = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise ValueError(f"JPEG refused an array of shape {photo.shape} and type {photo.dtype}; expected uint8, 1 or 3 channels")
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.uint8)
