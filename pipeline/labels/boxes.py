"""Boxes: half-open pixels inside the project, COCO's x, y, width, height on disk; the margin annotators leave."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipeline.images import Mask
from pipeline.records import Box

Margin = tuple[float, float, float, float]
"""Pixels an annotator leaves between defect and box: left, top, right, bottom."""


class EmptyMaskError(ValueError):
    """A mask that should show a defect has no pixel."""


def mask_to_box(mask: Mask) -> tuple[int, int, int, int]:
    """Half-open (x0, y0, x1, y1) in pixels around an (H, W) mask.

    Raises:
        EmptyMaskError: If the mask has no pixel.
    """
    if not mask.any():
        raise EmptyMaskError("mask has no defect pixel, expected at least one; drop the sample before labelling")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_to_coco(box: Box) -> list[float]:
    """Half-open corners to [x, y, width, height]."""
    x0, y0, x1, y1 = box
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]


def coco_to_box(bbox: Iterable[float]) -> Box:
    """[x, y, width, height] to half-open corners."""
    x, y, width, height = bbox
    return (x, y, x + width, y + height)


def clip_box(box: Box, size: tuple[int, int]) -> Box:
    """The part of a half-open box inside a picture of `size` (height, width)."""
    height, width = size
    x0, y0, x1, y1 = box
    return (min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height))


def mask_inside(mask: Mask, box: Box) -> Mask:
    """The mask's pixels that touch a half-open box, all others cleared."""
    x0, y0, x1, y1 = clip_box(box, mask.shape)  # pyright: ignore[reportArgumentType]
    inside = np.zeros_like(mask)
    window = (slice(int(np.floor(y0)), int(np.ceil(y1))), slice(int(np.floor(x0)), int(np.ceil(x1))))
    inside[window] = mask[window]
    return inside


def annotation_margin(pairs: Iterable[tuple[Box, Mask]]) -> Margin | None:
    """Median, side by side, of the distance from a drawn box to the tight box of the mask inside it.

    Args:
        pairs: Drawn box and the whole mask of its type, one pair an instance of the train references.

    Returns:
        None if no box holds a mask pixel, so that no margin can be measured.
    """
    gaps: list[Margin] = []
    for box, mask in pairs:
        inside = mask_inside(mask, box)
        if inside.any():
            tight = mask_to_box(inside)
            gaps.append((tight[0] - box[0], tight[1] - box[1], box[2] - tight[2], box[3] - tight[3]))
    if not gaps:
        return None
    left, top, right, bottom = (float(np.median(side)) for side in zip(*gaps, strict=True))
    return (left, top, right, bottom)


def apply_margin(box: Box, margin: Margin, size: tuple[int, int]) -> Box:
    """Widen a half-open box by a margin, clipped to a picture of `size` (height, width)."""
    x0, y0, x1, y1 = box
    return clip_box((x0 - margin[0], y0 - margin[1], x1 + margin[2], y1 + margin[3]), size)
