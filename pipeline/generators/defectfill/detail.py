"""What the reference a mask was made from says of the defect painted there: its detail, and how strong it is.

A crop of 300 px is painted at 64 and enlarged; a crack in it is thinner than a painted pixel, and a stain with a sharp rim comes
out as a cloud. And a network that learned for minutes paints paler than what it saw, and mottled.
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
RIM_PX = 2
"""Around a mask, where a defect may still show."""
SAME = 16.0
"""How surely two photos have the same light before their pixels are asked: as if each had so many grey levels alike."""
LIGHT = (0.5, 2.0)
SURFACE_PX = 2.0
"""Deviation of the window in which a surface's roughness is measured."""
ROUGHER = 2.0
"""A reference's surface that is more than so many times as rough as the crop's, both with `SMOOTH`, is another one.
Cloth on brushed metal is 2.4."""
SMOOTH = 3.0
"""Grey levels of roughness added to both: below it surfaces are as good as smooth."""
GAINS = 31
"""Steps of the search for a gain."""
COARSE_SHARE = 1 / 8
"""Deviation of the Gaussian that tells painted light from painted grain, as a share of the crop's side."""


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
    pasted = (_shown(reference, clean, part) - clean).astype(np.float32)
    return (pasted + light * coarse(change - pasted, part.mask, coarse_px)).astype(np.float32)


def strengthened(
    change: NDArray[np.float32], clean: Picture, part: Part, reference: Picture, at_most: float
) -> NDArray[np.float32]:
    """A painted change whose light is multiplied so that the defect is on the mean as dark or bright as the reference's.

    Only what is coarse is multiplied: what a network that paints too pale adds in finer grain is mostly its own noise, and came
    out as black and white speckle.

    Args:
        change: (S, S, 3) painted, in grey levels.
        clean: (S, S, 3) crop it is painted on.
        part: The defect; its `affine` moves the reference's photo onto the crop.
        reference: (H, W, 3) photo the part's mask was made from.
        at_most: Greatest factor of the coarse light.

    Returns:
        (S, S, 3) change + (g - 1) * coarse(change), with g from 1 to `at_most`: of these, the smallest whose mean level inside
        the mask, after clipping to 0..255, is nearest to the reference's under the light around the mask. A change that is too
        strong, or goes the other way, stays as it is.
    """
    inside = part.mask
    wanted = float(_shown(reference, clean, part)[inside].mean())
    light = coarse(change, inside, COARSE_SHARE * len(clean))
    before, painted, smooth = clean[inside].astype(np.float32), change[inside], light[inside]
    gains = np.linspace(1.0, at_most, GAINS)
    levels = np.array([np.clip(before + painted + (gain - 1) * smooth, 0, 255).mean() for gain in gains])
    gain = float(gains[np.argmin(np.round(np.abs(levels - wanted), 2))])
    return (change + (gain - 1) * light).astype(np.float32)


def _shown(reference: Picture, clean: Picture, part: Part) -> NDArray[np.float32]:
    """(S, S, 3) the reference's photo moved onto the crop, under the crop's light, in grey levels of 0 to 255."""
    assert part.affine is not None, "only a mask moved by a matrix knows where its reference's pixels go"
    moved = warp_picture(reference, part.affine, len(clean))
    return np.clip(moved * light_ratio(clean, moved, part.mask), 0, 255).astype(np.float32)


def coarse(values: NDArray[np.float32], mask: Mask, sigma_px: float) -> NDArray[np.float32]:
    """(S, S, 3) Gaussian mean of what lies inside a mask (normalised convolution, Knutsson and Westin, CVPR 1993)."""
    weight = mask.astype(np.float32)
    total = cv2.GaussianBlur(values * weight[..., None], (0, 0), sigma_px)
    share = cv2.GaussianBlur(weight, (0, 0), sigma_px)
    return (total / np.maximum(share, 1e-6)[..., None]).astype(np.float32)


def surface_fits(clean: Picture, part: Part, reference: Picture) -> bool:
    """Whether a reference's photo, as it would be shown on the crop, is not much rougher around the mask than the crop.

    Else it would be a patch of one product's surface on another's, or too bright on a crop that is darker than `LIGHT` allows.
    Rough is what varies within `SURFACE_PX`, in the smoothest quarter of the ring, so that one edge there counts little; the
    defect itself plays no part. A smoother photo fits: on magnetic tiles a sixth of the frays come from one, and without its
    detail they are clouds.
    """
    ring = _ring(part.mask)
    if not ring.any():
        return True
    photos = (clean, _shown(reference, clean, part))
    here, there = (SMOOTH + float(np.quantile(_roughness(one, part.mask)[ring], 0.25)) for one in photos)
    return there <= ROUGHER * here


def _roughness(picture: NDArray[np.generic], mask: Mask) -> NDArray[np.float32]:
    """(H, W) standard deviation of the mean of the channels around each pixel, away from a mask and its rim, in grey levels."""
    grey = picture.astype(np.float32).mean(axis=2)
    weight = (distance_to(mask) > RIM_PX).astype(np.float32)
    share, total, square = (cv2.GaussianBlur(weight * one, (0, 0), SURFACE_PX) for one in (1.0, grey, grey**2))
    mean = total / np.maximum(share, 1e-6)
    return np.sqrt(np.maximum(square / np.maximum(share, 1e-6) - mean**2, 0.0), dtype=np.float32)


def _ring(mask: Mask) -> Mask:
    """Around a mask, beyond where the defect may still show."""
    away = distance_to(mask) - RIM_PX
    return (away > 0) & (away <= max(RING_MIN_PX, RING_SHARE * len(mask)))


def light_ratio(clean: Picture, moved: Picture, mask: Mask) -> float:
    """Light of the clean crop over that of the moved reference, from the ring around a mask; within `LIGHT`.

    The ratio r that makes the sum of |clean - r * moved| + `SAME` * |1 - r| over the ring least, a weighted median of the pixels'
    own ratios: where most of the two rings is the same, as on boards of black and white, it is 1; a black ring says nothing.
    """
    ring = _ring(mask)
    level = moved[ring].astype(np.float64).ravel()
    ratio = np.append(clean[ring].ravel() / np.maximum(level, 1.0), 1.0)
    weight = np.append(level, max(1.0, SAME * level.size))
    order = np.argsort(ratio, kind="stable")
    middle = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    return float(np.clip(ratio[order][middle], *LIGHT))
