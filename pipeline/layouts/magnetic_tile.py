"""Magnetic-tile defects (Huang et al., The Visual Computer 2020; github abin24/Magnetic-tile-defect-datasets.).

Licence: research use; not redistributable, so no photo of it may enter this repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.layouts.raw import (
    Fault,
    RawDefect,
    RawPhoto,
    RawSet,
    image_files,
    require_folders,
    safe_name,
    subfolders,
    unique_ids,
)
from pipeline.params import PrepareParams

PREFIX = "MT_"
GOOD = "Free"
MAX_GAP = 200
"""Numbers of one tile's photos lie closer together than this (measured; smaller gaps give up to 971 "parts" and leak)."""

_NAME = re.compile(r"exp(\d+)_num_(\d+)")


def read(source: Path, params: PrepareParams) -> RawSet:
    """Read `MT_<type>/Imgs/<name>.jpg` with the mask `<name>.png` beside it; masks in `MT_Free` are not read."""
    require_folders(source, "magnetic_tile", (f"{PREFIX}{GOOD}",))
    photos: list[RawPhoto] = []
    faults: list[Fault] = []
    types: list[str] = []
    for folder in subfolders(source):
        if not folder.name.startswith(PREFIX):
            continue
        kind = folder.name.removeprefix(PREFIX)
        if kind != GOOD:
            types.append(kind)
        found, wrong = _read_type(source, folder / "Imgs", kind)
        photos += found
        faults += wrong
    parts = assign_parts(photo.id for photo in photos)
    with_part = (RawPhoto(p.id, p.file, p.picture, parts[p.id], p.defects) for p in photos)
    return RawSet(source.name, unique_ids(with_part), tuple(sorted(types)), faults=tuple(faults))


def _read_type(source: Path, folder: Path, kind: str) -> tuple[list[RawPhoto], list[Fault]]:
    photos: list[RawPhoto] = []
    faults: list[Fault] = []
    files = image_files(folder)
    images = {path.stem: path for path in files if path.suffix.lower() != ".png"}
    masks = {path.stem: path for path in files if path.suffix.lower() == ".png"}
    for stem, path in images.items():
        file = path.relative_to(source).as_posix()
        if not _NAME.fullmatch(stem):
            faults.append(Fault(file, "name is not exp<exposure>_num_<number>, so its part is unknown"))
        elif kind == GOOD:
            photos.append(RawPhoto(safe_name(f"{kind}-{stem}"), file, path, ""))
        elif stem not in masks:
            faults.append(Fault(file, f"defect image without mask; expected {stem}.png beside it"))
        else:
            photos.append(RawPhoto(safe_name(f"{kind}-{stem}"), file, path, "", (RawDefect(kind, masks[stem]),)))
    for stem in sorted(masks.keys() - images.keys()):
        faults.append(Fault(masks[stem].relative_to(source).as_posix(), f"mask without image; expected {stem}.jpg beside it"))
    return photos, faults


def assign_parts(ids: Iterable[str]) -> dict[str, str]:
    """Part of every photo `<type>-exp<exposure>_num_<number>`.

    Photos of all folders are sorted by number; a new part begins where the exposure does not rise or the number jumps by more
    than `MAX_GAP`. A part is named after its first number, so it does not depend on what other parts there are.
    """
    keyed: list[tuple[int, int, str]] = []
    for photo_id in ids:
        found = _NAME.search(photo_id)
        assert found is not None, photo_id
        keyed.append((int(found[2]), int(found[1]), photo_id))
    parts: dict[str, str] = {}
    last_number, last_exposure, part = -MAX_GAP - 1, -1, ""
    for number, exposure, photo_id in sorted(keyed):
        if exposure <= last_exposure or number - last_number > MAX_GAP:
            part = f"tile_{number:06d}"
        parts[photo_id] = part
        last_number, last_exposure = number, exposure
    return parts
