"""What the proof's bench says of studies that were run, were run before, or were not."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.copies import CopyError
from pipeline.matches import MATCHES, MatchRecord, record_name, write_record
from pipeline.reporting.differences import Difference
from tests.architecture.stage_code import stages
from tests.bench import proof
from tests.unit.test_bench_gaps import record


def write_params(name: str) -> None:
    """The parameters of a study's copy, as far as the bench reads them."""
    params: dict = {"train": {"device": "cpu"}}
    for key, value in proof.STUDIES[name].settings.items():
        *sections, last = key.split(".")
        section = params
        for one in sections:
            section = section.setdefault(one, {})
        section[last] = yaml.safe_load(value)
    (proof.WORK / name / "params.yaml").write_text(yaml.safe_dump(params))


def study(mean: float, low: float) -> dict[str, object]:
    gap = asdict(Difference(mean, low, 2 * mean - low, 3))
    scores = {"best_arm": "defectfill", "differences": {"defectfill": {"real": gap, "classical": gap}}}
    return {"commit": "abc", "comparison": {"detectors": {"rtdetr": scores}}}


def bars(found: Mapping[str, Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    return proof.bars({name: proof.best_of(name, detector, found[name]) for name, detector in proof.MEANT.items()})


def test_results_of_before_are_kept_and_what_was_not_run_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "FOLDER", tmp_path)
    assert proof.past() == {}
    (tmp_path / "proof.json").write_text(json.dumps({"results": {"deep_pcb": {"commit": "abc"}, "magnetic_tile": "not run"}}))
    assert proof.past() == {"deep_pcb": {"commit": "abc"}}


def test_a_gain_of_ten_points_over_real_holds_where_its_interval_does_and_a_study_not_run_holds_nothing():
    found = {name: study(0.12, -0.01) if name == "magnetic_tile-steps2400" else None for name in proof.MEANT}
    rows = {row["name"]: row for row in bars(found)}
    assert len(rows) == 16
    gain = "magnetic_tile-steps2400, rtdetr: box mAP50 of the best learned arm (defectfill) minus real"
    assert rows[gain]["value"] == 0.12 and rows[gain]["holds"]
    assert not rows[f"{gain}, lower end of the 95 % interval"]["holds"]
    missing = [row for name, row in rows.items() if not name.startswith("magnetic_tile-steps2400,")]
    assert all(row["value"] is None and not row["holds"] for row in missing)


def test_what_was_done_by_hand_in_a_copy_is_said_beside_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "WORK", tmp_path)
    monkeypatch.setattr(proof, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(proof, "commit_of", lambda folder: "abc")
    copy = tmp_path / "deep_pcb"
    (copy / "reports/eval/matches").mkdir(parents=True)
    (copy / "reports/eval/metrics.json").write_text("{}")
    (copy / "reports/comparison.json").write_text("{}")
    write_params("deep_pcb")
    plain = proof.result("deep_pcb")
    assert plain is not None and "note" not in plain
    (copy / proof.NOTE).write_text("labels are of commit abc\n")
    told = proof.result("deep_pcb")
    assert told is not None and told["note"] == "labels are of commit abc"


def leave(work: Path, name: str, records: dict[int, MatchRecord], arm: str = "real") -> None:
    """What a finished study of one arm leaves in its copy."""
    comparison = {"detectors": {"rtdetr": {}}}
    for fold, one in records.items():
        write_record(work / name / "reports/eval" / MATCHES / record_name("rtdetr", arm, fold), one)
    (work / name / "reports/eval/metrics.json").write_text("{}")
    (work / name / "reports/comparison.json").write_text(json.dumps(comparison))
    write_params(name)
    proof.keep_records(name)


def test_a_study_is_compared_with_one_whose_copy_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "WORK", tmp_path / "work")
    monkeypatch.setattr(proof, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(proof, "commit_of", lambda folder: "abc")

    def found() -> object:
        told = proof.result("magnetic_tile-real-all")
        return told and told["real_minus"]

    # Every defect found against none, on both folds: a difference of one, whichever parts are drawn.
    all_found, none_found = ({fold: record(finds=hit) for fold in (0, 1)} for hit in (True, False))
    leave(tmp_path / "work", "magnetic_tile-real-all", all_found)
    assert found() == {"study": "magnetic_tile-real", "rtdetr": None}
    leave(tmp_path / "work", "magnetic_tile-real", none_found)
    shutil.rmtree(tmp_path / "work" / "magnetic_tile-real")
    assert found() == {"study": "magnetic_tile-real", "rtdetr": [1.0, 1.0, 1.0]}


def test_the_bar_asks_for_a_gain_over_the_baseline_as_it_was_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "WORK", tmp_path / "work")
    monkeypatch.setattr(proof, "FOLDER", tmp_path / "kept")

    def gains() -> list[tuple[float | None, float, str]]:
        rows = bars({name: study(0.12, 0.05) for name in proof.MEANT})
        found = [row for row in rows if row["name"].startswith("magnetic_tile-steps2400,") and "minus classical" in row["name"]]
        return [(row["value"], row["bar"], row["reference"]) for row in found]

    found, missed = ({fold: record(finds=hit) for fold in (0, 1)} for hit in (True, False))
    leave(tmp_path / "work", "magnetic_tile-steps2400", found, "defectfill")
    now = "arm classical of magnetic_tile-classical"
    assert gains() == [(None, 0.03, f"{now}, same folds"), (None, 0, now)]
    # As good as the learned arm, where it was 12 points behind before it was mended.
    leave(tmp_path / "work", "magnetic_tile-classical", found, "classical")
    assert gains() == [(0.0, 0.03, f"{now}, same folds"), (0.0, 0, now)]
    leave(tmp_path / "work", "magnetic_tile-classical", missed, "classical")
    assert gains()[0][0] == 1.0
    # The learned arm mended too, and as bad as the baseline now.
    mended = {"defectfill": "magnetic_tile-windows", "classical": "magnetic_tile-classical"}
    monkeypatch.setattr(proof, "MENDED", {"magnetic_tile-steps2400": mended})
    leave(tmp_path / "work", "magnetic_tile-windows", missed, "defectfill")
    assert gains()[0][0] == 0.0


def test_arms_of_studies_of_their_own_get_the_verdict_that_one_report_would_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "WORK", tmp_path / "work")
    monkeypatch.setattr(proof, "FOLDER", tmp_path / "kept")
    own = {"defectfill": "magnetic_tile", "real": "magnetic_tile-real", "classical": "magnetic_tile-classical"}
    monkeypatch.setattr(proof, "MENDED", {"magnetic_tile-steps2400": own})
    found, missed = ({fold: record(finds=hit) for fold in proof.FOLDS} for hit in (True, False))

    def told() -> tuple[set[str], str]:
        row = proof.best_of("magnetic_tile-steps2400", "rtdetr", study(0.12, 0.05))
        return set(row["minus"]), row["verdict"]

    assert told() == (set(), "not tested")
    for arm in own:
        leave(tmp_path / "work", own[arm], found if arm == "defectfill" else missed, arm)
    assert told() == ({"real", "classical"}, "helps")
    leave(tmp_path / "work", own["classical"], found, "classical")
    assert told() == ({"real", "classical"}, "no evidence")


def test_a_copy_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proof, "WORK", tmp_path / "work")
    monkeypatch.setattr(proof, "FOLDER", tmp_path / "kept")
    leave(tmp_path / "work", "deep_pcb", {0: record(finds=True)})
    file = tmp_path / "work" / "deep_pcb" / "params.yaml"
    file.write_text(file.read_text().replace("steps: 1200", "steps: 600"))
    with pytest.raises(CopyError, match=r"made with train\.steps 600, not 1200; begin it anew with --again deep_pcb"):
        proof.result("deep_pcb")


def test_a_study_learns_only_generators_that_it_runs_and_runs_stages_that_exist():
    known = {stage.name for stage in stages()}
    for study in proof.STUDIES.values():
        generators = study.lists.get("generators", ["copy_paste", "defectfill"])
        assert set(study.lists.get("learned", ["defectfill"])) <= set(generators)
        assert set(study.stages) <= known
