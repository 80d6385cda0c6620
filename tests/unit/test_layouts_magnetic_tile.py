from collections import defaultdict
from pathlib import Path

from pipeline.layouts.magnetic_tile import assign_parts, read
from tests.unit.prepare_toys import params, real, save, spot, texture


def test_a_part_ends_where_the_exposure_does_not_rise_or_the_number_jumps():
    ids = ["Free-exp1_num_10", "Blowhole-exp2_num_20", "Free-exp2_num_30", "Free-exp3_num_230", "Free-exp4_num_431"]
    assert assign_parts(reversed(ids)) == {
        ids[0]: "tile_000010",
        ids[1]: "tile_000010",  # another folder, the same tile
        ids[2]: "tile_000030",  # exposure does not rise
        ids[3]: "tile_000030",  # a jump of exactly 200 is one tile
        ids[4]: "tile_000431",  # a jump of 201 is not
    }


def test_faults_of_files(tmp_path: Path):
    save(tmp_path / "MT_Free/Imgs/exp1_num_5.jpg", texture(1))
    save(tmp_path / "MT_Crack/Imgs/exp1_num_9.jpg", texture(2))
    save(tmp_path / "MT_Crack/Imgs/exp1_num_8.png", spot())
    save(tmp_path / "MT_Crack/Imgs/odd.jpg", texture(3))
    raw = read(tmp_path, params())
    assert [photo.id for photo in raw.photos] == ["Free-exp1_num_5"]
    assert [fault.file for fault in raw.faults] == [
        "MT_Crack/Imgs/exp1_num_9.jpg",
        "MT_Crack/Imgs/odd.jpg",
        "MT_Crack/Imgs/exp1_num_8.png",
    ]


def test_the_real_set_has_259_parts():
    raw = read(real("magnetic-tile"), params())
    parts: dict[str, set[str]] = defaultdict(set)
    for photo in raw.photos:
        for name in [defect.name for defect in photo.defects] or ["Free"]:
            parts[name].add(photo.part_id)
    counts = {name: len(found) for name, found in parts.items()}
    assert len(raw.photos) == 1344
    assert len(set().union(*parts.values())) == 259
    assert counts == {"Blowhole": 27, "Break": 25, "Crack": 12, "Fray": 9, "Free": 189, "Uneven": 18}
    assert raw.faults == ()
