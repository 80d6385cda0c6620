"""Putting a generated change into a clean crop, and measuring what really changed."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture

SMOOTH_SIGMA_PX = 1.0
LEAST_SURE = 0.1
"""Share of a mask that has to change surely before what changed faintly in it, or not at all, is told by the rest."""
FAINT = 0.25
"""Of a defect's strength, which the strongest tenth of its mask reaches."""
EDGE = 0.5
"""Of that strength: where an edge that fades is said to be."""


def distance_to(mask: Mask) -> NDArray[np.float32]:
    """(H, W) distance of each pixel to the nearest one of a mask, in pixels; 0 on it."""
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def feathered(mask: Mask, feather_px: int) -> NDArray[np.float32]:
    """(H, W) weights: 1 on the mask, falling linearly to 0 at `feather_px` + 1 pixels outside it."""
    return np.clip(1.0 - distance_to(mask) / (feather_px + 1), 0.0, 1.0).astype(np.float32)


def apply_change(clean: Picture, change: NDArray[np.float32], mask: Mask, feather_px: int) -> Picture:
    """Clean crop plus a change, weighted by the feathered mask.

    Args:
        clean: (H, W, 3) uint8.
        change: (H, W, 3) in grey levels, about [-255, 255].
        mask: (H, W) where the change is wanted.
        feather_px: Width of the soft rim outside the mask.

    Returns:
        (H, W, 3) uint8, equal to `clean` bit for bit where the weight is 0.
    """
    weight = feathered(mask, feather_px)[..., None]
    mixed = np.clip(np.rint(clean + weight * change), 0, 255).astype(np.uint8)
    return np.where(weight > 0, mixed, clean)


def change_size(result: NDArray[np.generic], clean: NDArray[np.generic]) -> NDArray[np.float32]:
    """(H, W) smoothed mean absolute difference of two (H, W, 3) pictures, in grey levels."""
    return _smoothed(_change(result, clean))


def _change(result: NDArray[np.generic], clean: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.abs(result.astype(np.float32) - clean.astype(np.float32)).mean(axis=2)


def _smoothed(change: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(change, (0, 0), SMOOTH_SIGMA_PX), np.float32)


def changed_region(result: Picture, clean: Picture, parts: Sequence[Mask], sure: float, possible: float) -> Mask:
    """What became of defects that were asked for: the pixels that differ, and those of their masks between them.

    A smoothed difference above `possible` grey levels counts where it is connected to one above `sure` (hysteresis, Canny 1986,
    section VIII). Where a good part of a defect's mask surely changed, three things follow that an annotator does as well: inside
    it, the defect goes on down to `FAINT` of its own strength, and a gap of it belongs to the defect, which would fall into
    pieces; outside it, where the defect fades, it ends at `EDGE` of its strength, neither of them smoothed. What lies between two
    defects is the nearer one's.

    Args:
        result: (H, W, 3) with the defects.
        clean: (H, W, 3) without.
        parts: (H, W) mask that was asked for of each.
        sure: Grey levels that only a defect changes.
        possible: Grey levels that count beside those.
    """
    raw, mask, nearest = _change(result, clean), np.logical_or.reduce(parts), _nearest(parts)
    size = _smoothed(raw)
    strength, sharp = (np.array([np.quantile(of[part], 1 - LEAST_SURE) for part in parts])[nearest] for of in (size, raw))
    strong = strength >= sure
    limit = np.where(mask & strong, np.minimum(possible, FAINT * strength), possible)
    changed = _connected((raw > 0) & (size > limit) & (mask | ~strong | (raw >= EDGE * sharp)), size > sure)
    return changed | (mask & strong & _hulls(changed & mask, mask))


def _nearest(parts: Sequence[Mask]) -> NDArray[np.intp]:
    """(H, W) number of the mask nearest to each pixel, the first of those equally near."""
    if len(parts) == 1:
        return np.zeros(parts[0].shape, np.intp)
    return np.argmin([distance_to(part) for part in parts], axis=0)


def _connected(maybe: Mask, sure: Mask) -> Mask:
    """The 8-connected pieces of `maybe` that hold a pixel of `sure`."""
    count, found = cv2.connectedComponents(maybe.astype(np.uint8), connectivity=8)
    pieces = np.asarray(found, np.intp)
    holds_sure = np.zeros(count, bool)
    holds_sure[pieces[maybe & sure]] = True
    holds_sure[0] = False
    return holds_sure[pieces]


def _hulls(changed: Mask, mask: Mask) -> Mask:
    """Convex hulls of what changed in each 8-connected piece of `mask`."""
    count, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    filled = np.zeros(mask.shape, np.uint8)
    for piece in range(1, count):
        points = np.argwhere(changed & (pieces == piece))[:, ::-1].astype(np.int32)
        if len(points):
            hull = np.zeros_like(filled)
            cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
            filled |= hull * (pieces == piece)
    return filled > 0


def divided(changed: Mask, parts: Sequence[Mask]) -> tuple[Mask, ...]:
    """What changed, shared out: each pixel goes to the nearest of the parts' masks, the first of those equally near."""
    nearest = _nearest(parts)
    return tuple(changed & (nearest == number) for number in range(len(parts)))
