"""Stage synthesize: warped reference masks on good photos, N candidate crops each, in shards; drawn again where none will do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import yaml

from pipeline.diffusion.components import load_vae
from pipeline.generators import GENERATORS
from pipeline.generators.protocol import Dropped, Request, SampleJob, Sampler
from pipeline.images import Mask, Picture, read_rgb
from pipeline.masks.crops import read_mask_window, read_window, window_around
from pipeline.masks.placement import WarpLimits, place
from pipeline.params import ParamsError, SelectParams, SynthesizeParams
from pipeline.records import Sample, fold_name, read_card, write_json
from pipeline.references import Reference
from pipeline.runlog import resumable_output
from pipeline.seeds import derive_seed
from pipeline.selection import Guards, RealSide, open_guards, read_real, verdicts, visible
from pipeline.shards import Candidates, RequestRecord, read_answers, write_shard
from pipeline.similarity.perceptual import choose_perceptual
from pipeline.training import progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placed:
    """A request, how it is kept, and the full-size mask it came from."""

    request: Request
    record: RequestRecord


@dataclass(frozen=True)
class Factory:
    """What requests of one fold are made from.

    Attributes:
        fold: Fold and seed.
        references: Train references by type, sorted.
        good: Good train samples defects are put on.
        root: Folder of the train manifest.
        params: Sizes and warps.
    """

    fold: int
    references: Mapping[str, Sequence[Reference]]
    good: Sequence[Sample]
    root: Path
    params: SynthesizeParams

    def make(self, defect: str, number: int) -> Placed:
        """Request `number` of a type: everything in it follows from fold, type and number alone."""
        params = self.params
        request_id = f"{fold_name(self.fold)}-{defect}-{number:05d}"
        rng = np.random.default_rng(derive_seed("request", request_id))
        choices = self.references[defect]
        reference, clean = choices[int(rng.integers(len(choices)))], self.good[int(rng.integers(len(self.good)))]
        photo: Picture = read_rgb(self.root / clean.image)
        warp = params.warp
        limits = WarpLimits(warp.rotate_deg, warp.scale, warp.flip, warp.jitter)
        mask: Mask
        mask, affine = place(reference.mask, photo.shape[:2], limits, rng)
        window = window_around(mask, rng.uniform(*params.crop_scale), params.min_crop_px)
        affine = affine - np.array([[0, 0, window.x0], [0, 0, window.y0]])
        request = Request(request_id, defect, read_window(photo, window), read_mask_window(mask, window), reference.id, affine)
        rows = tuple(tuple(row) for row in affine.tolist())
        return Placed(request, RequestRecord(request_id, defect, clean.id, reference.id, window, rows))


def read_targets(path: Path, defects: Sequence[str]) -> dict[str, int]:
    """How many requests each type gets, from `data/targets.yaml`.

    Raises:
        ParamsError: For a type the data set does not have, or a count that is not a whole number of at least 0.
    """
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    types = document.get("types") or {}
    unknown = sorted(set(types) - set(defects))
    if unknown:
        raise ParamsError(f"{path}: unknown defect types {unknown}; the data set has {sorted(defects)}")
    targets = {defect: types.get(defect, document["default"]) for defect in defects}
    wrong = {d: n for d, n in targets.items() if not isinstance(n, int) or n < 0}
    if wrong:
        raise ParamsError(f"{path}: counts must be whole numbers of at least 0, got {wrong}")
    return targets


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
        made = [r for r in results if not isinstance(r, Dropped)]
        yield Candidates(
            p.record,
            p.request.mask,
            tuple(r.image for r in made),
            tuple(r.changed for r in made),
            answered=False,
            early=tuple(r.early for r in results if r.early is not None),
            dropped=tuple(number for number, r in enumerate(results) if isinstance(r, Dropped)),
        )


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
    """
    torch.set_num_threads(params.threads)
    train = data / "prepared" / "train"
    concept, base, targets = data / "concepts" / generator, data / "base", data / "targets.yaml"
    settings = (params.model_dump(mode="json"), selection.model_dump(mode="json"))
    with resumable_output(out, *settings, generator, train, concept, base, targets) as work:
        for fold in read_card(train).folds:
            real = read_real(train, fold)
            by_defect = {d: [r for r in real.references if r.defect == d] for d in sorted({r.defect for r in real.references})}
            good = _good(real, params.good_photos)
            job = SampleJob(
                getattr(params, generator),
                base / fold_name(fold),
                [read_rgb(train / s.image) for s in good[:32]],
                params.feather_px,
                params.micro_batch,
                seed=fold,
            )
            sampler = GENERATORS[generator]().load(concept / fold_name(fold), job)
            net = choose_perceptual(selection.perceptual, load_vae(base / fold_name(fold)))
            accept = _acceptance(open_guards(net, selection, generator, real), real)
            draws = Draws(getattr(params, generator).candidates, getattr(params.redraws, generator), accept)
            factory = Factory(fold, by_defect, good, train, params)
            wanted = read_targets(targets, list(by_defect))
            outcome = _fold(factory, wanted, sampler, draws, work / "out" / fold_name(fold))
            logger.info("%s, fold %d: %s", generator, fold, outcome)


def _good(real: RealSide, limit: int) -> list[Sample]:
    good = real.good
    if not good:
        raise ValueError(f"fold {real.fold}: no good train photo to put defects on; add defect-free photos to the data set")
    order = np.random.default_rng(derive_seed(real.fold, "synthesize on")).permutation(len(good))[:limit]
    return [good[i] for i in sorted(order)]


def _fold(factory: Factory, wanted: Mapping[str, int], sampler: Sampler, draws: Draws, folder: Path) -> dict[str, int]:
    """Write the shards that are missing and the card; return what came of the requests."""
    params = factory.params
    folder.mkdir(parents=True, exist_ok=True)
    names = [(defect, number) for defect in sorted(wanted) for number in range(wanted[defect])]
    with progress(len(names), f"synthesize fold {factory.fold}") as bar:
        for start in range(0, len(names), params.shard_requests):
            part = names[start : start + params.shard_requests]
            path = folder / f"shard-{start // params.shard_requests:04d}.tar"
            if not path.exists():
                write_shard(path, answer(sampler, [factory.make(*name) for name in part], draws))
            bar.update(len(part))
    # From the shards, since those of a killed run are not made again.
    answers = [answers for path in sorted(folder.glob("shard-*.tar")) for answers in read_answers(path)]
    outcome = {
        "requests": len(names),
        "candidates": sum(count for count, _ in answers),
        "requests_drawn_again": sum(count > draws.candidates for count, _ in answers),
        "requests_without_answer": sum(not answered for _, answered in answers),
    }
    facts = {
        "requests": dict(wanted),
        "candidates_a_draw": draws.candidates,
        "redraws_at_most": draws.redraws,
        "outcome": outcome,
        "threads": params.threads,
        "sampler": sampler.facts(),
    }
    write_json(folder / "card.json", facts)
    return outcome
