"""Does a learned generator help a detector: differences to the baselines become one word a generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.reporting.differences import Difference

Word = Literal["helps", "hurts", "no evidence", "not tested"]
TO_HELP = ("real", "classical")
"""A generator has to beat both: what the user has, and what costs nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be concluded of one generator.

    Attributes:
        arm: The arm it is judged by, chosen on val.
        word: The verdict.
        p_helps: Chance of so clear a gain to both baselines if there were none to one of them, after Holm's correction.
        p_hurts: The same of a loss to `real`.
        smallest: Smallest gain over both baselines that such a test finds four times in five.
    """

    arm: str
    word: Word
    p_helps: float | None
    p_hurts: float | None
    smallest: float | None


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """Chances corrected for that the best of several is looked at (Holm, Scandinavian Journal of Statistics 1979)."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(chances, key=lambda one: (chances[one], one))):
        highest = max(highest, min(1.0, chances[name] * (len(chances) - place)))
        corrected[name] = highest
    return corrected


def chosen_arm(arms: Sequence[str], val: Mapping[str, float | None]) -> str:
    """The arm best on val; the first of equals. Test results play no part."""
    return max(arms, key=lambda arm: -1.0 if (score := val[arm]) is None else score)


def judge(
    chosen: Mapping[str, str], differences: Mapping[str, Mapping[str, Difference]], confidence: float
) -> dict[str, Verdict]:
    """Verdicts on all generators tested with one detector.

    To help, a difference has to be above zero to `real` and to `classical`: the larger of the two chances decides, which needs no
    correction of its own (intersection-union test). Holm's correction is for the number of generators.

    Args:
        chosen: Generator -> the arm it is judged by.
        differences: Of each arm to each baseline.
        confidence: Of the two-sided interval; each direction may err in half of the rest.
    """
    helps: dict[str, float] = {}
    hurts: dict[str, float] = {}
    for generator, arm in chosen.items():
        gaps = differences.get(arm, {})
        above = [gaps[name].chance_above for name in TO_HELP if name in gaps]
        if len(above) == len(TO_HELP) and None not in above:
            helps[generator] = max(one for one in above if one is not None)
            hurts[generator] = 1 - (gaps["real"].chance_above or 0.0)
    level = (1 - confidence) / 2
    helps, hurts = holm(helps), holm(hurts)
    verdicts: dict[str, Verdict] = {}
    for generator, arm in chosen.items():
        if generator not in helps:
            verdicts[generator] = Verdict(arm, "not tested", None, None, None)
            continue
        word: Word = "helps" if helps[generator] <= level else "hurts" if hurts[generator] <= level else "no evidence"
        smallest = max(gap.smallest or 0.0 for gap in (differences[arm][name] for name in TO_HELP))
        verdicts[generator] = Verdict(arm, word, helps[generator], hurts[generator], smallest)
    return verdicts
