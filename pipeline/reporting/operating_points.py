"""What a detector finds when it may raise so many false alarms: arms are compared as bold as each other, not at one score.

A score of 0.3 means something else in each training, so counts above a fixed score say which arm is bolder, not which is better.
Here each model gets the lowest score that raises no more false alarms than the others may. No score is kept or used for
anything else: this is a point of a curve, as average precision is the area under one, and no threshold that has seen test parts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.matches import Bools, Floats, Ints, MatchRecord
from pipeline.reporting.reweighting import in_blocks, level_counts

ALARMS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""False alarms a photo, over all photos, good ones included: points of the FROC curve (Bunch et al., Proc. SPIE 0127, 1977)."""
REJECTED = (0.01, 0.05, 0.1)
"""Shares of the good photos that are called bad: overkill. What is called good and is not, escapes."""
MAIN_ALARMS, MAIN_REJECTED = 1.0, 0.05
"""Those that arms are compared at, with intervals."""
_BOX_IOU = 0  # place of 0.5 among the thresholds of a record


def reweighted_found(record: MatchRecord, unit: Ints, weights: Floats, alarms: float) -> Floats:
    """Share of the defects found, at their place (IoU 0.5) and as what they are, at so many false alarms a photo.

    Args:
        record: Of one model.
        unit: (N,) unit, from 0, that each image belongs to; units are what is weighted.
        weights: (B, U) how often each unit occurs; 0 or more.
        alarms: False alarms a photo, on average over all photos.

    Returns:
        (B,) shares; NaN for a resample without defects.
    """
    matches, units = record.box, weights.shape[1]
    defects = np.bincount(unit, weights=matches.truths.sum(axis=1), minlength=units).astype(np.float64)
    photos = np.bincount(unit, minlength=units).astype(np.float64)
    return _share(matches.score, unit[matches.image], matches.matched[:, _BOX_IOU], weights, defects, alarms * photos)


def reweighted_escapes(record: MatchRecord, unit: Ints, weights: Floats, rejected: float) -> Floats:
    """Share of the defective photos that pass as good, where so large a share of the good ones is rejected.

    Args:
        record: Of one model; a photo is rejected from some highest confidence on.
        unit: As in `reweighted_found`.
        weights: As there.
        rejected: Share of the good photos.

    Returns:
        (B,) shares; NaN for a resample without defective or without good photos.
    """
    bad, units = record.defective, weights.shape[1]
    of_bad, of_good = (np.bincount(unit[own], minlength=units).astype(np.float64) for own in (bad, ~bad))
    caught = _share(record.image_score, unit, bad, weights, of_bad, rejected * of_good)
    return np.where(weights @ of_good > 0, 1.0 - caught, np.nan)


def _share(score: Floats, owner: Ints, right: Bools, weights: Floats, wanted: Floats, allowed: Floats) -> Floats:
    """(B,) share of what is wanted that is right from a score on: the lowest one that has no more wrong than is allowed.

    Args:
        score: (D,) of each thing; things of equal score stand or fall together.
        owner: (D,) unit of each.
        right: (D,) whether it is.
        weights: (B, U) of the units.
        wanted: (U,) how much each unit has to be found.
        allowed: (U,) how much of what is wrong each unit allows to all.
    """
    levels, place = np.unique(-score, return_inverse=True)
    hits, wrong = (level_counts(place, own, owner, (len(levels), len(wanted))) for own in (right, ~right))

    def taken(block: Floats) -> Floats:
        # Weights are no whole numbers: a limit that is reached exactly must not be missed by a last bit.
        fits = np.cumsum(wrong @ block.T, axis=0) <= (block @ allowed) * (1 + 1e-9)
        return ((hits @ block.T) * fits).sum(axis=0)

    total = weights @ wanted
    found = np.concatenate([taken(block) for block in in_blocks(weights, len(levels))])
    return np.where(total > 0, found / np.where(total > 0, total, 1.0), np.nan)


def found_at_main(record: MatchRecord, unit: Ints, weights: Floats) -> Floats:
    """(B,) share of the defects found at `MAIN_ALARMS`."""
    return reweighted_found(record, unit, weights, MAIN_ALARMS)


def escapes_at_main(record: MatchRecord, unit: Ints, weights: Floats) -> Floats:
    """(B,) share of the defective photos that escape at `MAIN_REJECTED`."""
    return reweighted_escapes(record, unit, weights, MAIN_REJECTED)


def points_of(record: MatchRecord) -> Mapping[str, list[float | None]]:
    """`found` at each of `ALARMS` and `escapes` at each of `REJECTED`, of one model on its fold; None for what has no photos."""
    unit, once = np.zeros(len(record.image_id), dtype=np.int64), np.ones((1, 1))

    def plain(value: Floats) -> float | None:
        return None if np.isnan(value[0]) else round(float(value[0]), 6)

    return {
        "found": [plain(reweighted_found(record, unit, once, alarms)) for alarms in ALARMS],
        "escapes": [plain(reweighted_escapes(record, unit, once, rejected)) for rejected in REJECTED],
    }
