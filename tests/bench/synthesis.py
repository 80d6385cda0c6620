"""`make bench-synthesis`: what candidates cost besides the network, and on more workers. Writes reports/bench/synthesis.json.

Parts: overhead (a hundred thousand requests, the network replaced by one that paints grey), share (everything but the network,
with the embedded base) and scale-out (two worker processes against one). Each works on fold 0 of the magnetic tiles.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel

from pipeline import shard_making
from pipeline.answering import Draws
from pipeline.fan_out import EXECUTOR, open_crew
from pipeline.generators.protocol import Request, Synthetic
from pipeline.images import Picture
from pipeline.params import LearnConceptParams, SelectParams, SynthesizeParams, load_section
from pipeline.records import fold_name
from pipeline.runlog import digest
from pipeline.selection import Verdict, read_real
from pipeline.shard_making import ShardJob, Workshop, make_shard
from pipeline.shards import Candidates
from pipeline.similarity.perceptual import Perceptual, choose_perceptual
from pipeline.stages import synthesize as stage
from pipeline.stages.learn_concept import learn_concept
from pipeline.stages.synthesize import Run, make_fold
from tests.bench.bars import Part, bar, run_parts, work_folder
from tests.bench.embedded import adapt_once, prepare_once
from tests.bench.synthesis_speed import speed_bars, speed_part

COMMAND = "make bench-synthesis DATA=<folder of magnetic tiles>"
WORK = work_folder("synthesis")
GENERATOR = "defectfill"
REQUESTS, STUB_SHARD, GROWTH_OVER = 100_000, 250, 10_000
MEASURED_SHARDS = 12
LOG = "log.jsonl"


def outputs(data: Path) -> Path:
    """What the stages before `synthesize` put out, for fold 0 of the tiles; made unless it lies there."""
    root = WORK / "data"
    train = prepare_once(data, "magnetic_tile", (0,), root / "prepared") / "train"
    base, concept = adapt_once(train, root / "base"), root / "concepts" / GENERATOR
    if not concept.exists():
        learn_concept(GENERATOR, load_section("learn_concept", LearnConceptParams), train, base, concept)
    return root


def job(root: Path, work: Path, requests: int, **changes: object) -> ShardJob:
    """The stage's own job for `requests` requests, spread over the types."""
    types = len({r.defect for r in read_real(root / "prepared" / "train", 0).references})
    (root / "targets.yaml").write_text(yaml.safe_dump({"default": -(-requests // types), "types": {}}), encoding="utf-8")
    params = load_section("synthesize", SynthesizeParams).model_copy(update=changes)
    of_fold = [root / name / fold_name(0) for name in (f"concepts/{GENERATOR}", "base")]
    digests = {path: digest(path) for path in (*of_fold, root / "targets.yaml")}
    run = Run(GENERATOR, params, load_section("select", SelectParams), root, digests)
    made = run.job(0, work, params.micro_batch)
    for folder in (made.out, made.rows):
        folder.mkdir(parents=True, exist_ok=True)
    return made


# --- overhead --------------------------------------------------------------------------------------------------------------


class Grey:
    """Answers at once: the mask in grey."""

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic]:
        """Paint in order."""
        for request, seed in requests:
            yield Synthetic(np.where(request.mask[..., None], np.uint8(seed % 256), request.clean), request.mask)

    def facts(self) -> dict[str, Any]:
        """None."""
        return {}


def accepting(entry: Candidates, clean: Picture) -> Sequence[Verdict]:
    """Guards without a network."""
    return [Verdict(1.0, 1.0, 1.0, None, None, None)] * len(entry.images)


def grey_workshop(made: ShardJob) -> Workshop:
    """The real plan, and no network."""
    return Workshop(shard_making.open_plan(made)[1], Grey(), Draws(1, 0, accepting))


def stub_run(root: Path, work: Path, log: Path) -> None:
    """The stage's own loop without a network; lines of the log at its begin, around each shard and at its end."""
    shard_making.open_workshop = grey_workshop

    # A new process begins with the peak of the one that started it.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def note(what: str) -> None:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = {"what": what, "at": time.monotonic(), "peak_mib": int(status.partition("VmHWM:")[2].split()[0]) / 1024}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def noted(made: ShardJob, number: int) -> int:
        note("asked")
        done = make_shard(made, number)
        note("shard")
        return done

    stage.make_shard = noted
    made = job(root, work, REQUESTS, shard_requests=STUB_SHARD)
    os.environ[EXECUTOR] = "serial"
    note("begin")
    with open_crew() as crew:
        make_fold(made, crew, made.params.micro_batch)
    note("end")


def overhead(data: Path) -> dict[str, float]:
    """A run killed half-way and its resumption: milliseconds a request, growth of the peak, seconds to the first new shard."""
    root, work = outputs(data), WORK / "overhead"
    shutil.rmtree(work, ignore_errors=True)
    logs = [WORK / "killed.jsonl", WORK / "resumed.jsonl"]
    for log in logs:
        log.unlink(missing_ok=True)
    shards = -(-REQUESTS // STUB_SHARD)
    start = partial(multiprocessing.get_context("spawn").Process, target=stub_run)
    process = start(args=(root, work, logs[0]))
    process.start()
    while process.is_alive() and len(list((work / "out" / fold_name(0)).glob("*.tar"))) < shards // 2:
        time.sleep(0.1)
    process.kill()
    process.join()
    process = start(args=(root, work, logs[1]))
    process.start()
    process.join()
    killed, resumed = ([json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] for log in logs)
    shutil.rmtree(work)
    seconds = killed[-1]["at"] - killed[0]["at"] + resumed[-1]["at"] - resumed[0]["at"]
    # The first thousand requests warm up.
    first, last = 1000 // STUB_SHARD, (1000 + GROWTH_OVER) // STUB_SHARD
    peaks = [line["peak_mib"] for line in killed if line["what"] == "shard"]
    return {
        "requests": REQUESTS,
        "ms_a_request": round(1000 * seconds / REQUESTS, 3),
        "peak_growth_mib": round(peaks[last] - peaks[first], 1),
        "peak_mib": round(max(line["peak_mib"] for line in (*killed, *resumed)), 1),
        "resume_s": round(resumed[1]["at"] - resumed[0]["at"], 2),
    }


# --- share -----------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds spent in functions, by name; those called by a counted one are not counted again."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    def counted(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its seconds counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return work(*args, **kwargs)
            self._inside, start = True, time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start
                self._inside = False

        return timed


def share(data: Path) -> dict[str, float]:
    """Shares of the wall time of whole shards, with the model loaded and one shard made before."""
    clock, work = Clock(), WORK / "share"
    shutil.rmtree(work, ignore_errors=True)
    made = job(outputs(data), work, 10_000)

    def judging(wish: Any, vae: AutoencoderKL) -> Perceptual:
        net = choose_perceptual(wish, vae)
        return replace(net, distance=clock.counted("judging network", net.distance))

    networks = [(UNet2DConditionModel, "forward"), (AutoencoderKL, "encode"), (AutoencoderKL, "decode")]
    patches = [mock.patch.object(kind, name, clock.counted("network", getattr(kind, name))) for kind, name in networks]
    with mock.patch.object(shard_making, "choose_perceptual", judging), patches[0], patches[1], patches[2]:
        make_shard(made, 0)
        clock.seconds.clear()
        start = time.perf_counter()
        for number in range(1, 1 + MEASURED_SHARDS // 2):
            make_shard(made, number)
        wall = time.perf_counter() - start
    shutil.rmtree(work)
    network, judge = (clock.seconds[name] / wall for name in ("network", "judging network"))
    found = {"network": network, "judging_network": judge, "everything_else": 1 - network - judge}
    return {name: round(value, 4) for name, value in found.items()} | {"wall_s": round(wall, 1)}


# --- scale-out -------------------------------------------------------------------------------------------------------------


def shards_a_minute(made: ShardJob, workers: int) -> float:
    """Of processes with one thread each, while all are busy: without their start and without the last shards."""
    os.environ[EXECUTOR] = f"processes:{workers}"
    ends: list[float] = []
    with open_crew() as crew:
        for _ in crew.each(partial(make_shard, made), range(MEASURED_SHARDS), "shard"):
            ends.append(time.monotonic())
    busy = ends[2 * workers - 1 : len(ends) - workers + 1]
    return 60 * (len(busy) - 1) / (busy[-1] - busy[0])


def scale_out(data: Path) -> dict[str, float]:
    """One worker and two, on the same shards."""
    root, found = outputs(data), dict[str, float]()
    for workers in (1, 2):
        work = WORK / f"workers-{workers}"
        shutil.rmtree(work, ignore_errors=True)
        found[f"{workers}_shards_a_minute"] = round(shards_a_minute(job(root, work, 10_000, threads=1), workers), 2)
    first, second = (sorted((WORK / f"workers-{n}").rglob("*.tar")) for n in (1, 2))
    same = [a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True)]
    return found | {"times": round(found["2_shards_a_minute"] / found["1_shards_a_minute"], 3), "same_bytes": all(same)}


PARTS: dict[str, Part] = {"speed": speed_part, "overhead": overhead, "share": share, "scale-out": scale_out}


def bars(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The promises; a part that was not run has no value."""
    stub, part, more = (found.get(name, {}) for name in ("overhead", "share", "scale-out"))
    reference = "100,000 requests, a network that answers at once"
    return [
        *speed_bars(found.get("speed", {})),
        bar("MiB the parent's peak grows over 10,000 requests", stub.get("peak_growth_mib"), 50, "lower", reference, COMMAND),
        bar("milliseconds a request without a network", stub.get("ms_a_request"), 3, "lower", reference, COMMAND),
        bar("seconds from a resumed run's begin to its first new shard", stub.get("resume_s"), 5, "lower", reference, COMMAND),
        bar(
            "share of wall time outside networks", part.get("everything_else"), 0.1, "lower", "wall time of whole shards", COMMAND
        ),
        bar("two workers of one thread, times one", more.get("times"), 1.8, "higher", "one worker, same shards", COMMAND),
    ]


def forget(part: str) -> None:
    """Parts keep nothing besides their results; what the earlier stages put out is kept."""


if __name__ == "__main__":
    raise SystemExit(run_parts("synthesis", PARTS, bars, forget))
