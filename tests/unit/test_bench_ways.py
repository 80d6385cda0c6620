"""What the bench of ways changes, and what it says of ways that were not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.records import write_json
from tests.bench import ways


def test_a_sixth_of_the_photos_keeps_their_labels_alone():
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(1, 14)]
    labels = [{"id": n, "image_id": image} for n, image in enumerate([1, 2, 7, 7, 13], 1)]
    found = ways.a_sixth({"images": images, "annotations": labels}, ways.Labelled(Path(), "g", 0), Path())
    assert [image["id"] for image in found["images"]] == [1, 7, 13]
    assert [label["image_id"] for label in found["annotations"]] == [1, 7, 7, 13]


def test_an_oracle_is_scored_on_val_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ways, "WORK", tmp_path)
    scores = {"box": {"map50": 0.5, "per_class": {"short": {"map50": 0.25}, "open": {"map50": None}}}}
    write_json(ways.place(ways.Runs("deep_pcb"), "copy_paste", 0) / "scores.json", {"val": scores, "beyond": scores})
    write_json(ways.place(ways.Runs("deep_pcb"), "oracle: more real parts", 0) / "scores.json", {"val": scores})
    found = ways.summary(ways.Runs("deep_pcb"), [0, 1])
    assert found["copy_paste"]["folds"] == [0]
    assert found["copy_paste"]["beyond"]["box_map50"] == 0.5
    assert found["copy_paste"]["beyond"]["per_class"]["short"] == 0.25
    assert set(found["oracle: more real parts"]) == {"folds", "val"}
    assert found["default"] == "not run"
