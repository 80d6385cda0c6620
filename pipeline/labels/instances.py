"""What counts as one defect: 8-connected pixels after a closing that joins its broken pieces."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask


def disk(radius_px: int) -> NDArray[np.uint8]:
    """(2r+1, 2r+1) structuring element: pixels whose centre is at most `radius_px` from the middle."""
    offsets = np.arange(-radius_px, radius_px + 1)
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius_px**2).astype(np.uint8)


def close_mask(mask: Mask, radius_px: int) -> Mask:
    """Binary closing with a disk; what lies outside the picture is background."""
    if radius_px == 0:
        return mask
    # Without a frame of background the erosion would treat the border as defect and join pieces along it.
    framed = np.pad(mask.astype(np.uint8), 2 * radius_px)
    closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, disk(radius_px))
    inner = slice(2 * radius_px, -2 * radius_px)
    return closed[inner, inner] > 0


def instances(mask: Mask, close_px: int, min_area_px: int) -> list[Mask]:
    """Split one type's (H, W) mask into instances, ordered by their first pixel in reading order.

    Pieces are joined when a closing by `close_px` connects them (8-connected), but an instance holds only pixels of the
    mask itself: the closing decides what belongs together, never what is defect. Instances below `min_area_px` are dropped
    as annotation specks. If all are, the largest (first among equals) stays: a photo annotated as defective must not turn
    into a good one by a threshold.

    Returns:
        Bool masks of the same size, pairwise disjoint; an empty list for an empty mask.
    """
    if not mask.any():
        return []
    count, labels = cv2.connectedComponents(close_mask(mask, close_px).astype(np.uint8), connectivity=8)
    pieces = [mask & (labels == label) for label in range(1, count)]
    pieces.sort(key=lambda piece: int(np.argmax(piece)))
    areas = [int(piece.sum()) for piece in pieces]
    kept = [piece for piece, area in zip(pieces, areas, strict=True) if area >= min_area_px]
    return kept or [pieces[int(np.argmax(areas))]]
