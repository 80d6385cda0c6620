"""Targets from validation: what is counted, how it is shared out, and what is refused or never opened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import main
from pipeline.params import SynthesizeParams, load_section
from pipeline.records import read_manifest, write_json, write_manifest
from pipeline.runlog import digest
from pipeline.targets import Choice, Tally, TargetsError, apportion, propose, size_bounds, size_of, tally, weights
from tests.conftest import ROOT
from tests.detector_toy import write_prepared

BOUNDS = {0: {"hole": (10.0, 20.0), "scratch": (5.0, 6.0)}}
SYNTHESIZE = load_section("synthesize", SynthesizeParams, ROOT / "params.yaml")
SCALE = SYNTHESIZE.warp.scale
SECTIONS = {
    "synthesize": SYNTHESIZE.model_dump(mode="json"),
    "train": {"steps": 4, "lr": 0.002},
    "label": {"close_px": 2, "min_area_px": 9},
    "mix": {"share": 0.5, "until": 1.0, "weight": 1.0},
}


def defect(name: str, area_px: float, score: float | None) -> dict:
    return {"defect": name, "area_px": area_px, "score": score}


def test_sizes_are_terciles_and_a_bound_belongs_below():
    assert [size_of(area, (10.0, 20.0)) for area in (1, 10, 11, 20, 21)] == ["small", "small", "medium", "medium", "large"]


def test_what_scores_below_the_bound_is_missed():
    found = tally({0: [defect("hole", 5, 0.3), defect("hole", 5, 0.29), defect("hole", 30, None)]}, BOUNDS, 0.3)
    assert found["hole", "small"] == Tally(2, 1) and found["hole", "large"] == Tally(1, 1)
    assert found["hole", "medium"] == Tally(0, 0) and ("scratch", "large") in found


def test_each_fold_sizes_by_its_own_references():
    found = tally({0: [defect("hole", 15, 0.9)], 1: [defect("hole", 15, None)]}, {0: BOUNDS[0], 1: {"hole": (1.0, 2.0)}}, 0.3)
    assert found["hole", "medium"] == Tally(1, 0) and found["hole", "large"] == Tally(1, 1)


def test_few_defects_are_drawn_to_a_half_and_sizes_to_their_type():
    one_missed = {("hole", "small"): Tally(1, 1), ("hole", "medium"): Tally(0, 0), ("hole", "large"): Tally(2, 0)}
    # The type: (1 + 1) / (3 + 2) = 0.4. Its sizes: (1 + 0.8) / 3, 0.8 / 2, 0.8 / 4.
    assert list(weights(one_missed).values()) == pytest.approx([0.6, 0.4, 0.2])
    unseen = {("hole", size): Tally(0, 0) for size in ("small", "medium", "large")}
    assert list(weights(unseen).values()) == [0.5, 0.5, 0.5]


def test_counts_are_in_proportion_and_keep_the_total():
    assert apportion({("a", "small"): 0.6, ("a", "large"): 0.2}, 24) == {("a", "small"): 18, ("a", "large"): 6}
    # 10 / 3 each: the one left over goes to the first.
    assert list(apportion({("a", s): 0.5 for s in ("small", "medium", "large")}, 10).values()) == [4, 3, 3]
    with pytest.raises(TargetsError, match="no sample is wanted"):
        apportion({}, 10)


def test_a_type_the_data_set_does_not_have_is_refused_as_by_synthesize(project, capsys):
    Path("data/targets.yaml").write_text("default: 30\ntypes: {rust: 4}\n")
    assert "unknown defect types ['rust']" in refused(capsys)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A toy project in which the arm `real` misses every ring."""
    monkeypatch.chdir(tmp_path)
    write_prepared(Path("data"), 64)
    Path("params.yaml").write_text(yaml.safe_dump(SECTIONS))
    Path("data/targets.yaml").write_text("# By hand.\ndefault: 30\ntypes: {}\n")
    validate(fold=0)
    return tmp_path


def validate(fold: int, arm: str = "real") -> Path:
    """What `train` leaves of one fold: blobs and scratches found, rings missed."""
    folder, val = Path(f"data/models/rtdetr/{arm}/fold-{fold}"), Path("data/prepared/val")
    generator, mix, labelled = None, {}, {}
    if arm != "real":
        synthetic = Path("data/labelled") / arm
        write_json(synthetic / "card.json", {})
        generator, mix, labelled = arm, {"mix": SECTIONS["mix"]}, {"labelled": digest(synthetic)}
    rows = [
        {"image": s.image, "defect": s.defect, "area_px": 40.0, "score": None if s.defect == "ring" else 0.9}
        for s in read_manifest(val, fold)
        if not s.is_good
    ]
    read = {"train": digest(Path("data/prepared/train")), "val": digest(val), **labelled}
    about = {"split": "val", "fold": fold, "iou": 0.5, "label": SECTIONS["label"], "read": read}
    write_json(folder / "val_matches.json", {**about, "instances": rows})
    write_json(folder / "card.json", {"params": {**SECTIONS["train"], **mix}, "arm": {"name": arm, "generator": generator}})
    return folder / "val_matches.json"


def test_more_of_what_is_missed_with_the_same_total(project, capsys):
    assert main(["targets"]) == 0
    text = Path("data/targets.yaml").read_text()
    written = yaml.safe_load(text)
    counts = {name: sum(sizes.values()) for name, sizes in written["types"].items()}
    assert sum(counts.values()) == 90 and counts["ring"] > counts["blob"] and written["default"] == 30
    said = capsys.readouterr().out
    assert f"ring: 30 -> {counts['ring']}" in said and f"# ring: 30 -> {counts['ring']}" in text
    assert "Detector rtdetr, arm real" in text and "fold-0" in text
    assert main(["targets"]) == 0
    assert yaml.safe_load(Path("data/targets.yaml").read_text()) == written, "the same evidence again changes nothing"


def test_counts_follow_from_the_weights_of_the_cells(project):
    """Two val defects of 40 px a type, both missed or both found: 3/4 or 1/4, and in their size (2 + 3/2) / 4 or (1/2) / 4."""
    assert main(["targets", "--total", "400"]) == 0
    expected = {}
    for name, bounds in size_bounds(Path("data/prepared/train"), 0, SCALE).items():
        sizes = dict.fromkeys(("small", "medium", "large"), 3 / 4 if name == "ring" else 1 / 4)
        sizes[size_of(40.0, bounds)] = 7 / 8 if name == "ring" else 1 / 8
        expected |= {(name, size): weight for size, weight in sizes.items()}
    types = yaml.safe_load(Path("data/targets.yaml").read_text())["types"]
    for (name, size), weight in expected.items():
        assert types[name][size] == pytest.approx(400 * weight / sum(expected.values()), abs=1)


def test_a_type_switched_off_by_hand_stays_off(project):
    Path("data/targets.yaml").write_text("default: 30\ntypes: {ring: 0}\n")
    assert main(["targets"]) == 0
    types = yaml.safe_load(Path("data/targets.yaml").read_text())["types"]
    assert types["ring"] == 0 and sum(types["blob"].values()) + sum(types["scratch"].values()) == 60


def test_a_dry_run_leaves_the_file(project, capsys):
    before = Path("data/targets.yaml").read_bytes()
    assert main(["targets", "--dry-run"]) == 0
    assert Path("data/targets.yaml").read_bytes() == before and "ring: 30 ->" in capsys.readouterr().out


def refused(capsys, *options: str) -> str:
    before = Path("data/targets.yaml").read_bytes()
    assert main(["targets", *options]) == 2
    assert Path("data/targets.yaml").read_bytes() == before
    return capsys.readouterr().err


def test_without_a_validation_result_it_says_what_to_run(project, capsys):
    Path("data/models/rtdetr/real/fold-0/val_matches.json").unlink()
    assert "val_matches.json is missing; run `train`" in refused(capsys)
    assert "no trained arm defectfill, found ['real']" in refused(capsys, "--arm", "defectfill")


@pytest.mark.parametrize("place", ["reports/eval", "reports/eval/predictions"])
def test_results_on_test_parts_are_refused(project, capsys, place):
    folder = Path("reports/eval/ground_truth-fold-0.json")
    folder.parent.mkdir(parents=True)
    folder.write_text("{}")
    assert "holds results on test parts" in refused(capsys, "--models", place)


def test_a_result_with_photos_that_are_not_on_val_is_refused(project, capsys):
    path = validate(fold=0)
    found = json.loads(path.read_text())
    found["instances"][0]["image"] = "images/f0-blob-7.png"
    write_json(path, found)
    assert "not on val: ['images/f0-blob-7.png']" in refused(capsys)
    write_json(path, {**found, "instances": [], "split": "test"})
    assert "not the validation result" in refused(capsys)


@pytest.mark.parametrize(("section", "key"), [("train", "steps"), ("label", "close_px")])
def test_a_model_of_other_parameters_is_refused(project, capsys, section, key):
    Path("params.yaml").write_text(yaml.safe_dump({**SECTIONS, section: {**SECTIONS[section], key: 99}}))
    assert f"trained before {section}.{key} changed" in refused(capsys)


def test_a_model_of_other_photos_is_refused(project, capsys):
    samples = read_manifest(Path("data/prepared/val"))
    write_manifest(Path("data/prepared/val"), samples[1:])
    assert "trained before data/prepared/val changed" in refused(capsys)


def test_val_parts_that_another_fold_tests_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_prepared(Path("data"), 64, folds=(0, 1))
    Path("params.yaml").write_text(yaml.safe_dump(SECTIONS))
    Path("data/targets.yaml").write_text("default: 30\ntypes: {}\n")
    validate(fold=0), validate(fold=1)
    assert "val parts of fold 0 are test parts of fold 1 (6" in refused(capsys)
    assert main(["targets", "--across-folds"]) == 0
    assert "not to be compared" in Path("data/targets.yaml").read_text()


def test_the_first_preferred_arm_that_is_trained_is_taken(project):
    choice = Choice(Path("data/models"), Path("data/prepared"), "rtdetr", None, 0.3, None, across_folds=False)
    assert "arm real" in propose(choice, Path("data/targets.yaml"), Path("params.yaml"))[1]
    Path("data/models/rtdetr/defectfill/fold-0").mkdir(parents=True)
    with pytest.raises(TargetsError, match=r"defectfill/fold-0/val_matches\.json is missing"):
        propose(choice, Path("data/targets.yaml"), Path("params.yaml"))


def test_an_arm_with_synthetic_photos_gives_targets_until_they_are_mixed_in_otherwise(project, capsys):
    validate(0, "defectfill")
    assert main(["targets"]) == 0
    assert "Detector rtdetr, arm defectfill" in Path("data/targets.yaml").read_text()
    Path("params.yaml").write_text(yaml.safe_dump({**SECTIONS, "mix": {**SECTIONS["mix"], "share": 0.25}}))
    assert "trained before mix.share changed" in refused(capsys)


def test_a_number_that_yaml_reads_as_text_is_that_number(project):
    """`1e-3` in params.yaml: PyYAML says text, the training took 0.001."""
    Path("params.yaml").write_text(yaml.safe_dump({**SECTIONS, "train": {**SECTIONS["train"], "lr": "2e-3"}}))
    assert SECTIONS["train"]["lr"] == 0.002 and main(["targets"]) == 0


WATCHED = """
import sys
opened = []
def hook(event, args):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(args[0], str):
        opened.append(args[0])
sys.addaudithook(hook)
from pipeline.__main__ import main
code = main(["targets"])
print("\\n".join(["--", str(code), *opened]))
"""


def test_neither_test_parts_nor_their_results_are_opened(project):
    write_json(Path("reports/eval/metrics.json"), {})
    write_json(Path("reports/eval/ground_truth-fold-0.json"), {})
    answer = subprocess.run(
        [sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    code, *opened = answer.stdout.partition("--\n")[2].splitlines()
    assert code == "0" and any("val_matches.json" in path for path in opened), "the watch sees what is opened"
    assert not [path for path in opened if "prepared/test" in path or "reports" in path]
