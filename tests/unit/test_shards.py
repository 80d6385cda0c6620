import numpy as np

from pipeline.masks.crops import Window
from pipeline.shards import Answers, Candidates, PartRecord, RequestRecord, read_answers, read_shard, write_shard


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
        made.append(Candidates(record, masks[3:], images, masks[:3], answered=number == 0))
    return made


def test_a_shard_gives_back_what_was_written(tmp_path):
    write_shard(tmp_path / "a.tar", entries())
    for wrote, read in zip(entries(), read_shard(tmp_path / "a.tar"), strict=True):
        assert wrote.request == read.request and wrote.answered == read.answered
        assert all((a == b).all() for a, b in zip(wrote.masks, read.masks, strict=True))
        assert read.request.defect == "hole+dent" and (read.mask == (wrote.masks[0] | wrote.masks[1])).all()
        assert all((a == b).all() for a, b in zip(wrote.images, read.images, strict=True))
        assert all((a == b).all() for a, b in zip(wrote.changed, read.changed, strict=True))


def test_same_entries_same_bytes(tmp_path):
    for name in "ab":
        write_shard(tmp_path / f"{name}.tar", entries())
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


def test_answers_are_counted_without_reading_a_picture(tmp_path):
    first, second = entries()
    write_shard(tmp_path / "a.tar", [first.joined(first), second])
    assert read_answers(tmp_path / "a.tar") == [Answers(0, 2, 6, True), Answers(1, 2, 3, False)]


def test_joined_candidates_stay_in_the_order_they_were_drawn(tmp_path):
    first, second = entries()
    both = second.joined(first)
    assert both.answered and both.request == second.request
    write_shard(tmp_path / "a.tar", [both])
    (read,) = read_shard(tmp_path / "a.tar")
    wanted = second.images + first.images
    assert len(read.images) == 6 and all((a == b).all() for a, b in zip(wanted, read.images, strict=True))
