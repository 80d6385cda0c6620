"""One shard of candidates, made in any process: the unit of work of `synthesize`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.answering import Answer, Draws, Judge, answer
from pipeline.diffusion.components import load_vae
from pipeline.generators import GENERATORS
from pipeline.generators.protocol import SampleJob, Sampler
from pipeline.images import Picture, read_rgb, read_size
from pipeline.lineage import Origin, rows_text
from pipeline.params import SelectParams, SynthesizeParams
from pipeline.photo_cache import forget
from pipeline.records import fold_name
from pipeline.runlog import digest
from pipeline.scenes import Planner, open_planner
from pipeline.selection import Guards, RealSide, Verdict, open_guards, read_real, verdicts, visible
from pipeline.shards import Candidates, EncodedEntry, encoded, whole_file, write_tar
from pipeline.similarity.perceptual import choose_perceptual
from pipeline.wanted import Wanted, read_targets

CALIBRATION_PHOTOS = 32
CPU_FULL = "DefaultCPUAllocator: can't allocate memory"
"""How torch words it when host memory is refused; there it has no class of its own."""

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class InputsChangedError(ValueError):
    """Something a run reads is no longer what it was when the run began."""


class NetworkMemoryError(RuntimeError):
    """The network does not fit into memory at the run's micro-batch."""


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to make any shard of one fold; small, and cheap to send.

    Attributes:
        origin: Generator, and digests of what the job reads.
        fold: Fold and seed.
        params: Section `synthesize`, at the micro-batch of the run.
        selection: Section `select`: its guards decide whether a request is drawn again.
        data: Folder of the stages' outputs; absolute, and the same on every machine of a cluster.
        out: Folder of the shards.
        rows: Folder of their rows.
    """

    origin: Origin
    fold: int
    params: SynthesizeParams
    selection: SelectParams
    data: Path
    out: Path
    rows: Path

    @property
    def concept(self) -> Path:
        """Folder of the fold's concept."""
        return self.data / "concepts" / self.origin.generator / fold_name(self.fold)

    @property
    def base(self) -> Path:
        """Folder of the fold's base."""
        return self.data / "base" / fold_name(self.fold)

    def shard(self, number: int) -> Path:
        """File of a shard; it is there when the shard is finished, and never before."""
        return self.out / f"shard-{number:05d}.tar"

    def rows_of(self, number: int) -> Path:
        """File of a shard's rows."""
        return self.rows / f"shard-{number:05d}.jsonl"


@dataclass(frozen=True)
class Workshop:
    """What a process keeps open between shards of one job."""

    planner: Planner
    sampler: Sampler
    draws: Draws


_OPEN: dict[ShardJob, Workshop] = {}


def make_shard(job: ShardJob, number: int) -> int:
    """Write shard `number` and its rows; return how many scenes it holds.

    Requests are read ahead, and answers encoded, in threads beside the network; what is answered is written at once, so those
    drawn again stand last. A process makes one shard after the other (see `Crew.each`), since its threads share a network.

    Raises:
        NetworkMemoryError: If the network does not fit into memory.
        InputsChangedError: If concept or base are not those the run began with.
        PictureError: Names a photo that cannot be read.
        OSError: Names the file that cannot be written.
    """
    with _within_memory(job.params.micro_batch):
        shop = _workshop(job)
        rows: list[str] = []
        with whole_file(job.shard(number)) as shard:
            write_tar(shard, _entries(shop, job, number, rows))
            # Before the shard has its name: where it is there, so are they.
            with whole_file(job.rows_of(number)) as file:
                file.write_text("".join(rows), encoding="utf-8")
        return len(_numbers(shop, job, number))


def sampler_facts(job: ShardJob, _: int) -> dict[str, Any]:
    """What the sampler says of itself, for the card."""
    with _within_memory(job.params.micro_batch):
        return _workshop(job).sampler.facts()


def _workshop(job: ShardJob) -> Workshop:
    """The open one, or a new one; that of another job is let go first with its photos, so that two networks are never held."""
    # Each thread has its own number.
    torch.set_num_threads(job.params.threads)
    if job not in _OPEN:
        _OPEN.clear()
        forget()
        _OPEN[job] = open_workshop(job)
    return _OPEN[job]


def open_plan(job: ShardJob) -> tuple[RealSide, Planner, Wanted]:
    """The fold's train side, what makes its scenes, and what is wanted of them.

    Raises:
        ParamsError: If `data/targets.yaml` asks for what the data set does not have.
        RegionError: If the part is not found on a photo.
    """
    real = read_real(job.data / "prepared" / "train", job.fold)
    wanted = read_targets(job.data / "targets.yaml", sorted({r.defect for r in real.references}))
    return real, open_planner(job.origin.generator, real, job.params, wanted), wanted


def open_workshop(job: ShardJob) -> Workshop:
    """Load network, guards and planner.

    Raises:
        InputsChangedError: If concept or base are not those the run began with.
    """
    generator, params = job.origin.generator, job.params
    real, planner, _ = open_plan(job)
    photos = [read_rgb(real.train / sample.image) for sample in planner.good[:CALIBRATION_PHOTOS]]
    section = getattr(params, generator)
    sampling = SampleJob(section, job.base, photos, params.feather_px, params.micro_batch, job.fold, real.references)
    sampler = GENERATORS[generator]().load(job.concept, sampling)
    net = choose_perceptual(job.selection.perceptual, load_vae(job.base))
    judge = _judge(open_guards(net, job.selection, generator, real), real)
    # Looked at after loading: a change before or meanwhile is seen.
    refuse_changes({job.concept: job.origin.concept, job.base: job.origin.base})
    return Workshop(planner, sampler, Draws(section.candidates, getattr(params.redraws, generator), judge))


def refuse_changes(digests: Mapping[Path, str]) -> None:
    """Compare what a run reads with what it was when the run began.

    Raises:
        InputsChangedError: Names what differs.
    """
    if changed := [str(path) for path, before in digests.items() if digest(path) != before]:
        raise InputsChangedError(
            f"{', '.join(changed)} changed while candidates were made with it; nothing was put out. Run again: candidates of the "
            "new state are made from the start, and those of the old one go on if you put it back"
        )


def _judge(guards: Guards, real: RealSide) -> Judge:
    """The guards of `select`, on the part of the crop that lies inside its photo."""

    def judge(entry: Candidates, clean: Picture) -> Sequence[Verdict]:
        size = read_size(real.train / real.samples[entry.request.clean].image)
        return verdicts(visible(entry, size), clean, guards)

    return judge


def _numbers(shop: Workshop, job: ShardJob, number: int) -> range:
    """Numbers of the scenes that belong to a shard."""
    size = job.params.shard_requests
    return range(number * size, min((number + 1) * size, shop.planner.count))


def _entries(shop: Workshop, job: ShardJob, number: int, rows: list[str]) -> Iterator[EncodedEntry]:
    """The requests of a shard as soon as they are answered, encoded; their rows go to `rows`."""
    numbers, depth, shard = _numbers(shop, job, number), job.params.micro_batch, job.shard(number).name

    def pack(done: Answer) -> tuple[EncodedEntry, str]:
        return encoded(done.entry), rows_text(done, job.origin, shard)

    scenes = in_thread(shop.planner.make, numbers, depth)
    answers = answer(shop.sampler, chain.from_iterable(scenes), shop.draws)
    for entry, lines in in_thread(pack, answers, depth):
        rows.append(lines)
        yield entry


def in_thread(make: Callable[[_Item], _Made], items: Iterable[_Item], depth: int) -> Iterator[_Made]:
    """`map` in a thread of its own, at most `depth` items ahead of whoever takes the results; its errors come out here.

    Items are taken in the caller's thread.
    """
    waiting, left = deque[Future[_Made]](), iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting.extend(thread.submit(make, item) for item in islice(left, depth))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(thread.submit(make, item) for item in islice(left, 1))
            yield made


@contextmanager
def _within_memory(micro_batch: int) -> Iterator[None]:
    """Tell a network that does not fit from any other fault, and let it go.

    Raises:
        NetworkMemoryError: Instead of what torch or Python raise.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not (isinstance(error, torch.OutOfMemoryError) or CPU_FULL in str(error)):
            raise
        _OPEN.clear()
        raise NetworkMemoryError(f"out of memory at synthesize.micro_batch {micro_batch}: {error}") from error
