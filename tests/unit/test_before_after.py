from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectors.confusion import confusion, pair
from detectors.datasets import from_manifest
from detectors.gallery import RIGHT, TILE_PX, TRUTH, WRONG, best_learned, cases, choose, draw, view, write_gallery
from detectors.metrics import matched_scores
from pipeline.params import LabelParams
from pipeline.reporting.comparison import BASELINES
from tests.detector_toy import CLASSES, write_prepared


def defect(category: int, x: float, image: int = 1) -> dict:
    """A 10 x 10 box at (x, 0)."""
    return {"image_id": image, "category_id": category, "bbox": [x, 0, 10, 10]}


def seen(category: int, x: float, score: float, image: int = 1) -> dict:
    return defect(category, x, image) | {"score": score}


def test_each_defect_takes_one_detection_its_own_type_first():
    # Over the first defect lie a surer detection of the wrong type and one of the right type; over the second a wrong one.
    found = pair([defect(1, 0), defect(2, 50)], [seen(2, 1, 0.9), seen(1, 2, 0.5), seen(1, 50, 0.4)])
    assert found.found == (1, 2)
    assert found.alarms == (0,)


def test_a_detection_finds_the_free_defect_it_overlaps_most():
    # 10 x 10 boxes: shifted by 3 the IoU is 7/13 = 0.54, by 4 it is 6/14 = 0.43.
    assert pair([defect(1, 0), defect(1, 6)], [seen(1, 3, 0.9), seen(1, 3, 0.8), seen(1, 3, 0.7)]).alarms == (2,)
    assert pair([defect(1, 0)], [seen(1, 4, 0.9)]).found == (None,)


def test_confusion_of_three_photos_by_hand():
    # Photo 1: a hole found, a scratch taken for a hole, an alarm. 2: a scratch missed. 3 and 4 are good, 3 with an alarm.
    truth = {
        "images": [{"id": i} for i in (1, 2, 3, 4)],
        "categories": [{"id": 1, "name": "hole"}, {"id": 2, "name": "scratch"}],
        "annotations": [defect(1, 0), defect(2, 50), defect(2, 0, 2)],
    }
    results = [seen(1, 0, 0.9), seen(1, 50, 0.8), seen(2, 90, 0.7), seen(2, 0, 0.2, 2), seen(2, 0, 0.6, 3), seen(2, 0, 0.1, 4)]
    assert confusion(truth, results, 0.3) == {
        "types": ["hole", "scratch"],
        "found": [[1, 0], [1, 0]],
        "missed": [0, 1],
        "alarms": [0, 1],
        "alarms_good": [0, 1],
        "good_photos": 2,
        "good_photos_alarmed": 1,
        "score": 0.3,
        "iou": 0.5,
    }


def test_the_learned_arm_is_chosen_on_val_and_baselines_are_none():
    val = {"real": [0.9], "copy_paste": [0.9], "copy_paste_classical": [0.9], "defectfill_only": [0.9], "classical": [0.9]}
    assert best_learned(val) is None
    assert best_learned(val | {"defectfill": [0.5, 0.1], "defectfill_classical": [0.2, 0.3]}) == "defectfill"
    assert best_learned({"defectfill": [None], "defectfill_classical": [0.1]}) == "defectfill_classical"
    assert set(BASELINES) <= val.keys()


def test_a_view_holds_the_defect_and_stays_on_the_photo():
    assert view([40, 40, 20, 10], (100, 200)) == (10, 5, 90, 85)  # 0.4 of 200 is more than three times 20
    assert view([0, 0, 50, 10], (100, 200)) == (0, 0, 150, 100)


def test_boxes_are_drawn_where_they_are():
    tile = draw(np.zeros((60, 60, 3), np.uint8), (0, 0, 60, 60), [([15, 15, 30, 30], TRUTH)])
    assert tile.shape == (TILE_PX, TILE_PX, 3)
    # Scale 4: the box reaches from 60 to 179.
    assert tuple(tile[60, 120]) == tuple(tile[179, 120]) == tuple(tile[120, 60]) == TRUTH
    assert not tile[120, 120].any()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    folder = write_prepared(tmp_path_factory.mktemp("photos"), 64, per_type=3)
    return from_manifest(folder / "test", 0, "test", LabelParams(close_px=2, min_area_px=4))


def found_all(data, but: set[int], score: float = 0.9) -> list[dict]:
    """A detection on every defect but those of some photos."""
    own = [a for a in data.coco["annotations"] if a["image_id"] not in but]
    return [{"score": score, **{key: a[key] for key in ("image_id", "category_id", "bbox")}} for a in own]


def test_defects_fall_into_four_groups_as_cocoeval_finds_them(data):
    ids = [record.image_id for record in data.defective]
    before, after = found_all(data, {ids[0], ids[1]}), found_all(data, {ids[1], ids[2]})
    groups = [(case.record.image_id, case.group) for case in cases(0, data, before, after, 0.3)]
    expected = {ids[0]: "gained", ids[1]: "missed", ids[2]: "lost"}
    assert groups == [(a["image_id"], expected.get(a["image_id"], "kept")) for r in data.defective for a in r.annotations]
    assert sum(score is not None for score in matched_scores(data.coco, before, 100).values()) == len(before)
    assert {group for _, group in groups} == {"gained", "missed", "lost", "kept"}


def test_types_take_turns_in_the_order_of_photos(data):
    found = cases(0, data, [], [], 0.3)
    kinds = [case.defect["category_id"] for case in choose(found, 4)]
    assert kinds[:3] == [1, 2, 3]
    assert choose(found, 4) == choose(list(found), 99)[:4]


def test_pictures_are_written_with_all_counts(data, tmp_path: Path):
    ids = [record.image_id for record in data.defective]
    wrong = found_all(data, {ids[0]}) + [
        {**a, "category_id": a["category_id"] % 3 + 1, "score": 0.8} for a in data.coco["annotations"] if a["image_id"] == ids[0]
    ]
    found = cases(0, data, wrong, found_all(data, set()), 0.3)
    described = write_gallery(tmp_path / "rtdetr", "defectfill", found, data.classes, 2, 0.3)
    assert described["counts"]["gained"] == len(data.defective[0].annotations)
    assert sum(described["counts"].values()) == described["defects"] == len(data.coco["annotations"])
    line = described["shown"]["gained"][0]
    taken = data.classes[data.defective[0].annotations[0]["category_id"] % 3]
    assert (line["type"], line["before"], line["after"]) == (CLASSES[0], f"taken for {taken} (0.80)", "found (0.90)")
    assert line["photo"] == data.defective[0].path.name
    tiles = {name: np.asarray(Image.open(tmp_path / "rtdetr" / file), int) for name, file in line["pictures"].items()}
    for name, colour in (("truth", TRUTH), ("before", WRONG), ("after", RIGHT)):
        assert np.abs(tiles[name] - colour).sum(axis=2).min() < 40, name
    json.dumps(described)
