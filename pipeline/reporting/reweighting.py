"""COCO average precision and image AUROC as if each image, or each part with all its images, were there any number of times.

A resample needs no matching anew: matches are made image by image, so only the counts above each right detection change. What
lies between two of them never decides a score, which is why a resample costs microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pipeline.matches import Bools, Floats, Ints, Matches

RECALL = np.linspace(0.0, 1.0, 101)  # COCOeval's recThrs
_ROUNDING = 1e-12
_ROWS_AT_ONCE = 4_000_000  # numbers in a temporary table, 32 MB


@dataclass(frozen=True)
class ClassCurve:
    """The right detections of one class at one IoU threshold, best first, and the false alarms among them; U units, J of them.

    Attributes:
        unit: (J,) unit of each right detection.
        false: (J, U) false alarms of each unit above right detection j and below j - 1.
        truths: (U,) defects of this class.
    """

    unit: Ints
    false: sparse.csr_array
    truths: Ints


def class_curves(matches: Matches, threshold: int, unit: Ints, units: int) -> list[ClassCurve]:
    """What a resample needs, by class.

    Args:
        matches: Of one model.
        threshold: Place of the IoU threshold.
        unit: (N,) unit, from 0, that each image belongs to; units are what is weighted.
        units: Their number U.
    """
    return [_class_curve(matches, category, threshold, unit, units) for category in range(matches.truths.shape[1])]


def _class_curve(matches: Matches, category: int, threshold: int, unit: Ints, units: int) -> ClassCurve:
    own = np.flatnonzero(matches.category == category)
    # The stable order of COCOeval: detections of equal score stay in the order of their images.
    own = own[np.argsort(-matches.score[own], kind="stable")]
    right, owner = matches.matched[own, threshold], unit[matches.image[own]]
    hits = int(right.sum())
    following = np.cumsum(right) - right  # the right detection that a false alarm stands above
    wrong = ~right & (following < hits)
    ones = np.ones(int(wrong.sum()))
    false = sparse.csr_array((ones, (following[wrong], owner[wrong])), shape=(hits, units))
    truths = np.bincount(unit, weights=matches.truths[:, category], minlength=units).astype(np.int64)
    return ClassCurve(owner[right], false, truths)


def _class_precision(curve: ClassCurve, weights: Floats) -> Floats:
    """(B,) average precision of one class; NaN in resamples without a defect of it."""
    right = np.cumsum(weights[:, curve.unit], axis=1)
    wrong = np.cumsum((curve.false @ weights.T).T, axis=1)
    precision = right / (wrong + right + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    truths = weights @ curve.truths.astype(np.float64)
    known = truths > 0
    recall = right / np.where(known, truths, 1.0)[:, None]
    # Weights that are no whole numbers, summed in another order, must not miss a recall of one by a last bit.
    recall[right >= truths[:, None] * (1 - _ROUNDING)] = 1.0
    # COCOeval reads the envelope at the first place whose recall reaches each of 101 thresholds: each place serves those that
    # it is the first to reach.
    reached = np.searchsorted(RECALL, recall, side="right")
    served = np.diff(reached, axis=1, prepend=0)
    return np.where(known, (envelope * served).sum(axis=1) / len(RECALL), np.nan)


def average_precision(curves: Sequence[ClassCurve], weights: Floats) -> Floats:
    """Mean over the classes that have a defect, in each resample.

    Args:
        curves: Of one model at one IoU threshold, by class.
        weights: (B, U) how often each unit occurs; 0 or more.

    Returns:
        (B,) mAP; NaN for a resample without any defect. With weights of 1 it is COCOeval's.
    """
    widest = max((len(curve.unit) for curve in curves), default=0)
    return np.concatenate([_mean_over_classes(curves, block) for block in in_blocks(weights, widest)])


def in_blocks(weights: Floats, widest: int) -> list[Floats]:
    """Rows of `weights` in pieces whose tables of `widest` columns stay small."""
    rows = max(1, _ROWS_AT_ONCE // max(1, widest))
    return [weights[first : first + rows].astype(np.float64) for first in range(0, len(weights), rows)]


def _mean_over_classes(curves: Sequence[ClassCurve], weights: Floats) -> Floats:
    by_class = np.stack([_class_precision(curve, weights) for curve in curves])
    known = ~np.isnan(by_class)
    total = np.where(known, by_class, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def reweighted_map(matches: Matches, thresholds: Sequence[int], unit: Ints, weights: Floats) -> Floats:
    """(B,) mean average precision over IoU thresholds: one for mAP50, all of them for mAP 50-95."""
    units = weights.shape[1]
    by_threshold = [average_precision(class_curves(matches, place, unit, units), weights) for place in thresholds]
    return np.mean(by_threshold, axis=0)


def reweighted_auroc(score: Floats, defective: Bools, unit: Ints, weights: Floats) -> Floats:
    """Chance that a defective image scores above a good one, ties counting half, in each resample.

    Args:
        score: (N,) of each image.
        defective: (N,) whether the image shows a defect.
        unit: (N,) unit, from 0, that each image belongs to; units are what is weighted.
        weights: (B, U) how often each unit occurs; 0 or more.

    Returns:
        (B,) area under the ROC curve; NaN for a resample without defective or without good images.
    """
    levels, place = np.unique(score, return_inverse=True)
    bad, good = (level_counts(place, own, unit, (len(levels), weights.shape[1])) for own in (defective, ~defective))
    blocks = in_blocks(weights, len(levels))
    return np.concatenate([_share_above((bad @ block.T).T, (good @ block.T).T) for block in blocks])


def level_counts(place: Ints, own: Bools, unit: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    """(V, U) how many of the things that are `own` have each level, by unit.

    Args:
        place: (D,) level of each thing, from 0.
        own: (D,) which of them are counted.
        unit: (D,) unit of each, from 0.
        shape: Levels V and units U.
    """
    return sparse.csr_array((np.ones(int(own.sum())), (place[own], unit[own])), shape=shape)


def _share_above(bad: Floats, good: Floats) -> Floats:
    """(B,) share of pairs in which the bad one has the higher level, from (B, V) weights at each of V rising levels."""
    below = np.cumsum(good, axis=1) - good / 2
    pairs = bad.sum(axis=1) * good.sum(axis=1)
    return np.where(pairs > 0, (bad * below).sum(axis=1) / np.where(pairs > 0, pairs, 1.0), np.nan)


def precision_at_recall(matches: Matches, threshold: int) -> Floats:
    """(101,) precision at COCO's recall thresholds, mean over the classes that have a defect; its own mean is COCOeval's mAP.

    Args:
        matches: Of one model.
        threshold: Place of the IoU threshold.
    """
    everything = np.zeros(len(matches.truths), dtype=np.int64)
    curves = [curve for curve in class_curves(matches, threshold, everything, 1) if curve.truths[0] > 0]
    return np.mean([_precision_of_class(curve) for curve in curves], axis=0) if curves else np.full(len(RECALL), np.nan)


def _precision_of_class(curve: ClassCurve) -> Floats:
    """(101,) for one class with a single unit; 0 from the first recall on that is never reached."""
    right = np.arange(1.0, len(curve.unit) + 1)
    wrong = np.cumsum(curve.false.toarray()[:, 0])
    envelope = np.maximum.accumulate((right / (right + wrong))[::-1])[::-1]
    return np.append(envelope, 0.0)[np.searchsorted(right / curve.truths[0], RECALL, side="left")]
