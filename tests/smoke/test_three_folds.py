"""The protocol of `PROFILE=proof` on a toy set: three folds, every part tested exactly once, intervals in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.fan_out import EXECUTOR
from pipeline.records import read_manifest
from tests.conftest import ROOT
from tests.smoke.test_pipeline import digests, project, run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("folds") / "a")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["prepare"] |= yaml.safe_load((ROOT / "profiles" / "proof.yaml").read_text())["prepare"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    run(folder, "pipeline", "prepare")
    run(folder, "pipeline", "learn_base")
    for stage in ("learn_concept", "synthesize", "select", "label"):
        run(folder, "pipeline", stage, "--generator", "copy_paste")
    run(folder, "pipeline", "learn_concept", "--generator", "defectfill")
    for arm in ("real", "copy_paste"):
        run(folder, "detectors", "train", "--detector", "yolo_seg", "--arm", arm)
    run(folder, "detectors", "evaluate")
    run(folder, "pipeline", "report")
    return folder


@pytest.mark.slow
def test_every_part_is_tested_exactly_once(done: Path):
    prepared = done / "data" / "prepared"
    tested = [{s.part_id for s in read_manifest(prepared / "test", fold)} for fold in (0, 1, 2)]
    others = {s.part_id for fold in (0, 1, 2) for name in ("train", "val") for s in read_manifest(prepared / name, fold)}
    assert sum(len(parts) for parts in tested) == len(set.union(*tested))
    assert set.union(*tested) == others | set.union(*tested)
    for fold, parts in enumerate(tested):
        for name in ("train", "val"):
            assert not parts & {s.part_id for s in read_manifest(prepared / name, fold)}


@pytest.mark.slow
def test_every_fold_has_its_own_base_synthetic_set_and_model(done: Path):
    for pattern in ("base/fold-*", "labelled/copy_paste/fold-*", "models/yolo_seg/real/fold-*"):
        assert sorted(p.name for p in (done / "data").glob(pattern)) == ["fold-0", "fold-1", "fold-2"]


@pytest.mark.slow
def test_the_report_compares_fold_by_fold(done: Path):
    rows = json.loads((done / "reports" / "eval" / "metrics.json").read_text())["rows"]
    assert sorted((row["fold"], row["arm"]) for row in rows) == sorted((f, a) for f in (0, 1, 2) for a in ("real", "copy_paste"))
    text = (done / "reports" / "comparison.md").read_text()
    assert "3 folds" in text
    assert "one fold: no interval" not in text


@pytest.mark.slow
def test_folds_and_models_side_by_side_give_the_same_bytes(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = project(tmp_path / "b")
    shutil.copy(done / "params.yaml", folder / "params.yaml")
    for name in ("prepared", "labelled"):
        shutil.copytree(done / "data" / name, folder / "data" / name)
    monkeypatch.setenv(EXECUTOR, "processes:2")
    run(folder, "pipeline", "learn_base")
    for generator in ("copy_paste", "defectfill"):
        run(folder, "pipeline", "learn_concept", "--generator", generator)
    for arm in ("real", "copy_paste"):
        run(folder, "detectors", "train", "--detector", "yolo_seg", "--arm", arm)
    run(folder, "detectors", "evaluate")
    for name in ("data/base", "data/concepts", "data/models", "reports/eval"):
        assert digests(folder / name) == digests(done / name)
