"""Arms side by side: means over folds, paired differences and verdicts, from what `evaluate` wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.matches import Floats, MatchRecord
from pipeline.reporting import operating_points
from pipeline.reporting.differences import Difference, Measure, box_map, box_map50, difference, image_auroc, resampled
from pipeline.reporting.verdicts import Verdict, chosen_arm, judge

METRICS = (
    "box_map50",
    "box_map",
    "mask_map50",
    "mask_map",
    "image_auroc",
    "image_ap",
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1_max",
    "pixel_pro",
    "region_f",
    "pixel_f",
)
PRIMARY = "box_map50"
SECONDARY: Mapping[str, Measure] = {
    "box_map": box_map,
    "image_auroc": image_auroc,
    "found": operating_points.found_at_main,
    "escapes": operating_points.escapes_at_main,
}
"""What arms are compared in besides, with the same intervals; no verdict rests on it."""
SIZES = ("small", "medium", "large")
"""COCO's: up to 32 x 32 pixels, up to 96 x 96, above."""
BASELINES = ("real", "classical", "copy_paste")
"""Arms every other arm is compared with; also the order in which arms are shown, the others following by name."""
COMBINED = "_classical"
"""End of the name of a generator's arm that has strong augmentation too."""
ONLY = "_only"
"""End of the name of the arm that has a generator's defects and no real ones."""
RecordKey = tuple[str, str, int]
"""Detector, arm, fold."""
_SHORT = {
    "helps": "helps",
    "hurts": "hurts",
    "no evidence": "gives no evidence of helping",
    "not tested": "was not tested against both baselines with",
}


@dataclass(frozen=True, slots=True)
class Scores:
    """One detector in one arm on the test parts of one fold.

    Attributes:
        detector: Its name.
        arm: What it was trained on.
        fold: Split and seed.
        metrics: By name; None where a detector has no masks or nothing could be scored.
        per_class: Box AP50 of each type; None for a type the fold does not test.
        per_size: Box AP50 of defects of each size, as COCO names them; None for a size the fold does not test.
        confusion: What was taken for what, see `detectors.confusion`.
        val: Box mAP50 on val, by which arms are chosen.
    """

    detector: str
    arm: str
    fold: int
    metrics: Mapping[str, float | None]
    per_class: Mapping[str, float | None]
    per_size: Mapping[str, float | None]
    confusion: Mapping[str, Any]
    val: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How the comparison is made.

    Attributes:
        classes: Defect types in the order they are shown.
        generators: Those that made synthetic images; baselines among them get no verdict.
        resamples: Of the test parts.
        confidence: Of the intervals.
    """

    classes: Sequence[str]
    generators: Sequence[str]
    resamples: int
    confidence: float


def read_scores(row: Mapping[str, Any]) -> Scores:
    """One row of `reports/eval/metrics.json`."""
    box, mask, pixel = row["box"], row["mask"] or {}, row["pixel"] or {}
    metrics = {
        "box_map50": box["map50"],
        "box_map": box["map"],
        "mask_map50": mask.get("map50"),
        "mask_map": mask.get("map"),
        "image_auroc": row["image_auroc"],
        "image_ap": row["image_ap"],
        **{f"pixel_{name}": pixel.get(name) for name in ("auroc", "ap", "f1_max", "pro")},
        "region_f": row["region_f_measure"]["all"],
        "pixel_f": pixel.get("f_measure"),
    }
    per_class, per_size = ({name: one["map50"] for name, one in box[key].items()} for key in ("per_class", "per_size"))
    fold = int(row["fold"])
    return Scores(row["detector"], row["arm"], fold, metrics, per_class, per_size, row["confusion"], row["val_box_map50"])


def arm_order(arms: Iterable[str]) -> list[str]:
    """Baselines first, then the other arms by name."""
    known = {arm: place for place, arm in enumerate(BASELINES)}
    return sorted(set(arms), key=lambda arm: (known.get(arm, len(known)), arm))


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values present; None if there is none."""
    present = [float(value) for value in values if value is not None]
    return round(math.fsum(present) / len(present), 6) if present else None


def total_confusion(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of all folds together: over all of them every part is tested at most once.

    Raises:
        ValueError: If the folds have other types or were counted from other scores on.
    """
    fixed = {key: folds[0][key] for key in ("types", "score", "iou")}
    if any(one[key] != value for one in folds for key, value in fixed.items()):
        raise ValueError("folds were evaluated with other types or another evaluate.f_measure_score; run `evaluate` again")
    summed = {key: np.sum([one[key] for one in folds], axis=0).tolist() for key in folds[0] if key not in fixed}
    return {**fixed, **summed}


def _arm_summary(scores: Sequence[Scores], classes: Sequence[str]) -> dict[str, Any]:
    """Mean of every metric over the folds of one arm of one detector."""
    ordered = sorted(scores, key=lambda one: one.fold)
    return {
        **{metric: mean_of(one.metrics[metric] for one in ordered) for metric in METRICS},
        "by_fold": {str(one.fold): one.metrics[PRIMARY] for one in ordered},
        "per_class": {name: mean_of(one.per_class.get(name) for one in ordered) for name in classes},
        "per_size": {name: mean_of(one.per_size.get(name) for one in ordered) for name in SIZES},
        "confusion": total_confusion([one.confusion for one in ordered]),
        "val_box_map50": mean_of(one.val for one in ordered),
    }


def _resampled(
    measure: Measure, records: Mapping[RecordKey, MatchRecord], detector: str, resamples: int
) -> dict[str, dict[int, Floats]]:
    """Scores of each arm of one detector on each fold that has one, as tested and in each resample."""
    found: dict[str, dict[int, Floats]] = {}
    for fold in sorted({key[2] for key in records if key[0] == detector}):
        of_fold = {arm: record for (name, arm, one), record in records.items() if (name, one) == (detector, fold)}
        for arm, values in resampled(measure, of_fold, resamples, fold).items():
            if not np.isnan(values[0]):
                found.setdefault(arm, {})[fold] = values
    return found


def _differences(scores: Mapping[str, Mapping[int, Floats]], confidence: float) -> dict[str, dict[str, Difference]]:
    """For each arm its paired difference to every other baseline of the same detector."""
    found: dict[str, dict[str, Difference]] = {}
    for arm in arm_order(scores):
        for baseline in BASELINES:
            if baseline == arm or baseline not in scores:
                continue
            gap = difference(scores[arm], scores[baseline], confidence)
            if gap is not None:
                found.setdefault(arm, {})[baseline] = gap
    return found


def _chosen(generators: Sequence[str], arms: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Each generator's arm that is best on val: with or without strong augmentation."""
    val = {arm: row["val_box_map50"] for arm, row in arms.items()}
    own = {name: [arm for arm in (name, name + COMBINED) if arm in arms] for name in generators if name not in BASELINES}
    return {name: chosen_arm(found, val) for name, found in own.items() if found}


def _points(own: Sequence[Scores], records: Mapping[RecordKey, MatchRecord]) -> dict[str, Any]:
    """The points of `operating_points` and, for each arm, what is found and what escapes there, mean over its folds."""
    found = {key: operating_points.points_of(records[key]) for key in ((one.detector, one.arm, one.fold) for one in own)}
    arms = {
        arm: {
            name: [mean_of(values) for values in zip(*(row[name] for key, row in found.items() if key[1] == arm), strict=True)]
            for name in ("found", "escapes")
        }
        for arm in arm_order(one.arm for one in own)
    }
    return {"alarms": operating_points.ALARMS, "rejected": operating_points.REJECTED, "arms": arms}


def _plain(value: Difference | Verdict) -> dict[str, Any]:
    return {name: round(one, 6) if isinstance(one, float) else one for name, one in asdict(value).items()}


def _plain_rows(rows: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Any]]:
    return {arm: {name: _plain(gap) for name, gap in gaps.items()} for arm, gaps in rows.items()}


def _compare_detector(own: Sequence[Scores], records: Mapping[RecordKey, MatchRecord], plan: Plan) -> dict[str, Any]:
    detector = own[0].detector
    names = arm_order(one.arm for one in own)
    arms = {arm: _arm_summary([one for one in own if one.arm == arm], plan.classes) for arm in names}

    def compared(measure: Measure) -> dict[str, dict[str, Difference]]:
        return _differences(_resampled(measure, records, detector, plan.resamples), plan.confidence)

    differences = compared(box_map50)
    chosen = _chosen(plan.generators, arms)
    verdicts = judge(chosen, differences, plan.confidence)
    best = chosen_arm(sorted(chosen.values()), {arm: row["val_box_map50"] for arm, row in arms.items()}) if chosen else None
    return {
        "arms": arms,
        "differences": _plain_rows(differences),
        "secondary_differences": {name: _plain_rows(compared(measure)) for name, measure in SECONDARY.items()},
        "operating_points": _points(own, records),
        "verdicts": {name: _plain(one) for name, one in verdicts.items()},
        "best_arm": best,
    }


def compare(rows: Sequence[Mapping[str, Any]], records: Mapping[RecordKey, MatchRecord], plan: Plan) -> dict[str, Any]:
    """The whole comparison as plain values, ready for JSON.

    Args:
        rows: Of `reports/eval/metrics.json`, one a detector, arm and fold.
        records: Matches of the same models.
        plan: What is shown and how sure it has to be.

    Returns:
        `folds`, `verdict`, `primary_metric`, `confidence`, `resamples`, and for each detector its arms, their differences to the
        baselines in the primary metric and in each of `SECONDARY`, what they find and miss at equal false alarms, the verdict on
        each learned generator and the best learned arm, chosen on val.
    """
    if not rows:
        raise ValueError("the evaluation holds no row; run `evaluate` again")
    scores = [read_scores(row) for row in rows]
    detectors = {
        name: _compare_detector([one for one in scores if one.detector == name], records, plan)
        for name in sorted({one.detector for one in scores})
    }
    folds = sorted({one.fold for one in scores})
    return {
        "folds": folds,
        "verdict": verdict(folds, detectors, plan.confidence),
        "primary_metric": PRIMARY,
        "confidence": plan.confidence,
        "resamples": plan.resamples,
        "detectors": detectors,
    }


def verdict(folds: Sequence[int], detectors: Mapping[str, Mapping[str, Any]], confidence: float) -> dict[str, Any]:
    """What may be concluded, and why: a headline, a reason, and a line for each detector and generator."""
    if len(folds) == 1:
        return {
            "headline": "quick look: no verdict",
            "reason": "One fold is one split and one seed. Its numbers show that the chain works; they cannot tell whether "
            "synthetic data helps. Run PROFILE=proof for three folds.",
            "lines": [],
        }
    lines = [
        _line(detector, generator, found, result["differences"].get(found["arm"], {}))
        for detector, result in detectors.items()
        for generator, found in result["verdicts"].items()
    ]
    words = [
        f"{generator} {_SHORT[found['word']]} {detector}"
        for detector, result in detectors.items()
        for generator, found in result["verdicts"].items()
    ]
    return {
        "headline": "; ".join(words) or "no learned generator was tested",
        "reason": f"{len(folds)} folds, each with its own seed. "
        f"A generator helps if box mAP50 rises over `real` and over `classical`, both for sure at {100 * confidence:.10g}%; it "
        "hurts if box mAP50 falls below `real` for sure; else there is no evidence. Of its arms, with and without strong "
        "augmentation, the one is taken that is better on val.",
        "lines": lines,
    }


def _line(detector: str, generator: str, found: Mapping[str, Any], gaps: Mapping[str, Mapping[str, Any]]) -> str:
    """One verdict as a sentence, in points (hundredths) of mAP50."""
    parts = [
        f"{100 * gap['mean']:+.1f} points to {name} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})"
        for name, gap in gaps.items()
        if gap["low"] is not None
    ]
    shown = f"{generator} with {detector}, arm {found['arm']}: {found['word']}"
    text = f"{shown}; {', '.join(parts)}" if parts else shown
    if found["smallest"] is None:
        return text
    return f"{text}; a gain of {100 * found['smallest']:.1f} points over both is the smallest this test finds four times in five"
