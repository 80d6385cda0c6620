"""Stage synthesize: warped reference masks on good photos, N candidate crops each, in shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import yaml

from pipeline.generators import GENERATORS
from pipeline.generators.protocol import Request, SampleJob, Sampler
from pipeline.images import Mask, Picture, read_rgb
from pipeline.masks.crops import read_mask_window, read_window, window_around
from pipeline.masks.placement import WarpLimits, place
from pipeline.params import ParamsError, SynthesizeParams
from pipeline.records import Sample, fold_name, good_samples, read_card, read_manifest, write_json
from pipeline.references import Reference, read_references
from pipeline.runlog import resumable_output
from pipeline.seeds import derive_seed
from pipeline.shards import Candidates, RequestRecord, write_shard
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
        return Placed(request, RequestRecord(request_id, defect, clean.id, reference.id, window))


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


def answer(sampler: Sampler, placed: Sequence[Placed], candidates: int) -> Iterator[Candidates]:
    """Run all candidates of all requests through the sampler in one stream, so that its batches stay full."""
    stream = sampler((p.request, derive_seed("candidate", p.request.id, number)) for p in placed for number in range(candidates))
    for p in placed:
        results = list(islice(stream, candidates))
        yield Candidates(p.record, p.request.mask, tuple(r.image for r in results), tuple(r.changed for r in results))


def synthesize(generator: str, params: SynthesizeParams, data: Path, out: Path) -> None:
    """Write `out/fold-<f>/shard-*.tar` and `card.json`; finished shards survive a killed run.

    Raises:
        ParamsError: If `data/targets.yaml` asks for what the data set does not have.
    """
    torch.set_num_threads(params.threads)
    train = data / "prepared" / "train"
    concept, base, targets = data / "concepts" / generator, data / "base", data / "targets.yaml"
    card = read_card(train)
    with resumable_output(out, params.model_dump(mode="json"), generator, train, concept, base, targets) as work:
        for fold in card.folds:
            samples = read_manifest(train, fold)
            references = read_references(train, samples)
            by_defect = {d: [r for r in references if r.defect == d] for d in sorted({r.defect for r in references})}
            good = _good(samples, params.good_photos, fold)
            job = SampleJob(
                getattr(params, generator),
                base / fold_name(fold),
                [read_rgb(train / s.image) for s in good[:32]],
                params.feather_px,
                params.micro_batch,
                seed=fold,
            )
            sampler = GENERATORS[generator]().load(concept / fold_name(fold), job)
            factory = Factory(fold, by_defect, good, train, params)
            wanted = read_targets(targets, list(by_defect))
            _fold(generator, factory, wanted, sampler, work / "out" / fold_name(fold))


def _good(samples: Sequence[Sample], limit: int, fold: int) -> list[Sample]:
    good = [s for s in good_samples(samples) if s.split == "train"]
    if not good:
        raise ValueError(f"fold {fold}: no good train photo to put defects on; add defect-free photos to the data set")
    order = np.random.default_rng(derive_seed(fold, "synthesize on")).permutation(len(good))[:limit]
    return [good[i] for i in sorted(order)]


def _fold(generator: str, factory: Factory, wanted: Mapping[str, int], sampler: Sampler, folder: Path) -> None:
    params = factory.params
    candidates = getattr(params, generator).candidates
    folder.mkdir(parents=True, exist_ok=True)
    names = [(defect, number) for defect in sorted(wanted) for number in range(wanted[defect])]
    with progress(len(names), f"synthesize fold {factory.fold}") as bar:
        for start in range(0, len(names), params.shard_requests):
            part = names[start : start + params.shard_requests]
            path = folder / f"shard-{start // params.shard_requests:04d}.tar"
            if not path.exists():
                write_shard(path, list(answer(sampler, [factory.make(*name) for name in part], candidates)))
            bar.update(len(part))
    facts = {"requests": dict(wanted), "candidates": candidates, "threads": params.threads, "sampler": sampler.facts()}
    write_json(folder / "card.json", facts)
    logger.info("%s, fold %d: %d requests, %d candidates each", generator, factory.fold, len(names), candidates)
