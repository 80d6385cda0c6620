"""Large photos in windows: nothing small is cut in all of them, everything is found once, training sees whole defects."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from detectors.arms import parse_arm
from detectors.datasets import Example, Target, from_manifest
from detectors.inspection import inspect
from detectors.letterbox import fit
from detectors.model_files import load_model
from detectors.params import EvaluateParams, MixParams, Recipe, TilingParams, TrainParams
from detectors.predict import detect, predict
from detectors.protocol import Found, Limits
from detectors.tiling import EDGE_PX, Framing, LargeExample, Window, framing_of, load_view, patch_of, starts, view, windows
from detectors.training import TrainJob, load_fold, load_pools
from pipeline.labels.boxes import coco_to_box, mask_to_box
from pipeline.labels.coco import decode_mask
from pipeline.params import LabelParams, load_section
from tests.conftest import ROOT
from tests.detector_toy import write_prepared

TILING = TilingParams(photo_px=512, overlap=0.25, whole_share=0.5)
FRAMING = Framing(128, TILING)
WIDE = TilingParams(photo_px=1024, overlap=0.25, whole_share=0.5)


def test_windows_along_an_axis_overlap_by_the_share_or_more():
    assert starts(100, 128, 0.25) == starts(128, 128, 0.25) == [0]
    assert starts(129, 128, 0.25) == [0, 1]
    assert starts(224, 128, 0.25) == [0, 96]  # 96 further: 32 of 128 in common
    assert starts(225, 128, 0.25) == [0, 48, 97]
    assert starts(512, 128, 0.0) == [0, 128, 256, 384]


def test_a_photo_is_shown_whole_and_in_windows_of_the_network_size():
    shown = windows((300, 1024), FRAMING)  # to 150 x 512 at the windows' scale, 38 x 128 whole
    assert (shown[0].shrink.fitted, shown[0].corner, shown[0].size) == ((38, 128), (0, 0), (38, 128))
    assert {w.size for w in shown[1:]} == {(128, 128)}
    assert [w.corner for w in shown[1:]] == [(x, y) for y in (0, 22) for x in (0, 96, 192, 288, 384)]
    assert len(windows((100, 128), FRAMING)) == len(windows((300, 1024), Framing(128, None))) == 1


def test_a_photo_that_is_smaller_than_the_windows_scale_keeps_its_size():
    assert windows((200, 300), FRAMING)[1].shrink.fitted == (200, 300)


@pytest.mark.parametrize("length_px", [1, 10, 128 // 4 - 2 * EDGE_PX - 1])
def test_what_is_shorter_than_the_overlap_less_both_edges_is_whole_in_some_window(length_px: int):
    """Every place along the axis, in a photo of one window's height."""
    shown = windows((100, 512), FRAMING)[1:]
    for x in range(512 - length_px + 1):
        box = np.array([[x, 40, x + length_px, 50]], float)
        inside = [w for w in shown if w.corner[0] <= x and x + length_px <= w.corner[0] + 128]
        assert any(w.finds(box - np.array([w.corner[0], 0, w.corner[0], 0]))[0] for w in inside), x


def test_a_box_that_ends_at_a_cut_is_a_piece_and_one_that_ends_at_the_photo_is_not():
    shrink = fit((512, 512), 512)
    first = Window(shrink, (0, 96), (128, 128))
    boxes = np.array([[0, 20, 30, 40], [98, 20, 126, 40], [20, 2, 40, 50], [20, 60, 40, 125], [10, 10, 60, 60]], float)
    assert first.finds(boxes).tolist() == [True, False, False, False, True]
    whole = windows((512, 512), Framing(128, None))[0]
    assert whole.finds(np.array([[0, 0, 128, 128]], float)).all()


def test_the_whole_photo_leaves_to_the_windows_what_one_of_them_shows_whole():
    """32 px in common at half of the photo's size, less 3 at either end: 52 in the photo, less two pixels of the whole view."""
    whole = windows((600, 1024), FRAMING)[0]
    assert whole.least_px == 52 - 2 * 8
    boxes = np.array([[10, 10, 14.4, 12], [10, 10, 14.6, 12], [10, 10, 12, 14.6], [125, 10, 129.6, 12]], float)
    assert whole.finds(boxes).tolist() == [
        False,
        True,
        True,
        False,
    ]  # the last reaches 3 px into the photo


def test_a_box_of_a_window_comes_back_in_pixels_of_the_photo():
    window = Window(fit((600, 1024), 512), (96, 40), (128, 128))  # half size
    assert window.to_photo(np.array([[4, 10, 54, 30]], float)).tolist() == [[200.0, 100.0, 300.0, 140.0]]


def test_a_patch_is_the_mask_wherever_it_is_looked_at():
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 60), bool)
    mask[5:17, 30:52] = rng.random((12, 22)) < 0.5
    patch = patch_of(mask)
    assert np.array_equal(patch.on((0, 0), (40, 60)), mask)
    for corner, size in (((10, 2), (20, 30)), ((35, 0), (40, 25)), ((31, 6), (3, 4)), ((0, 20), (10, 20)), ((53, 0), (5, 7))):
        (x, y), (height, width) = corner, size
        assert np.array_equal(patch.on(corner, size), mask[y : y + height, x : x + width]), corner
    assert patch_of(np.zeros((4, 4), bool)).on((0, 0), (4, 4)).sum() == 0


class Blobs:
    """Finds every bright blob of the square it is shown; the surer, the larger it is there."""

    has_masks = True

    def decode(self, network, pictures, limits):
        bright = (pictures[0, 0].numpy() > 0.75).astype(np.uint8)
        number, marks = cv2.connectedComponents(bright)
        masks = [marks == i for i in range(1, number)]
        masks.sort(key=lambda mask: -mask.sum())
        boxes = np.array([mask_to_box(mask) for mask in masks], float).reshape(-1, 4)
        scores = np.array([mask.mean() for mask in masks])
        return [Found(boxes, scores, np.zeros(len(masks), np.int64), np.array(masks, np.float32).reshape(-1, *bright.shape))]


def photo_of(boxes) -> np.ndarray:
    photo = np.full((512, 1024, 3), 60, np.uint8)
    for x0, y0, x1, y1 in boxes:
        photo[y0:y1, x0:x1] = 250
    return photo


def found_in(photo: np.ndarray, framing: Framing):
    limits = Limits(min_score=0.0, max_detections=100, nms_iou=0.6)
    return detect(Blobs(), torch.nn.Linear(1, 1), photo, 1, framing, limits)


def test_small_defects_and_large_ones_are_each_found_once():
    """3 px are lost where 1024 are shrunk to 128; 600 px fit no window, and no piece of them is taken for a defect."""
    small = [(i * 97, 460, i * 97 + 12, 472) for i in range(10)] + [(5, 5, 8, 8), (1015, 500, 1018, 503)]
    large = (300, 100, 900, 400)
    framing = Framing(128, WIDE)
    rows = found_in(photo_of([*small, large]), framing)
    corners = sorted((*row["bbox"][:2], row["bbox"][0] + row["bbox"][2], row["bbox"][1] + row["bbox"][3]) for row in rows)
    wanted = sorted([*small, large])
    assert len(corners) == len(wanted)
    assert np.abs(np.array(corners) - np.array(wanted)).max() <= 8  # a pixel of the whole view is eight of the photo
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    by_corner = {tuple(row["bbox"][:2]): row for row in rows}
    assert by_corner[5, 5]["bbox"] == [5.0, 5.0, 3.0, 3.0]  # the windows' scale here is the photo's
    for row, (x0, y0, x1, y1) in ((row, coco_to_box(row["bbox"])) for row in rows):
        mask = decode_mask(row["segmentation"])
        assert mask.shape == (512, 1024) and np.abs(np.subtract(mask_to_box(mask), (x0, y0, x1, y1))).max() <= 8
    whole = found_in(photo_of([*small, large]), Framing(128, None))
    assert len(whole) < len(wanted)


@pytest.mark.parametrize("length", [20, 29, 36, 60, 130])
def test_a_bar_is_found_once_wherever_it_lies(length: int):
    """Shorter than what windows have in common, longer, longer than a window: none is lost between windows and whole photo."""
    framing = Framing(128, TilingParams(photo_px=992, overlap=0.25, whole_share=0.5))
    for x in range(0, 992 - length, 7):
        photo = np.full((100, 992, 3), 60, np.uint8)
        photo[40:60, x : x + length] = 250
        (row,) = found_in(photo, framing)
        # A pixel of the whole view is 7.75 of the photo.
        assert abs(row["bbox"][0] - x) <= 8 and abs(row["bbox"][2] - length) <= 16


def test_the_surest_are_kept_of_more_than_may_be():
    spots = [(i * 60, 200, i * 60 + 10 + i, 210) for i in range(12)]
    limits = Limits(min_score=0.0, max_detections=5, nms_iou=0.6)
    rows = detect(Blobs(), torch.nn.Linear(1, 1), photo_of(spots), 1, Framing(128, WIDE), limits)
    assert [row["bbox"][0] for row in rows] == [660, 600, 540, 480, 420]


class Twice:
    """Finds two parallel scratches that share no pixel in every square it is shown, as a segmentation network can."""

    has_masks = True

    def decode(self, network, pictures, limits):
        first = np.eye(128, dtype=bool) & (np.arange(128) > 20) & (np.arange(128) < 80)
        masks = np.stack([first, np.roll(first, 6, axis=1)])
        boxes = np.array([mask_to_box(mask) for mask in masks], float)
        return [Found(boxes, np.array([0.9, 0.8]), np.zeros(2, np.int64), masks.astype(np.float32))]


def test_what_one_window_tells_apart_stays_apart():
    """A photo two pixels wider than a window, so shown three times all but the same; the scratches' boxes share nine tenths."""
    photo = np.full((100, 130, 3), 60, np.uint8)
    assert len(windows((100, 130), FRAMING)) == 3
    rows = detect(Twice(), torch.nn.Linear(1, 1), photo, 1, FRAMING, Limits(0.0, 100, 0.6))
    assert [row["score"] for row in rows] == [0.9, 0.8]


def large_example(boxes: list[tuple[int, int, int, int]], whole_share: float = 0.001) -> LargeExample:
    framing = Framing(128, TILING.model_copy(update={"whole_share": whole_share}))
    photo = photo_of(boxes)[:, :512]
    targets = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros((512, 512), bool)
        mask[y0:y1, x0:x1] = True
        targets.append(Target(0, (x0, y0, x1, y1), mask))
    marks = tuple((t.category, t.box, patch_of(t.mask)) for t in targets)
    return LargeExample(Example(photo[:128, :128], (), fit((512, 512), 128)), photo, marks, fit((512, 512), 512), framing)


def test_a_window_has_a_whole_defect_with_its_mask():
    example = large_example([(10, 10, 40, 30), (300, 400, 340, 480), (470, 20, 512, 60)])
    seen = set()
    for seed in range(60):
        shown = view(example, seed)
        assert shown.picture.shape == (128, 128, 3)
        assert any(t.mask.sum() in (600, 3200, 1680) for t in shown.targets)
        for target in shown.targets:
            assert np.array_equal(shown.picture[target.mask], np.full((target.mask.sum(), 3), 250))
            assert mask_to_box(target.mask) == tuple(target.box)
        seen.add(shown.targets[0].mask.sum())
        assert np.array_equal(shown.picture, view(example, seed).picture)
    assert len(seen) >= 3


def test_a_window_lies_on_a_defect_that_is_larger():
    for seed in range(20):
        shown = view(large_example([(100, 50, 400, 450)]), seed)
        assert shown.targets[0].mask.sum() >= 26  # a fifth of the side
    thin = large_example([])
    mask = np.eye(512, dtype=bool)
    thin = replace(thin, marks=((0, (0, 0, 512, 512), patch_of(mask)),))
    whole = sum(view(thin, seed) is thin.whole for seed in range(200))
    assert whole < 20  # the box of a scratch is nearly empty; windows follow the scratch


def test_where_hardly_anything_of_a_defect_shows_the_whole_photo_is_taken():
    ends = np.zeros((512, 512), bool)
    ends[0, 0], ends[500:, 500:] = True, True  # a speck joined to a spot far away, and the speck drawn now and then
    example = replace(large_example([]), marks=((0, (0, 0, 512, 512), patch_of(ends)),))
    shown = [view(example, seed) for seed in range(50)]
    assert all(one is example.whole or one.targets[0].mask.sum() >= 25 for one in shown)


def test_the_whole_photo_is_shown_as_often_as_asked():
    example = large_example([(10, 10, 40, 30)], whole_share=0.3)
    whole = sum(view(example, seed) is example.whole for seed in range(1000))
    assert 250 <= whole <= 350


def test_windows_of_good_photos_lie_anywhere():
    example = large_example([])
    example.picture[:, :, 0] = np.arange(512).clip(0, 255)
    left = [int(view(example, seed).picture[0, 0, 0]) for seed in range(200)]
    assert min(left) < 20 and max(left) == 255


def test_a_scale_of_windows_that_is_not_larger_is_refused():
    section = load_section("train", TrainParams, ROOT / "params.yaml").model_dump()
    with pytest.raises(ValidationError, match=r"photo_px: 320 is not above image_px: 320"):
        TrainParams(**{**section, "tiling": {"photo_px": 320, "overlap": 0.25, "whole_share": 0.5}})


@pytest.mark.slow
def test_a_detector_learns_in_windows_and_its_card_says_so(tmp_path: Path):
    label = load_section("label", LabelParams, ROOT / "params.yaml")
    changes = {"steps": 2, "validate_every": 2, "image_px": 64, "threads": 1, "warmup_steps": 0}
    train = load_section("train", TrainParams, ROOT / "params.yaml").model_copy(
        update={**changes, "tiling": TilingParams(photo_px=96, overlap=0.25, whole_share=0.5)}
    )
    prepared, arm = write_prepared(tmp_path, 96), parse_arm("real")
    data = load_fold(label, arm, prepared, None, 0)
    pools = load_pools(data, arm, Framing(64, train.tiling), tmp_path)
    assert all(isinstance(e, LargeExample) and e.picture.shape == (96, 96, 3) for e in (*pools.real, *pools.good))
    assert not any(e.picture.flags.writeable for e in (*pools.real, *pools.good))
    assert not isinstance(load_view(data.train.defective[0], Framing(96, train.tiling), tmp_path), LargeExample)
    recipe = Recipe(train, load_section("mix", MixParams, ROOT / "params.yaml"), label)
    TrainJob(recipe, "rtdetr", arm, prepared, None, tmp_path / "work", {}).build(0, tmp_path / "model")
    assert not list((tmp_path / "work").rglob("*.npy"))
    trained = load_model(tmp_path / "model")
    assert framing_of(trained.card) == Framing(64, train.tiling)
    assert (trained.card["smallest_scale"], trained.card["steps"]) == (1.0, 2)
    scoring = load_section("evaluate", EvaluateParams, ROOT / "params.yaml").model_copy(update={"threads": 1})
    inspect(scoring, tmp_path / "model", prepared / "test/images", tmp_path / "found", score=0.001)
    found = json.loads((tmp_path / "found/detections.json").read_text())["annotations"]
    test = from_manifest(prepared / "test", 0, "test", label)

    def scores(tiling: TilingParams | None) -> list[float]:
        rows = predict(trained.detector, trained.network, test, Framing(64, tiling), scoring.limits)
        return sorted(row["score"] for row in rows)

    assert sorted(row["score"] for row in found) == scores(train.tiling) != scores(None)


def test_a_model_from_before_there_were_windows_is_shown_photos_whole():
    assert framing_of({"side_px": 64}) == framing_of({"side_px": 64, "tiling": None}) == Framing(64, None)
