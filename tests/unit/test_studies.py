"""The verdict against drawn studies whose truth is known: real part counts, three seeds, no detector."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.reporting.differences import Difference, difference, standard_error
from tests.study_toy import World, judge_study

RESAMPLES = 200
COUNTS = [40, pytest.param(400, marks=(pytest.mark.slow, pytest.mark.exhaustive))]
# The null that is hardest to get right: `real` is plainly beaten, and the generator adds nothing to `classical`.
NO_GAIN = {"real": -1.0, "classical": 0.5, "learned": 0.5}
ALL_EQUAL = {"real": 0.0, "classical": 0.0, "learned": 0.0}
LARGE_GAIN = {"real": -0.5, "classical": -0.5, "learned": 1.0}


def judged(skill: dict[str, float], seed_sd: float, count: int) -> tuple[list[str], list[dict[str, Difference]]]:
    found = [judge_study(World(skill, seed_sd), seed, RESAMPLES) for seed in range(count)]
    return [word for word, _ in found], [gaps for _, gaps in found]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("seed_sd", [0.0, 0.15, 0.3])
def test_a_generator_that_adds_nothing_seldom_helps_and_its_interval_holds_zero(seed_sd: float, count: int):
    words, gaps = judged(NO_GAIN, seed_sd, count)
    assert words.count("helps") <= 0.05 * count
    assert sum(one["classical"].low <= 0 <= one["classical"].high for one in gaps) >= 0.9 * count


@pytest.mark.parametrize("count", COUNTS)
def test_arms_all_equal_give_hardly_a_verdict(count: int):
    words, _ = judged(ALL_EQUAL, 0.15, count)
    assert words.count("helps") <= 0.025 * count
    assert words.count("hurts") <= 0.05 * count


@pytest.mark.parametrize("count", COUNTS)
def test_a_large_gain_is_found(count: int):
    words, gaps = judged(LARGE_GAIN, 0.15, count)
    assert words.count("helps") >= 0.8 * count
    # The true gain is the mean over the studies.
    truth = float(np.mean([one["real"].mean for one in gaps]))
    assert truth > 0.25
    assert sum(one["real"].low <= truth <= one["real"].high for one in gaps) >= 0.9 * count


def test_standard_error_by_hand():
    # Folds 0.1, 0.2, 0.3: between 0.01; within 0.02. Error sqrt(0.03 / 3); freedom 0.0009 / (0.0001 / 2 + 0.0004 / 15).
    error, freedom = standard_error(np.array([0.1, 0.2, 0.3]), np.array([0.01, 0.02, 0.03]))
    assert (error, freedom) == (pytest.approx(0.1), pytest.approx(0.0009 / (0.00005 + 0.0004 / 15)))


def test_where_parts_do_not_vary_it_is_the_t_interval_over_folds():
    arm = {fold: np.full(3, value) for fold, value in enumerate((0.5, 0.7, 0.9))}
    baseline = {fold: np.full(3, value) for fold, value in enumerate((0.4, 0.5, 0.6))}
    gap = difference(arm, baseline, 0.95)
    # Differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1, t(0.975, 2) = 4.302653, reach = 4.302653 * 0.1 / sqrt(3) = 0.248414.
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.2, -0.048414, 0.448414), abs=1e-6)
    # t(0.8, 2) = 1.060660: a true difference of (4.302653 + 1.060660) * 0.1 / sqrt(3) is found four times in five.
    assert gap.smallest == pytest.approx(0.309651, abs=1e-6)
    assert gap.chance_above == pytest.approx(0.037127, abs=1e-4)  # t = 3.4641


def test_only_folds_of_both_arms_count_and_one_fold_has_no_interval():
    arm = {0: np.array([0.5, 0.4, 0.6]), 1: np.array([0.9, 0.9, 0.9])}
    assert difference(arm, {0: np.array([0.25, 0.2, 0.3])}, 0.95) == Difference(0.25, None, None, 1)
    assert difference(arm, {2: np.zeros(3)}, 0.95) is None


def test_no_difference_anywhere_is_no_evidence():
    same = {0: np.full(3, 0.5), 1: np.full(3, 0.5)}
    gap = difference(same, same, 0.95)
    assert (gap.low, gap.high, gap.chance_above) == (0.0, 0.0, 0.5)
