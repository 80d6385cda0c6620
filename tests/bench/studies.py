"""`make bench-studies`: which rule for an interval over three folds holds what it says. Writes reports/bench/studies.json.

Studies are drawn with a known truth at magnetic-tile's part counts (tests/study_toy.py); no detector runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from pipeline.matches import Floats
from pipeline.reporting.differences import PART_FREEDOM, box_map50, resampled, standard_error
from tests.bench.bars import bar, write_bars
from tests.study_toy import World, draw_study

COMMAND = "make bench-studies"
STUDIES, RESAMPLES = 300, 100
SEED_SDS = (0.0, 0.15, 0.3, 0.6)
START, GAIN = 0.3, 0.5  # log-odds


def _over_folds(gaps: Floats, variances: Floats) -> tuple[float, float]:
    return float(np.sqrt(gaps.var(ddof=1) / len(gaps))), len(gaps) - 1.0


def _parts_only(gaps: Floats, variances: Floats) -> tuple[float, float]:
    return float(np.sqrt(variances.mean() / len(gaps))), PART_FREEDOM


def _larger(gaps: Floats, variances: Floats) -> tuple[float, float]:
    _, freedom = standard_error(gaps, variances)
    return max(_over_folds(gaps, variances)[0], _parts_only(gaps, variances)[0]), freedom


RULES: dict[str, Callable[[Floats, Floats], tuple[float, float]]] = {
    "t over folds": _over_folds,
    "bootstrap of parts alone": _parts_only,
    "larger of the two": _larger,
    "sum of the two (used)": standard_error,
}


def drawn_gaps(gain: float, seed_sd: float) -> list[tuple[Floats, Floats]]:
    """Differences on the folds and their bootstrap variances, of each study."""
    world = World({"baseline": START, "learned": START + gain}, seed_sd)
    found: list[tuple[Floats, Floats]] = []
    for seed in range(STUDIES):
        folds = [resampled(box_map50, records, RESAMPLES, fold) for fold, records in draw_study(world, seed).items()]
        gaps = np.stack([one["learned"] - one["baseline"] for one in folds])
        found.append((gaps[:, 0], gaps[:, 1:].var(axis=1, ddof=1)))
    return found


def shares(studies: list[tuple[Floats, Floats]], rule: Callable[[Floats, Floats], tuple[float, float]]) -> dict[str, float]:
    """Share of studies whose 95 % interval lies above zero, below it, and holds the mean of all studies; median half width."""
    mean = np.array([gaps.mean() for gaps, _ in studies])
    terms = [rule(*study) for study in studies]
    reach = np.array([stats.t.ppf(0.975, freedom) * error for error, freedom in terms])
    covers = np.abs(mean - mean.mean()) <= reach
    values = {"above": (mean > reach).mean(), "below": (mean < -reach).mean(), "covers": covers.mean(), "reach": np.median(reach)}
    return {name: round(float(value), 4) for name, value in values.items()}


def main() -> int:
    """Draw, judge, print, write; 0 if every bar holds."""
    table: list[dict[str, Any]] = []
    for seed_sd in SEED_SDS:
        for gain in (0.0, GAIN):
            studies = drawn_gaps(gain, seed_sd)
            spread = round(float(np.mean([gaps.std(ddof=1) for gaps, _ in studies])), 4)
            truth = round(float(np.mean([gaps.mean() for gaps, _ in studies])), 4)
            facts = {"seed_sd": seed_sd, "gain": truth, "spread_of_folds": spread}
            table += [{**facts, "rule": name, **shares(studies, rule)} for name, rule in RULES.items()]
    for row in table:
        print(row)
    used = [row for row in table if row["rule"].endswith("(used)")]
    false = max((row["above"] + row["below"]) / 2 for row in used if abs(row["gain"]) < GAIN / 10)
    bars = [
        bar("false `above`, share of studies, worst spread of seeds", round(false, 4), 0.05, "lower", "2.5 % nominal", COMMAND),
        bar("coverage of the 95 % interval, worst", min(row["covers"] for row in used), 0.9, "higher", "95 % nominal", COMMAND),
    ]
    return write_bars("studies", bars, studies=STUDIES, table=table)


if __name__ == "__main__":
    raise SystemExit(main())
