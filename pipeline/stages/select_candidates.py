"""Stage select: of each request's candidates keep those that look least like the clean photo inside the mask."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.diffusion.components import load_vae
from pipeline.images import Picture, read_rgb, write_png
from pipeline.masks.crops import paste_window, read_window
from pipeline.params import SelectParams
from pipeline.records import Sample, fold_name, read_card, write_json, write_manifest
from pipeline.references import sample_of
from pipeline.runlog import whole_folder
from pipeline.selection import KEPT, OUTRANKED, RANKED_LOW, Guards, RealSide, open_guards, ranked, read_real, verdicts, visible
from pipeline.shards import CandidateFate, Candidates, read_shard, write_fates
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
            fates = [fate for shard in shards for entry in read_shard(shard) for fate in _decide(entry, shard.name, jury, folder)]
            counts = Counter(fate.fate for fate in fates)
            kept = [fate for fate in fates if fate.sample is not None]
            if not kept:
                raise NothingKeptError(
                    f"{generator}, fold {fold}: none of the candidates survived ({dict(counts)}); {_way_out()}"
                )
            write_manifest(folder, [_sample(fate, jury.real) for fate in kept])
            write_fates(folder, fates)
            write_json(folder / "card.json", _facts(jury, fates))
            logger.info("%s, fold %d: %s", generator, fold, dict(counts))


def _jury(params: SelectParams, generator: str, base: Path, real: RealSide) -> Jury:
    net = choose_perceptual(params.perceptual, load_vae(base))
    looks = real_looks([(r.defect, look(r.image, r.mask)) for r in real.references])
    return Jury(real, open_guards(net, params, generator, real), looks, params)


def _way_out() -> str:
    return (
        "fit the concept longer (learn_concept), draw more often (synthesize.redraws), or loosen the guard that refused most: "
        "lower select.min_changed_share, raise select.outlier_quantile, or lower select.remembered_share"
    )


def _decide(entry: Candidates, shard: str, jury: Jury, folder: Path) -> list[CandidateFate]:
    """Judge one request, write the photos of what is kept, and say what became of every candidate."""
    photo = read_rgb(jury.real.train / jury.real.samples[entry.request.clean].image)
    seen, request = visible(entry, photo.shape[:2]), entry.request
    found = verdicts(seen, read_window(photo, request.window), jury.guards)
    likeness = quality(
        np.stack([look(image, seen.mask) for image in seen.images]), request.defect, jury.looks, jury.params.quality_neighbours
    )
    kept = {place: f"{request.id}-{rank}" for rank, place in enumerate(ranked(found)[: jury.params.keep_per_request])}
    for place, name in kept.items():
        _write(entry, place, photo, folder, name)
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
            sample=kept.get(place),
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
        "reference": request.reference,
        "early": round(entry.early[number], 6) if entry.early else None,
    }


def _dropped(entry: Candidates, number: int, shard: str) -> CandidateFate:
    """The fate of a candidate that the sampler did not finish."""
    unseen = dict.fromkeys(
        ("score", "changed_share", "label_iou", "nearest_reference", "reference_distance", "quality", "sample")
    )
    return CandidateFate(**_origin(entry, number, shard), **unseen, fate=RANKED_LOW)


def _write(entry: Candidates, place: int, photo: Picture, folder: Path, name: str) -> None:
    """Put one candidate back into its photo and write both files; every other pixel stays the photo's."""
    image, mask = photo.copy(), np.zeros(photo.shape[:2], bool)
    paste_window(image, entry.images[place], entry.request.window)
    paste_window(mask, entry.changed[place], entry.request.window)
    grey = bool((image == image[..., :1]).all())
    write_png(folder / "images" / f"{name}.png", image[..., 0] if grey else image)
    write_png(folder / "masks" / f"{name}.png", mask)


def _sample(fate: CandidateFate, real: RealSide) -> Sample:
    return Sample(
        id=str(fate.sample),
        image=f"images/{fate.sample}.png",
        mask=f"masks/{fate.sample}.png",
        defect=fate.defect,
        part_id=real.samples[fate.clean].part_id,
        split="train",
        fold=real.fold,
        origin="synthetic",
        parents=(fate.clean, sample_of(fate.reference)),
    )


def _facts(jury: Jury, fates: Sequence[CandidateFate]) -> dict[str, object]:
    kept = [fate for fate in fates if fate.fate == KEPT]
    candidates = Counter(fate.request for fate in fates)
    types = sorted({fate.defect for fate in fates})
    memories = jury.guards.memories
    return {
        "perceptual": jury.guards.net.name,
        "judge": JUDGE,
        "artefact_bound": round(jury.guards.artefact_bound, 4),
        "remembered_below": memories and {defect: round(memories[defect].bound, 4) for defect in types},
        "kept": dict(sorted(Counter(fate.defect for fate in kept).items())),
        "rejected": dict(sorted(Counter(fate.fate for fate in fates if fate.fate != KEPT).items())),
        "requests_by_candidates": {str(n): count for n, count in sorted(Counter(candidates.values()).items())},
        "requests_without_answer": sorted(candidates.keys() - {fate.request for fate in kept}),
        "score": _spread([fate.score for fate in kept]),
        "iou_of_label_and_request": _spread([fate.label_iou for fate in kept]),
        "quality_of_kept": {defect: _spread([fate.quality for fate in kept if fate.defect == defect]) for defect in types},
        "quality_of_all": {defect: _spread([fate.quality for fate in fates if fate.defect == defect]) for defect in types},
    }


def _spread(values: list[float | None]) -> dict[str, float]:
    """Quantiles of what is known."""
    known = [value for value in values if value is not None]
    return {f"q{round(100 * q)}": round(float(np.quantile(known, q)), 4) for q in (0.05, 0.5, 0.95)} if known else {}
