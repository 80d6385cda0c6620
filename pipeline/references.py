"""The real defects a fold may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.images import Mask, Picture, read_mask, read_rgb
from pipeline.records import Sample


@dataclass(frozen=True, slots=True)
class Reference:
    """A real defect of the train split: (H, W, 3) photo and (H, W) mask of one type on it."""

    id: str
    defect: str
    image: Picture
    mask: Mask


def reference_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The defect samples of the train side within the budget K."""
    return [s for s in samples if s.split == "train" and not s.is_good and s.mask is not None]


def read_references(train: Path, samples: Sequence[Sample]) -> list[Reference]:
    """Photos and masks of the references, in manifest order."""
    return [
        Reference(s.id, str(s.defect), read_rgb(train / s.image), read_mask(train / str(s.mask)))
        for s in reference_samples(samples)
    ]
