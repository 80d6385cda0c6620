"""Resamples of the test parts of a fold, the same for every arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.matches import Floats, Ints, MatchRecord

GOOD = ""


@dataclass(frozen=True)
class Parts:
    """The test parts of one fold.

    Attributes:
        unit: (N,) place of the part that each image shows.
        stratum: (U,) stratum of each part.
    """

    unit: Ints
    stratum: tuple[str, ...]


def parts_of(record: MatchRecord) -> Parts:
    """Parts and strata of a record: a part belongs to the rarest of its types, a good one to the good parts.

    By the rarest, because a part may show several types: a type with few parts then keeps its number in every resample, whereas
    a stratum for each combination of types would leave single parts, which never vary.
    """
    names, unit = np.unique(record.part, return_inverse=True)
    shows = np.zeros((len(names), len(record.classes)), dtype=bool)
    np.logical_or.at(shows, unit, record.box.truths > 0)
    rare_first = np.argsort(shows.sum(axis=0), kind="stable")
    kinds = ((rare_first[row[rare_first]], row.any()) for row in shows)
    return Parts(unit.astype(np.int64), tuple(record.classes[own[0]] if any_defect else GOOD for own, any_defect in kinds))


def part_weights(stratum: Sequence[str], resamples: int, rng: np.random.Generator) -> Floats:
    """(B, U) weights of the parts in each resample; every stratum keeps its number of parts.

    n - 1 of a stratum's n parts are drawn with replacement and weighted n / (n - 1) (the rescaling bootstrap of Rao and Wu, JASA
    1988). Drawing n would give a variance too small by (n - 1) / n, which is a half for a type with two parts in a fold. A part
    alone in its stratum keeps its weight.
    """
    weights = np.ones((resamples, len(stratum)))
    for name, count in sorted(Counter(stratum).items()):
        if count > 1:
            own: NDArray[np.bool_] = np.array(stratum) == name
            drawn = rng.multinomial(count - 1, np.full(count, 1 / count), size=resamples)
            weights[:, own] = drawn * (count / (count - 1))
    return weights
