"""What a detector is trained and scored on: real and synthetic images in one form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.letterbox import Fit, fit
from pipeline.images import Mask, Picture, read_rgb
from pipeline.labels.boxes import coco_to_box
from pipeline.labels.coco import coco_dataset, decode_mask
from pipeline.params import LabelParams
from pipeline.records import Box, Split, read_card, read_manifest


class DataError(ValueError):
    """The data cannot train or score a detector."""


@dataclass(frozen=True)
class Target:
    """One defect: class index from 0, half-open box and mask, all in the pixels of the picture they come with."""

    category: int
    box: Box
    mask: Mask


@dataclass(frozen=True)
class Record:
    """One image of a COCO document."""

    image_id: int
    path: Path
    size: tuple[int, int]
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class DetectionData:
    """A COCO document with the folder its images lie in.

    Attributes:
        coco: The document itself, ground truth for scoring.
        records: Its images by id; good ones have no annotations.
        classes: Names by class index.
        drawn_boxes: Whether boxes are annotators' (with a margin) instead of tight around masks.
    """

    coco: dict[str, Any]
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    drawn_boxes: bool

    @property
    def defective(self) -> tuple[Record, ...]:
        """Images with at least one defect."""
        return tuple(r for r in self.records if r.annotations)

    @property
    def good(self) -> tuple[Record, ...]:
        """Images without a defect."""
        return tuple(r for r in self.records if not r.annotations)


def _from_coco(coco: dict[str, Any], root: Path, drawn_boxes: bool) -> DetectionData:
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    records = tuple(
        Record(image["id"], root / image["file_name"], (image["height"], image["width"]), tuple(by_image[image["id"]]))
        for image in coco["images"]
    )
    return DetectionData(coco, records, tuple(c["name"] for c in coco["categories"]), drawn_boxes)


def from_manifest(folder: Path, fold: int, split: Split, params: LabelParams) -> DetectionData:
    """The real images of one split and fold of `data/prepared/<split>`; samples beyond the budget K are left out."""
    card = read_card(folder)
    samples = [s for s in read_manifest(folder, fold) if s.split == split]
    if not any(not s.is_good for s in samples):
        raise DataError(f"{folder}: fold {fold} has no defective image of split {split!r}; run `prepare` again for this fold")
    return _from_coco(coco_dataset(samples, folder, card.classes, params), folder, card.box_truth == "annotation")


def from_labelled(folder: Path, classes: Sequence[str], drawn_boxes: bool) -> DetectionData:
    """The synthetic images of one fold of `data/labelled/<generator>`."""
    path = folder / "annotations.json"
    if not path.exists():
        raise DataError(f"{path} is missing; run `label` for this generator and fold first")
    data = _from_coco(json.loads(path.read_text(encoding="utf-8")), folder, drawn_boxes)
    if data.classes != tuple(classes):
        raise DataError(f"{path}: classes are {data.classes}, the real data has {tuple(classes)}; run `label` again")
    if not data.defective:
        raise DataError(f"{path}: no synthetic image with a defect; check `select` for this generator")
    return data


@dataclass(frozen=True)
class Example:
    """A picture at network scale (not yet padded), its targets in the same pixels, and how the photo it shows was scaled."""

    picture: Picture
    targets: tuple[Target, ...]
    fit: Fit


def targets_at(record: Record, shrink: Fit) -> Iterator[Target]:
    """The defects of one image, one after the other, as it is scaled."""
    for a in record.annotations:
        mask = shrink.shrink_mask(decode_mask(a["segmentation"]))
        yield Target(a["category_id"] - 1, shrink.to_network(coco_to_box(a["bbox"])), mask)


def load_example(record: Record, side_px: int) -> Example:
    """Read and shrink one image with its targets."""
    shrink = fit(record.size, side_px)
    return Example(shrink.shrink(read_rgb(record.path)), tuple(targets_at(record, shrink)), shrink)
