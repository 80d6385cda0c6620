"""Arms side by side: means over folds and paired differences, from the rows that `evaluate` wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

METRICS = ("box_map50", "box_map", "mask_map50", "mask_map", "image_auroc")
PRIMARY = "box_map50"
BASELINES = ("real", "classical", "copy_paste")
"""Arms every other arm is compared with; also the order in which arms are shown, the others following by name."""
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Scores:
    """One detector in one arm on the test parts of one fold.

    Attributes:
        detector: Its name.
        arm: What it was trained on.
        fold: Split and seed.
        metrics: By name; None where a detector has no masks or nothing could be scored.
        per_class: Box AP50 of each type; None for a type the fold does not test.
    """

    detector: str
    arm: str
    fold: int
    metrics: Mapping[str, float | None]
    per_class: Mapping[str, float | None]


def read_scores(row: Mapping[str, Any]) -> Scores:
    """One row of `reports/eval/metrics.json`."""
    box, mask = row["box"], row["mask"] or {}
    metrics = {
        "box_map50": box["map50"],
        "box_map": box["map"],
        "mask_map50": mask.get("map50"),
        "mask_map": mask.get("map"),
        "image_auroc": row["image_auroc"],
    }
    per_class = {name: scores["map50"] for name, scores in box["per_class"].items()}
    return Scores(row["detector"], row["arm"], int(row["fold"]), metrics, per_class)


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


def _primary_by_fold(scores: Sequence[Scores], arm: str) -> dict[int, float]:
    found = {one.fold: one.metrics[PRIMARY] for one in scores if one.arm == arm}
    return {fold: float(value) for fold, value in found.items() if value is not None}


def _arm_summary(scores: Sequence[Scores], classes: Sequence[str]) -> dict[str, Any]:
    """Mean of every metric over the folds of one arm of one detector."""
    ordered = sorted(scores, key=lambda one: one.fold)
    return {
        **{metric: mean_of(one.metrics[metric] for one in ordered) for metric in METRICS},
        "by_fold": {str(one.fold): one.metrics[PRIMARY] for one in ordered},
        "per_class": {name: mean_of(one.per_class.get(name) for one in ordered) for name in classes},
    }


def _differences(scores: Sequence[Scores], arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each arm its paired difference to every other baseline of the same detector."""
    found: dict[str, dict[str, Any]] = {}
    for arm in arms:
        for baseline in BASELINES:
            if baseline == arm or baseline not in arms:
                continue
            gap = paired_difference(_primary_by_fold(scores, arm), _primary_by_fold(scores, baseline))
            if gap is not None:
                found.setdefault(arm, {})[baseline] = asdict(gap)
    return found


def compare(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """The whole comparison as plain values, ready for JSON.

    Args:
        rows: Of `reports/eval/metrics.json`, one a detector, arm and fold.
        classes: Defect types in the order they are shown.

    Returns:
        `folds`, `verdict`, `primary_metric`, and for each detector its arms and their differences to the baselines.
    """
    if not rows:
        raise ValueError("the evaluation holds no row; run `evaluate` again")
    scores = [read_scores(row) for row in rows]
    detectors: dict[str, Any] = {}
    for detector in sorted({one.detector for one in scores}):
        own = [one for one in scores if one.detector == detector]
        arms = arm_order(one.arm for one in own)
        detectors[detector] = {
            "arms": {arm: _arm_summary([one for one in own if one.arm == arm], classes) for arm in arms},
            "differences": _differences(own, arms),
        }
    folds = sorted({one.fold for one in scores})
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
