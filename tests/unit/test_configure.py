from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from detectors.params import TilingParams
from pipeline.configure import DRAWN, OPTIONAL_GROUPS, configure, want
from pipeline.params import DetailParams, ParamsError, PruneParams
from tests.conftest import ROOT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The project's own parameters on the drawn data set and one fold, its profiles, and a folder of photos."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "photos").mkdir()
    configure(tmp_path / "params.yaml", "embedded", None, "sample", skip_invalid=False)
    return tmp_path / "params.yaml"


def prepare_of(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["prepare"]


def test_source_and_layout_are_written_and_told(file: Path):
    lines = configure(file, None, "photos/", "mvtec", skip_invalid=True)
    assert lines == [
        f"prepare.source: {DRAWN} -> photos",
        "prepare.layout: sample -> mvtec",
        "prepare.skip_invalid: False -> True",
    ]
    assert {key: prepare_of(file)[key] for key in ("source", "layout", "skip_invalid")} == {
        "source": "photos",
        "layout": "mvtec",
        "skip_invalid": True,
    }


def test_only_changed_lines_differ_and_comments_stay(file: Path):
    before = file.read_text(encoding="utf-8").splitlines()
    configure(file, "proof", None, None, skip_invalid=False)
    after = file.read_text(encoding="utf-8").splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    keys = [old.partition(":")[0].strip() for old, _ in changed]
    assert keys == ["folds", "redraws", "candidates", "image_px", "steps", "validate_every"]
    old, new = changed[0]
    assert old.startswith("  folds: [0] ")
    assert new.startswith("  folds: [0, 1, 2] ")
    assert old[old.index("#") :] == new[new.index("#") :]


def test_a_second_time_changes_nothing_and_leaves_the_file_alone(file: Path):
    configure(file, "proof", "photos", "folder", skip_invalid=False)
    before = file.stat().st_mtime_ns, file.read_bytes()
    assert configure(file, "proof", "photos", "folder", skip_invalid=False) == []
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before


def test_back_to_the_drawn_data_set(file: Path):
    original = file.read_bytes()
    configure(file, None, "photos", "folder", skip_invalid=True)
    lines = configure(file, None, None, "sample", skip_invalid=False)
    assert lines[0] == f"prepare.source: photos -> {DRAWN}"
    assert yaml.safe_load(original) == yaml.safe_load(file.read_bytes())


def test_without_data_the_present_source_stays(file: Path):
    configure(file, None, "photos", "folder", skip_invalid=False)
    assert configure(file, "proof", None, None, skip_invalid=False)[0] == "prepare.folds: [0] -> [0, 1, 2]"
    assert prepare_of(file)["source"] == "photos"


def test_an_absolute_folder_is_kept_as_given(file: Path):
    photos = str(file.parent / "photos")
    configure(file, None, photos, "folder", skip_invalid=False)
    assert prepare_of(file)["source"] == photos


def test_single_values_are_set_last(file: Path):
    lines = configure(file, "proof", None, None, skip_invalid=False, settings={"prepare.folds": "[0, 2]", "prepare.k": "3"})
    assert lines[:2] == ["prepare.k: 5 -> 3", "prepare.folds: [0] -> [0, 2]"]


def test_a_group_that_may_be_null_is_switched_on_changed_and_off(file: Path):
    def told(value: str) -> list[str]:
        return configure(file, None, None, None, skip_invalid=False, settings={"train.tiling": value})

    group = {"photo_px": 640, "overlap": 0.25, "whole_share": 0.5}
    assert told(str(group))[0] == "train.tiling.photo_px: (not there) -> 640"
    assert yaml.safe_load(file.read_bytes())["train"]["tiling"] == group
    assert told("{photo_px: 960}") == ["train.tiling.photo_px: 640 -> 960"]
    assert told("null") == ["train.tiling: (not there) -> None"]
    assert yaml.safe_load(file.read_bytes())["train"]["tiling"] is None


def test_the_names_of_groups_that_may_be_null_are_those_of_their_sections():
    models = {
        "synthesize.defectfill.detail": DetailParams,
        "synthesize.defectfill.prune": PruneParams,
        "train.tiling": TilingParams,
    }
    assert {name: set(model.model_fields) for name, model in models.items()} == OPTIONAL_GROUPS


def test_numbers_wanted_of_single_types_and_comments_stay(tmp_path: Path):
    targets = tmp_path / "targets.yaml"
    targets.write_text("# Mine.\ndefault: {small: 3}\ntypes: {crack: 7}  # by hand\n")
    assert want(targets, 300) == ["targets.default: {'small': 3} -> 300"]
    assert targets.read_text() == "# Mine.\ndefault: 300\ntypes: {crack: 7}  # by hand\n"
    assert want(targets, 300) == []
    with pytest.raises(ParamsError, match=r"targets\.yaml: default: expected a whole number of at least 0, got -1"):
        want(targets, -1)
    assert "default: 300" in targets.read_text()
    for text, message in (
        ("types: {}\n", "expected `default: <number>`"),
        ("default: {1\n", "no valid YAML"),
        ("default: 1\ntypes: {crack: 7, crack: 8}\n", r"(?s)targets\.yaml: no valid YAML, or a key twice: .*key \"crack\""),
    ):
        targets.write_text(text)
        with pytest.raises(ParamsError, match=message):
            want(targets, 5)
        assert targets.read_text() == text


def test_a_parameter_that_stands_twice_is_refused_by_its_name(tmp_path: Path):
    file = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text().replace("prepare:\n", "prepare:\n  k: 9\n", 1)
    file.write_text(text)
    with pytest.raises(ParamsError, match=r"(?s)params\.yaml: no valid YAML, or a key twice: .*key \"k\""):
        configure(file, None, None, None, skip_invalid=False)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prepare.fold": "[0]"}, r"prepare\.fold: unknown parameter; nearest valid name: 'folds'"),
        ({"prepare": "3"}, r"prepare: expected a group of parameters, got 3"),
        ({"train.rtdetr": "null"}, r"train\.rtdetr: expected a group of parameters, got None"),
        ({"train.rtdetr.weights": "{a: 1}"}, r"train\.rtdetr\.weights: expected one value, got"),
        ({"train.tiling": "{foto_px: 640, overlap: 0.1, whole_share: 0.5}"}, r"train\.tiling: expected null or \{overlap: "),
        ({"train.tiling.photo_px": "640"}, r"train\.tiling: expected null or \{overlap: \.\.\., photo_px: "),
        ({"train.tiling": "3"}, r"train\.tiling: expected null or"),
        ({"prepare.part_regex": r"[a-z]+/(\d+)_"}, r"no YAML; text .* takes quotes: prepare\.part_regex='\[a-z\]\+/\(\\d\+\)_'"),
        ({"prepare.k": "0"}, r"prepare\.k: .*greater than or equal to 1"),
        ({"synthesize.warp.scale": "[1.3, 0.7]"}, r"synthesize\.warp\.scale: .*the smaller one first, got \[1\.3, 0\.7\]"),
        ({"learn_base.crop_side_px": "[128, 40]"}, r"learn_base\.crop_side_px: .*the smaller one first, got \[128, 40\]"),
        ({"learn_concept.defectfill.scale_augment": "[0.9, 1.1]"}, r"scale_augment: .*never shrunk.* got \[0\.9, 1\.1\]"),
        ({"synthesize.masks.defectfill": "{affine: 0, elastic: 0, drawn: 0}"}, r"masks\.defectfill: .*one above 0"),
        ({"synthesize.placement.defects_per_image": "[0]"}, r"placement: .*one above 0, got \[0"),
        ({"synthesize.defectfill.composite": "none"}, r"synthesize: .*composite: none changes whole crops"),
    ],
)
def test_a_faulty_value_is_named_and_nothing_is_written(file: Path, settings: dict, message: str):
    before = file.read_bytes()
    with pytest.raises(ParamsError, match=message):
        configure(file, None, None, None, skip_invalid=False, settings=settings)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("profile", "data", "layout", "message"),
    [
        (None, "photos", None, r"data 'photos' needs a layout: give LAYOUT=<name>.*mvtec, magnetic_tile, deep_pcb, folder"),
        (None, None, "mvtec", r"layout 'mvtec' needs a folder of photos: give DATA="),
        (None, "photos", "mvtek", r"unknown layout 'mvtek'.*nearest valid name: 'mvtec'"),
        (None, "photos", "sample", r"layout 'sample' draws its own data set"),
        (None, "nowhere", "folder", r"data folder 'nowhere' does not exist"),
        (None, "params.yaml", "folder", r"data folder 'params.yaml' does not exist or is no folder"),
        ("prof", None, None, r"no profile 'prof' in profiles/; nearest valid name: 'proof'"),
    ],
)
def test_a_wrong_choice_is_named_and_nothing_is_written(file: Path, profile, data, layout, message):
    before = file.read_bytes()
    with pytest.raises(ParamsError, match=message):
        configure(file, profile, data, layout, skip_invalid=False)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prepare: {fold: [0]}", r"profile mine: prepare\.fold: unknown parameter; nearest valid name: 'folds'"),
        ("trian: {steps: 3}", r"profile mine: trian: unknown parameter; nearest valid name: 'train'"),
        ("prepare: 3", r"profile mine: prepare: expected a group of parameters, got 3"),
        ("prepare: {k: {a: 1}}", r"profile mine: prepare\.k: expected one value, got \{'a': 1\}"),
        ("prepare: {k: 0}", r"prepare\.k: .*greater than or equal to 1"),
    ],
)
def test_a_faulty_profile_is_named_and_nothing_is_written(file: Path, text: str, message: str):
    (file.parent / "profiles" / "mine.yaml").write_text(text)
    before = file.read_bytes()
    with pytest.raises(ParamsError, match=message):
        configure(file, "mine", None, None, skip_invalid=False)
    assert file.read_bytes() == before
