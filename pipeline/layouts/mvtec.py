"""MVTec AD and sets in its form (`train/good`, `test/<type>`, `ground_truth/<type>/<name>_mask.png`).

MVTec AD itself is CC BY-NC-SA 4.0: research use, no commercial use.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.layouts.pairs import Collector
from pipeline.layouts.raw import RawSet, part_of, require_folders, subfolders, unique_ids
from pipeline.params import PrepareParams

GUESSED = "Each photo counts as one part, unless near-duplicates merge; set prepare.part_regex if parts were photographed twice."


def read(source: Path, params: PrepareParams) -> RawSet:
    """Read one category folder.

    One photo is one part unless `part_regex` says otherwise (near-duplicates are merged later). `combined` is a type like any
    other. Good photos of `train` and `test` form one pool: this project splits anew, by part.
    """
    require_folders(source, "mvtec", ("train/good", "test"))
    rule = None if params.part_regex is None else "prepare.part_regex"
    found = Collector(source, part_of(params.part_regex), rule)
    found.good(source / "train" / "good", "train_good")
    found.good(source / "test" / "good", "test_good")
    listed = {folder.name for top in ("test", "ground_truth") for folder in subfolders(source / top)} - {"good"}
    for kind in sorted(listed):
        found.defective(source / "test" / kind, source / "ground_truth" / kind, "_mask")
    notes = () if rule else (GUESSED,)
    return RawSet(source.name, unique_ids(found.photos), tuple(sorted(listed)), faults=tuple(found.faults), notes=notes)
