"""Average precision of re-weighted images against COCOeval itself."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.match_records import match_record, matches_of_run
from detectors.metrics import coco_run, coco_runs, coco_scores, image_scores
from detectors.rankings import area_under_roc, rank
from pipeline.matches import Matches, read_record, write_record
from pipeline.reporting.reweighting import reweighted_auroc, reweighted_map

IMAGES, CLASSES = 24, 4


def random_truth(rng: np.random.Generator) -> dict:
    """Boxes of three classes; the fourth class has none, and every third image is good."""
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 100, "height": 100, "part_id": f"p{i // 2}"} for i in range(1, IMAGES + 1)
    ]
    rows = []
    for image in images:
        if image["id"] % 3 == 0:
            continue
        for _ in range(rng.integers(1, 4)):
            x, y, side = (float(v) for v in rng.integers(5, 40, 3))
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.integers(1, CLASSES)),
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
    return {"images": images, "annotations": rows, "categories": [{"id": i, "name": f"c{i}"} for i in range(1, CLASSES + 1)]}


def random_results(rng: np.random.Generator, truth: dict, levels: int) -> list[dict]:
    """Shaken truths and false alarms on every image, of all classes, out of order; few score levels give many ties."""
    rows = []
    for a in truth["annotations"]:
        for _ in range(rng.integers(0, 3)):
            shaken = np.round(np.abs(np.array(a["bbox"]) + rng.normal(0, 3, 4)) + 0.1, 3)
            rows.append({"image_id": a["image_id"], "category_id": a["category_id"], "bbox": shaken.tolist()})
    for image in truth["images"]:
        for _ in range(rng.integers(0, 9)):
            box = np.round([*rng.uniform(0, 60, 2), *rng.uniform(5, 40, 2)], 3)
            category = int(rng.integers(1, CLASSES + 1))
            rows.append({"image_id": image["id"], "category_id": category, "bbox": box.tolist()})
    rng.shuffle(rows)
    return [{**row, "score": float(rng.integers(1, levels)) / levels} for row in rows]


def maps(matches, weights):
    images = np.arange(len(matches.truths))
    return [float(reweighted_map(matches, places, images, weights)[0]) for places in ([0], range(10))]


@pytest.mark.parametrize("levels", [5, 10**6])
@pytest.mark.parametrize("limit", [3, 100])
@pytest.mark.parametrize("seed", range(5))
def test_weights_of_one_give_what_cocoeval_gives(seed: int, levels: int, limit: int):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    results = random_results(rng, truth, levels)
    run = coco_run(truth, results, "bbox", limit)
    precision = run.eval["precision"][:, :, :, 0, -1]
    expected = [precision[0][precision[0] > -1].mean(), precision[precision > -1].mean()]
    # The same numbers are added in another order: equal but for the last bits, and exactly as they are reported.
    found = maps(matches_of_run(truth, run), np.ones((1, IMAGES)))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    scores = coco_scores(truth, run)
    assert [round(v, 6) for v in found] == [scores["map50"], scores["map"]]


@pytest.mark.parametrize("seed", range(5))
def test_integer_weights_are_as_if_each_image_were_there_so_often(seed: int):
    rng = np.random.default_rng(100 + seed)
    truth = random_truth(rng)
    results = random_results(rng, truth, 10**6)
    weights = rng.integers(0, 4, IMAGES)
    copies = [(i + 1, i * 10 + k + 1) for i, times in enumerate(weights) for k in range(times)]

    def copied(rows):
        return [{**row, "image_id": new} for old, new in copies for row in rows if row["image_id"] == old]

    again = {
        **truth,
        "images": [{**truth["images"][old - 1], "id": new} for old, new in copies],
        "annotations": [{**row, "id": n} for n, row in enumerate(copied(truth["annotations"]), 1)],
    }
    whole = coco_scores(again, coco_run(again, copied(results), "bbox", 100))
    matches = matches_of_run(truth, coco_run(truth, results, "bbox", 100))
    assert maps(matches, weights[None].astype(float)) == pytest.approx([whole["map50"], whole["map"]], abs=1e-6)


def test_a_weight_for_a_part_is_that_weight_for_each_of_its_images():
    rng = np.random.default_rng(7)
    truth = random_truth(rng)
    matches = matches_of_run(truth, coco_run(truth, random_results(rng, truth, 50), "bbox", 100))
    part = np.arange(IMAGES) // 2
    weights = rng.integers(0, 3, (6, IMAGES // 2)).astype(float)
    whole = reweighted_map(matches, [0], np.arange(IMAGES), weights[:, part])
    np.testing.assert_allclose(reweighted_map(matches, [0], part, weights), whole, rtol=1e-13)


def test_by_hand_two_images_and_one_false_alarm():
    # Image 1: the defect is found at 0.9. Image 2: a false alarm at 0.95, its defect is missed.
    truth = random_truth(np.random.default_rng(0))
    truth["images"] = truth["images"][:2]
    box = {"category_id": 1, "bbox": [10.0, 10.0, 10.0, 10.0], "area": 100.0, "iscrowd": 0}
    truth["annotations"] = [{"id": i, "image_id": i, **box} for i in (1, 2)]
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 10.0, 10.0], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [60.0, 60.0, 10.0, 10.0], "score": 0.95},
    ]
    matches = matches_of_run(truth, coco_run(truth, results, "bbox", 100))
    weights = np.array([[1.0, 1.0], [3.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    found = reweighted_map(matches, [0], np.arange(2), weights)
    # Precision 1/2 up to recall 1/2 (51 of 101 thresholds); 3/4 up to 3/4 (76); 1 throughout; nothing found; nothing to find.
    np.testing.assert_allclose(found, [0.5 * 51 / 101, 0.75 * 76 / 101, 1.0, 0.0, np.nan])


def test_all_found_and_no_false_alarm_is_one_whatever_the_weights():
    """Three photos a part, every defect found: sums of weights like 8/7 must not miss the last recall by a bit."""
    parts = 8
    rows, images = np.arange(3 * parts), 3 * parts
    truths = np.ones((images, 1), int)
    matches = Matches(rows, np.zeros(images, int), np.linspace(0.9, 0.1, images), np.ones((images, 1), bool), truths)
    drawn = np.random.default_rng(0).multinomial(parts - 1, [1 / parts] * parts, size=200) * (parts / (parts - 1))
    assert reweighted_map(matches, [0], np.repeat(np.arange(parts), 3), drawn).tolist() == [1.0] * 200


def test_no_detection_at_all_scores_zero():
    truth = random_truth(np.random.default_rng(3))
    assert maps(matches_of_run(truth, coco_run(truth, [], "bbox", 100)), np.ones((1, IMAGES))) == [0.0, 0.0]


def test_ignored_detections_are_refused():
    truth = random_truth(np.random.default_rng(4))
    truth["annotations"][0]["iscrowd"] = 1
    hit = {**{k: truth["annotations"][0][k] for k in ("image_id", "category_id", "bbox")}, "score": 0.5}
    with pytest.raises(ValueError, match="the truth has crowds"):
        matches_of_run(truth, coco_run(truth, [hit], "bbox", 100))


def test_a_record_comes_back_as_it_was_written_in_the_same_bytes(tmp_path):
    rng = np.random.default_rng(5)
    truth = random_truth(rng)
    results = random_results(rng, truth, 50)
    record = match_record(truth, results, coco_runs(truth, results, 100, with_masks=False))
    for name in ("a", "b"):
        write_record(tmp_path / f"{name}.npz", record)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = read_record(tmp_path / "a.npz")
    assert (back.classes, back.mask, list(back.part[:3])) == (("c1", "c2", "c3", "c4"), None, ["p0", "p1", "p1"])
    np.testing.assert_equal(back.box.__dict__, record.box.__dict__)
    assert back.image_score.tolist() == list(image_scores(truth, results).values())


def test_auroc_by_hand():
    # Bad photos score 3 and 1, good ones 2 and 1: of four pairs three are right but for one tie.
    score, bad = np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])
    weights = np.array([[1, 1, 1, 1], [3, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], dtype=float)
    found = reweighted_auroc(score, bad, np.arange(4), weights)
    np.testing.assert_allclose(found, [2.5 / 4, 6.5 / 8, 0.0, np.nan])


@pytest.mark.parametrize("levels", [3, 10**6])
def test_auroc_with_integer_weights_is_as_if_each_part_were_there_so_often(levels: int):
    rng = np.random.default_rng(levels)
    score, bad = rng.integers(0, levels, 40) / levels, rng.random(40) < 0.4
    part = np.arange(40) // 4
    weights = rng.integers(1, 4, (5, 10)).astype(float)
    found = reweighted_auroc(score, bad, part, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        times = row[part]
        expected = area_under_roc(rank(np.repeat(score[bad], times[bad]).tolist(), np.repeat(score[~bad], times[~bad]).tolist()))
        assert value == pytest.approx(expected, rel=1e-13)
