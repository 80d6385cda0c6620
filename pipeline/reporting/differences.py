"""Paired differences between arms over folds, with intervals that hold both chance of the test parts and chance of the seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.matches import Floats, Ints, MatchRecord
from pipeline.reporting.bootstrap import part_weights, parts_of
from pipeline.reporting.reweighting import reweighted_auroc, reweighted_map
from pipeline.seeds import derive_seed

Measure = Callable[[MatchRecord, Ints, Floats], Floats]
"""What is compared: from a record, the (N,) unit of each image and (B, U) weights of units to (B,) scores."""
POWER = 0.8
PART_FREEDOM = 15.0
"""Degrees of freedom of the parts' bootstrap variance, mean of three folds: 2 / (its coefficient of variation) ** 2, which is 10
to 25 in studies drawn at magnetic-tile's part counts (docs/proof.md)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a paired difference over folds; without an interval for fewer than two folds.

    Attributes:
        mean: Of the folds' differences.
        low: End of the interval.
        high: End of the interval.
        folds: How many.
        error: Standard error of the mean.
        freedom: Degrees of freedom of its t distribution.
        chance_above: Chance of so high a mean or a higher one if there were no difference (one-sided).
        smallest: Difference that such a test finds above zero in `POWER` of the cases.
    """

    mean: float
    low: float | None
    high: float | None
    folds: int
    error: float | None = None
    freedom: float | None = None
    chance_above: float | None = None
    smallest: float | None = None


def box_map50(record: MatchRecord, unit: Ints, weights: Floats) -> Floats:
    """(B,) box mAP50 of re-weighted units: whether defects are found and named."""
    return reweighted_map(record.box, [0], unit, weights)


def box_map(record: MatchRecord, unit: Ints, weights: Floats) -> Floats:
    """(B,) box mAP50-95 of re-weighted units: whether they are found, named and boxed exactly."""
    return reweighted_map(record.box, range(len(record.iou)), unit, weights)


def image_auroc(record: MatchRecord, unit: Ints, weights: Floats) -> Floats:
    """(B,) image AUROC of re-weighted units: whether defective photos are told from good ones."""
    return reweighted_auroc(record.image_score, record.defective, unit, weights)


def resampled(measure: Measure, records: Mapping[str, MatchRecord], resamples: int, fold: int) -> dict[str, Floats]:
    """(1 + B,) scores of each arm on one fold: as tested, then in B resamples of the parts, the same for every arm.

    Raises:
        ValueError: If the arms were not tested on the same images.
    """
    first = next(iter(records.values()))
    for arm, record in records.items():
        if not (np.array_equal(record.image_id, first.image_id) and np.array_equal(record.part, first.part)):
            raise ValueError(f"fold {fold}: arm {arm!r} was tested on other images than the first arm; run `evaluate` again")
    parts = parts_of(first)
    drawn = part_weights(parts.stratum, resamples, np.random.default_rng(derive_seed(fold, "bootstrap")))
    weights = np.concatenate([np.ones((1, len(parts.stratum))), drawn])
    return {arm: measure(record, parts.unit, weights) for arm, record in records.items()}


def difference(arm: Mapping[int, Floats], baseline: Mapping[int, Floats], confidence: float) -> Difference | None:
    """Difference of two arms over the folds both have; None if there is none.

    Args:
        arm: Fold -> scores of `resampled`.
        baseline: The same of the arm it is compared with.
        confidence: Of the interval, e.g. 0.95.
    """
    folds = sorted(arm.keys() & baseline.keys())
    if not folds:
        return None
    gaps = np.stack([arm[fold] - baseline[fold] for fold in folds])
    mean = float(gaps[:, 0].mean())
    if len(folds) == 1:
        return Difference(mean, None, None, 1)
    # A resample may leave out all good photos, where they are of parts that have bad ones too: it has no AUROC.
    error, freedom = standard_error(gaps[:, 0], np.nanvar(gaps[:, 1:], axis=1, ddof=1))
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    smallest = reach + float(stats.t.ppf(POWER, freedom)) * error
    return Difference(mean, mean - reach, mean + reach, len(folds), error, freedom, _chance(mean, error, freedom), smallest)


def standard_error(gaps: Floats, variances: Floats) -> tuple[float, float]:
    """Standard error of a mean over folds and its degrees of freedom.

    The spread of the folds' differences holds everything, chance of parts and of seeds; but of three folds it has two degrees of
    freedom, and a t interval on it alone is nearly twice as wide as it need be where seeds matter little (docs/proof.md). The
    bootstrap tells the share of the parts far more steadily. Both are added: the parts then count twice, which pays for the
    uncertainty of the folds' spread, and Satterthwaite's rule (Biometrics 1946) weighs the degrees of freedom of the sum. Where
    seeds dominate it becomes the t interval over folds.

    Args:
        gaps: (F,) difference on each fold, F >= 2.
        variances: (F,) of each, over resamples of the fold's parts.
    """
    between, within = float(gaps.var(ddof=1)), float(variances.mean())
    total = between + within
    if total == 0:
        return 0.0, float(len(gaps) - 1)
    freedom = total**2 / (between**2 / (len(gaps) - 1) + within**2 / PART_FREEDOM)
    return math.sqrt(total / len(gaps)), freedom


def _chance(mean: float, error: float, freedom: float) -> float:
    if error == 0:
        return 0.0 if mean > 0 else 1.0 if mean < 0 else 0.5
    return float(stats.t.sf(mean / error, freedom))
