"""The real defects a fold may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.images import Mask, Picture, read_mask, read_rgb
from pipeline.records import Box, Sample

JOIN_PX, MIN_AREA_PX = 4, 9
FRAGMENT_SHARE = 0.02
"""Of the largest group's area in a mask: a smaller group beside it is a fragment of its outline, not a defect to learn from.
Nothing of the type can be seen in it, so what is asked for by its mask is refused, drawn anew and refused (docs/placement.md)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One real defect of the train split: (H, W, 3) photo, (H, W) mask of this defect alone; id `<sample>#<number>`."""

    id: str
    defect: str
    image: Picture
    mask: Mask


def reference_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The defect samples of the train side within the budget K."""
    return [s for s in samples if s.split == "train" and not s.is_good and s.mask is not None]


def instances(mask: Mask, boxes: Sequence[Box] | None) -> list[Mask]:
    """Single defects of an (H, W) mask: one a drawn box, else one a group of pixels that lie within `2 * JOIN_PX` of each other.

    A mask of several defects would be cropped as one, most of it background, and each of them tiny. Specks below `MIN_AREA_PX`
    are left out, unless nothing else is there, and where no boxes were drawn groups below `FRAGMENT_SHARE` of the largest.
    """
    if boxes is not None:
        found = [_inside(mask, box) for box in boxes]
    else:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * JOIN_PX + 1,) * 2)
        count, names = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), kernel), connectivity=8)
        found = [mask & (names == name) for name in range(1, count)]
    largest = max((int(one.sum()) for one in found), default=0)
    least = MIN_AREA_PX if boxes is not None else max(MIN_AREA_PX, FRAGMENT_SHARE * largest)
    return [one for one in found if one.sum() >= least] or [one for one in found if one.sum() == largest][:1]


def _inside(mask: Mask, box: Box) -> Mask:
    x0, y0, x1, y1 = (round(edge) for edge in box)
    part = np.zeros_like(mask)
    part[max(0, y0) : y1, max(0, x0) : x1] = mask[max(0, y0) : y1, max(0, x0) : x1]
    return part


def sample_of(reference_id: str) -> str:
    """Id of the sample a reference was cut from."""
    return reference_id.rsplit("#", 1)[0]


def read_references(train: Path, samples: Sequence[Sample]) -> list[Reference]:
    """Every single defect of the references, in manifest order; those of one photo share its pixels."""
    references: list[Reference] = []
    for sample in reference_samples(samples):
        image, mask = read_rgb(train / sample.image), read_mask(train / str(sample.mask))
        references += [
            Reference(f"{sample.id}#{number}", str(sample.defect), image, one)
            for number, one in enumerate(instances(mask, sample.boxes))
        ]
    return references
