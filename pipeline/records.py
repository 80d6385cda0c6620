"""The records that travel between stages: one frozen record a sample, one JSON line each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

Split = Literal["train", "val", "test", "unused"]
Origin = Literal["real", "synthetic"]
Box = tuple[float, float, float, float]
"""Half-open (x0, y0, x1, y1) in pixels of the image."""

MANIFEST = "manifest.jsonl"
DATASET_CARD = "dataset.json"


class ManifestError(ValueError):
    """A manifest line is not a sample, or points outside its folder."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One defect type on one image, or one good image (`mask` and `defect` are None).

    An image with several types has one sample a type; they share `image` and `part_id`.
    Paths are POSIX and relative to the folder of the manifest.

    Attributes:
        id: Unique within a manifest and fold.
        image: Path of an 8-bit PNG, greyscale or RGB.
        mask: Path of an 8-bit PNG of the image's size, 255 on this type's defect pixels and 0 elsewhere.
        defect: Name of the defect type.
        part_id: The physical piece; no part is on two sides of a split.
        split: Which side of the split of `fold` the sample is on; "unused" is real but beyond the budget K.
        fold: Index of the fold (equal to the seed) this line belongs to.
        origin: A photo, or made by a generator.
        parents: Ids of the samples a synthetic one was made from: the clean one, then the references.
        boxes: Boxes drawn by the data set's own annotators; None where the mask's components are the truth.
    """

    id: str
    image: str
    mask: str | None
    defect: str | None
    part_id: str
    split: Split
    fold: int = 0
    origin: Origin = "real"
    parents: tuple[str, ...] = ()
    boxes: tuple[Box, ...] | None = None

    @property
    def is_good(self) -> bool:
        """Whether the image shows no defect."""
        return self.defect is None


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What `prepare` says of the whole data set, equal in all three of its outputs.

    Attributes:
        name: For people: the folder's name or the layout.
        layout: The importer that read it.
        classes: Defect types sorted by name; COCO category id = index + 1, in every split and arm.
        k: Reference parts asked for a type.
        capped: Types with fewer than `k` parts left: type -> parts used, largest over the folds.
        folds: Folds present in the manifests.
        box_truth: "annotation" if boxes come from the data set's annotators, "mask" if from mask components.
        dropped: Invalid samples left out on request, each with its reason.
        notes: Plain sentences for the report, e.g. converted images, parts guessed one image each.
    """

    name: str
    layout: str
    classes: tuple[str, ...]
    k: int
    capped: dict[str, int]
    folds: tuple[int, ...]
    box_truth: Literal["annotation", "mask"]
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_relative(path: str) -> str:
    """Return `path` if it stays inside its folder.

    Raises:
        ManifestError: For an absolute path, a drive, a backslash or a `..`.
    """
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise ManifestError(f"path {path!r} leaves the manifest's folder; expected a relative POSIX path without '..'")
    return path


def _sample(row: dict[str, Any], where: str) -> Sample:
    try:
        boxes = row.get("boxes")
        row = row | {
            "parents": tuple(row.get("parents", ())),
            "boxes": None if boxes is None else tuple(tuple(float(v) for v in box) for box in boxes),
        }
        sample = Sample(**row)
    except TypeError as error:
        raise ManifestError(f"{where}: not a sample ({error})") from error
    check_relative(sample.image)
    if sample.mask is not None:
        check_relative(sample.mask)
    return sample


def read_manifest(folder: Path, fold: int | None = None) -> list[Sample]:
    """Samples of `folder/manifest.jsonl` in file order, all folds or one.

    Raises:
        ManifestError: If a line is no sample or points outside the folder.
        FileNotFoundError: If the manifest is missing.
    """
    path = folder / MANIFEST
    with path.open(encoding="utf-8") as lines:
        samples = [_sample(json.loads(line), f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    return [s for s in samples if fold is None or s.fold == fold]


def write_manifest(folder: Path, samples: Iterable[Sample]) -> None:
    """Write `folder/manifest.jsonl`, sorted by fold and id, under a temporary name first."""
    ordered = sorted(samples, key=lambda s: (s.fold, s.id))
    text = "".join(json.dumps(asdict(s), ensure_ascii=False, sort_keys=True) + "\n" for s in ordered)
    write_text(folder / MANIFEST, text)


def read_card(folder: Path) -> DatasetCard:
    """The data set card beside a manifest."""
    row = json.loads((folder / DATASET_CARD).read_text(encoding="utf-8"))
    for key in ("classes", "folds", "dropped", "notes"):
        row[key] = tuple(row[key])
    return DatasetCard(**row)


def write_card(folder: Path, card: DatasetCard) -> None:
    """Write `folder/dataset.json`."""
    write_json(folder / DATASET_CARD, asdict(card))


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON under a temporary name, then rename."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name in the same folder, then rename, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def good_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The samples without a defect."""
    return [s for s in samples if s.is_good]


def fold_name(fold: int) -> str:
    """Folder of one fold inside a stage's output."""
    return f"fold-{fold}"
