"""Stage synthesize: scenes of defects on good photos, N candidates for each crop, in shards; drawn again where none will do."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from pipeline.diffusion.components import load_vae
from pipeline.generators import GENERATORS
from pipeline.generators.protocol import SampleJob, Sampler
from pipeline.images import read_rgb
from pipeline.masks.crops import read_window
from pipeline.params import SelectParams, SynthesizeParams
from pipeline.records import fold_name, read_card, write_json
from pipeline.runlog import resumable_output
from pipeline.scenes import Placed, Planner, Wanted, open_planner, read_targets
from pipeline.seeds import derive_seed
from pipeline.selection import Guards, RealSide, open_guards, read_real, verdicts, visible
from pipeline.shards import Answers, Candidates, read_answers, write_shard
from pipeline.similarity.perceptual import choose_perceptual
from pipeline.training import progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draws:
    """How often a request is answered.

    Attributes:
        candidates: Answers of one draw.
        redraws: Most further draws of a request while none of its candidates is accepted.
        accept: Whether any candidate of a draw may be kept.
    """

    candidates: int
    redraws: int
    accept: Callable[[Candidates], bool]


def answer(sampler: Sampler, placed: Sequence[Placed], draws: Draws) -> list[Candidates]:
    """All candidates of all requests; those of a further draw go on counting, and so have seeds of their own."""
    entries: dict[str, Candidates] = {}
    for draw in range(1 + draws.redraws):
        waiting = [p for p in placed if p.request.id not in entries or not entries[p.request.id].answered]
        for new in _draw(sampler, waiting, range(draw * draws.candidates, (draw + 1) * draws.candidates)):
            judged = replace(new, answered=draws.accept(new))
            before = entries.get(new.request.id)
            entries[new.request.id] = before.joined(judged) if before else judged
    return list(entries.values())


def _draw(sampler: Sampler, placed: Sequence[Placed], numbers: Sequence[int]) -> Iterator[Candidates]:
    """Run the candidates of these numbers of all requests in one stream, so that the sampler's batches stay full."""
    stream = sampler((p.request, derive_seed("candidate", p.request.id, number)) for p in placed for number in numbers)
    for p in placed:
        results = list(islice(stream, len(numbers)))
        masks = tuple(part.mask for part in p.request.parts)
        yield Candidates(p.record, masks, tuple(r.image for r in results), tuple(r.changed for r in results), False)


def _acceptance(guards: Guards, real: RealSide) -> Callable[[Candidates], bool]:
    """Whether the guards of `select` leave any candidate of an entry."""

    def accept(entry: Candidates) -> bool:
        photo = read_rgb(real.train / real.samples[entry.request.clean].image)
        found = verdicts(visible(entry, photo), read_window(photo, entry.request.window), guards)
        return any(verdict.fault is None for verdict in found)

    return accept


def synthesize(generator: str, params: SynthesizeParams, selection: SelectParams, data: Path, out: Path) -> None:
    """Write `out/fold-<f>/shard-*.tar` and `card.json`; finished shards survive a killed run.

    Args:
        generator: Its name.
        params: Section `synthesize`.
        selection: Section `select`: a request none of whose candidates passes its guards is drawn again.
        data: Folder of the stages' outputs.
        out: Folder to write.

    Raises:
        ParamsError: If `data/targets.yaml` asks for what the data set does not have.
        RegionError: If the part is not found on a photo.
    """
    torch.set_num_threads(params.threads)
    train = data / "prepared" / "train"
    concept, base, targets = data / "concepts" / generator, data / "base", data / "targets.yaml"
    settings = (params.model_dump(mode="json"), selection.model_dump(mode="json"))
    regions = [] if params.placement.region_masks is None else [Path(params.placement.region_masks)]
    with resumable_output(out, *settings, generator, train, concept, base, targets, *regions) as work:
        for fold in read_card(train).folds:
            real = read_real(train, fold)
            wanted = read_targets(targets, sorted({r.defect for r in real.references}))
            planner = open_planner(generator, real, params, wanted)
            job = SampleJob(
                getattr(params, generator),
                base / fold_name(fold),
                [read_rgb(train / s.image) for s in planner.good[:32]],
                params.feather_px,
                params.micro_batch,
                seed=fold,
            )
            sampler = GENERATORS[generator]().load(concept / fold_name(fold), job)
            net = choose_perceptual(selection.perceptual, load_vae(base / fold_name(fold)))
            accept = _acceptance(open_guards(net, selection, generator, real), real)
            draws = Draws(getattr(params, generator).candidates, getattr(params.redraws, generator), accept)
            outcome = _fold(planner, wanted, sampler, draws, work / "out" / fold_name(fold))
            logger.info("%s, fold %d: %s", generator, fold, outcome)


def _fold(planner: Planner, wanted: Wanted, sampler: Sampler, draws: Draws, folder: Path) -> dict[str, int]:
    """Write the shards that are missing and the card; return what came of the requests."""
    params = planner.params
    folder.mkdir(parents=True, exist_ok=True)
    with progress(planner.count, f"synthesize fold {planner.fold}") as bar:
        for start in range(0, planner.count, params.shard_requests):
            part = range(start, min(start + params.shard_requests, planner.count))
            path = folder / f"shard-{start // params.shard_requests:04d}.tar"
            if not path.exists():
                write_shard(path, answer(sampler, [placed for number in part for placed in planner.make(number)], draws))
            bar.update(len(part))
    # From the shards, since those of a killed run are not made again.
    answers = [answers for path in sorted(folder.glob("shard-*.tar")) for answers in read_answers(path)]
    outcome = {
        "scenes": planner.count,
        "requests": len(answers),
        "defects": sum(one.parts for one in answers),
        "candidates": sum(one.candidates for one in answers),
        "requests_drawn_again": sum(one.candidates > draws.candidates for one in answers),
        "requests_without_answer": sum(not one.answered for one in answers),
    }
    facts = {
        "wanted": wanted,
        "left_out": left_out(planner, answers),
        "candidates_a_draw": draws.candidates,
        "redraws_at_most": draws.redraws,
        "outcome": outcome,
        "threads": params.threads,
        "sampler": sampler.facts(),
    }
    write_json(folder / "card.json", facts)
    return outcome


def left_out(planner: Planner, answers: Sequence[Answers]) -> dict[str, int]:
    """How many of the wanted defects found no place, by type and reason; only the scenes that lack some are planned again."""
    parts: Counter[int] = Counter()
    for one in answers:
        parts[one.scene] += one.parts
    short = [number for number in range(planner.count) if parts[number] < planner.wanted(number)]
    return dict(sorted(Counter(reason for number in short for reason in planner.plan(number)[1]).items()))
