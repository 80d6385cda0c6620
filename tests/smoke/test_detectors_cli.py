"""Both detectors through the command line: two steps on a toy set, then scores; repeatable and resumable to the byte."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from detectors import pretrained, training
from detectors.__main__ import main
from pipeline.fan_out import WorkError
from pipeline.matches import read_record, record_name
from pipeline.params import LabelParams
from pipeline.records import read_manifest
from pipeline.reporting.reweighting import reweighted_map
from pipeline.stages.label import label
from tests.detector_toy import write_prepared, write_selected

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FILES = {"weights.safetensors", "architecture.yaml", "classes.json", "history.csv", "card.json"}


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A toy project as working folder: data, labels and two-step parameters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    write_prepared(Path("data"), 64, per_type=1, good=2)
    selected = write_selected(tmp_path, 64, per_type=1)
    rules = LabelParams(close_px=2, min_area_px=9)
    label(rules, selected, Path("data/prepared/train"), Path("data/labelled/copy_paste"))
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["train"] |= {
        "start": "scratch",
        "image_px": 64,
        "steps": 4,
        "batch": 4,
        "warmup_steps": 1,
        "validate_every": 2,
        "threads": 1,
    }
    document["train"]["deeplabv3"]["architecture"] = "mobilenet_v3_large"
    document["evaluate"] |= {"threads": 1, "gallery_score": 0.0, "gallery_images": 2}
    Path("params.yaml").write_text(yaml.safe_dump(document))
    return tmp_path


def train(detector, arm, *more):
    return main(["train", "--detector", detector, "--arm", arm, *more])


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_train_and_evaluate_both_detectors(factory, capsys):
    for detector in ("rtdetr", "yolo_seg"):
        assert train(detector, "real") == 0
    assert train("yolo_seg", "copy_paste_classical") == 0
    models = Path("data/models")
    assert set(contents(models / "rtdetr" / "real" / "fold-0")) == FILES | {"val_matches.json"}
    val = json.loads((models / "rtdetr" / "real" / "fold-0" / "val_matches.json").read_text())
    assert (val["split"], val["fold"], val["iou"]) == ("val", 0, 0.5)
    assert [(i["image"], i["defect"]) for i in val["instances"]] == [
        (s.image, s.defect) for s in read_manifest(Path("data/prepared/val")) if not s.is_good
    ]
    cards = [json.loads(p.read_text()) for p in sorted(models.rglob("card.json"))]
    assert {c["steps"] for c in cards} == {4}
    assert {c["batch"]["good"] for c in cards} == {1}
    assert [c["batch"]["synthetic"] for c in cards] == [0, 2, 0]

    assert main(["evaluate"]) == 0
    rows = json.loads(Path("reports/eval/metrics.json").read_text())["rows"]
    assert [(r["detector"], r["arm"]) for r in rows] == [
        ("rtdetr", "real"),
        ("yolo_seg", "real"),
        ("yolo_seg", "copy_paste_classical"),
    ]
    assert all(r["images"] == 5 and r["good_images"] == 2 and r["defects"] >= 3 for r in rows)
    assert rows[0]["mask"] is None
    assert rows[1]["mask"]["map50"] is not None
    names = set(contents("reports/eval"))
    assert {
        "metrics.json",
        "ground_truth-fold-0.json",
        "predictions/rtdetr-real-fold-0.json",
        "gallery/gallery.json",
    } <= names
    assert rows[0]["pixel"] is None
    assert rows[1]["pixel"]["auroc"] is not None
    for row in rows:
        record = read_record(Path("reports/eval/matches") / record_name(row["detector"], row["arm"], row["fold"]))
        again = reweighted_map(record.box, [0], np.arange(5), np.ones((1, 5)))
        assert round(float(again[0]), 6) == row["box"]["map50"]
    first = contents("reports/eval")
    assert main(["evaluate"]) == 0
    assert contents("reports/eval") == first
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("detector", ["rtdetr", "yolo_seg", "rtdetr_v2", "deeplabv3"])
def test_same_seed_same_bytes_and_a_killed_run_resumes_to_them(factory, monkeypatch, detector):
    assert train(detector, "copy_paste") == 0
    whole = contents(f"data/models/{detector}/copy_paste")

    # The output's place is part of nothing that is written, so a second run elsewhere must give the same bytes.
    monkeypatch.setattr(training, "LoopPlan", functools.partial(training.LoopPlan, checkpoint_every_s=0.0))
    real_predict, calls = training.predict, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real_predict(*args)

    monkeypatch.setattr(training, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(detector, "copy_paste", "--out", "again")
    assert not Path("again").exists()
    assert train(detector, "copy_paste", "--out", "again") == 0
    assert len(calls) == 4  # the first validation was not repeated; the last call writes the val matches
    assert contents("again") == whole


@pytest.mark.parametrize("detector", ["rtdetr_v2", "deeplabv3"])
def test_detectors_without_weights_of_their_own_train_and_are_scored(factory, detector):
    document = yaml.safe_load(Path("params.yaml").read_text())
    document["train"]["start"] = "embedded"
    document["train"]["deeplabv3"]["architecture"] = "resnet50"
    Path("params.yaml").write_text(yaml.safe_dump(document))
    assert train(detector, "real") == 0
    card = json.loads(Path(f"data/models/{detector}/real/fold-0/card.json").read_text())
    assert card["start"]["kind"] == "scratch"
    assert card["start"]["reason"].startswith(f"train.{detector}.start is scratch")
    assert main(["evaluate"]) == 0
    row = json.loads(Path("reports/eval/metrics.json").read_text())["rows"][0]
    assert (row["detector"], row["arm"]) == (detector, "real")
    assert (row["mask"] is None) == (detector == "rtdetr_v2")


def test_a_bug_in_a_fold_keeps_its_traceback(factory, monkeypatch):
    def broken(*args):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(training, "fit_fold", broken)
    with pytest.raises(WorkError, match="fold 0: operands could not be broadcast"):
        train("yolo_seg", "real")


def test_all_arms_start_from_the_same_weights(factory):
    first = [
        training.start_session(load(), "yolo_seg", ["hole", "scratch", "stain"], 0)[0].network.state_dict() for _ in range(2)
    ]
    assert all(np.array_equal(first[0][k].numpy(), first[1][k].numpy()) for k in first[0])
    assert train("yolo_seg", "real") == 0
    assert set(load_file("data/models/yolo_seg/real/fold-0/weights.safetensors")) == set(first[0])


@pytest.mark.parametrize("detector", ["rtdetr", "yolo_seg"])
def test_pretrain_then_train_from_it(factory, monkeypatch, capsys, detector):
    document = yaml.safe_load((ROOT / "pretrain.yaml").read_text())
    section = document["pretrain_detector"]
    section["drawing"] |= {"sides_px": [64], "pixels_per_step": 2 * 64**2}
    section |= {"validate_every": 2, "validation_pictures": 3, "threads": 1, "workers": 0, "warmup_steps": 1}
    section[detector]["steps"] = 2
    Path("pretrain.yaml").write_text(yaml.safe_dump(document))
    assert main(["pretrain", "--detector", detector, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == f"detectors/weights/{detector}"
    assert not Path("detectors").exists()
    assert main(["pretrain", "--detector", detector]) == 0
    assert set(contents(f"detectors/weights/{detector}")) == FILES
    assert not any(Path(".work").iterdir())

    monkeypatch.setattr(pretrained, "ROOT", Path("detectors/weights"))
    document = yaml.safe_load(Path("params.yaml").read_text())
    document["train"] |= {"start": "embedded", "steps": 2}
    Path("params.yaml").write_text(yaml.safe_dump(document))
    assert train(detector, "real") == 0
    card = json.loads(Path(f"data/models/{detector}/real/fold-0/card.json").read_text())
    source = json.loads(Path(f"detectors/weights/{detector}/card.json").read_text())
    assert card["start"]["kind"] == "embedded"
    assert card["start"]["sha256"] == source["sha256"]["weights.safetensors"]

    weights = Path(f"detectors/weights/{detector}/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert train(detector, "real") == 2
    assert "its card expects" in capsys.readouterr().err


def load():
    from detectors.params import TrainParams
    from pipeline.params import load_section

    return load_section("train", TrainParams)


def test_dry_run_prints_parameters_and_counts_and_writes_nothing(factory, capsys):
    assert train("rtdetr", "copy_paste", "--dry-run") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["images"]["fold-0"] == {"real": 3, "good": 2, "synthetic": 3, "val_defective": 3, "val_good": 2}
    assert said["train"]["steps"] == 4
    assert not Path("data/models").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--detector", "rtdeter", "--arm", "real"], "nearest valid name: 'rtdetr'"),
        (["train", "--detector", "rtdetr", "--arm", "defectfil"], "nearest valid name: 'defectfill'"),
        (["train", "--detector", "rtdetr", "--arm", "defectfill"], "run `label` first"),
        (["evaluate"], "run `train` first"),
        (["pretrain", "--detector", "yolo"], "nearest valid name: 'yolo_seg'"),
        (["pretrain", "--detector", "deeplabv3"], "unknown detector with embedded weights 'deeplabv3'"),
    ],
)
def test_faults_are_one_sentence_and_code_two(factory, capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_help_needs_no_heavy_import():
    code = (
        "import sys\nfrom detectors.__main__ import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit as stop:\n    code = stop.code\n"
        "sys.exit(code or any(m in sys.modules for m in ('torch', 'numpy', 'ultralytics', 'albumentations')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0
