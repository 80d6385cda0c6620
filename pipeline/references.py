"""The real defects a fold may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.generators.protocol import Reference
from pipeline.images import read_mask, read_rgb
from pipeline.records import Sample


def reference_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The defect samples of the train side within the budget K."""
    return [s for s in samples if s.split == "train" and not s.is_good and s.mask is not None]


def read_references(train: Path, samples: Sequence[Sample]) -> list[Reference]:
    """Photos and masks of the references, in manifest order."""
    return [
        Reference(s.id, str(s.defect), read_rgb(train / s.image), read_mask(train / str(s.mask)))
        for s in reference_samples(samples)
    ]
