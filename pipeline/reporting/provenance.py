"""Where synthetic images come from and what detectors learned from: a planted photo or models of other data stop the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.images import Mask, read_mask, read_rgb
from pipeline.masks.crops import mask_bounds
from pipeline.records import Sample
from pipeline.runlog import digest

UNTOUCHED = 0.5
"""Least share of the pixels away from the labels that are the training photo's own. With `synthesize` nearly all are; two photos
of one part under one light agree in a few percent."""
AWAY = 0.5
"""How far from the box around all labels "away" begins, as a share of its longer side: a request is wider than what changed."""
LEAST_PIXELS = 0.01
"""Where less of the photo is away, its pixels prove nothing."""


class ProvenanceError(ValueError):
    """A synthetic sample was not made from training photos of its fold."""


def check_parents(name: str, made: Sequence[Sample], samples: Sequence[Sample]) -> int:
    """How many synthetic samples of one fold there are, after a look that each says it was made from training photos alone.

    Raises:
        ProvenanceError: Naming a sample with another parent.
    """
    known = {sample.id for sample in samples if sample.split == "train"}
    for sample in made:
        strange = [parent for parent in sample.parents if parent not in known]
        if strange or not sample.parents:
            raise ProvenanceError(
                f"{name}, {sample.id}: {strange[0] if strange else 'nothing'!r} it was made from is not in train's manifest; "
                "run `select` again"
            )
    return len(made)


def check_pixels(name: str, made: Sequence[Sample], selected: Path, labelled: Path, clean: Mapping[str, Path]) -> int:
    """Whether each synthetic image is what it says: the file `select` wrote, and the training photo away from its labels.

    A test photo planted among them, under whatever name, is neither, and one beside them is none that `select` wrote. Readings of
    the pixels are exact, so no threshold on likeness is needed.

    Args:
        name: Of the generator.
        made: Synthetic samples of one fold.
        selected: Folder of their manifest.
        labelled: Folder of the labelled set, which detectors read: the images that its annotations.json names.
        clean: Training photos by id.

    Returns:
        Images with too few pixels away from their labels to tell.

    Raises:
        ProvenanceError: Naming an image that is something else.
    """
    by_image: dict[str, list[Sample]] = {}
    for sample in made:
        by_image.setdefault(sample.image, []).append(sample)
    unknown, way_out = 0, f"delete {selected} and {labelled} and run `dvc repro`"
    document = json.loads((labelled / "annotations.json").read_text(encoding="utf-8"))
    if strange := sorted({image["file_name"] for image in document["images"]} - by_image.keys()):
        raise ProvenanceError(f"{name}: {labelled / strange[0]} is none of the images that `select` kept; {way_out}")
    for image, samples in sorted(by_image.items()):
        if (selected / image).read_bytes() != (labelled / image).read_bytes():
            raise ProvenanceError(f"{name}: {labelled / image} is not the file that `select` wrote; {way_out}")
        share = _untouched(image, samples, selected, clean)
        unknown += share is None
        if share is not None and share < UNTOUCHED:
            raise ProvenanceError(
                f"{name}: {selected / image} is not {samples[0].parents[0]}, the training photo it names: away from "
                f"its labels {share:.0%} of the pixels are the same, expected {UNTOUCHED:.0%} at least; {way_out}"
            )
    return unknown


def check_learned_from(read: Mapping[str, str], data: Path) -> None:
    """Whether the detectors learned from what lies in `data` now, and so not from parts that were on another side then.

    Args:
        read: Digests by name, as `evaluate` says: `train`, `labelled/<generator>`; `val` is not looked at.
        data: Folder of the stages' outputs.

    Raises:
        ProvenanceError: Naming the folders that changed since.
    """
    folders = {"train": data / "prepared" / "train", **{name: data / name for name in read if name.startswith("labelled/")}}
    changed = [str(folder) for name, folder in folders.items() if not folder.is_dir() or read[name] != digest(folder)]
    if changed:
        raise ProvenanceError(
            f"detectors were trained before {', '.join(changed)} changed; run `dvc repro`, and train arms that are not in "
            f"dvc.yaml again, or delete their folders below {data / 'models'}"
        )


def _untouched(image: str, samples: Sequence[Sample], selected: Path, clean: Mapping[str, Path]) -> float | None:
    """Share of the pixels away from the labels that equal the training photo's; None where there are too few."""
    picture, photo = read_rgb(selected / image), read_rgb(clean[samples[0].parents[0]])
    if picture.shape != photo.shape:
        return 0.0
    changed = np.logical_or.reduce([read_mask(selected / sample.mask) for sample in samples if sample.mask is not None])
    away = _away_from(changed)
    return None if away.mean() < LEAST_PIXELS else float((picture == photo).all(axis=2)[away].mean())


def _away_from(changed: Mask) -> Mask:
    """Pixels outside the box around an (H, W) mask, grown on all sides."""
    x0, y0, x1, y1 = mask_bounds(changed)
    grow = round(AWAY * max(x1 - x0, y1 - y0))
    away = np.ones(changed.shape, bool)
    away[max(0, y0 - grow) : y1 + grow, max(0, x0 - grow) : x1 + grow] = False
    return away
