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
from pipeline.params import LabelParams, load_section
from tests.conftest import ROOT
from tests.detector_toy import CLASSES, write_prepared

SCORE = 0.02


def params() -> EvaluateParams:
    return load_section("evaluate", EvaluateParams, ROOT / "params.yaml").model_copy(update={"threads": 1})


def model(folder: Path, name: str) -> Path:
    """Fresh weights: what they find is nonsense, but always the same nonsense."""
    network = fresh_network(name, COMPACT, len(CLASSES), 0)
    card = {"detector": name, "arm": {"name": "real"}, "fold": 0, "classes": list(CLASSES), "side_px": 64}
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
    wanted = predict(trained.detector, trained.network, test, 64, params().limits)
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
    monkeypatch.setattr("detectors.inspection._detections", lambda p, t, picture, i: seen.append(int(picture.max())) or [])
    (tmp_path / "photos").mkdir()
    for name, value in (("bright", 4095), ("dark", 1000)):
        Image.fromarray(np.full((64, 64), value, np.uint16)).save(tmp_path / "photos" / f"{name}.png")
    inspect(params(), place / "rtdetr", tmp_path / "photos", tmp_path / "out", SCORE)
    assert seen == [255, round(1000 * 255 / 4095)]


def test_a_folder_of_something_else_is_not_replaced(place: Path, tmp_path: Path):
    photos, own = place / "prepared/test/images", tmp_path / "own"
    own.mkdir()
    (own / "letter.txt").write_text("mine")
    with pytest.raises(PhotosError, match="of an earlier run; name another folder"):
        inspect(params(), place / "rtdetr", photos, own, SCORE)
    assert (own / "letter.txt").read_text() == "mine"
    for out in (photos, photos / "out", photos.parent):
        with pytest.raises(PhotosError, match="lie in each other"):
            inspect(params(), place / "rtdetr", photos, out, SCORE)


def test_the_command_counts_and_names_what_is_wrong(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["predict", "--params", str(ROOT / "params.yaml"), "--model", str(place / "rtdetr"), "--out", str(tmp_path / "out")]
    assert main([*command, "--photos", str(place / "prepared/test/images"), "--score", "0.99"]) == 0
    assert json.loads(capsys.readouterr().out) == {"photos": 4, "photos_with_defects": 0, "defects": 0}
    (tmp_path / "none").mkdir()
    assert main([*command, "--photos", str(tmp_path / "none")]) == 2
    assert "no picture in it" in capsys.readouterr().err
    (tmp_path / "none/torn.png").write_bytes(b"no picture")
    assert main([*command, "--photos", str(tmp_path / "none")]) == 2
    assert "torn.png cannot be read" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/detections.json").read_text())["annotations"] == [], "an earlier result stays"
