"""Turning a reference mask into a new one on a good photo."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask
from pipeline.masks.crops import mask_bounds

MIN_INSIDE_SHARE = 0.6
TRIES = 20


@dataclass(frozen=True, slots=True)
class WarpLimits:
    """How far a mask may depart from its reference.

    Attributes:
        rotate_deg: Largest rotation either way.
        scale: Smallest and largest enlargement.
        flip: Whether it may be mirrored.
        jitter: Standard deviation of the shift from the reference's relative place, as a share of the photo's sides.
    """

    rotate_deg: float
    scale: tuple[float, float]
    flip: bool
    jitter: float


def place(
    reference: Mask, size: tuple[int, int], limits: WarpLimits, rng: np.random.Generator
) -> tuple[Mask, NDArray[np.float64]]:
    """Warp a reference mask to a new place on a photo of `size` (H, W).

    The place follows the reference's own relative place with some jitter: breaks sit on edges, blowholes do not. Draws that push
    more than 40 % of the mask off the photo are drawn again.

    Returns:
        The (H, W) mask and the (2, 3) matrix from pixels (x, y) of the reference's photo to pixels of the new photo.
    """
    x0, y0, x1, y1 = mask_bounds(reference)
    centre = np.array([x0 + x1 - 1, y0 + y1 - 1]) / 2.0
    relative = (centre + 0.5) / np.array(reference.shape[::-1])
    target = np.array(size[::-1], float)
    best: tuple[float, Mask, NDArray[np.float64]] | None = None
    for _ in range(TRIES):
        angle = np.deg2rad(rng.uniform(-limits.rotate_deg, limits.rotate_deg))
        mirror = rng.choice([-1.0, 1.0], 2) if limits.flip else np.ones(2)
        scale = rng.uniform(*limits.scale)
        linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(mirror)
        place_at = np.where(mirror < 0, 1.0 - relative, relative) + rng.normal(0.0, limits.jitter, 2)
        landing = np.clip(place_at, 0.02, 0.98) * target - 0.5
        affine = np.column_stack([linear, landing - linear @ centre])
        mask = warp_mask(reference, affine, size)
        inside = mask.sum() / (reference.sum() * scale**2)
        if best is None or inside > best[0]:
            best = (inside, mask, affine)
        if inside >= MIN_INSIDE_SHARE:
            break
    assert best is not None
    return best[1], best[2]


def warp_mask(mask: Mask, affine: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """Move an (h, w) mask by a (2, 3) matrix onto a (H, W) canvas; a pixel is set when half covered."""
    moved = cv2.warpAffine(mask.astype(np.float32), affine, (size[1], size[0]), flags=cv2.INTER_LINEAR)
    return moved >= 0.5
