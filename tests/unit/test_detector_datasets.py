import numpy as np
import pytest
import torch

from detectors.datasets import DataError, from_labelled, from_manifest, load_example
from detectors.letterbox import PAD_GREY, fit, network_side, pad
from detectors.params import TilingParams
from detectors.predict import detect
from detectors.protocol import Found, Limits
from detectors.tiling import Framing
from detectors.training import smallest_scale
from pipeline.params import LabelParams
from pipeline.stages.label import label
from tests.detector_toy import CLASSES, write_prepared, write_selected

RULES = LabelParams(close_px=2, min_area_px=9)


def test_real_and_synthetic_share_one_form(tmp_path):
    prepared, selected = write_prepared(tmp_path, 64), write_selected(tmp_path, 64)
    label(RULES, selected, prepared / "train", tmp_path / "labelled")
    real = from_manifest(prepared / "train", 0, "train", RULES)
    synthetic = from_labelled(tmp_path / "labelled" / "fold-0", CLASSES, drawn_boxes=False)
    assert (len(real.defective), len(real.good), len(synthetic.defective)) == (6, 4, 9)
    target = load_example(synthetic.records[0], 64).targets[0]
    assert (target.category, target.mask.shape) == (0, (64, 64))
    with pytest.raises(DataError, match="run `label` again"):
        from_labelled(tmp_path / "labelled" / "fold-0", ("other",), drawn_boxes=False)
    with pytest.raises(DataError, match="fold 7 has no defective image"):
        from_manifest(prepared / "train", 7, "train", RULES)


def test_network_side_is_a_multiple_of_32_and_never_above_the_limit():
    assert network_side([(100, 90), (70, 128)], 256) == 128
    assert network_side([(100, 130)], 256) == 160
    assert network_side([(600, 300)], 256) == 256


def test_photos_are_scaled_down_never_up():
    assert fit((100, 60), 256).fitted == (100, 60)
    assert fit((300, 600), 256).fitted == (128, 256)


def test_padding_is_grey_right_and_below():
    square = pad(np.zeros((10, 20, 3), np.uint8), 32)
    assert square[9, 19].tolist() == [0, 0, 0]
    assert square[10, 0].tolist() == square[0, 20].tolist() == [PAD_GREY] * 3


class Fixed:
    """A detector that always finds the same."""

    has_masks = True

    def __init__(self, found):
        self.found = found

    def decode(self, network, pictures, limits):
        return [self.found]


def test_detections_come_back_in_pixels_of_the_photo_exactly():
    shrink = fit((200, 400), 128)  # fitted to 64 x 128, factor 0.32
    box = (40.0, 20.0, 120.0, 180.0)
    mask = np.zeros((128, 128), np.float32)
    mask[:64, :128] = 1
    inside = shrink.to_network(box)
    found = Found(np.array([inside, (0, 60, 128, 128)]), np.array([0.9, 0.5]), np.array([2, 0]), np.stack([mask, mask]))
    photo = np.zeros((200, 400, 3), np.uint8)
    rows = detect(Fixed(found), torch.nn.Linear(1, 1), photo, 7, Framing(128, None), Limits(0.001, 100, 0.6))
    assert rows[0]["bbox"] == [40.0, 20.0, 80.0, 160.0]
    assert (rows[0]["image_id"], rows[0]["category_id"], rows[0]["score"]) == (7, 3, 0.9)
    assert rows[0]["segmentation"]["size"] == [200, 400]
    assert rows[1]["bbox"] == [0.0, 187.5, 400.0, 12.5]  # clipped to the photo


def test_a_thin_scratch_survives_shrinking():
    mask = np.zeros((256, 256), bool)
    mask[100, 20:200] = True
    assert fit((256, 256), 64).shrink_mask(mask).any()


def test_photos_that_shrink_below_half_are_warned_of(tmp_path, caplog):
    data = from_manifest(write_prepared(tmp_path, 96) / "train", 0, "train", RULES)
    assert smallest_scale(data, Framing(96, None)) == 1.0
    assert smallest_scale(data, Framing(64, None)) == 0.6667
    assert smallest_scale(data, Framing(32, TilingParams(photo_px=64, overlap=0.25, whole_share=0.5))) == 0.6667
    assert not caplog.records
    assert smallest_scale(data, Framing(32, None)) == 0.3333
    assert "a defect of 15 px has 5 px left; set train.tiling" in caplog.text
