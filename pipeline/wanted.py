"""What is wanted: numbers of defects by type and size, read from `data/targets.yaml` and dealt out to scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.masks.bank import SIZES, Size
from pipeline.params import ParamsError
from pipeline.seeds import derive_seed

Wanted = Mapping[str, Mapping[Size, int]]
"""How many defects of each type and size; size `any` stands for all."""


def deal(
    fold: int, wanted: Wanted, kinds: Sequence[str], per_image: Sequence[float], mixed: bool
) -> tuple[NDArray[np.int16], NDArray[np.int8], NDArray[np.int64]]:
    """Deal the wanted defects out to scenes of one, two, three ... by the weights `per_image`; see `Planner`.

    Types are mixed within scenes, or each has scenes of its own. Scenes with the same first type follow each other: an adapter a
    type is loaded once each.
    """
    entries = [(kinds.index(d), SIZES.index(s)) for d in sorted(wanted) for s, n in wanted[d].items() for _ in range(n)]
    rng = np.random.default_rng(derive_seed("deal", fold))
    table = np.array(entries, np.int16).reshape(-1, 2)[rng.permutation(len(entries))]
    shares = np.array(per_image) / np.sum(per_image)
    lengths = 1 + rng.choice(len(shares), size=len(entries), p=shares)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if not mixed:
        table = table[np.argsort(table[:, 0], kind="stable")]
        starts = np.union1d(starts, 1 + np.flatnonzero(np.diff(table[:, 0])))
    starts = np.append(starts[starts < len(entries)], len(entries))
    scenes = [table[a:b][np.argsort(table[a:b, 0], kind="stable")] for a, b in pairwise(starts)]
    scenes.sort(key=lambda scene: int(scene[0, 0]))
    ordered = np.concatenate(scenes) if scenes else table
    begins = np.concatenate([[0], np.cumsum([len(scene) for scene in scenes])]).astype(np.int64)
    return ordered[:, 0].astype(np.int16), ordered[:, 1].astype(np.int8), begins


def read_targets(path: Path, defects: Sequence[str]) -> dict[str, dict[Size, int]]:
    """How many defects are wanted of each type and size, from `data/targets.yaml`; a plain number is of any size.

    Raises:
        ParamsError: For a type the data set does not have, a size there is not, or a count that is no whole number of at least 0.
    """
    default, types = _document(path)
    unknown = sorted(set(types) - set(defects), key=str)
    if unknown:
        raise ParamsError(f"{path}: unknown defect types {unknown}; the data set has {sorted(defects)}")
    return {defect: _by_size(types.get(defect, default), defect, path) for defect in defects}


def read_default(path: Path) -> Any:
    """The count, or the counts by size, of types that `data/targets.yaml` does not name."""
    return _document(path)[0]


def _document(path: Path) -> tuple[Any, dict[str, Any]]:
    """The default, and what is wanted of the types that are named."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: no valid YAML: {error}") from error
    known = isinstance(document, dict) and "default" in document and document.keys() <= {"default", "types"}
    types = document.get("types") if known else None
    if not known or not isinstance(types, dict | None):
        raise ParamsError(f"{path}: expected `default: <number>` and `types: {{}}`, got {document!r}; see docs/targets.md")
    return document["default"], types or {}


def _by_size(value: Any, defect: str, path: Path) -> dict[Size, int]:
    counts = value if isinstance(value, dict) else {"any": value}
    strange = sorted(set(counts) - set(SIZES), key=str)
    if strange:
        raise ParamsError(f"{path}: {defect!r} has sizes {strange}; expected some of {', '.join(SIZES)}")
    wrong = {size: n for size, n in counts.items() if not isinstance(n, int) or isinstance(n, bool) or n < 0}
    if wrong:
        raise ParamsError(f"{path}: counts must be whole numbers of at least 0, got {wrong} for {defect!r}")
    return {size: counts[size] for size in SIZES if size in counts}
