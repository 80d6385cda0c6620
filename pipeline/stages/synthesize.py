"""Stage synthesize: defects wanted on good photos, N candidates each, made shard by shard, here or on many machines."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.fan_out import Crew, open_crew
from pipeline.lineage import Origin, join_rows, outcome, read_rows
from pipeline.params import SelectParams, SynthesizeParams
from pipeline.records import fold_name, read_card, write_json
from pipeline.runlog import digest, name_of, resumable_output, work_folder
from pipeline.scenes import Planner
from pipeline.shard_making import NetworkMemoryError, ShardJob, make_shard, open_plan, refuse_changes, sampler_facts
from pipeline.training import progress
from pipeline.wanted import Wanted

logger = logging.getLogger(__name__)

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Run:
    """One run of the stage.

    Attributes:
        generator: Its name.
        params: Section `synthesize`, with the micro-batch that was asked for.
        selection: Section `select`.
        data: Folder of the stages' outputs, absolute: workers may start anywhere.
        digests: Of everything the run reads, by path.
    """

    generator: str
    params: SynthesizeParams
    selection: SelectParams
    data: Path
    digests: Mapping[Path, str]

    @property
    def key(self) -> str:
        """Decides with the micro-batch what comes out."""
        settings = (self.params.model_dump(mode="json"), self.selection.model_dump(mode="json"), self.generator)
        return digest(*settings, [self.digests[path] for path in sorted(self.digests)])

    def job(self, fold: int, work: Path, micro_batch: int) -> ShardJob:
        """What makes the shards of a fold."""
        concept, base = (self.data / name / fold_name(fold) for name in (f"concepts/{self.generator}", "base"))
        origin = Origin(self.generator, *(self.digests[path] for path in (concept, base, self.data / "targets.yaml")))
        params = self.params.model_copy(update={"micro_batch": micro_batch})
        out, rows = ((work / kind / fold_name(fold)).resolve() for kind in ("out", "rows"))
        return ShardJob(origin, fold, params, self.selection, self.data, out, rows)


def synthesize(generator: str, params: SynthesizeParams, selection: SelectParams, data: Path, out: Path) -> None:
    """Write `out/fold-<f>/`: `shard-*.tar`, `manifest.jsonl` with the lineage of every candidate, and `card.json`.

    Finished shards survive a killed run. Where they are made (`BLEMISH_EXECUTOR`) changes no byte.

    Args:
        generator: Its name.
        params: Section `synthesize`.
        selection: Section `select`: a request none of whose candidates passes its guards is drawn again.
        data: Folder of the stages' outputs.
        out: Folder to write.

    Raises:
        ParamsError: If `data/targets.yaml` asks for what the data set does not have.
        RegionError: If the part is not found on a photo.
        InputsChangedError: If something the run reads changed meanwhile.
        WorkError: Names the shard that failed, and why.
        NetworkMemoryError: If even one crop at a time does not fit into memory.
    """
    data = data.resolve()
    train = data / "prepared" / "train"
    folds = read_card(train).folds
    of_folds = [data / name / fold_name(fold) for name in (f"concepts/{generator}", "base") for fold in folds]
    regions = [] if params.placement.region_masks is None else [Path(params.placement.region_masks).resolve()]
    read = (train, data / "targets.yaml", *of_folds, *regions)
    run = Run(generator, params, selection, data, {path: digest(path) for path in read})
    with open_crew() as crew, work_folder(f"{name_of(out)}-recipe", run.key) as notes:
        while not _tried(run, crew, notes, out):
            pass


def _tried(run: Run, crew: Crew, notes: Path, out: Path) -> bool:
    """Make everything at one micro-batch; where that does not fit into memory, note half of it for the next try.

    Another micro-batch is another recipe with other bytes, so nothing made before is kept. The note outlives a killed run.
    """
    micro_batch = _noted(notes / RECIPE, run.params.micro_batch)
    try:
        with resumable_output(out, run.key, micro_batch) as work:
            for fold in read_card(run.data / "prepared" / "train").folds:
                make_fold(run.job(fold, work, micro_batch), crew, run.params.micro_batch)
            refuse_changes(run.digests)
    except NetworkMemoryError as error:
        if micro_batch == 1:
            raise
        logger.warning("%s; the run begins again at %d", error, micro_batch // 2)
        write_json(notes / RECIPE, {"micro_batch": micro_batch // 2})
        # A worker that was given up may still be writing there.
        shutil.rmtree(work, ignore_errors=True)
        return False
    return True


def _noted(path: Path, asked: int) -> int:
    return int(json.loads(path.read_text(encoding="utf-8"))["micro_batch"]) if path.exists() else asked


def make_fold(job: ShardJob, crew: Crew, asked: int) -> None:
    """Make the shards that are missing, then manifest and card."""
    _, planner, wanted = open_plan(job)
    shards = -(-planner.count // job.params.shard_requests)
    for folder in (job.out, job.rows):
        folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(shards) if not job.shard(number).exists()]
    with progress(shards, f"synthesize fold {job.fold}", shards - len(missing)) as bar:
        for _ in crew.each(partial(make_shard, job), missing, "shard"):
            bar.update()
    ((_, facts),) = crew.each(partial(sampler_facts, job), [job.fold], "sampler of fold")
    for torn in job.out.glob("*.tmp"):
        torn.unlink(missing_ok=True)
    join_rows((job.rows_of(number) for number in range(shards)), job.out)
    _write_card(job, planner, wanted, facts, asked)


def _write_card(job: ShardJob, planner: Planner, wanted: Wanted, facts: dict[str, object], asked: int) -> None:
    candidates = getattr(job.params, job.origin.generator).candidates
    found = {"scenes": planner.count} | outcome(read_rows(job.out), candidates)
    card = {
        "wanted": wanted,
        "left_out": left_out(planner, read_rows(job.out)),
        "candidates_a_draw": candidates,
        "redraws_at_most": getattr(job.params.redraws, job.origin.generator),
        "outcome": found,
        "threads": job.params.threads,
        "micro_batch_asked": asked,
        "micro_batch": job.params.micro_batch,
        "sampler": facts,
    }
    write_json(job.out / "card.json", card)
    logger.info("%s, fold %d: %s", job.origin.generator, job.fold, found)


def left_out(planner: Planner, rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many of the wanted defects found no place, by type and reason; only the scenes that lack some are planned again."""
    parts: Counter[int] = Counter()
    for _, group in groupby(rows, key=lambda row: row["request"]):
        first = next(group)
        parts[first["scene"]] += len(first["parts"])
    short = [number for number in range(planner.count) if parts[number] < planner.wanted(number)]
    return dict(sorted(Counter(reason for number in short for reason in planner.plan(number)[1]).items()))
