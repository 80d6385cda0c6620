import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.images import read_mask, read_rgb, write_png
from pipeline.params import LabelParams, ParamsError, load_section, parse_section
from pipeline.records import ManifestError, Sample, read_manifest, write_manifest
from pipeline.runlog import digest, whole_folder
from pipeline.seeds import derive_seed


def sample(**changes: object) -> Sample:
    values = {"id": "a", "image": "images/a.png", "mask": None, "defect": None, "part_id": "p", "split": "train"}
    return Sample(**(values | changes))  # type: ignore[arg-type]


def test_a_manifest_gives_back_its_samples_sorted_by_fold_and_id(tmp_path: Path):
    late = sample(id="b", fold=1, mask="masks/b.png", defect="hole", parents=("x", "y"), boxes=((0.0, 1.0, 2.0, 3.5),))
    write_manifest(tmp_path, [late, sample()])
    assert read_manifest(tmp_path) == [sample(), late]
    assert read_manifest(tmp_path, fold=1) == [late]
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.jsonl"]


@pytest.mark.parametrize("path", ["../a.png", "/etc/passwd", "images/../../a.png", "C:/a.png", "a\\b.png", ""])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, path: str):
    row = {"id": "a", "image": path, "mask": None, "defect": None, "part_id": "p", "split": "train"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ManifestError, match="leaves the manifest's folder"):
        read_manifest(tmp_path)


def test_a_line_that_is_no_sample_is_named_by_number(tmp_path: Path):
    (tmp_path / "manifest.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ManifestError, match=r"manifest.jsonl:1: not a sample"):
        read_manifest(tmp_path)


def test_pictures_and_masks_survive_the_disk(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "m.png", picture[..., 0] > 99)
    assert (read_rgb(tmp_path / "a.png") == picture).all()
    assert (read_mask(tmp_path / "m.png") == (picture[..., 0] > 99)).all()


def test_seeds_belong_to_their_key():
    assert derive_seed("a", 1) == derive_seed("a", 1) != derive_seed("a", 2)
    assert derive_seed(0) == 4761921975702974394, "seeds are part of every result: they must never change"


def test_unknown_parameter_names_the_nearest():
    with pytest.raises(ParamsError, match=r"label.close_pix: unknown parameter; nearest valid name: 'close_px'"):
        parse_section(LabelParams, "label", {"close_pix": 1, "close_px": 2, "min_area_px": 3})


def test_missing_and_impossible_values_are_all_named(tmp_path: Path):
    (tmp_path / "params.yaml").write_text("label: {close_px: -1}\n")
    with pytest.raises(ParamsError, match=r"label.close_px: .* \(got -1\); label.min_area_px: missing; add it"):
        load_section("label", LabelParams, tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match=r"no section 'lable'; nearest valid name: 'label'"):
        load_section("lable", LabelParams, tmp_path / "params.yaml")


def test_a_digest_sees_names_bytes_and_values(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_text("1")
    first = digest(tmp_path / "a", {"x": 1})
    assert first == digest(tmp_path / "a", {"x": 1}) != digest(tmp_path / "a", {"x": 2})
    (tmp_path / "a" / "f").rename(tmp_path / "a" / "g")
    assert digest(tmp_path / "a", {"x": 1}) != first


def test_a_folder_is_whole_or_as_it_was(tmp_path: Path):
    out = tmp_path / "out"
    with whole_folder(out) as folder:
        (folder / "f").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as folder:
        (folder / "f").write_text("half")
        raise KeyboardInterrupt
    assert (out / "f").read_text() == "old"
