"""Stage synthesize in one process: the same bytes in any order and after any interruption, their lineage, and faults."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline import photo_cache, shard_making
from pipeline.fan_out import WorkError
from pipeline.generators.protocol import Request, Sampler, Synthetic
from pipeline.images import PictureError, read_rgb, write_png
from pipeline.lineage import Origin, join_rows, outcome, read_rows
from pipeline.runlog import digest
from pipeline.scenes import Planner, open_planner
from pipeline.seeds import derive_seed
from pipeline.selection import read_real
from pipeline.shard_making import InputsChangedError, NetworkMemoryError, ShardJob, in_thread, make_shard, open_workshop
from pipeline.shards import CHANGED, read_shard
from pipeline.stages import synthesize as stage
from pipeline.stages.synthesize import synthesize
from pipeline.wanted import read_targets
from tests.synthesis_toy import OF_A_TYPE, SHARDS, TYPES, digests, params, selection, write_data

pytestmark = pytest.mark.slow

GENERATORS = ("copy_paste", "defectfill")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture
def data(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy in an empty project, which is where we are."""
    shutil.copytree(prepared, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLEMISH_EXECUTOR", raising=False)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One uninterrupted run of each generator."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(prepared, folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("BLEMISH_EXECUTOR", raising=False)
        for generator in GENERATORS:
            run(folder / "data", generator)
    return {generator: folder / "data" / "candidates" / generator for generator in GENERATORS}


def run(data: Path, generator: str = "defectfill", **changes: object) -> Path:
    out = Path("data/candidates") / generator
    synthesize(generator, params().model_copy(update=changes), selection(), Path("data"), out)
    return out


def job(data: Path, generator: str, out: Path) -> ShardJob:
    concept, base = data / "concepts" / generator / "fold-0", data / "base" / "fold-0"
    origin = Origin(generator, digest(concept), digest(base), digest(data / "targets.yaml"))
    for folder in (out / "shards", out / "rows"):
        folder.mkdir(parents=True)
    return ShardJob(origin, 0, params(), selection(), data, out / "shards", out / "rows")


def after_shards(count: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something as soon as `count` shards have been written."""
    written: list[int] = []

    def watched(made: ShardJob, number: int) -> int:
        done = make_shard(made, number)
        written.append(number)
        if len(written) == count:
            act()
        return done

    monkeypatch.setattr(stage, "make_shard", watched)


def finished_shards() -> list[Path]:
    return sorted(Path(".work").glob("*/*/out/fold-0/shard-*.tar"))


# --- the same bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", GENERATORS)
def test_shards_do_not_depend_on_the_order_in_which_they_are_made(generator: str, data: Path, whole: dict[str, Path]):
    made = job(data, generator, data / "backwards")
    for number in reversed(range(SHARDS)):
        assert make_shard(made, number) == 2
    join_rows((made.rows_of(number) for number in range(SHARDS)), made.out)
    wanted = digests(whole[generator] / "fold-0")
    del wanted["card.json"]
    assert digests(made.out) == wanted


class Stopped(BaseException):
    """As an interrupt: no error of the work."""


def test_an_interrupted_run_goes_on_where_it_was(data: Path, whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    def stop() -> None:
        raise Stopped

    after_shards(3, stop, monkeypatch)
    with pytest.raises(Stopped):
        run(data)
    monkeypatch.undo()
    monkeypatch.chdir(data.parent)
    finished = finished_shards()
    assert len(finished) == 3 and not Path("data/candidates/defectfill").exists()
    before = {path.name: path.stat().st_mtime_ns for path in finished}
    (finished[0].parent / "shard-00003.tar.torn.tmp").write_text("half a shard")
    run(data)
    assert digests(data / "candidates" / "defectfill") == digests(whole["defectfill"])
    after = {path.name: path.stat().st_mtime_ns for path in (data / "candidates" / "defectfill" / "fold-0").glob("*.tar")}
    assert {name: after[name] for name in before} == before and not any(path.is_file() for path in Path(".work").rglob("*"))


def test_reading_ahead_keeps_the_order_stays_within_its_depth_and_passes_errors_on():
    taken: list[int] = []

    def make(number: int) -> int:
        taken.append(number)
        if number == 7:
            raise PictureError("x.png cannot be read")
        return number**2

    ahead = in_thread(make, range(100), 3)
    assert next(ahead) == 0 and max(taken) <= 3
    with pytest.raises(PictureError, match=r"x\.png"):
        assert [made for made in ahead] == []
    assert max(taken) <= 10


# --- lineage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_manifest_has_one_row_a_candidate_with_all_it_comes_from(generator: str, prepared: Path, whole: dict[str, Path]):
    folder = whole[generator] / "fold-0"
    found = list(read_rows(folder))
    entries = {e.request.id: (p.name, e) for p in sorted(folder.glob("shard-*.tar")) for e in read_shard(p)}
    assert len(entries) == OF_A_TYPE * len(TYPES) and len(list(folder.glob("shard-*.tar"))) == SHARDS
    wanted = [(shard, e.request.id, n) for shard, e in entries.values() for n in range(len(e.images))]
    assert [(row["shard"], row["request"], row["candidate"]) for row in found] == wanted
    for row in found:
        entry = entries[row["request"]][1]
        assert row["seed"] == derive_seed("candidate", row["request"], row["candidate"])
        assert (row["clean"], row["scene"], row["generator"]) == (entry.request.clean, entry.request.scene, generator)
        assert row["parts"] == json.loads(json.dumps([asdict(part) for part in entry.request.parts]))
        assert row["concept"] == digest(prepared / "concepts" / generator / "fold-0")
        assert row["base"] == digest(prepared / "base" / "fold-0") and row["targets"] == digest(prepared / "targets.yaml")
        assert 0 <= row["changed_share"] <= 1 and row["score"] >= 0
    accepted = {row["request"] for row in found if row["fault"] is None}
    assert accepted == {request for request, (_, entry) in entries.items() if entry.answered}


def test_the_card_counts_what_the_manifest_says(whole: dict[str, Path]):
    card = json.loads((whole["defectfill"] / "fold-0" / "card.json").read_text())
    assert card["outcome"] == {"scenes": 14} | outcome(read_rows(whole["defectfill"] / "fold-0"), 2)
    assert card["left_out"] == {} and card["outcome"]["requests"] == card["outcome"]["defects"] == 14
    assert 28 <= card["outcome"]["candidates"] <= 56
    assert (card["micro_batch_asked"], card["micro_batch"], card["sampler"]["micro_batch"]) == (4, 4, 4)


def test_outcomes_counted_by_hand():
    found = [
        ("a", None),
        ("a", "f"),
        ("b", "f"),
        ("b", "f"),
        ("b", "f"),
        ("b", None),
        ("c", "f"),
        ("c", "f"),
        ("c", "f"),
        ("c", "f"),
    ]
    counts = outcome([{"request": request, "fault": fault, "parts": ["hole", "dent"]} for request, fault in found], 2)
    assert counts == {"requests": 3, "defects": 6, "candidates": 10, "requests_drawn_again": 2, "requests_without_answer": 1}


# --- out of memory ---------------------------------------------------------------------------------------------------------


class Hungry:
    """A sampler that needs more memory than there is for more than `fits` rows."""

    def __init__(self, sampler: Sampler, rows: int, fits: int, error: Callable[[], object]) -> None:
        self._sampler, self._full, self._error = sampler, rows > fits, error

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic]:
        for number, result in enumerate(self._sampler(requests)):
            if self._full and number == 1:
                self._error()
            yield result

    def facts(self) -> dict[str, object]:
        return self._sampler.facts()


def no_memory_on_the_chip() -> None:
    raise torch.OutOfMemoryError("the chip is full")


def no_memory_in_the_host() -> None:
    torch.empty(10**15)


def no_memory_for_python() -> None:
    raise MemoryError


def hungry(fits: int, error: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the network need too much; returns the micro-batches it is opened with."""
    opened: list[int] = []

    def open_hungry(made: ShardJob) -> shard_making.Workshop:
        opened.append(made.params.micro_batch)
        shop = open_workshop(made)
        return replace(shop, sampler=Hungry(shop.sampler, made.params.micro_batch, fits, error))

    monkeypatch.setattr(shard_making, "open_workshop", open_hungry)
    monkeypatch.setattr(shard_making, "_OPEN", {})
    return opened


@pytest.mark.parametrize("error", [no_memory_on_the_chip, no_memory_in_the_host, no_memory_for_python])
def test_out_of_memory_halves_the_micro_batch_for_the_whole_run(error: Callable, data: Path, monkeypatch: pytest.MonkeyPatch):
    opened = hungry(1, error, monkeypatch)
    run(data)
    assert opened == [4, 2, 1]
    folder = data / "candidates" / "defectfill" / "fold-0"
    card = json.loads((folder / "card.json").read_text())
    assert (card["micro_batch_asked"], card["micro_batch"]) == (4, 1) and not any(
        path.is_file() for path in Path(".work").rglob("*")
    )
    made = digests(folder)
    monkeypatch.undo()
    monkeypatch.chdir(data.parent)
    run(data, micro_batch=1)
    asked = digests(folder)
    assert {name: made[name] for name in made if name != "card.json"} == {n: asked[n] for n in asked if n != "card.json"}


def test_a_resumed_run_keeps_the_halved_micro_batch_and_nothing_of_the_full_one(data: Path, monkeypatch: pytest.MonkeyPatch):
    shards: list[str] = []

    def in_the_third_shard() -> None:
        shards[:] = [path.name for path in finished_shards()]
        if len(shards) == 2:
            no_memory_on_the_chip()

    def stop() -> None:
        raise Stopped

    opened = hungry(3, in_the_third_shard, monkeypatch)
    after_shards(3, stop, monkeypatch)  # two at 4, and the first at 2
    with pytest.raises(Stopped):
        run(data)
    assert opened == [4, 2] and shards == ["shard-00000.tar", "shard-00001.tar"]
    assert [path.name for path in finished_shards()] == ["shard-00000.tar"]
    shard_making._OPEN.clear()  # another process
    run(data)
    assert opened == [4, 2, 2]
    card = json.loads((data / "candidates" / "defectfill" / "fold-0" / "card.json").read_text())
    assert (card["micro_batch_asked"], card["micro_batch"]) == (4, 2)


def test_if_not_even_one_crop_fits_the_error_says_so(data: Path, monkeypatch: pytest.MonkeyPatch):
    opened = hungry(0, no_memory_on_the_chip, monkeypatch)
    with pytest.raises(NetworkMemoryError, match=r"out of memory at synthesize\.micro_batch 1: the chip is full"):
        run(data)
    assert opened == [4, 2, 1] and not Path("data/candidates/defectfill").exists()


# --- faults ----------------------------------------------------------------------------------------------------------------


def test_a_photo_that_becomes_unreadable_is_named_and_finished_shards_stay(data: Path, monkeypatch: pytest.MonkeyPatch):
    planner = planner_of(data)
    cleans = [planner.make(number)[0].record.clean for number in range(planner.count)]
    photo_cache.forget()  # as in a process of its own
    torn = next(number for number, clean in enumerate(cleans) if number >= 6 and clean not in cleans[:6])
    photo = data / "prepared" / "train" / "images" / f"{cleans[torn]}.png"
    after_shards(2, lambda: photo.write_bytes(photo.read_bytes()[:200]), monkeypatch)
    with pytest.raises(WorkError, match=rf"shard {torn // 2}: .*{photo.name} cannot be read as a picture"):
        run(data, "copy_paste")
    assert len(finished_shards()) == torn // 2 and not Path("data/candidates/copy_paste").exists()


@pytest.mark.parametrize("name", ["concepts/copy_paste/fold-0/references.json", "base/fold-0/model_index.json", "targets.yaml"])
def test_what_changes_under_a_run_is_named_and_nothing_is_put_out(name: str, data: Path, monkeypatch: pytest.MonkeyPatch):
    changed, before = data / name, (data / name).read_bytes()
    after_shards(3, lambda: changed.write_bytes(before + b"\n"), monkeypatch)
    with pytest.raises(
        InputsChangedError, match=rf"{name.removesuffix('/' + changed.name)}.* changed while candidates were made"
    ):
        run(data, "copy_paste")
    assert not Path("data/candidates/copy_paste").exists()
    monkeypatch.undo()
    monkeypatch.chdir(data.parent)
    changed.write_bytes(before)
    finished = {path: path.stat().st_mtime_ns for path in finished_shards()}
    assert len(finished) == SHARDS
    run(data, "copy_paste")  # put back: everything is there already
    assert [p.stat().st_mtime_ns for p in sorted(Path("data/candidates/copy_paste/fold-0").glob("*.tar"))] == list(
        finished.values()
    )


def test_a_worker_refuses_a_concept_that_is_not_the_one_the_run_began_with(data: Path):
    made = job(data, "copy_paste", data / "out")
    with (data / "concepts" / "copy_paste" / "fold-0" / "references.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputsChangedError, match=r"concepts/copy_paste/fold-0 changed"):
        make_shard(made, 0)
    assert not any(made.out.iterdir())


def test_a_worker_that_stays_up_paints_on_the_photos_of_the_next_run(data: Path):
    """Photos of another data set may lie under the same names."""
    runs = {name: data / name for name in ("before", "after", "fresh")}
    make_shard(job(data, "copy_paste", runs["before"]), 0)
    for photo in (data / "prepared" / "train" / "images").glob("good*.png"):
        write_png(photo, read_rgb(photo) // 2)
    make_shard(job(data, "copy_paste", runs["after"]), 0)
    shard_making._OPEN.clear()  # another process
    photo_cache.forget()
    make_shard(job(data, "copy_paste", runs["fresh"]), 0)
    before, after, fresh = (digests(folder / "shards") for folder in runs.values())
    assert before.keys() == after.keys() and before != after == fresh


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small file system of its own; yields how to mount it with other options."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode:
        pytest.skip("only root may mount")
    try:
        yield lambda other: subprocess.run(["mount", "-o", f"remount,{other}", folder], check=True) and None
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_names_the_shard_and_leaves_only_whole_ones(data: Path, whole: dict[str, Path]):
    with mounted(Path(".work"), "size=96k") as remount:
        with pytest.raises(
            WorkError, match=r"shard \d+: \[Errno 28\] No space left on device: '.*shard-\d+\.(tar|jsonl)"
        ) as caught:
            run(data, "copy_paste")
        assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
        assert 0 < len(finished_shards()) < SHARDS and not list(Path(".work").rglob("*.tmp"))
        for path in finished_shards():
            with tarfile.open(path) as shard:
                assert sum(member.name.endswith(CHANGED) for member in shard) == 2
        remount("size=10m")
        run(data, "copy_paste")
    assert digests(data / "candidates" / "copy_paste") == digests(whole["copy_paste"])


def test_an_output_that_cannot_be_written_stops_the_run_before_its_work(data: Path, monkeypatch: pytest.MonkeyPatch):
    after_shards(1, partial(pytest.fail, "a shard was made"), monkeypatch)
    with mounted(data / "candidates", "ro"), pytest.raises(OSError, match=r"Read-only file system: .*candidates"):
        run(data)


def planner_of(data: Path) -> Planner:
    wanted = read_targets(data / "targets.yaml", TYPES)
    return open_planner("copy_paste", read_real(data / "prepared" / "train", 0), params(), wanted)


def test_the_toy_is_what_the_tests_take_it_for(prepared: Path):
    planner = planner_of(prepared)
    assert planner.count == OF_A_TYPE * len(TYPES) == 14
    made = [one for number in range(planner.count) for one in planner.make(number)]
    assert Counter(one.record.defect for one in made) == dict.fromkeys(TYPES, OF_A_TYPE)
    assert len({one.request.id for one in made}) == 14
    assert all(one.request.clean.shape[2] == 3 and one.request.mask.any() for one in made)
    with pytest.raises(IndexError):
        planner.make(14)
