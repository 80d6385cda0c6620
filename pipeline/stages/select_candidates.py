"""Stage select: of each request's candidates keep those that look least like the clean photo inside the mask."""

from __future__ import annotations

import logging
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.diffusion.components import load_vae
from pipeline.images import Mask, Picture, read_rgb, write_png
from pipeline.masks.composite import divided
from pipeline.masks.crops import paste_window, put_back, read_window
from pipeline.params import SelectParams
from pipeline.records import Sample, fold_name, read_card, write_json, write_manifest
from pipeline.references import sample_of
from pipeline.runlog import whole_folder
from pipeline.selection import (
    KEPT,
    OUTRANKED,
    RANKED_LOW,
    Guards,
    RealSide,
    Verdict,
    open_guards,
    ranked,
    read_real,
    verdicts,
    visible,
)
from pipeline.shards import CandidateFate, Candidates, RequestRecord, read_scenes, write_fates
from pipeline.similarity.perceptual import choose_perceptual
from pipeline.similarity.quality import JUDGE, RealLooks, look, quality, real_looks

logger = logging.getLogger(__name__)


class NothingKeptError(ValueError):
    """No candidate of a fold passed the guards."""


@dataclass(frozen=True)
class Jury:
    """What candidates of one fold are selected and judged by.

    Attributes:
        real: Train side of the fold.
        guards: Select.
        looks: Of the real defects; judge, and select nothing.
        params: Section `select`.
    """

    real: RealSide
    guards: Guards
    looks: RealLooks
    params: SelectParams


def _numbers() -> array[float]:
    return array("d")


@dataclass
class Tally:
    """Counts and scores of a fold's candidates, some bytes each: their rows are on disk.

    Attributes:
        fates: Candidates by what became of them.
        kept: Candidates kept, by type.
        candidates: Requests by the number of their candidates.
        unanswered: Requests none of whose candidates was kept.
        score: Of the kept ones.
        label_iou: Likewise.
        quality: Of all with a picture, by type.
        quality_of_kept: Of the kept ones, by type.
    """

    fates: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    candidates: Counter[int] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    score: array[float] = field(default_factory=_numbers)
    label_iou: array[float] = field(default_factory=_numbers)
    quality: defaultdict[str, array[float]] = field(default_factory=lambda: defaultdict(_numbers))
    quality_of_kept: defaultdict[str, array[float]] = field(default_factory=lambda: defaultdict(_numbers))

    def add(self, fates: Sequence[CandidateFate]) -> None:
        """Count all candidates of some requests."""
        of_request = Counter(fate.request for fate in fates)
        self.candidates.update(of_request.values())
        kept = [fate for fate in fates if fate.fate == KEPT]
        self.unanswered += of_request.keys() - {fate.request for fate in kept}
        self.fates.update(fate.fate for fate in fates)
        self.kept.update(fate.defect for fate in kept)
        for fate in fates:
            _note(self.quality[fate.defect], fate.quality)
        for fate in kept:
            _note(self.score, fate.score)
            _note(self.label_iou, fate.label_iou)
            _note(self.quality_of_kept[fate.defect], fate.quality)


def _note(values: array[float], value: float | None) -> None:
    if value is not None:
        values.append(value)


def select_candidates(params: SelectParams, data: Path, generator: str, out: Path) -> None:
    """Write `out/fold-<f>/`: full photos with their defect, masks of what changed, manifest, fate of every candidate and card.

    Raises:
        NothingKeptError: If no candidate of a fold passes the guards.
    """
    torch.set_num_threads(params.threads)
    train = data / "prepared" / "train"
    with whole_folder(out) as building:
        for fold in read_card(train).folds:
            jury = _jury(params, generator, data / "base" / fold_name(fold), read_real(train, fold))
            folder = building / fold_name(fold)
            shards = sorted((data / "candidates" / generator / fold_name(fold)).glob("shard-*.tar"))
            samples, tally = list[Sample](), Tally()
            with write_fates(folder) as note:
                for shard in shards:
                    for scene in read_scenes(shard):
                        fates, found = _decide(scene, shard.name, jury, folder)
                        note(fates)
                        tally.add(fates)
                        samples += found
            if not tally.candidates:
                raise NothingKeptError(
                    f"{generator}, fold {fold}: there are no candidates. `synthesize` found no place for any defect; why, "
                    f"stands under left_out in {data / 'candidates' / generator / fold_name(fold) / 'card.json'}"
                )
            if not samples:
                raise NothingKeptError(
                    f"{generator}, fold {fold}: none of the candidates survived ({dict(tally.fates)}); {_way_out()}"
                )
            write_manifest(folder, samples)
            write_json(folder / "card.json", _facts(jury, tally))
            logger.info("%s, fold %d: %s", generator, fold, dict(tally.fates))


def _jury(params: SelectParams, generator: str, base: Path, real: RealSide) -> Jury:
    net = choose_perceptual(params.perceptual, load_vae(base))
    looks = real_looks([(r.defect, look(r.image, r.mask)) for r in real.references])
    return Jury(real, open_guards(net, params, generator, real), looks, params)


def _way_out() -> str:
    return (
        "fit the concept longer (learn_concept), draw more often (synthesize.redraws), or loosen the guard that refused most: "
        "lower select.min_changed_share, raise select.outlier_quantile, or lower select.remembered_share"
    )


def _decide(scene: Sequence[Candidates], shard: str, jury: Jury, folder: Path) -> tuple[list[CandidateFate], list[Sample]]:
    """Judge the requests of one scene, write the photos of what is kept, and say what became of every candidate."""
    real = jury.real
    photo = read_rgb(real.train / real.samples[scene[0].request.clean].image)
    seen = [visible(entry, photo.shape[:2]) for entry in scene]
    found = [verdicts(entry, read_window(photo, entry.request.window), jury.guards) for entry in seen]
    kept = [ranked(one)[: jury.params.keep_per_request] for one in found]
    # The best candidates of all requests share a photo, then the second best of those that have one.
    samples = [
        sample
        for rank in range(max(len(places) for places in kept))
        for sample in _write(
            [(e, places[rank]) for e, places in zip(scene, kept, strict=True) if rank < len(places)], rank, photo, real, folder
        )
    ]
    fates = [
        fate for entry, one, places in zip(seen, found, kept, strict=True) for fate in _fates(entry, one, places, shard, jury)
    ]
    return fates, samples


def _fates(entry: Candidates, found: Sequence[Verdict], kept: Sequence[int], shard: str, jury: Jury) -> list[CandidateFate]:
    request, likeness = entry.request, _likeness(entry, jury)
    judged = {
        number: CandidateFate(
            **_origin(entry, number, shard),
            score=round(verdict.score, 6),
            changed_share=round(verdict.changed_share, 6),
            label_iou=round(verdict.label_iou, 6),
            nearest_reference=verdict.nearest_reference,
            reference_distance=None if verdict.reference_distance is None else round(verdict.reference_distance, 6),
            quality=round(float(likeness[place]), 6),
            fate=verdict.fault or (KEPT if place in kept else OUTRANKED),
            sample=_photo_name(request, jury.real, kept.index(place)) if place in kept else None,
        )
        for place, (number, verdict) in enumerate(zip(entry.numbers, found, strict=True))
    }
    return [judged.get(number) or _dropped(entry, number, shard) for number in range(entry.drawn)]


def _origin(entry: Candidates, number: int, shard: str) -> dict[str, Any]:
    """What a fate says of a candidate before anyone looks at it."""
    request = entry.request
    return {
        "request": request.id,
        "number": number,
        "shard": shard,
        "defect": request.defect,
        "clean": request.clean,
        "references": tuple(part.reference for part in request.parts if part.reference is not None),
        "early": round(entry.early[number], 6) if entry.early else None,
    }


def _dropped(entry: Candidates, number: int, shard: str) -> CandidateFate:
    """The fate of a candidate that the sampler did not finish."""
    unseen = dict.fromkeys(
        ("score", "changed_share", "label_iou", "nearest_reference", "reference_distance", "quality", "sample")
    )
    return CandidateFate(**_origin(entry, number, shard), **unseen, fate=RANKED_LOW)


def _likeness(entry: Candidates, jury: Jury) -> NDArray[np.float64]:
    """(B,) quality of each candidate, mean over its parts."""
    by_part = [
        quality(np.stack([look(image, mask) for image in entry.images]), part.defect, jury.looks, jury.params.quality_neighbours)
        for part, mask in zip(entry.request.parts, entry.masks, strict=True)
    ]
    return np.mean(by_part, axis=0)


def _photo_name(request: RequestRecord, real: RealSide, rank: int) -> str:
    return f"{fold_name(real.fold)}-{request.scene:05d}-{rank}"


def _write(chosen: Sequence[tuple[Candidates, int]], rank: int, photo: Picture, real: RealSide, folder: Path) -> list[Sample]:
    """Put candidates back into their photo, and write it and a mask a type; every other pixel stays the photo's."""
    image = put_back(photo, ((entry.images[place], entry.request.window) for entry, place in chosen))
    masks: dict[str, Mask] = {}
    parents: dict[str, list[str]] = {}
    for entry, place in chosen:
        window, parts = entry.request.window, entry.request.parts
        for part, own in zip(parts, divided(entry.changed[place], entry.masks), strict=True):
            whole = np.zeros(photo.shape[:2], bool)
            paste_window(whole, own, window)
            if whole.any():
                masks[part.defect] = masks.get(part.defect, np.zeros_like(whole)) | whole
                parents.setdefault(part.defect, []).extend([] if part.reference is None else [sample_of(part.reference)])
    request = chosen[0][0].request
    name, grey = _photo_name(request, real, rank), bool((image == image[..., :1]).all())
    write_png(folder / "images" / f"{name}.png", image[..., 0] if grey else image)
    samples = []
    for number, (defect, mask) in enumerate(sorted(masks.items())):
        write_png(folder / "masks" / f"{name}-{number}.png", mask)
        samples.append(
            Sample(
                id=f"{name}-{defect}",
                image=f"images/{name}.png",
                mask=f"masks/{name}-{number}.png",
                defect=defect,
                part_id=real.samples[request.clean].part_id,
                split="train",
                fold=real.fold,
                origin="synthetic",
                parents=(request.clean, *dict.fromkeys(parents[defect])),
            )
        )
    return samples


def _facts(jury: Jury, tally: Tally) -> dict[str, object]:
    memories = jury.guards.memories
    return {
        "perceptual": jury.guards.net.name,
        "judge": JUDGE,
        "artefact_bound": round(jury.guards.artefact_bound, 4),
        "remembered_below": memories and {defect: round(memory.bound, 4) for defect, memory in sorted(memories.items())},
        "kept": dict(sorted(tally.kept.items())),
        "rejected": {fate: count for fate, count in sorted(tally.fates.items()) if fate != KEPT},
        "requests_by_candidates": {str(n): count for n, count in sorted(tally.candidates.items())},
        "requests_without_answer": sorted(tally.unanswered),
        "score": _spread(tally.score),
        "iou_of_label_and_request": _spread(tally.label_iou),
        "quality_of_kept": {defect: _spread(tally.quality_of_kept[defect]) for defect in sorted(tally.quality)},
        "quality_of_all": {defect: _spread(values) for defect, values in sorted(tally.quality.items())},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Quantiles."""
    return {f"q{round(100 * q)}": round(float(np.quantile(values, q)), 4) for q in (0.05, 0.5, 0.95)} if len(values) else {}
