import numpy as np
import pytest

from detectors.match_records import match_record, region_f_measure
from detectors.metrics import coco_runs
from detectors.pixels import count_pixels, pixel_scores
from pipeline.labels.coco import encode_mask

SIDE = 12


def document(regions_by_image, results_by_image):
    images = [{"id": i, "width": SIDE, "height": SIDE, "part_id": "p"} for i in regions_by_image]
    regions = [(i, m) for i, many in regions_by_image.items() for m in many]
    rows = [
        {"id": n, "image_id": i, "category_id": 1, "segmentation": encode_mask(m), "area": float(m.sum())}
        for n, (i, m) in enumerate(regions, 1)
    ]
    results = [
        {"image_id": i, "category_id": 1, "segmentation": encode_mask(m), "score": s}
        for i, many in results_by_image.items()
        for m, s in many
    ]
    return {"images": images, "annotations": rows}, results


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_pixel_scores_by_hand():
    # A photo of 144 pixels: a defect of 8, covered by half at 0.9 with 4 pixels too many; and a defect of 2 missed.
    truth, results = document({1: [rectangle(0, 0, 4, 2), rectangle(8, 8, 10, 9)]}, {1: [(rectangle(2, 0, 6, 2), 0.9)]})
    scores = pixel_scores(count_pixels(truth, results), 0.5)
    # 4 of 10 defect pixels and 4 of 134 good ones score 0.9, the others 0.
    assert scores["auroc"] == pytest.approx(0.4 * (1 - 2 / 134) + 0.6 * (130 / 134) / 2, abs=1e-6)
    assert scores["ap"] == pytest.approx(0.4 * 0.5 + 0.6 * 10 / 144, abs=1e-6)
    assert scores["f1_max"] == scores["f_measure"] == pytest.approx(8 / 18, abs=1e-6)
    # Overlap of the regions: (1/2 + 0) / 2 at a false-positive rate of 4/134, from there straight to (1, 1).
    rate = 4 / 134
    end = 0.25 + 0.75 * (0.3 - rate) / (1 - rate)
    assert scores["pro"] == pytest.approx((rate * 0.125 + (0.3 - rate) * (0.25 + end) / 2) / 0.3, abs=1e-6)


def test_the_surest_instance_gives_a_pixel_its_score():
    weak_last = [(rectangle(0, 0, 4, 4), 0.8), (rectangle(0, 0, 8, 8), 0.2)]
    truth, results = document({1: [rectangle(0, 0, 4, 4)]}, {1: weak_last})
    ranking = count_pixels(truth, results).ranking
    assert (ranking.score.tolist(), ranking.positive.tolist(), ranking.negative.tolist()) == (
        [0.8, 0.2, 0.0],
        [16.0, 0.0, 0.0],
        [0.0, 48.0, 80.0],
    )


@pytest.mark.parametrize("seed", range(3))
def test_counting_equals_sorting_every_pixel(seed):
    rng = np.random.default_rng(seed)

    def some():
        x, y = rng.integers(0, 8, 2)
        return rectangle(x, y, x + rng.integers(1, 5), y + rng.integers(1, 5))

    truth, results = document(
        {i: [some() for _ in range(i % 3)] for i in range(1, 7)},
        {i: [(some(), float(rng.integers(1, 6)) / 5) for _ in range(4)] for i in range(1, 7)},
    )
    maps = {i: np.zeros((SIDE, SIDE)) for i in range(1, 7)}
    labels = {i: np.zeros((SIDE, SIDE), bool) for i in range(1, 7)}
    from pipeline.labels.coco import decode_mask

    for row in results:
        maps[row["image_id"]] = np.maximum(maps[row["image_id"]], row["score"] * decode_mask(row["segmentation"]))
    for row in truth["annotations"]:
        labels[row["image_id"]] |= decode_mask(row["segmentation"])
    score, label = (np.stack(list(v.values())).ravel() for v in (maps, labels))
    wins = (score[label][:, None] > score[~label]).mean() + (score[label][:, None] == score[~label]).mean() / 2
    steps = sorted(set(score), reverse=True)
    right = np.array([(label & (score >= s)).sum() for s in steps])
    called = np.array([(score >= s).sum() for s in steps])
    found = pixel_scores(count_pixels(truth, results), 0.5)
    assert found["auroc"] == pytest.approx(wins, abs=1e-6)
    assert found["ap"] == pytest.approx((np.diff(right, prepend=0) * right / called).sum() / label.sum(), abs=1e-6)
    assert found["f1_max"] == pytest.approx((2 * right / (called + label.sum())).max(), abs=1e-6)


def test_perfect_masks_score_one_and_good_photos_alone_nothing():
    truth, results = document({1: [rectangle(0, 0, 4, 4)], 2: []}, {1: [(rectangle(0, 0, 4, 4), 0.7)]})
    perfect = {"auroc": 1.0, "ap": 1.0, "f1_max": 1.0, "pro": 1.0, "f_measure": 1.0}
    assert pixel_scores(count_pixels(truth, results), 0.5) == perfect
    truth, results = document({2: []}, {})
    assert pixel_scores(count_pixels(truth, results), 0.5) == dict.fromkeys(perfect)


def test_f_measure_of_regions_counts_boxes_from_the_score_on():
    box = [2.0, 2.0, 4.0, 4.0]
    truth = {
        "images": [{"id": i, "width": SIDE, "height": SIDE, "part_id": "p"} for i in (1, 2)],
        "annotations": [{"id": i, "image_id": i, "category_id": i, "bbox": box, "area": 16.0, "iscrowd": 0} for i in (1, 2)],
        "categories": [{"id": i, "name": name} for i, name in ((1, "a"), (2, "b"), (3, "c"))],
    }
    found = [(1, 1, box, 0.9), (1, 1, [7.0, 7.0, 4.0, 4.0], 0.5), (2, 2, box, 0.2), (2, 1, box, 0.9)]
    results = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in found]
    record = match_record(truth, results, coco_runs(truth, results, 100, with_masks=False))
    # From 0.3: a has one right of three boxes and one truth: 2 / (3 + 1); b none of none: 0 / (0 + 1); together 2 / (3 + 2).
    assert region_f_measure(record, 0.3) == {"all": 0.4, "per_class": {"a": 0.5, "b": 0.0, "c": None}}
