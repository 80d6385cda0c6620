"""Random planes that surfaces and defects are made of; float32 and OpenCV, since a pre-training draws hundreds of thousands."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
"""(H, W) float32; arithmetic with numpy scalars keeps it so, which type checkers cannot see."""

COARSE_SIGMA = 1.5
"""Noise smoother than this many cells is drawn on a coarser grid and enlarged: the same look at a fraction of the cost."""


def grid(size_px: int) -> tuple[Plane, Plane]:
    """Row and column of every pixel."""
    steps = np.arange(size_px, dtype=np.float32)
    return np.repeat(steps[:, None], size_px, axis=1), np.repeat(steps[None], size_px, axis=0)


def unit_noise(rng: np.random.Generator, size_px: int, sigma_px: float | tuple[float, float]) -> Plane:
    """Smooth noise of zero mean and unit deviation; `sigma_px` is (rows, columns), or one for both."""
    sigmas = sigma_px if isinstance(sigma_px, tuple) else (sigma_px, sigma_px)
    factors = [max(1.0, sigma / COARSE_SIGMA) for sigma in sigmas]
    rows, columns = (int(np.ceil(size_px / factor)) + 4 for factor in factors)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    across, down = (max(0.05, sigma / factor) for sigma, factor in zip(sigmas[::-1], factors[::-1], strict=True))
    coarse = cv2.GaussianBlur(coarse, (0, 0), sigmaX=across, sigmaY=down, borderType=cv2.BORDER_REFLECT)
    full = (max(size_px, round(columns * factors[1])), max(size_px, round(rows * factors[0])))
    plane = cv2.resize(coarse, full, interpolation=cv2.INTER_CUBIC)[:size_px, :size_px]
    return (plane - plane.mean()) / max(float(plane.std()), 1e-6)


def soften(plane: Plane, sigma_px: float) -> Plane:
    """Gaussian blur."""
    return cv2.GaussianBlur(plane, (0, 0), sigmaX=sigma_px, borderType=cv2.BORDER_REFLECT).astype(np.float32, copy=False)


def turned(rng: np.random.Generator, plane: Plane, degrees: float) -> Plane:
    """The middle of a plane turned by up to `degrees`, and by a right angle half of the time.

    The input is a fifth larger than the result on each side together (see `roomy`), so that no border shows.
    """
    size = plane.shape[0]
    out = int(size / 1.2)
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), float(rng.uniform(-degrees, degrees)), 1.0)
    matrix[:, 2] -= (size - out) / 2
    result = cv2.warpAffine(plane, matrix, (out, out), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    result = result.astype(np.float32, copy=False)
    return np.ascontiguousarray(result.T) if rng.random() < 0.5 else result


def roomy(size_px: int) -> int:
    """Side to draw at when the result of `turned` should have `size_px`."""
    side = int(np.ceil(size_px * 1.2))
    while int(side / 1.2) < size_px:
        side += 1
    return side


def lit_relief(height: Plane, light: float) -> Plane:
    """Brightness of a relief under light from direction `light` (radians): its slope along that direction."""
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    return slope_y * np.float32(np.sin(light)) + slope_x * np.float32(np.cos(light))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Every octave between `low` and `high` equally likely."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
