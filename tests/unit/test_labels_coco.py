import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.images import write_png
from pipeline.labels.boxes import EmptyMaskError
from pipeline.labels.coco import LabelError, coco_dataset, decode_mask, encode_mask, train_margin
from pipeline.params import LabelParams
from pipeline.records import Sample

RULES = LabelParams(close_px=0, min_area_px=1)
CLASSES = ("crack", "hole")


def sample(root, name, defect, mask, **extra):
    write_png(root / f"images/{name}.png", np.zeros((20, 30), np.uint8))
    path = None
    if mask is not None:
        path = f"masks/{name}-{defect}.png"
        write_png(root / path, mask)
    return Sample(f"{name}-{defect}", f"images/{name}.png", path, defect, name, "train", **extra)


def square(x0, y0, x1, y1):
    mask = np.zeros((20, 30), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_hole_stays_a_hole_and_is_not_counted_as_area(tmp_path):
    mask = square(5, 5, 12, 12)
    mask[7:10, 7:10] = False
    document = coco_dataset([sample(tmp_path, "a", "hole", mask)], tmp_path, CLASSES, RULES)
    (row,) = document["annotations"]
    assert row["area"] == 49 - 9
    assert row["bbox"] == [5.0, 5.0, 7.0, 7.0]
    assert row["iscrowd"] == 0
    assert row["category_id"] == 2
    assert np.array_equal(decode_mask(row["segmentation"]), mask)
    assert isinstance(row["segmentation"]["counts"], str)


def test_image_ids_are_ranks_of_sorted_names_and_good_images_are_in(tmp_path):
    samples = [
        sample(tmp_path, "b", "crack", square(1, 1, 3, 3)),
        sample(tmp_path, "c", None, None),
        sample(tmp_path, "a", "hole", square(4, 4, 9, 9)),
        sample(tmp_path, "a", "crack", square(14, 4, 19, 9)),
    ]
    document = coco_dataset(samples, tmp_path, CLASSES, RULES)
    assert [(i["id"], i["file_name"]) for i in document["images"]] == [
        (1, "images/a.png"),
        (2, "images/b.png"),
        (3, "images/c.png"),
    ]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in document["annotations"]] == [(1, 1, 1), (2, 1, 2), (3, 2, 1)]
    assert (document["images"][0]["width"], document["images"][0]["height"]) == (30, 20)


def test_order_of_samples_does_not_matter(tmp_path):
    samples = [sample(tmp_path, name, "crack", square(1, 1, 3, 3)) for name in "cab"]
    one, other = (json.dumps(coco_dataset(s, tmp_path, CLASSES, RULES)) for s in (samples, samples[::-1]))
    assert one == other


def test_drawn_boxes_are_the_truth_one_instance_a_box(tmp_path):
    mask = square(4, 4, 8, 8) | square(20, 10, 22, 12)
    drawn = sample(tmp_path, "a", "crack", mask, boxes=((18.0, 8.0, 25.0, 15.0), (2.0, 2.0, 10.0, 10.0), (26.0, 0.0, 30.0, 3.0)))
    rows = coco_dataset([drawn], tmp_path, CLASSES, RULES, margin=(9, 9, 9, 9))["annotations"]
    assert [r["bbox"] for r in rows] == [[2.0, 2.0, 8.0, 8.0], [18.0, 8.0, 7.0, 7.0], [26.0, 0.0, 4.0, 3.0]]
    assert [r["area"] for r in rows] == [16, 4, 12]  # the last box holds no mask pixel: the box itself counts


def test_margin_widens_tight_boxes_but_not_masks(tmp_path):
    (row,) = coco_dataset([sample(tmp_path, "a", "crack", square(1, 5, 4, 8))], tmp_path, CLASSES, RULES, (2, 2, 3, 3))[
        "annotations"
    ]
    assert row["bbox"] == [0.0, 3.0, 7.0, 8.0]
    assert row["area"] == 9


def test_margin_is_measured_on_train_only(tmp_path):
    near = sample(tmp_path, "a", "crack", square(10, 10, 14, 14), boxes=((9.0, 9.0, 15.0, 15.0),))
    far = sample(tmp_path, "b", "crack", square(10, 10, 14, 14), boxes=((0.0, 0.0, 20.0, 20.0),))
    assert train_margin([near, replace(far, split="unused")], tmp_path) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.zeros((20, 30), bool), EmptyMaskError, "a-crack: mask masks/a-crack.png has no defect pixel"),
        (np.ones((20, 31), bool), LabelError, r"a-crack: mask is \(20, 31\), image is \(20, 30\)"),
        (None, LabelError, "a-crack: defect 'crack' without a mask"),
    ],
)
def test_faults_name_the_sample(tmp_path, mask, error, message):
    with pytest.raises(error, match=message):
        coco_dataset([sample(tmp_path, "a", "crack", mask)], tmp_path, CLASSES, RULES)


def test_unknown_type_is_refused(tmp_path):
    with pytest.raises(LabelError, match="'dent' is none of"):
        coco_dataset([sample(tmp_path, "a", "dent", square(1, 1, 3, 3))], tmp_path, CLASSES, RULES)


def test_rle_round_trip_of_random_masks():
    mask = np.random.default_rng(0).random((17, 23)) > 0.5
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)
