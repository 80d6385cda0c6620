"""Differences between trainings that no report compares: of two ways, or of two studies."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.matches import MatchRecord
from pipeline.reporting.differences import Difference, box_map50, difference, resampled

RESAMPLES, CONFIDENCE = 2000, 0.95


def paired(one: Mapping[int, MatchRecord], other: Mapping[int, MatchRecord]) -> Difference | None:
    """Box mAP50 of one model minus that of another, from their records by fold.

    None for fewer than two folds that both have, where there is no interval.

    Raises:
        ValueError: If they were tested on different images.
    """
    shared = sorted(one.keys() & other.keys())
    maps = {fold: resampled(box_map50, {"one": one[fold], "other": other[fold]}, RESAMPLES, fold) for fold in shared}
    found = difference({f: maps[f]["one"] for f in shared}, {f: maps[f]["other"] for f in shared}, CONFIDENCE)
    return None if found is None or found.low is None else found


def gap(one: Mapping[int, MatchRecord], other: Mapping[int, MatchRecord]) -> list[float] | None:
    """Mean and ends of the 95 % interval of `paired`, to four places; errors as there."""
    found = paired(one, other)
    if found is None or found.low is None or found.high is None:
        return None
    return [round(value, 4) for value in (found.mean, found.low, found.high)]
