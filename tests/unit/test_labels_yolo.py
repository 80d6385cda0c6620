import numpy as np
import pytest

from pipeline.labels.coco import encode_mask
from pipeline.labels.yolo import detection_line, mask_iou, mask_to_polygon, parse_segmentation, polygon_to_mask, segmentation_line
from pipeline.params import LabelParams
from pipeline.records import read_card
from pipeline.stages.label import label
from tests.detector_toy import write_prepared, write_selected


def annotation(mask, category=1):
    ys, xs = np.nonzero(mask)
    x, y = int(xs.min()), int(ys.min())
    bbox = [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y]
    return {"category_id": category, "bbox": bbox, "segmentation": encode_mask(mask)}


def test_detection_line_counts_classes_from_zero():
    mask = np.zeros((20, 40), bool)
    mask[5:10, 8:16] = True
    assert detection_line(annotation(mask, 3), 40, 20) == "2 0.300000 0.375000 0.200000 0.250000"


@pytest.mark.parametrize(
    "pixels", [[(3, 4)], [(3, 4), (3, 5)], [(3, 4), (4, 5)], [(y, x) for y in range(2, 9) for x in range(3, 6)]]
)
def test_simple_shapes_come_back_exactly(pixels):
    mask = np.zeros((20, 33), bool)
    for y, x in pixels:
        mask[y, x] = True
    category, back = parse_segmentation(segmentation_line(annotation(mask), 33, 20), 33, 20)
    assert category == 0
    assert np.array_equal(back, mask)
    assert len(mask_to_polygon(mask)) >= 3


def test_pieces_and_holes_survive_with_a_small_loss():
    mask = np.zeros((40, 40), bool)
    mask[5:20, 5:20] = True
    mask[9:16, 9:16] = False
    mask[28:36, 28:36] = True
    back = polygon_to_mask(mask_to_polygon(mask), (40, 40))
    assert mask_iou(back, mask) > 0.85
    assert not back[12, 12]


def test_label_stage_writes_every_form(tmp_path):
    prepared, selected = write_prepared(tmp_path, 64), write_selected(tmp_path, 64)
    out = tmp_path / "labelled"
    label(LabelParams(close_px=2, min_area_px=9), selected, prepared / "train", out)
    fold = out / "fold-0"
    assert {p.name for p in fold.iterdir()} == {
        "images",
        "annotations.json",
        "labels_det",
        "labels_seg",
        "data.yaml",
        "card.json",
    }
    name = "syn-blob-0"
    source = selected / "fold-0" / "images" / f"{name}.png"
    assert (fold / "images" / f"{name}.png").read_bytes() == source.read_bytes()
    assert (fold / "labels_det" / f"{name}.txt").read_text().startswith("0 ")
    assert read_card(prepared / "train").classes == ("blob", "ring", "scratch")
    first = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    label(LabelParams(close_px=2, min_area_px=9), selected, prepared / "train", out)
    assert first == {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert not list(tmp_path.glob("*.tmp"))


def test_a_good_image_has_an_empty_label():
    from pipeline.labels.yolo import yolo_labels

    image = {"id": 1, "file_name": "images/a.png", "width": 4, "height": 4}
    assert yolo_labels({"images": [image], "annotations": [], "categories": []}) == ({"images/a.png": ""}, {"images/a.png": ""})
