"""Arms side by side: means over folds and paired differences, from the rows that `evaluate` wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

METRICS = ("box_map50", "box_map", "mask_map50", "mask_map", "image_auroc")
PRIMARY = "box_map50"
BASELINES = ("real", "classical", "copy_paste")
"""Arms every other arm is compared with; also the order in which arms are shown, the others following by name."""
CONFIDENCE = 0.95

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a paired difference over folds with its t interval; no interval for fewer than two folds."""

    mean: float
    low: float | None
    high: float | None
    folds: int


def arm_order(arms: Iterable[str]) -> list[str]:
    """Baselines first, then the other arms by name."""
    known = {arm: place for place, arm in enumerate(BASELINES)}
    return sorted(set(arms), key=lambda arm: (known.get(arm, len(known)), arm))


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values present; None if there is none."""
    present = [float(value) for value in values if value is not None]
    return round(math.fsum(present) / len(present), 6) if present else None


def paired_difference(values: Mapping[int, float], against: Mapping[int, float]) -> Difference | None:
    """Mean and t interval of `values - against` over the folds both have.

    With n folds the interval is mean ± t(n - 1) · s / √n: the folds share their test parts and seed, so differences are
    taken fold by fold before anything is averaged.
    """
    folds = sorted(values.keys() & against.keys())
    if not folds:
        return None
    gaps = np.array([values[fold] - against[fold] for fold in folds], dtype=np.float64)
    mean = float(gaps.mean())
    if len(folds) == 1:
        return Difference(round(mean, 6), None, None, 1)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(folds) - 1)) * float(gaps.std(ddof=1)) / math.sqrt(len(folds))
    return Difference(round(mean, 6), round(mean - reach, 6), round(mean + reach, 6), len(folds))


def _primary_by_fold(rows: Sequence[Row], arm: str) -> dict[int, float]:
    return {int(row["fold"]): float(row[PRIMARY]) for row in rows if row["arm"] == arm and row[PRIMARY] is not None}


def _arm_summary(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, Any]:
    """Mean of every metric over the folds of one arm of one detector."""
    ordered = sorted(rows, key=lambda row: row["fold"])
    return {
        **{metric: mean_of(row.get(metric) for row in ordered) for metric in METRICS},
        "by_fold": {str(row["fold"]): row[PRIMARY] for row in ordered},
        "per_class": {name: mean_of(row["per_class"].get(name) for row in ordered) for name in classes},
    }


def _differences(rows: Sequence[Row], arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each arm its paired difference to every other baseline of the same detector."""
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        for baseline in BASELINES:
            if baseline == arm or baseline not in arms:
                continue
            gap = paired_difference(_primary_by_fold(rows, arm), _primary_by_fold(rows, baseline))
            if gap is not None:
                row = {"mean": gap.mean, "low": gap.low, "high": gap.high, "folds": gap.folds}
                found.setdefault(arm, {})[baseline] = row
    return found


def compare(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, Any]:
    """The whole comparison as plain values, ready for JSON.

    Args:
        rows: One a detector, arm and fold: `detector`, `arm`, `fold`, the METRICS (None where a detector has no masks) and
            `per_class` box AP50.
        classes: Defect types in the order they are shown.

    Returns:
        `folds`, `verdict`, and for each detector its arms and their differences to the baselines.
    """
    if not rows:
        raise ValueError("the evaluation holds no row; run `evaluate` again")
    detectors: dict[str, Any] = {}
    for detector in sorted({row["detector"] for row in rows}):
        own = [row for row in rows if row["detector"] == detector]
        arms = arm_order(row["arm"] for row in own)
        detectors[detector] = {
            "arms": {arm: _arm_summary([row for row in own if row["arm"] == arm], classes) for arm in arms},
            "differences": _differences(own, arms),
        }
    folds = sorted({int(row["fold"]) for row in rows})
    return {"folds": folds, "verdict": verdict(len(folds)), "primary_metric": PRIMARY, "detectors": detectors}


def verdict(fold_count: int) -> dict[str, str]:
    """What may be concluded: nothing yet, and why."""
    if fold_count == 1:
        return {
            "headline": "quick look: no verdict",
            "reason": "One fold is one split and one seed. Its numbers show that the chain works; they cannot tell whether "
            "synthetic data helps. Run PROFILE=proof for three folds.",
        }
    return {
        "headline": f"{fold_count} folds: no verdict yet",
        "reason": "The intervals below are paired t intervals over folds (95 %). No verdict is given, because the bootstrap "
        "over test parts that a verdict rests on is not built yet.",
    }
