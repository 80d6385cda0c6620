"""Models that stand beside each other learned from the same data by the same recipe; others are named."""

from pathlib import Path

import pytest

from detectors.lineup import find_models, learned_from
from detectors.model_files import ModelFileError
from pipeline.params import LabelParams
from pipeline.records import write_json

LABEL = LabelParams(close_px=2, min_area_px=9)


def write_model(detector: str, arm: str, fold: int = 0, **other: dict) -> None:
    """A trained model's folder, without weights; `other` replaces some of what it says it learned from."""
    folder = Path("models") / detector / arm / f"fold-{fold}"
    generator = "defectfill" if arm.startswith("defectfill") else None
    mix, labelled = ({"mix": {"share": 0.5}}, {"labelled": "cc"}) if generator else ({}, {})
    write_json(folder / "card.json", {"arm": {"generator": generator}, "params": {"steps": 10, **mix, **other.get("params", {})}})
    read = {"train": "aa", "val": "bb", **labelled, **other.get("read", {})}
    write_json(folder / "val_matches.json", {"read": read, "label": {**LABEL.model_dump(mode="json"), **other.get("label", {})}})


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for detector in ("rtdetr", "yolo_seg"):
        for arm in ("real", "defectfill", "defectfill_classical"):
            write_model(detector, arm)


def test_what_all_learned_from_is_said_once():
    found = find_models(Path("models"))
    assert learned_from(found, LABEL) == {"train": "aa", "val": "bb", "labelled/defectfill": "cc"}


def test_detectors_may_have_recipes_of_their_own():
    for arm in ("real", "defectfill", "defectfill_classical"):
        write_model("yolo_seg", arm, params={"steps": 20})
    assert len(learned_from(find_models(Path("models")), LABEL)) == 3


@pytest.mark.parametrize(
    ("left", "why"),
    [
        ({"read": {"train": "old"}}, "train"),
        ({"read": {"val": "old"}}, "val"),
        ({"read": {"labelled": "old"}}, "labelled/defectfill"),
        ({"params": {"steps": 20}}, "steps"),
        ({"params": {"mix": {"share": 0.25}}}, "mix"),
        ({"label": {"close_px": 3}}, "label"),
    ],
)
def test_a_model_that_was_left_is_named_with_what_differs(left, why):
    write_model("yolo_seg", "defectfill_classical", **left)
    with pytest.raises(ModelFileError, match=rf"compared with it: models/yolo_seg/defectfill_classical/fold-0 \({why}\); train"):
        learned_from(find_models(Path("models")), LABEL)


def test_a_fold_of_another_split_is_named():
    write_model("rtdetr", "real", fold=1, read={"train": "old"})
    with pytest.raises(ModelFileError, match=r"rtdetr/real/fold-1 \(train\)"):
        learned_from(find_models(Path("models")), LABEL)


def test_a_model_that_does_not_say_what_it_learned_from_is_named():
    Path("models/rtdetr/real/fold-0/val_matches.json").unlink()
    with pytest.raises(ModelFileError, match=r"models/rtdetr/real/fold-0: val_matches.json missing; train this arm again"):
        learned_from(find_models(Path("models")), LABEL)
