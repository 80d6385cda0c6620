from pathlib import Path

import pytest

from pipeline.layouts.mvtec import read
from pipeline.layouts.raw import LayoutError
from tests.unit.prepare_toys import params, save, spot, texture


def mvtec_set(root: Path) -> Path:
    for index in range(2):
        save(root / f"train/good/{index:03d}.png", texture(index))
    save(root / "test/good/000.png", texture(9))
    for kind in ("combined", "scratch"):
        save(root / f"test/{kind}/000.png", texture(10))
        save(root / f"ground_truth/{kind}/000_mask.png", spot())
    return root


def test_combined_is_a_type_and_test_good_joins_the_pool(tmp_path: Path):
    raw = read(mvtec_set(tmp_path), params())
    assert [photo.id for photo in raw.photos] == [
        "combined-000",
        "scratch-000",
        "test_good-000",
        "train_good-000",
        "train_good-001",
    ]
    assert raw.types == ("combined", "scratch")
    assert raw.photos[0].defects[0].mask == tmp_path / "ground_truth/combined/000_mask.png"
    assert "prepare.part_regex" in raw.notes[0]


def test_part_regex(tmp_path: Path):
    raw = read(mvtec_set(tmp_path), params(part_regex=r"(\d+)\.png"))
    assert [photo.part_id for photo in raw.photos] == ["000", "000", "000", "000", "001"]
    assert raw.notes == ()


def test_masks_of_a_type_without_images_are_faults(tmp_path: Path):
    save(mvtec_set(tmp_path) / "ground_truth/dent/004_mask.png", spot())
    raw = read(tmp_path, params())
    assert raw.types == ("combined", "dent", "scratch")
    assert [str(fault) for fault in raw.faults] == [
        "ground_truth/dent/004_mask.png: mask without image; expected test/dent/004.*"
    ]


def test_another_layout_is_refused(tmp_path: Path):
    with pytest.raises(LayoutError, match="no folder train/good, test"):
        read(tmp_path, params())
