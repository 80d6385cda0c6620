"""What an importer hands over: photos with their defects and parts, faults seen so far, nothing decoded and nothing split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.images import Mask, Picture
from pipeline.records import Box
from pipeline.seeds import derive_seed

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

MaskSource = Path | Mask | Callable[[Picture], Mask]
"""A file, an array, or a rule that derives the mask from the decoded (H, W[, 3]) uint8 photo."""


class LayoutError(ValueError):
    """The source is no data set of the layout asked for, or its part rule cannot be applied."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one file of the source."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True)
class RawDefect:
    """One defect type on one photo; `boxes` are the annotator's, half-open pixels, where the set has them."""

    name: str
    mask: MaskSource
    boxes: tuple[Box, ...] | None = None


@dataclass(frozen=True, slots=True)
class RawPhoto:
    """One photo.

    Attributes:
        id: Readable, unique in the set and safe as a file name; holds no dot.
        file: Name for people: the path relative to the source.
        picture: The file, or an (H, W) or (H, W, 3) uint8 array.
        part_id: The physical piece shown, as far as the layout knows.
        defects: One item a type; empty for a good photo.
    """

    id: str
    file: str
    picture: Path | Picture
    part_id: str
    defects: tuple[RawDefect, ...] = ()


@dataclass(frozen=True, slots=True)
class RawSet:
    """A data set as found.

    Attributes:
        name: For people.
        photos: Sorted by id.
        types: Every defect type the source declares, also one without a usable photo.
        box_truth: Whether boxes come from annotators or from the components of the masks.
        faults: Problems visible without decoding, e.g. a mask without an image.
        notes: Plain sentences for the data set card.
    """

    name: str
    photos: tuple[RawPhoto, ...]
    types: tuple[str, ...]
    box_truth: Literal["annotation", "mask"] = "mask"
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()


def safe_name(text: str) -> str:
    """`text` with everything but letters, digits, `_` and `-` turned into `_`."""
    return re.sub(r"[^\w-]", "_", text) or "_"


def unique_ids(photos: Iterable[RawPhoto]) -> tuple[RawPhoto, ...]:
    """Photos sorted by id; ids that would share a file (also where case is ignored) get a suffix made of their path."""
    photos = list(photos)
    seen = Counter(photo.id.casefold() for photo in photos)
    fixed = [
        photo if seen[photo.id.casefold()] == 1 else replace(photo, id=f"{photo.id}-{derive_seed(photo.file):016x}")
        for photo in photos
    ]
    return tuple(sorted(fixed, key=lambda photo: photo.id))


def image_files(folder: Path) -> list[Path]:
    """Picture files directly in `folder`, by name; hidden files are left out. Empty if there is no such folder."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def subfolders(folder: Path) -> list[Path]:
    """Visible folders directly in `folder`, by name. Empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def require_folders(source: Path, layout: str, expected: Sequence[str]) -> None:
    """Stop early when `source` is not of this layout.

    Raises:
        LayoutError: Naming the folder that is missing.
    """
    if not source.is_dir():
        raise LayoutError(f"prepare.source {str(source)!r} is no folder; expected a data set of layout {layout!r}")
    missing = [name for name in expected if not (source / name).is_dir()]
    if missing:
        raise LayoutError(
            f"{source}: no folder {', '.join(missing)}; layout {layout!r} has {', '.join(expected)}; set prepare.layout"
        )


def part_of(regex: str | None) -> Callable[[str], str | None]:
    """A function from a file's relative path to its part by group 1 of `regex`; None where it does not match.

    Raises:
        LayoutError: If `regex` is no regular expression or has no group.
    """
    if regex is None:
        return lambda file: None
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise LayoutError(f"prepare.part_regex {regex!r} is no regular expression: {error}") from error
    if pattern.groups < 1:
        raise LayoutError(f"prepare.part_regex {regex!r} has no group; group 1 must be the part id, e.g. '(\\d+)_cam'")

    def match(file: str) -> str | None:
        found = pattern.search(file)
        return found[1] if found else None

    return match
