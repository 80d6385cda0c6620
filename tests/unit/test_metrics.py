import numpy as np
import pytest

from detectors.metrics import all_scores, coco_run, coco_scores, image_ranking, matched_scores
from detectors.rankings import area_under_roc, average_precision, f1_max, f_measure_at, rank
from pipeline.labels.coco import encode_mask


def square(x0, y0, x1, y1):
    mask = np.zeros((64, 64), bool)
    mask[y0:y1, x0:x1] = True
    return mask


SQUARES = {1: square(5, 5, 15, 15), 2: square(20, 20, 40, 44)}


def truth():
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in (1, 2, 3)]
    rows = [
        {
            "id": i,
            "image_id": i,
            "category_id": i,
            "bbox": box,
            "segmentation": encode_mask(SQUARES[i]),
            "area": float(SQUARES[i].sum()),
            "iscrowd": 0,
        }
        for i, box in ((1, [5.0, 5.0, 10.0, 10.0]), (2, [20.0, 20.0, 20.0, 24.0]))
    ]
    return {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}


def perfect():
    return [
        {"score": 0.9, **{k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")}} for a in truth()["annotations"]
    ]


def box_scores(rows):
    return coco_scores(truth(), coco_run(truth(), rows, "bbox", 100))


def test_perfect_predictions_score_one(capsys):
    scores = all_scores(truth(), perfect(), 100, with_masks=True)
    assert scores["box"]["map"] == scores["box"]["map50"] == scores["mask"]["map"] == scores["image_auroc"] == 1.0
    assert scores["box"]["per_class"] == {"a": {"map": 1.0, "map50": 1.0}, "b": {"map": 1.0, "map50": 1.0}}
    assert scores["box"]["per_size"]["small"]["map"] == 1.0
    assert scores["box"]["per_size"]["large"]["map"] is None
    assert capsys.readouterr().out == ""


def test_a_missed_class_halves_the_mean():
    scores = box_scores(perfect()[:1])
    assert (scores["map50"], scores["per_class"]["b"]["map50"]) == (0.5, 0.0)


def test_box_of_iou_six_tenths_counts_at_three_thresholds():
    # 10 x 10 against 6 x 10: IoU 0.6 passes 0.50, 0.55 and 0.60
    rows = [{"image_id": 1, "category_id": 1, "bbox": [5.0, 5.0, 6.0, 10.0], "score": 0.9}]
    scores = box_scores(rows)["per_class"]["a"]
    assert scores == {"map": pytest.approx(0.3), "map50": 1.0}


def test_a_stronger_false_alarm_on_a_good_image_halves_precision():
    rows = [*perfect()[:1], {"image_id": 3, "category_id": 1, "bbox": [1.0, 1.0, 9.0, 9.0], "score": 0.95}]
    assert box_scores(rows)["per_class"]["a"]["map50"] == pytest.approx(0.5)


def test_no_detection_at_all_scores_zero():
    scores = all_scores(truth(), [], 100, with_masks=False)
    assert (scores["box"]["map"], scores["mask"], scores["image_auroc"]) == (0.0, None, 0.5)
    assert scores["box"]["per_size"]["large"]["map"] is None


def test_inputs_are_left_as_they_were():
    rows, document = perfect(), truth()
    all_scores(document, rows, 100, with_masks=True)
    assert rows == perfect()
    assert document == truth()


def test_auroc_by_hand():
    # pairs: 0.8 beats both; 0.5 ties with 0.5 and beats 0.1: (1 + 1 + 0.5 + 1) / 4
    assert area_under_roc(rank([0.8, 0.5], [0.5, 0.1])) == 0.875
    assert area_under_roc(rank([], [0.5])) is None


def test_average_precision_and_f1_by_hand():
    # Falling: one right; then a right and a wrong one tied; a wrong one; a right one. Recall gains a third each time.
    ranking = rank([0.9, 0.6, 0.1], [0.6, 0.3])
    assert average_precision(ranking) == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    # 2 right / (called + 3): 2/4, 4/6, 4/7, 6/8.
    assert f1_max(ranking) == 0.75
    assert f_measure_at(ranking, 0.6) == pytest.approx(4 / 6)
    assert average_precision(rank([], [0.5])) is f1_max(rank([], [0.5])) is f_measure_at(rank([], [0.5]), 0.5) is None


def test_image_score_is_the_highest_confidence():
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.2},
        {"image_id": 1, "category_id": 2, "bbox": [0, 0, 5, 5], "score": 0.7},
        {"image_id": 3, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.4},
    ]
    assert area_under_roc(image_ranking(truth(), rows)) == 0.5  # 0.7 beats 0.4, 0 does not


def test_a_box_is_found_by_the_best_detection_of_its_type_that_overlaps_by_half():
    rows = [
        # 10 x 10 against 5 x 10 of it: IoU 0.5 counts; against 4 x 10, 0.4, does not, however sure it is.
        {"image_id": 1, "category_id": 1, "bbox": [5.0, 5.0, 5.0, 10.0], "score": 0.4},
        {"image_id": 1, "category_id": 1, "bbox": [5.0, 5.0, 9.0, 10.0], "score": 0.3},
        {"image_id": 1, "category_id": 1, "bbox": [5.0, 5.0, 4.0, 10.0], "score": 0.9},
        # The right box of the wrong type.
        {"image_id": 2, "category_id": 1, "bbox": [20.0, 20.0, 20.0, 24.0], "score": 0.9},
    ]
    assert matched_scores(truth(), rows, 100) == {1: 0.4, 2: None}
    assert matched_scores(truth(), [], 100) == {1: None, 2: None}
