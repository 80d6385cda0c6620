from pathlib import Path

import pytest

from pipeline.layouts.folder import GUESSED, read
from pipeline.layouts.raw import LayoutError
from tests.unit.prepare_toys import folder_set, params, save, spot, texture


def test_photos_types_and_ids(tmp_path: Path):
    raw = read(folder_set(tmp_path, ("dent", "crack"), parts=2, good=1), params())
    assert [photo.id for photo in raw.photos] == ["crack-00", "crack-01", "dent-00", "dent-01", "good-00"]
    assert raw.types == ("crack", "dent")
    assert [photo.part_id for photo in raw.photos] == [photo.id for photo in raw.photos]
    assert raw.notes == (GUESSED,)
    assert raw.faults == ()


def test_part_regex_takes_group_one(tmp_path: Path):
    save(tmp_path / "images/good/p7_cam1.png", texture(1))
    save(tmp_path / "images/good/p7_cam2.png", texture(2))
    save(tmp_path / "images/good/other.png", texture(3))
    raw = read(tmp_path, params(part_regex=r"p(\d+)_cam"))
    assert [photo.part_id for photo in raw.photos] == ["7", "7"]
    assert [str(fault) for fault in raw.faults] == [
        "images/good/other.png: prepare.part_regex gives no part for it; without one the split could leak"
    ]


@pytest.mark.parametrize("regex", ["(", "no group"])
def test_a_part_regex_that_cannot_work_is_refused(tmp_path: Path, regex: str):
    with pytest.raises(LayoutError, match=r"prepare.part_regex"):
        read(folder_set(tmp_path), params(part_regex=regex))


def test_parts_csv_wins_and_every_photo_must_be_in_it(tmp_path: Path):
    folder_set(tmp_path, parts=2, good=1)
    (tmp_path / "parts.csv").write_text("image,part_id\nimages/dent/00.png,A\nimages/dent/01.png,A\nimages/good/99.png,B\n")
    raw = read(tmp_path, params(part_regex="(x)"))
    assert [(photo.id, photo.part_id) for photo in raw.photos] == [("dent-00", "A"), ("dent-01", "A")]
    assert [fault.file for fault in raw.faults] == ["images/good/00.png", "parts.csv"]
    assert raw.notes == ()


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "images/../../x.png", "C:/x.png", ""])
def test_paths_in_parts_csv_that_leave_the_folder_are_refused(tmp_path: Path, path: str):
    folder_set(tmp_path, parts=1, good=1)
    (tmp_path / "parts.csv").write_text(f'image,part_id\n"{path}",A\n')
    with pytest.raises(LayoutError, match="leaves the manifest"):
        read(tmp_path, params())


def test_one_photo_cannot_be_two_parts(tmp_path: Path):
    folder_set(tmp_path, parts=1, good=1)
    (tmp_path / "parts.csv").write_text("image,part_id\nimages/dent/00.png,A\nimages/dent/00.png,B\n")
    with pytest.raises(LayoutError, match=r"parts.csv:3: images/dent/00.png is given to part 'B' and to 'A'"):
        read(tmp_path, params())


def test_missing_masks_and_missing_images_are_faults(tmp_path: Path):
    folder_set(tmp_path, parts=2, good=1)
    (tmp_path / "masks/dent/00.png").unlink()
    save(tmp_path / "masks/dent/77.png", spot())
    assert [str(fault) for fault in read(tmp_path, params()).faults] == [
        "images/dent/00.png: defect image without mask; expected masks/dent/00.png",
        "masks/dent/77.png: mask without image; expected images/dent/77.*",
    ]


def test_names_that_would_share_a_file_are_told_apart(tmp_path: Path):
    for name in ("a b", "a_b", "A_B"):
        save(tmp_path / f"images/good/{name}.png", texture(len(name)))
    ids = [photo.id for photo in read(tmp_path, params()).photos]
    assert len({name.casefold() for name in ids}) == 3
    assert all(" " not in name and "." not in name for name in ids)


def test_a_folder_of_another_layout_is_named(tmp_path: Path):
    with pytest.raises(LayoutError, match="no folder images"):
        read(tmp_path, params())
