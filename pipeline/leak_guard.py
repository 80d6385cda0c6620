"""The last check of `prepare`: reads the written folders back and compares what is on different sides of the split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.images import read_rgb
from pipeline.near_duplicates import Frame, find_near_duplicates, frame
from pipeline.records import Sample, read_manifest

SLACK = 0.002
"""Pairs are merged before the split at the threshold itself; the guard must not trip over the last bits of the same number."""
SHOWN = 20


class LeakError(ValueError):
    """The same piece is on two sides of the split."""


def check_no_leak(folders: Mapping[str, Path], min_correlation: float) -> None:
    """Refuse a prepared set where a part, or a near-duplicate photo, is on two sides of one fold.

    Independent of how the split was made: it looks at manifests and picture files only.

    Args:
        folders: The written folder of each side ("train", "val", "test"); unused samples count as train.
        min_correlation: As in `find_near_duplicates`.

    Raises:
        LeakError: Naming the parts or the pairs of photos.
    """
    sides = {name: read_manifest(folder) for name, folder in folders.items()}
    _check_parts(sides)
    frames, position = _frames(folders, sides)
    where: dict[int, dict[int, dict[str, str]]] = {}
    for name, samples in sides.items():
        for sample in samples:
            where.setdefault(position[name, sample.image], {}).setdefault(sample.fold, {})[name] = sample.id
    pairs = [(i, i, 1.0) for i in where] + find_near_duplicates(frames, min(1.0, min_correlation + SLACK))
    leaks = [line for i, j, value in pairs for line in _crossing(where[i], where[j], value)]
    if leaks:
        shown = "\n".join(f"  {line}" for line in leaks[:SHOWN])
        raise LeakError(
            f"{len(leaks)} pair(s) of photos on different sides of the split show one part, so test scores would be too good:\n"
            f"{shown}\nGive both photos the same part (parts.csv, prepare.part_regex); if they show different parts, raise "
            f"prepare.near_duplicate_min_correlation (now {min_correlation})"
        )


def _check_parts(sides: Mapping[str, Iterable[Sample]]) -> None:
    seen: dict[tuple[int, str], str] = {}
    for name, samples in sides.items():
        for sample in samples:
            other = seen.setdefault((sample.fold, sample.part_id), name)
            if other != name:
                raise LeakError(f"fold {sample.fold}: part {sample.part_id!r} is in {other} and in {name}; run `prepare` again")


def _frames(folders: Mapping[str, Path], sides: Mapping[str, Iterable[Sample]]) -> tuple[list[Frame], dict[tuple[str, str], int]]:
    """One frame a photo, and the position of each (side, image path) in that list.

    A photo is a file's name and content. By content alone a copy within the set would have no frame of its own, and what the
    whole set has in common, which `fingerprints` removes, would be reckoned from other photos than before the split.
    """
    known: dict[tuple[str, bytes], int] = {}
    frames: list[Frame] = []
    position: dict[tuple[str, str], int] = {}
    images = sorted({(Path(s.image).name, name, s.image) for name, samples in sides.items() for s in samples})
    for file, name, image in images:
        path = folders[name] / image
        photo = file, hashlib.blake2b(path.read_bytes()).digest()
        if photo not in known:
            known[photo] = len(frames)
            frames.append(frame(read_rgb(path)))
        position[name, image] = known[photo]
    return frames, position


def _crossing(one: Mapping[int, Mapping[str, str]], two: Mapping[int, Mapping[str, str]], value: float) -> list[str]:
    """Lines for the folds in which the two photos are on different sides."""
    found: list[str] = []
    for fold in sorted(set(one) & set(two)):
        for left, right in ((a, b) for a in one[fold] for b in two[fold] if a != b):
            if one is two and left > right:
                continue
            found.append(f"fold {fold}: {left}/{one[fold][left]} and {right}/{two[fold][right]} (correlation {value:.3f})")
    return found
