"""Which detections of a model are right, image by image: what statistics over test parts need, without running a model again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MATCHES = "matches"
"""Folder of the records below `reports/eval`; one file a detector, arm and fold."""
GALLERY = "gallery"
"""Folder beside it: `gallery.json`, which holds by detector what `detectors.gallery.write_gallery` returns, and its pictures."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """COCO's matches of one model, for boxes or for masks; D detections on N images, C classes, T IoU thresholds.

    Attributes:
        image: (D,) place of the image in the record, rising.
        category: (D,) class index from 0.
        score: (D,) confidence; falling within an image and class, in COCOeval's own order.
        matched: (D, T) whether it found a defect of its class. What did not is a false alarm: no defect is ignored.
        truths: (N, C) defects to be found.
    """

    image: Ints
    category: Ints
    score: Floats
    matched: Bools
    truths: Ints


@dataclass(frozen=True)
class MatchRecord:
    """One model on the test images of its fold.

    Attributes:
        classes: (C,) names by class index.
        iou: (T,) thresholds of the matches.
        image_id: (N,) ids of the ground truth file, rising.
        part: (N,) physical piece on each image.
        image_score: (N,) highest confidence on the image, else 0.
        box: Matches of boxes.
        mask: Matches of masks; None for a detector without.
    """

    classes: tuple[str, ...]
    iou: Floats
    image_id: Ints
    part: NDArray[np.str_]
    image_score: Floats
    box: Matches
    mask: Matches | None

    @property
    def defective(self) -> Bools:
        """(N,) whether the image shows a defect."""
        return self.box.truths.sum(axis=1) > 0


def record_name(detector: str, arm: str, fold: int) -> str:
    """File of one model's record, below `MATCHES`."""
    return f"{detector}-{arm}-fold-{fold}.npz"


def write_record(path: Path, record: MatchRecord) -> None:
    """Write one record; equal records give equal bytes."""
    arrays: dict[str, Any] = {
        "classes": np.array(record.classes, dtype=np.str_),
        "iou": record.iou,
        "image_id": record.image_id,
        "part": record.part,
        "image_score": record.image_score,
    }
    for kind, matches in (("box", record.box), ("mask", record.mask)):
        if matches is not None:
            arrays |= {f"{kind}_{name}": getattr(matches, name) for name in Matches.__dataclass_fields__}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def read_record(path: Path) -> MatchRecord:
    """Read what `write_record` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def matches(kind: str) -> Matches:
        return Matches(**{name: arrays[f"{kind}_{name}"] for name in Matches.__dataclass_fields__})

    return MatchRecord(
        classes=tuple(str(name) for name in arrays["classes"]),
        iou=arrays["iou"],
        image_id=arrays["image_id"],
        part=arrays["part"],
        image_score=arrays["image_score"],
        box=matches("box"),
        mask=matches("mask") if "mask_score" in arrays else None,
    )
