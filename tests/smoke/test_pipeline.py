"""The whole chain through the command line on a toy set: two steps of every network, every file it promises, twice the same."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.images import read_mask, read_rgb
from pipeline.labels.coco import decode_mask
from pipeline.masks.composite import feathered
from pipeline.masks.crops import paste_window
from pipeline.records import read_manifest
from pipeline.shards import read_shard
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

CHANGES = {
    "prepare": {"k": 2, "val_parts": 1, "sample": {"seed": 0, "size_px": 64, "parts_per_type": 6, "good_parts": 9}},
    "learn_base": {"crop_px": 32, "crop_side_px": [24, 48], "threads": 1, "adapt": {"steps": 2, "batch": 2}},
    "learn_concept": {"defectfill": {"steps": 2, "batch": 2, "encoded_crops": 4, "min_crop_px": 16, "threads": 1}},
    "synthesize": {"threads": 1, "min_crop_px": 16, "micro_batch": 4, "defectfill": {"candidates": 2, "steps": 2}},
    "select": {"threads": 1, "min_changed_share": 0.0, "outlier_quantile": 1.0},
    "train": {"start": "scratch", "image_px": 64, "steps": 2, "batch": 4, "validate_every": 1, "threads": 1},
    "evaluate": {"threads": 1},
}
GENERATORS = ("copy_paste", "defectfill")


def merge(into: dict, changes: dict) -> dict:
    for key, value in changes.items():
        into[key] = merge(into[key], value) if isinstance(value, dict) else value
    return into


def project(folder: Path) -> Path:
    """A folder with the code linked in and parameters small enough for seconds."""
    folder.mkdir()
    for name in ("pipeline", "detectors"):
        (folder / name).symlink_to(ROOT / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    merge(params, CHANGES)
    params["prepare"]["folds"] = [0]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data").mkdir()
    (folder / "data" / "targets.yaml").write_text("default: 3\ntypes: {stain: 2}\n")
    return folder


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def run_chain(folder: Path) -> Path:
    run(folder, "pipeline", "prepare")
    run(folder, "pipeline", "learn_base")
    for generator in GENERATORS:
        for stage in ("learn_concept", "synthesize", "select", "label"):
            run(folder, "pipeline", stage, "--generator", generator)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run_chain(project(tmp_path_factory.mktemp("chain") / "a"))
    for detector, arm in (("rtdetr", "defectfill"), ("yolo_seg", "real")):
        run(folder, "detectors", "train", "--detector", detector, "--arm", arm)
    run(folder, "detectors", "evaluate")
    run(folder, "pipeline", "report")
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_synthetic_photos_equal_the_clean_ones_outside_the_request(done: Path):
    train = done / "data" / "prepared" / "train"
    clean = {sample.id: sample for sample in read_manifest(train, 0)}
    feather_px = yaml.safe_load((done / "params.yaml").read_text())["synthesize"]["feather_px"]
    for generator in GENERATORS:
        folder = done / "data" / "selected" / generator / "fold-0"
        made = read_manifest(folder)
        shards = (done / "data" / "candidates" / generator / "fold-0").glob("shard-*.tar")
        requests = {f"fold-0-{entry.request.scene:05d}": entry for shard in shards for entry in read_shard(shard)}
        assert 0 < len(made) <= len(requests) == 8
        for sample in made:
            before, after = read_rgb(train / clean[sample.parents[0]].image), read_rgb(folder / sample.image)
            changed = (before != after).any(axis=2)
            label = read_mask(folder / str(sample.mask))
            assert not (label & ~changed).any(), "a label pixel that did not change"
            entry, allowed = requests[Path(sample.image).stem.rsplit("-", 1)[0]], np.zeros(changed.shape, bool)
            paste_window(allowed, feathered(entry.mask, feather_px) > 0, entry.request.window)
            assert not (changed & ~allowed).any(), "a pixel outside the mask and its feather changed"
            assert sample.origin == "synthetic" and sample.fold == 0


def test_labels_are_coco_and_yolo_of_the_changed_region(done: Path):
    for generator in GENERATORS:
        folder = done / "data" / "labelled" / generator / "fold-0"
        coco = json.loads((folder / "annotations.json").read_text())
        assert [c["name"] for c in coco["categories"]] == ["hole", "scratch", "stain"]
        assert [i["id"] for i in coco["images"]] == list(range(1, len(coco["images"]) + 1))
        for annotation in coco["annotations"]:
            assert annotation["iscrowd"] == 0 and decode_mask(annotation["segmentation"]).sum() == annotation["area"]
        stems = {Path(i["file_name"]).stem for i in coco["images"]}
        for kind in ("labels_det", "labels_seg"):
            assert {p.stem for p in (folder / kind).glob("*.txt")} == stems


def test_no_test_part_reaches_a_generator_or_a_label(done: Path):
    parts = {s.part_id for s in read_manifest(done / "data" / "prepared" / "test", 0)}
    train = {s.id: s for s in read_manifest(done / "data" / "prepared" / "train", 0)}
    assert parts and not parts & {s.part_id for s in train.values()}
    for generator in GENERATORS:
        for sample in read_manifest(done / "data" / "selected" / generator / "fold-0"):
            assert set(sample.parents) <= set(train)


def test_the_report_stands_alone_and_gives_no_verdict_on_one_fold(done: Path):
    page = (done / "reports" / "comparison.html").read_text()
    assert "quick look: no verdict" in page.lower()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    rows = json.loads((done / "reports" / "eval" / "metrics.json").read_text())["rows"]
    assert {(row["detector"], row["arm"]) for row in rows} == {("rtdetr", "defectfill"), ("yolo_seg", "real")}
    assert (done / "reports" / "comparison.md").exists() and (done / "reports" / "comparison.json").exists()


def test_same_seed_same_bytes(done: Path, tmp_path: Path):
    again = run_chain(project(tmp_path / "b"))
    for name in ("prepared", "base", "concepts", "candidates", "selected", "labelled"):
        assert digests(done / "data" / name) == digests(again / "data" / name), name


def test_a_type_the_data_does_not_have_is_refused_by_name(done: Path, tmp_path: Path):
    targets = done / "data" / "targets.yaml"
    kept = targets.read_text()
    targets.write_text("default: 1\ntypes: {dent: 3}\n")
    try:
        failed = subprocess.run(
            [sys.executable, "-m", "pipeline", "synthesize", "--generator", "copy_paste"],
            cwd=done,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(done)},
        )
    finally:
        targets.write_text(kept)
    assert failed.returncode == 2 and "unknown defect types ['dent']" in failed.stderr and "Traceback" not in failed.stderr


def test_a_good_photo_can_be_told_from_noise_in_the_toy_set(done: Path):
    """The toy photos are no constants: a chain on blank pictures would prove nothing."""
    sample = read_manifest(done / "data" / "prepared" / "train", 0)[0]
    assert np.std(read_rgb(done / "data" / "prepared" / "train" / sample.image)) > 5
