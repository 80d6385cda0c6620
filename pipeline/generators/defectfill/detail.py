"""Crops larger than what the network paints: the reference a mask was made from gives the detail, and the two share the light.

A crop of 300 px is painted at 64 and enlarged; a crack in it is thinner than a painted pixel, and a stain with a sharp rim comes
out as a cloud.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.generators.protocol import Part
from pipeline.images import Mask, Picture
from pipeline.masks.composite import distance_to
from pipeline.masks.crops import warp_picture

RING_SHARE = 0.1
"""Width of the ring around a mask, as a share of the crop's side, by which two photos' light is compared."""
RING_MIN_PX = 4
LIGHT = (0.5, 2.0)


def with_detail(
    change: NDArray[np.float32], clean: Picture, part: Part, reference: Picture, coarse_px: float, light: float
) -> NDArray[np.float32]:
    """What the reference shows, under the light around the mask, moved towards what was painted at scales above `coarse_px`.

    Args:
        change: (S, S, 3) painted, in grey levels.
        clean: (S, S, 3) crop it is painted on.
        part: The defect; its `affine` moves the reference's photo onto the crop.
        reference: (H, W, 3) photo the part's mask was made from.
        coarse_px: Deviation of the Gaussian that parts the two, in pixels of the crop.
        light: Share of the painted light: at 1 the coarse change is the painted one, at 0 the reference's.

    Returns:
        (S, S, 3) change in grey levels: pasted + light * coarse(change - pasted).
    """
    assert part.affine is not None, "only a mask moved by a matrix knows where its reference's pixels go"
    moved = warp_picture(reference, part.affine, len(clean))
    pasted = (moved * light_ratio(clean, moved, part.mask) - clean).astype(np.float32)
    return (pasted + light * coarse(change - pasted, part.mask, coarse_px)).astype(np.float32)


def coarse(values: NDArray[np.float32], mask: Mask, sigma_px: float) -> NDArray[np.float32]:
    """(S, S, 3) Gaussian mean of what lies inside a mask (normalised convolution, Knutsson and Westin, CVPR 1993)."""
    weight = mask.astype(np.float32)
    total = cv2.GaussianBlur(values * weight[..., None], (0, 0), sigma_px)
    share = cv2.GaussianBlur(weight, (0, 0), sigma_px)
    return (total / np.maximum(share, 1e-6)[..., None]).astype(np.float32)


def light_ratio(clean: Picture, moved: Picture, mask: Mask) -> float:
    """Median light around a mask, of the clean crop over that of the moved reference, within `LIGHT`; 1 if nothing is around."""
    away = distance_to(mask)
    ring = (away > 0) & (away <= max(RING_MIN_PX, RING_SHARE * len(mask)))
    if not ring.any():
        return 1.0
    return float(np.clip(np.median(clean[ring]) / max(1.0, float(np.median(moved[ring]))), *LIGHT))
