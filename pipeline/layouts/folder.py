"""A user's own photos: `images/good/*`, `images/<type>/*`, `masks/<type>/<same stem>.*`, optionally `parts.csv`."""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.layouts.pairs import Collector
from pipeline.layouts.raw import Fault, LayoutError, RawSet, part_of, require_folders, subfolders, unique_ids
from pipeline.params import PrepareParams
from pipeline.records import ManifestError, check_relative

PARTS = "parts.csv"
GUESSED = (
    "No parts.csv and no prepare.part_regex: each photo was taken for its own part. If parts were photographed more than once, "
    "and the near-duplicate check did not notice, scores on test are too good."
)


def read(source: Path, params: PrepareParams) -> RawSet:
    """Read the folder; parts come from `parts.csv`, else from `part_regex`, else each photo is one part (noted).

    Raises:
        LayoutError: If `images` is missing or `parts.csv` is unreadable or names a path outside the source.
    """
    require_folders(source, "folder", ("images",))
    table = _parts_table(source / PARTS)
    if table is not None:
        found = Collector(source, table.get, PARTS)
    elif params.part_regex is not None:
        found = Collector(source, part_of(params.part_regex), "prepare.part_regex")
    else:
        found = Collector(source, part_of(None), None)
    found.good(source / "images" / "good", "good")
    listed = {folder.name for top in ("images", "masks") for folder in subfolders(source / top)} - {"good"}
    for kind in sorted(listed):
        found.defective(source / "images" / kind, source / "masks" / kind, "")
    absent = [file for file in sorted(table or {}) if not (source / file).is_file()]
    faults = [*found.faults, *(Fault(PARTS, f"names {file}, which does not exist") for file in absent)]
    notes = () if found.rule else (GUESSED,)
    return RawSet(source.name, unique_ids(found.photos), tuple(sorted(listed)), faults=tuple(faults), notes=notes)


def _parts_table(path: Path) -> dict[str, str] | None:
    """Part by image path, or None without a file."""
    if not path.is_file():
        return None
    table: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        if not {"image", "part_id"} <= set(rows.fieldnames or ()):
            raise LayoutError(f"{path}: columns are {rows.fieldnames}; expected at least image and part_id, separated by commas")
        for number, row in enumerate(rows, 2):
            image, part_id = (row["image"] or "").strip(), (row["part_id"] or "").strip()
            try:
                check_relative(image)
            except ManifestError as error:
                raise LayoutError(f"{path}:{number}: {error}") from error
            if not part_id:
                raise LayoutError(f"{path}:{number}: {image} has no part_id; give every photo the id of the piece it shows")
            if table.setdefault(image, part_id) != part_id:
                raise LayoutError(f"{path}:{number}: {image} is given to part {part_id!r} and to {table[image]!r}; keep one line")
    return table
