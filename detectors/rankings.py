"""Areas under curves of a score that ranks defective things (images, pixels) above good ones, exact with ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Counts by score.

    Attributes:
        score: (V,) distinct, falling.
        positive: (V,) defective ones with that score.
        negative: (V,) good ones with that score.
    """

    score: Floats
    positive: Floats
    negative: Floats


def merge(score: Floats, *counts: Floats) -> tuple[Floats, ...]:
    """Distinct scores, falling, and the sums of each of the counts at them."""
    distinct, place = np.unique(-score, return_inverse=True)
    return -distinct, *(np.bincount(place, count, len(distinct)).astype(np.float64) for count in counts)


def rank(positive: Sequence[float], negative: Sequence[float]) -> Ranking:
    """The ranking of single scores."""
    scores = np.array([*positive, *negative], dtype=np.float64)
    is_positive = np.arange(len(scores)) < len(positive)
    return Ranking(*merge(scores, is_positive.astype(float), (~is_positive).astype(float)))


def _above(counts: Floats) -> Floats:
    """(V + 1,) how many have at least each score, none first."""
    return np.concatenate([[0.0], np.cumsum(counts)])


def area_under_roc(ranking: Ranking) -> float | None:
    """The chance that a positive scores above a negative, ties counting half; None if one side is empty."""
    right, wrong = _above(ranking.positive), _above(ranking.negative)
    if not right[-1] or not wrong[-1]:
        return None
    return float(np.trapezoid(right, wrong) / (right[-1] * wrong[-1]))


def average_precision(ranking: Ranking) -> float | None:
    """Sum over distinct scores of precision times gain in recall, without interpolation; None without positives."""
    right, wrong = np.cumsum(ranking.positive), np.cumsum(ranking.negative)
    if not right.size or not right[-1]:
        return None
    return float((ranking.positive * right / (right + wrong)).sum() / right[-1])


def f_measure_at(ranking: Ranking, score: float) -> float | None:
    """2PR / (P + R) of calling everything from `score` on defective; None without positives."""
    called, total = ranking.score >= score, ranking.positive.sum()
    if not total:
        return None
    right, wrong = ranking.positive[called].sum(), ranking.negative[called].sum()
    return float(2 * right / (right + wrong + total))


def f1_max(ranking: Ranking) -> float | None:
    """The F-measure at the score that makes it greatest; None without positives."""
    right, wrong = np.cumsum(ranking.positive), np.cumsum(ranking.negative)
    if not right.size or not right[-1]:
        return None
    return float((2 * right / (right + wrong + right[-1])).max())


def area_up_to(x: Floats, y: Floats, limit: float) -> float:
    """Area below a curve from x = 0 to `limit`, divided by `limit`; x rises from 0 to 1, straight lines in between."""
    inside = x < limit
    ends = float(np.interp(limit, x, y))
    return float(np.trapezoid(np.append(y[inside], ends), np.append(x[inside], limit)) / limit)
