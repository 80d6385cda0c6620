"""What is said of trainings that no report compares."""

import numpy as np
import pytest

from pipeline.matches import Matches, MatchRecord
from tests.bench.gaps import gap


def record(*, finds: bool, parts: str = "ab") -> MatchRecord:
    """A defect on each of two parts, both found or neither."""
    places = np.arange(2)
    box = Matches(places, np.zeros(2, np.int64), np.full(2, 0.9), np.full((2, 1), finds), np.ones((2, 1), np.int64))
    return MatchRecord(("hole",), np.array([0.5]), places, np.array(list(parts)), np.full(2, 0.9), box, None)


def test_a_model_that_finds_all_is_a_whole_point_of_map_above_one_that_finds_nothing():
    every, none = record(finds=True), record(finds=False)
    assert gap({0: every, 1: every}, {0: none, 1: none}) == [1.0, 1.0, 1.0]
    mean, low, high = gap({0: every, 1: none}, {0: none, 1: none}) or [0.0] * 3
    assert mean == 0.5 and low < 0 < high


def test_one_common_fold_gives_no_interval():
    one = record(finds=True)
    assert gap({0: one, 1: one}, {1: one, 2: one}) is None
    assert gap({0: one}, {}) is None


def test_models_tested_on_different_parts_are_not_compared():
    one, other = record(finds=True), record(finds=True, parts="ac")
    with pytest.raises(ValueError, match="tested on other images"):
        gap({0: one, 1: one}, {0: other, 1: other})
