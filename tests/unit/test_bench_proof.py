"""What the proof's bench says of studies that were run, were run before, or were not."""

import json
from pathlib import Path

import pytest

from tests.architecture.stage_code import stages
from tests.bench import proof


def study(mean: float, low: float) -> dict[str, object]:
    gap = {"mean": mean, "low": low}
    scores = {"best_arm": "defectfill", "differences": {"defectfill": {"real": gap, "classical": gap}}}
    return {"commit": "abc", "comparison": {"detectors": {"rtdetr": scores}}}


def test_results_of_before_are_kept_and_what_was_not_run_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "FOLDER", tmp_path)
    assert proof.past() == {}
    (tmp_path / "proof.json").write_text(json.dumps({"results": {"deep_pcb": {"commit": "abc"}, "magnetic_tile": "not run"}}))
    assert proof.past() == {"deep_pcb": {"commit": "abc"}}


def test_a_gain_of_ten_points_over_real_holds_where_its_interval_does_and_a_study_not_run_holds_nothing():
    found = {name: study(0.12, -0.01) if name == "magnetic_tile-steps2400" else None for name in proof.MEANT}
    rows = {row["name"]: row for row in proof.bars(found)}
    assert len(rows) == 16
    gain = "magnetic_tile-steps2400, rtdetr: box mAP50 of the best learned arm (defectfill) minus real"
    assert rows[gain]["value"] == 0.12 and rows[gain]["holds"]
    assert not rows[f"{gain}, lower end of the 95 % interval"]["holds"]
    missing = [row for name, row in rows.items() if not name.startswith("magnetic_tile-steps2400,")]
    assert all(row["value"] is None and not row["holds"] for row in missing)


def test_what_was_done_by_hand_in_a_copy_is_said_beside_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "WORK", tmp_path)
    monkeypatch.setattr(proof, "commit_of", lambda folder: "abc")
    copy = tmp_path / "deep_pcb"
    (copy / "reports/eval").mkdir(parents=True)
    (copy / "reports/eval/metrics.json").write_text("{}")
    (copy / "reports/comparison.json").write_text("{}")
    (copy / "params.yaml").write_text("train: {device: cpu}")
    plain = proof.result("deep_pcb")
    assert plain is not None and "note" not in plain
    (copy / proof.NOTE).write_text("labels are of commit abc\n")
    told = proof.result("deep_pcb")
    assert told is not None and told["note"] == "labels are of commit abc"


def test_what_more_parts_gain_is_kept_where_the_study_it_is_compared_with_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(proof, "WORK", tmp_path)
    monkeypatch.setattr(proof, "FOLDER", tmp_path)
    monkeypatch.setattr(proof, "commit_of", lambda folder: "abc")
    monkeypatch.setattr(proof, "more_parts", lambda folder, other, comparison: {"rtdetr": [0.1, 0.0, 0.2]})

    def leave(name: str) -> None:
        (tmp_path / name / "reports/eval").mkdir(parents=True)
        (tmp_path / name / "reports/eval/metrics.json").write_text("{}")
        (tmp_path / name / "reports/comparison.json").write_text("{}")
        (tmp_path / name / "params.yaml").write_text("train: {device: cpu}")

    def found() -> object:
        told = proof.result("magnetic_tile-real-all")
        return told and told["minus_fewer_parts"]

    leave("magnetic_tile-real-all")
    assert found() is None
    (tmp_path / "proof.json").write_text(
        json.dumps({"results": {"magnetic_tile-real-all": {"minus_fewer_parts": {"rtdetr": [0.3]}}}})
    )
    assert found() == {"rtdetr": [0.3]}
    leave("magnetic_tile-real")
    assert found() == {"rtdetr": [0.1, 0.0, 0.2]}


def test_a_study_learns_only_generators_that_it_runs_and_runs_stages_that_exist():
    known = {stage.name for stage in stages()}
    for study in proof.STUDIES.values():
        generators = study.lists.get("generators", ["copy_paste", "defectfill"])
        assert set(study.lists.get("learned", ["defectfill"])) <= set(generators)
        assert set(study.stages) <= known
