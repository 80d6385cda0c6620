from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.matches import Matches, MatchRecord
from pipeline.reporting.operating_points import (
    ALARMS,
    REJECTED,
    escapes_at_main,
    found_at_main,
    points_of,
    reweighted_escapes,
    reweighted_found,
)

# Photo 0 has one defect, photo 1 two, photos 2 and 3 are good. From the surest detection down: right, wrong, right, wrong, right.
IMAGE = np.array([0, 1, 1, 2, 3])
SCORE = np.array([0.9, 0.7, 0.5, 0.8, 0.6])
RIGHT = np.array([True, True, True, False, False])
EACH = np.arange(4)


def record(score: np.ndarray = SCORE, truths: tuple[int, ...] = (1, 2, 0, 0), right: np.ndarray = RIGHT) -> MatchRecord:
    matched = np.repeat(right[:, None], 10, axis=1)
    box = Matches(IMAGE, np.zeros(5, int), score, matched, np.array(truths)[:, None])
    best = np.array([score[photo == IMAGE].max() for photo in range(4)])
    return MatchRecord(("hole",), np.linspace(0.5, 0.95, 10), np.arange(4), np.array(list("abcd")), best, box, None)


@pytest.mark.parametrize(("alarms", "share"), [(0.0, 1 / 3), (0.24, 1 / 3), (0.25, 2 / 3), (0.5, 1.0), (2.0, 1.0)])
def test_found_at_so_many_false_alarms_a_photo(alarms: float, share: float):
    # Four photos: a quarter a photo is one false alarm in all.
    assert reweighted_found(record(), EACH, np.ones((1, 4)), alarms)[0] == pytest.approx(share)


def test_detections_of_one_score_stand_or_fall_together():
    tied = record(np.array([0.8, 0.7, 0.5, 0.8, 0.6]))
    assert reweighted_found(tied, EACH, np.ones((1, 4)), 0.0)[0] == 0.0
    assert reweighted_found(tied, EACH, np.ones((1, 4)), 0.25)[0] == pytest.approx(2 / 3)


def test_only_the_least_overlap_of_coco_counts():
    one = record()
    strict = one.box.matched.copy()
    strict[:, 1:] = False
    assert reweighted_found(replace(one, box=replace(one.box, matched=strict)), EACH, np.ones((1, 4)), 0.5)[0] == 1.0


@pytest.mark.parametrize(("rejected", "share"), [(0.0, 0.5), (0.49, 0.5), (0.5, 0.5), (1.0, 0.0)])
def test_escapes_where_so_many_good_photos_are_rejected(rejected: float, share: float):
    # Bad photos have 0.9 and 0.55, good ones 0.8 and 0.6: the second bad one is caught when both good ones are rejected.
    one = replace(record(), image_score=np.array([0.9, 0.55, 0.8, 0.6]))
    assert reweighted_escapes(one, EACH, np.ones((1, 4)), rejected)[0] == share


@pytest.mark.parametrize("seed", range(5))
def test_integer_weights_are_as_if_each_photo_were_there_so_often(seed: int):
    rng = np.random.default_rng(seed)
    photos, detections = 12, 60
    image = np.sort(rng.integers(0, photos, detections))
    right = rng.random(detections) < 0.4
    truths = np.bincount(image[right], minlength=photos) + rng.integers(0, 2, photos) * (np.arange(photos) % 3 > 0)
    score = rng.integers(1, 30, detections) / 30
    weights = rng.integers(0, 4, photos)

    def of(order: np.ndarray) -> MatchRecord:
        rows = [np.flatnonzero(image == old) for old in order]
        box = Matches(
            np.repeat(np.arange(len(order)), [len(one) for one in rows]),
            np.zeros(sum(len(one) for one in rows), int),
            score[np.concatenate(rows)],
            np.repeat(right[np.concatenate(rows)][:, None], 10, axis=1),
            truths[order][:, None],
        )
        names = np.array([f"{place}" for place in range(len(order))])
        best = np.array([score[one].max(initial=0.0) for one in rows])
        return MatchRecord(("hole",), np.linspace(0.5, 0.95, 10), np.arange(len(order)), names, best, box, None)

    once, repeated = of(np.arange(photos)), of(np.repeat(np.arange(photos), weights))
    many = np.arange(weights.sum())
    for measure, allowed in ((reweighted_found, 0.5), (reweighted_escapes, 0.3)):
        weighted = measure(once, np.arange(photos), weights[None].astype(float), allowed)
        np.testing.assert_allclose(weighted, measure(repeated, many, np.ones((1, len(many))), allowed))


def test_the_last_rejection_allowed_is_not_lost_to_rounding():
    # Ten good photos, and a bad one below the surest of them: a tenth allows one rejection, though ten times 0.1 add up to less.
    truths = np.array([1] + [0] * 10)
    nothing = np.zeros(0, int)
    box = Matches(nothing, nothing, np.zeros(0), np.zeros((0, 10), bool), truths[:, None])
    score = np.array([0.5, 0.9, *np.linspace(0.1, 0.4, 9)])
    names = np.array([f"{place}" for place in range(11)])
    one = MatchRecord(("hole",), np.linspace(0.5, 0.95, 10), np.arange(11), names, score, box, None)
    assert (np.ones((1, 10)) @ np.full(10, 0.1))[0] < 1
    assert reweighted_escapes(one, np.arange(11), np.ones((1, 11)), 0.1)[0] == 0.0


def test_points_that_arms_are_compared_at():
    one = record()
    assert found_at_main(one, EACH, np.ones((1, 4)))[0] == points_of(one)["found"][ALARMS.index(1.0)]
    assert escapes_at_main(one, EACH, np.ones((1, 4)))[0] == points_of(one)["escapes"][REJECTED.index(0.05)]


def test_points_of_a_model():
    points = points_of(record())
    # A tenth of four photos is no alarm, 0.25 one, 0.5 two; of two good photos no share below a half rejects one.
    assert points["found"] == [0.333333, 0.666667, 1.0, 1.0, 1.0]
    assert points["escapes"] == [0.5, 0.5, 0.5]


def test_what_is_not_there_has_no_share():
    only_good = record(truths=(0, 0, 0, 0), right=np.zeros(5, bool))
    assert points_of(only_good) == {"found": [None] * 5, "escapes": [None] * 3}
    only_bad = record(truths=(1, 2, 1, 1))
    assert points_of(only_bad)["escapes"] == [None] * 3
