import tarfile
from dataclasses import replace

import numpy as np

from pipeline.masks.crops import Window
from pipeline.shards import Candidates, PartRecord, RequestRecord, read_scenes, read_shard, write_shard


def entries() -> list[Candidates]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(2):
        images = tuple(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8) for _ in range(3))
        masks = tuple(rng.random((8, 8)) > 0.5 for _ in range(5))
        affine = ((0.1, 1 / 3, -7.0), (-1 / 3, 0.1, 2.5))
        record = RequestRecord(
            f"fold-0-{number:05d}-0-hole",
            number,
            "good-1",
            Window(-3, 4, 8),
            (PartRecord("hole", "affine", "hole-2", affine), PartRecord("dent", "drawn", None, None)),
        )
        made.append(
            Candidates(record, masks[3:], images, masks[:3], answered=number == 0, detailed=(0, 2) if number == 1 else ())
        )
    return made


def test_a_shard_gives_back_what_was_written(tmp_path):
    write_shard(tmp_path / "a.tar", entries())
    for wrote, read in zip(entries(), read_shard(tmp_path / "a.tar"), strict=True):
        assert wrote.request == read.request and wrote.answered == read.answered and wrote.detailed == read.detailed
        assert all((a == b).all() for a, b in zip(wrote.masks, read.masks, strict=True))
        assert read.request.defect == "hole+dent" and (read.mask == (wrote.masks[0] | wrote.masks[1])).all()
        assert all((a == b).all() for a, b in zip(wrote.images, read.images, strict=True))
        assert all((a == b).all() for a, b in zip(wrote.changed, read.changed, strict=True))


def test_a_grey_picture_comes_back_with_three_equal_channels(tmp_path):
    entry = entries()[0]
    grey = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 3, axis=2)
    write_shard(tmp_path / "a.tar", [replace(entry, images=(grey, *entry.images[1:]))])
    (read,) = read_shard(tmp_path / "a.tar")
    assert read.images[0].shape == (8, 8, 3) and (read.images[0] == grey).all()
    assert (read.images[1] == entry.images[1]).all()


def test_same_entries_same_bytes(tmp_path):
    for name in "ab":
        write_shard(tmp_path / f"{name}.tar", entries())
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


def test_requests_of_a_scene_come_together_wherever_they_stand(tmp_path):
    """The first of scene 0 was drawn again, and so was written behind scene 1."""
    first, second = entries()
    placed = [("0-b", 0), ("1-a", 1), ("0-a", 0)]
    written = [replace(first, request=replace(second.request, id=name, scene=scene)) for name, scene in placed]
    write_shard(tmp_path / "a.tar", written)
    found = [[entry.request.id for entry in scene] for scene in read_scenes(tmp_path / "a.tar")]
    assert found == [["1-a"], ["0-a", "0-b"]]


def test_writers_of_the_same_shard_do_not_touch_each_others_file(tmp_path):
    (tmp_path / "a.tar.tmp").write_text("another worker's")
    write_shard(tmp_path / "a.tar", entries())
    assert (tmp_path / "a.tar.tmp").read_text() == "another worker's"
    assert len(list(read_shard(tmp_path / "a.tar"))) == 2


def test_joined_candidates_stay_in_the_order_they_were_drawn(tmp_path):
    first, second = entries()
    both = second.joined(first)
    assert both.answered and both.request == second.request
    write_shard(tmp_path / "a.tar", [both])
    (read,) = read_shard(tmp_path / "a.tar")
    wanted = second.images + first.images
    # Those of `second` that show detail keep their numbers, those of `first` would follow from 3 on.
    assert read.detailed == (0, 2) and first.joined(second).detailed == (3, 5)
    assert len(read.images) == 6 and all((a == b).all() for a, b in zip(wanted, read.images, strict=True))


def test_candidates_without_a_picture_keep_their_number_and_early_score(tmp_path):
    """Three are drawn twice; the second of the first draw and the first of the second one were dropped."""
    whole, _ = entries()
    first = replace(whole, images=whole.images[:2], changed=whole.changed[:2], early=(0.5, 0.1, 0.4), dropped=(1,))
    second = replace(whole, images=whole.images[1:], changed=whole.changed[1:], early=(0.2, 0.6, 0.7), dropped=(0,))
    write_shard(tmp_path / "a.tar", [first.joined(second)])
    (read,) = read_shard(tmp_path / "a.tar")
    assert read.drawn == 6 and read.numbers == [0, 2, 4, 5] and read.dropped == (1, 3)
    assert read.early == (0.5, 0.1, 0.4, 0.2, 0.6, 0.7)
    wanted = [whole.images[place] for place in (0, 1, 1, 2)]
    assert all((a == b).all() for a, b in zip(wanted, read.images, strict=True))
    assert read.drawn == 6 and read.answered
    with tarfile.open(tmp_path / "a.tar") as shard:
        names = [name.rsplit("/", 1)[1] for name in shard.getnames()]
    assert [name for name in names if name[:3].isdigit() and "changed" not in name] == [
        "000.png",
        "002.png",
        "004.png",
        "005.png",
    ]
