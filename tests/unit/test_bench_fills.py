import numpy as np
import pytest

from tests.bench.bars import bar
from tests.bench.fills import cut_holes, kid, part_interval, telea_fills


def test_kid_of_one_distribution_with_itself_is_about_zero_and_of_two_far_ones_large():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (200, 4)), rng.normal(0, 1, (200, 4))
    assert abs(kid(first, second)) < 0.2
    assert kid(first, second + 3) > 10 * abs(kid(first, second))


def test_kid_by_hand():
    # Vectors of length 1: kernel (x y + 1)^3. Pairs 0-0: 1; 1-1: 8; 0-1: 1.
    real, made = np.zeros((2, 1)), np.ones((2, 1))
    assert kid(real, made) == pytest.approx(1 + 8 - 2 * 1)


def test_an_interval_over_parts_is_wider_than_over_crops_that_are_alike():
    differences, parts = np.array([0.0] * 10 + [1.0] * 10), tuple("a" * 10 + "b" * 10)
    mean, low, high = part_interval(differences, parts, 0)
    assert (mean, low, high) == (0.5, 0.0, 1.0)


def test_holes_lie_inside_and_telea_changes_nothing_else():
    photo = np.random.default_rng(0).integers(0, 255, (90, 80, 3)).astype(np.uint8)
    holes = cut_holes([("p", photo)], 6, 0)
    assert holes.crops.shape == (6, 64, 64, 3)
    assert all(50 < mask.sum() < 900 and not mask[0].any() and not mask[:, 0].any() for mask in holes.masks)
    filled = telea_fills(holes)
    assert np.array_equal(filled[~holes.masks], holes.crops[~holes.masks])


def test_a_bar_that_was_not_run_does_not_hold():
    assert not bar("x", None, 1, "lower", "r", "c")["holds"]
    assert bar("x", 1.0, 1, "lower", "r", "c")["holds"]
    assert not bar("x", 0.9, 1, "higher", "r", "c")["holds"]
