"""Holm, choice of arms, and the rule that makes a verdict, on differences a person can check."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.matches import Matches, MatchRecord
from pipeline.reporting.bootstrap import GOOD, part_weights, parts_of
from pipeline.reporting.differences import Difference, box_map50, resampled
from pipeline.reporting.verdicts import chosen_arm, holm, judge


def gap(chance: float) -> Difference:
    return Difference(0.1, 0.0, 0.2, 3, error=0.04, freedom=4.0, chance_above=chance, smallest=0.15)


def test_holm_by_hand():
    # Rising: 0.01 x 3, 0.02 x 2, 0.5 x 1; never below the one before.
    assert holm({"a": 0.02, "b": 0.01, "c": 0.5}) == {"b": 0.03, "a": 0.04, "c": 0.5}
    assert holm({"a": 0.02, "b": 0.015}) == {"b": 0.03, "a": 0.03}
    assert holm({}) == {}


def test_to_help_both_differences_must_be_sure():
    arms = {"g": "g", "h": "h"}
    both = {"g": {"real": gap(0.001), "classical": gap(0.002)}, "h": {"real": gap(0.001), "classical": gap(0.1)}}
    found = judge(arms, both, 0.95)
    assert (found["g"].word, found["g"].p_helps, found["g"].smallest) == ("helps", 0.004, 0.15)  # 0.002, the best of two
    assert (found["h"].word, found["h"].p_helps) == ("no evidence", 0.1)


def test_a_second_generator_may_cost_the_first_its_verdict():
    alone = judge({"g": "g"}, {"g": {"real": gap(0.02), "classical": gap(0.02)}}, 0.95)
    assert alone["g"].word == "helps"
    other = {"real": gap(0.5), "classical": gap(0.5)}
    two = judge({"g": "g", "h": "h"}, {"g": {"real": gap(0.02), "classical": gap(0.02)}, "h": other}, 0.95)
    assert two["g"].word == "no evidence"


def test_falling_below_real_for_sure_hurts_whatever_classical_is():
    found = judge({"g": "g"}, {"g": {"real": gap(0.999), "classical": gap(0.5)}}, 0.95)
    assert (found["g"].word, found["g"].p_hurts) == ("hurts", pytest.approx(0.001))


def test_without_both_baselines_nothing_is_said():
    found = judge({"g": "g_classical"}, {"g_classical": {"real": gap(0.0)}}, 0.95)
    assert (found["g"].word, found["g"].arm, found["g"].smallest) == ("not tested", "g_classical", None)


def test_the_arm_is_chosen_on_val_the_plain_one_of_equals():
    assert chosen_arm(["g", "g_classical"], {"g": 0.3, "g_classical": 0.4}) == "g_classical"
    assert chosen_arm(["g", "g_classical"], {"g": 0.4, "g_classical": 0.4}) == "g"
    assert chosen_arm(["g", "g_classical"], {"g": None, "g_classical": 0.0}) == "g_classical"


# --- parts and resamples ---------------------------------------------------------------------------------------------------


def test_strata_by_the_rarest_type_of_a_part():
    # Part p0 (two photos) shows a and b, p1 and p2 show a, p3 is good.
    truths = np.array([[1, 0], [0, 1], [2, 0], [1, 0], [0, 0]])
    nothing = np.zeros(0, int)
    matches = Matches(nothing, nothing, np.zeros(0), np.zeros((0, 1), bool), truths)
    part = np.array(["p0", "p0", "p1", "p2", "p3"])
    record = MatchRecord(("a", "b"), np.array([0.5]), np.arange(1, 6), part, np.zeros(5), matches, None)
    found = parts_of(record)
    assert (found.unit.tolist(), found.stratum) == ([0, 0, 1, 2, 3], ("b", "a", "a", GOOD))


def test_resamples_keep_each_stratum_and_have_the_variance_of_a_sample():
    stratum = ["a"] * 2 + ["b"] * 5 + ["c"]
    weights = part_weights(stratum, 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(weights[:, :2].sum(axis=1), 2)
    np.testing.assert_allclose(weights[:, 2:7].sum(axis=1), 5)
    assert (weights[:, 7] == 1).all()
    # The variance of a mean is the sample variance (n - 1 below it) over n, for two parts as for five.
    values = np.array([1.0, 3.0, 0.0, 1.0, 2.0, 5.0, 7.0, 9.0])
    for own in (slice(0, 2), slice(2, 7)):
        means = (weights[:, own] * values[own]).mean(axis=1)
        assert means.var() == pytest.approx(values[own].var(ddof=1) / len(values[own]), rel=0.05)


def test_arms_tested_on_different_images_are_refused():
    nothing = np.zeros(0, int)

    def record(part: str) -> MatchRecord:
        matches = Matches(nothing, nothing, np.zeros(0), np.zeros((0, 1), bool), np.array([[1]]))
        return MatchRecord(("a",), np.array([0.5]), np.array([1]), np.array([part]), np.zeros(1), matches, None)

    with pytest.raises(ValueError, match="fold 2: arm 'g' was tested on other images"):
        resampled(box_map50, {"real": record("p"), "g": record("q")}, 100, 2)
