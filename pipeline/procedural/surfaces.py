"""Surfaces as (H, W) float64 reflectance, about 0.2 to 0.8. Every part gets its own from its own generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.float64]
Surface = Callable[[np.random.Generator, int], Plane]


def unit_noise(rng: np.random.Generator, size_px: int, sigma_px: tuple[float, float]) -> Plane:
    """Smooth noise of zero mean and unit deviation; `sigma_px` is (rows, columns)."""
    noise = ndimage.gaussian_filter(rng.standard_normal((size_px, size_px)), sigma_px, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def brushed_metal(rng: np.random.Generator, size_px: int) -> Plane:
    """Streaks of several widths along nearly one direction, over a slow change of sheen."""
    length = rng.uniform(18, 40)
    streaks = unit_noise(rng, size_px, (0.6, length)) + 0.8 * unit_noise(rng, size_px, (2.0, 2 * length))
    slow = unit_noise(rng, size_px, (size_px / 5, size_px / 3))
    tilted = ndimage.rotate(streaks, rng.uniform(-6, 6), reshape=False, order=1, mode="wrap")
    return rng.uniform(0.42, 0.58) + rng.uniform(0.035, 0.055) * tilted + 0.04 * slow


def woven_fabric(rng: np.random.Generator, size_px: int) -> Plane:
    """Plain weave: warp over weft and back, each thread with its own brightness and a wavering course."""
    rows, columns = np.mgrid[0:size_px, 0:size_px].astype(np.float64)
    pitch_x, pitch_y = rng.uniform(5.0, 7.5, size=2)
    wander = 0.35 * pitch_x
    x = (columns + wander * unit_noise(rng, size_px, (14, 14))) / pitch_x + rng.uniform(0, 9)
    y = (rows + wander * unit_noise(rng, size_px, (14, 14))) / pitch_y + rng.uniform(0, 9)
    warp, weft = (0.5 + 0.5 * np.cos(2 * np.pi * axis) for axis in (x, y))
    on_top = (np.floor(x + 0.5) + np.floor(y + 0.5)) % 2 == 0
    threads = rng.normal(0, 0.035, size=(2, 4 * size_px))
    tone_x, tone_y = (tones[np.floor(axis + 0.5).astype(int) % len(tones)] for tones, axis in zip(threads, (x, y), strict=True))
    relief = np.where(on_top, 0.16 * warp + tone_x, 0.13 * weft + tone_y)
    fluff = 0.012 * unit_noise(rng, size_px, (0.7, 0.7)) + 0.02 * unit_noise(rng, size_px, (9, 9))
    return rng.uniform(0.36, 0.5) + relief + fluff


SURFACES: dict[str, Surface] = {"metal": brushed_metal, "fabric": woven_fabric}
