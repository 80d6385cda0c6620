"""A detector on photos without labels: the same detections as `evaluate` makes, nothing of the user's deleted."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectors.__main__ import main
from detectors.datasets import from_manifest
from detectors.inspection import PhotosError, draw, inspect
from detectors.model_files import load_model, save_model
from detectors.params import EvaluateParams
from detectors.predict import predict
from detectors.protocol import COMPACT, DETECTORS
from detectors.session import fresh_network
from detectors.tiling import Framing
from pipeline.labels.coco import encode_mask
from pipeline.params import LabelParams, load_section
from tests.conftest import ROOT
from tests.detector_toy import CLASSES, write_prepared

SCORE = 0.02


def params() -> EvaluateParams:
    return load_section("evaluate", EvaluateParams, ROOT / "params.yaml").model_copy(update={"threads": 1})


def model(folder: Path, name: str) -> Path:
    """Fresh weights: what they find is nonsense, but always the same nonsense."""
    network = fresh_network(name, COMPACT, len(CLASSES), 0)
    card = {"detector": name, "arm": {"name": "real"}, "fold": 0, "classes": list(CLASSES), "side_px": 64, "tiling": None}
    save_model(folder, network.state_dict(), DETECTORS[name]().architecture(len(CLASSES), COMPACT), [{"loss": 1.0}], card)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspection")
    write_prepared(root, 96, per_type=1, good=1)
    for name in ("rtdetr", "yolo_seg"):
        model(root / name, name)
    return root


@pytest.mark.parametrize("name", ["rtdetr", "yolo_seg"])
def test_photos_are_answered_as_evaluate_answers_them(place: Path, tmp_path: Path, name: str):
    label = load_section("label", LabelParams, ROOT / "params.yaml")
    test, trained = from_manifest(place / "prepared/test", 0, "test", label), load_model(place / name)
    counts = inspect(params(), place / name, place / "prepared/test/images", tmp_path / "out", SCORE)
    found = json.loads((tmp_path / "out/detections.json").read_text())
    wanted = predict(trained.detector, trained.network, test, Framing(64, None), params().limits)
    by_name = {Path(image["file_name"]).name: image["id"] for image in test.coco["images"]}
    ids = {image["id"]: by_name[image["file_name"]] for image in found["images"]}
    assert counts["photos"] == len(test.records) == len(ids)
    ours = sorted((ids[a["image_id"]], a["category_id"], a["score"], *a["bbox"]) for a in found["annotations"])
    theirs = sorted((r["image_id"], r["category_id"], r["score"], *r["bbox"]) for r in wanted if r["score"] >= SCORE)
    assert ours == theirs and counts["defects"] == len(ours)
    rows = list(csv.DictReader((tmp_path / "out/photos.csv").read_text().splitlines()))
    assert [row["photo"] for row in rows] == [image["file_name"] for image in found["images"]]
    for row, image in zip(rows, found["images"], strict=True):
        own = [r["score"] for r in wanted if r["image_id"] == ids[image["id"]]]
        assert float(row["highest_score"]) == max(own, default=0.0)
        assert int(row["defects"]) == sum(score >= SCORE for score in own)
        assert (tmp_path / "out/pictures" / f"{row['photo']}.jpg").exists() == (int(row["defects"]) > 0)


def test_a_box_is_drawn_around_the_defect_and_the_rest_is_the_photo():
    photo = np.full((60, 120, 3), 100, np.uint8)
    row = {"category_id": 1, "bbox": [20.0, 30.0, 25.0, 20.0], "score": 0.5}
    drawn = draw(photo, [row], ["hole"])
    assert (
        drawn.shape == photo.shape
        and (drawn[29:51, [19, 45]] == (213, 94, 0)).all()
        and (drawn[[29, 50], 19:46] == (213, 94, 0)).all()
    )
    assert (drawn[30:50, 20:45] == 100).all(), "the defect itself is untouched"
    assert (drawn[:29] != 100).any(), "its name stands above"
    assert (drawn[51:] == 100).all() and (drawn[29:, 46:] == 100).all()


def test_a_dark_photo_of_sixteen_bits_stays_dark_beside_a_bright_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []
    monkeypatch.setattr("detectors.inspection.detect", lambda d, n, picture, *rest: seen.append(int(picture.max())) or [])
    (tmp_path / "photos").mkdir()
    for name, value in (("bright", 4095), ("dark", 1000)):
        Image.fromarray(np.full((64, 64), value, np.uint16)).save(tmp_path / "photos" / f"{name}.png")
    inspect(params(), place / "rtdetr", tmp_path / "photos", tmp_path / "out", SCORE)
    assert seen == [255, round(1000 * 255 / 4095)]
    (tmp_path / "photos/bright.png").unlink()
    inspect(params(), place / "rtdetr", tmp_path / "photos", tmp_path / "alone", SCORE, 4095)
    assert seen[2:] == [round(1000 * 255 / 4095)]


def test_nothing_is_replaced_and_nothing_goes_among_the_photos(place: Path, tmp_path: Path):
    photos, own = place / "prepared/test/images", tmp_path / "own"
    own.mkdir()
    (own / "letter.txt").write_text("mine")
    (tmp_path / "link").symlink_to(own)
    (tmp_path / "new.tmp").mkdir()
    for out in (own, photos, photos.parent, tmp_path / "link"):
        with pytest.raises(PhotosError, match="exists; name a folder that does not"):
            inspect(params(), place / "rtdetr", photos, out, SCORE)
    with pytest.raises(PhotosError, match="lies in the folder of photos"):
        inspect(params(), place / "rtdetr", photos, photos / "out", SCORE)
    inspect(params(), place / "rtdetr", photos, tmp_path / "new", SCORE)
    assert (own / "letter.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "new", "new.tmp", "own"]


def test_photos_are_found_below_whatever_they_are_called_and_hidden_ones_are_not(place: Path, tmp_path: Path):
    for name in ("a.png", "a.jpg", "deep/er/B.PNG", ".hidden/c.png", "deep/.d.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("LA", (40, 50), (90, 255)).save(tmp_path / "photos" / name) if name.lower().endswith("png") else Image.new(
            "L", (40, 50), 90
        ).save(tmp_path / "photos" / name)
    inspect(params(), place / "yolo_seg", tmp_path / "photos", tmp_path / "out", params().min_score)
    found = json.loads((tmp_path / "out/detections.json").read_text())
    assert [(i["file_name"], i["width"], i["height"]) for i in found["images"]] == [
        (n, 40, 50) for n in ("a.jpg", "a.png", "deep/er/B.PNG")
    ]


@pytest.mark.parametrize("score", [float("nan"), 50.0, 0.0])
def test_a_score_that_is_none_is_refused(place: Path, tmp_path: Path, score: float):
    with pytest.raises(PhotosError, match=r"expected 0.001 \(evaluate.min_score\) to 1"):
        inspect(params(), place / "rtdetr", place / "prepared/test/images", tmp_path / "out", score)
    assert not (tmp_path / "out").exists()


def test_overlapping_masks_keep_the_colour_of_the_surest():
    mask = np.zeros((60, 120), bool)
    mask[20:40, 30:60] = True
    other = np.roll(mask, 10, axis=1)
    rows = [
        {"category_id": c, "bbox": [30.0, 20.0, 30.0, 20.0], "score": 0.9 / c, "segmentation": encode_mask(m)}
        for c, m in ((1, mask), (2, other))
    ]
    drawn = draw(np.full((60, 120, 3), 100, np.uint8), rows, ["hole", "crack"])
    assert (drawn[25:35, 45:55] >= 60).all() and (drawn[30, 50, 0] > drawn[30, 50, 2])


@pytest.mark.parametrize(("y", "quiet"), [(2.0, slice(0, 22)), (30.0, slice(30, 50))])
def test_a_name_stands_beside_its_box_wherever_that_lies(y: float, quiet: slice):
    drawn = draw(
        np.full((80, 120, 3), 100, np.uint8), [{"category_id": 1, "bbox": [100.0, y, 18.0, 20.0], "score": 0.5}], ["hole"]
    )
    inner = drawn[int(y) : int(y) + 20, 100:118]
    assert (inner == 100).all(), "the defect itself is untouched"
    named = (drawn != 100).any(axis=(1, 2))
    named[quiet] = False
    assert named.sum() >= 5, "letters outside of the box"


def test_the_command_counts_and_names_what_is_wrong(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["predict", "--params", str(ROOT / "params.yaml"), "--model", str(place / "rtdetr"), "--out", str(tmp_path / "out")]
    assert main([*command, "--photos", str(place / "prepared/test/images"), "--score", "0.99"]) == 0
    assert json.loads(capsys.readouterr().out) == {"photos": 4, "photos_with_defects": 0, "defects": 0}
    assert main([*command, "--photos", str(place / "prepared/test/images")]) == 2
    assert "exists; name a folder that does not" in capsys.readouterr().err
    (tmp_path / "out").rename(tmp_path / "first")
    (tmp_path / "none").mkdir()
    assert main([*command, "--photos", str(tmp_path / "none")]) == 2
    assert "no picture in it" in capsys.readouterr().err
    (tmp_path / "none/torn.png").write_bytes(b"no picture")
    assert main([*command, "--photos", str(tmp_path / "none")]) == 2
    assert "torn.png cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--photos", str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err
