"""Stage select: of each request's candidates keep those that look least like the clean photo inside the mask."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from pipeline.diffusion.components import load_pipeline
from pipeline.images import Picture, read_rgb, write_png
from pipeline.masks.crops import paste_window, read_mask_window, read_window, window_around
from pipeline.params import SelectParams
from pipeline.records import Sample, fold_name, good_samples, read_card, read_manifest, write_json, write_manifest
from pipeline.references import read_references, sample_of
from pipeline.runlog import whole_folder
from pipeline.seeds import derive_seed
from pipeline.shards import Candidates, read_shard
from pipeline.similarity.masked import masked_distance
from pipeline.similarity.perceptual import Perceptual, choose_perceptual

logger = logging.getLogger(__name__)

REAL_COMPARISONS = 4
REAL_CROP_SCALE, REAL_MIN_PX = 3.0, 32


class NothingKeptError(ValueError):
    """No candidate of a fold passed the guards."""


@dataclass
class Tally:
    """What became of the candidates of a fold: reasons of rejection, scores and label overlap of the kept ones."""

    rejected: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Judge:
    """What candidates of one fold are judged by.

    Attributes:
        net: Perceptual distance.
        bound: Scores above it are artefacts.
        params: Guards.
    """

    net: Perceptual
    bound: float
    params: SelectParams


def select_candidates(params: SelectParams, data: Path, generator: str, out: Path) -> None:
    """Write `out/fold-<f>/`: full photos with their defect, masks of what changed, manifest and card."""
    torch.set_num_threads(params.threads)
    train = data / "prepared" / "train"
    with whole_folder(out) as building:
        for fold in read_card(train).folds:
            samples = read_manifest(train, fold)
            net = choose_perceptual(params.perceptual, load_pipeline(data / "base" / fold_name(fold)).vae)
            judge = Judge(net, real_score_bound(net, train, samples, params.outlier_quantile, fold), params)
            shards = sorted((data / "candidates" / generator / fold_name(fold)).glob("shard-*.tar"))
            tally, folder = Tally(), building / fold_name(fold)
            kept = list(_kept(shards, {s.id: s for s in samples}, judge, tally, (train, folder)))
            if not kept:
                raise NothingKeptError(
                    f"{generator}, fold {fold}: none of the candidates survived ({dict(tally.rejected)}); fit the concept longer "
                    "(learn_concept), or lower select.min_changed_share"
                )
            write_manifest(folder, [replace(s, fold=fold) for s in kept])
            write_json(folder / "card.json", _facts(judge, tally))
            logger.info("%s, fold %d: kept %d, rejected %s", generator, fold, len(kept), dict(tally.rejected))


def _kept(
    shards: Sequence[Path], by_id: Mapping[str, Sample], judge: Judge, tally: Tally, folders: tuple[Path, Path]
) -> Iterator[Sample]:
    """Judge every request of the shards and write the photos of the kept candidates; `folders` are train and output."""
    train, folder = folders
    for path in shards:
        for entry in read_shard(path):
            clean = by_id[entry.request.clean]
            photo = read_rgb(train / clean.image)
            crop = read_window(photo, entry.request.window)
            places = choose(visible(entry, photo), crop, judge, tally)
            if not places:
                tally.unanswered.append(entry.request.id)
            for rank, place in enumerate(places):
                tally.kept[entry.request.defect] += 1
                yield _write(entry, (place, rank), photo, clean, folder)


def visible(entry: Candidates, photo: Picture) -> Candidates:
    """The entry with its masks cut to the photo: beyond its border a window holds only reflection, which is never pasted."""
    inside = read_mask_window(np.ones(photo.shape[:2], bool), entry.request.window)
    return replace(entry, mask=entry.mask & inside, changed=tuple(changed & inside for changed in entry.changed))


def choose(entry: Candidates, clean: Picture, judge: Judge, tally: Tally) -> list[int]:
    """Indices of the candidates to keep, best first; reasons for the others go to the tally.

    Low-Fidelity Selection (DefectFill): the greatest distance to the clean crop inside the mask wins, among those that changed
    enough of the mask and are no artefacts.
    """
    count = len(entry.images)
    scores = masked_distance(judge.net, list(entry.images), [clean] * count, [entry.mask] * count)
    passing: list[int] = []
    for index, changed in enumerate(entry.changed):
        share = (changed & entry.mask).sum() / max(1, entry.mask.sum())
        if not changed.any() or share < judge.params.min_changed_share:
            tally.rejected["changed too little of the mask"] += 1
        elif scores[index] > judge.bound:
            tally.rejected["beyond real defects (artefact)"] += 1
        else:
            passing.append(index)
    best = sorted(passing, key=lambda index: (-scores[index], index))
    keep = best[: judge.params.keep_per_request]
    tally.rejected["less different than the kept one"] += len(best) - len(keep)
    for index in keep:
        union = (entry.changed[index] | entry.mask).sum()
        tally.scores.append(float(scores[index]))
        tally.ious.append(float((entry.changed[index] & entry.mask).sum() / union))
    return keep


def _write(entry: Candidates, place: tuple[int, int], photo: Picture, clean: Sample, folder: Path) -> Sample:
    """Put one candidate (index, rank) back into its photo and write both files; every other pixel stays the photo's."""
    index, rank = place
    request = entry.request
    name = f"{request.id}-{rank}"
    image, mask = photo.copy(), np.zeros(photo.shape[:2], bool)
    paste_window(image, entry.images[index], request.window)
    paste_window(mask, entry.changed[index], request.window)
    grey = bool((image == image[..., :1]).all())
    write_png(folder / "images" / f"{name}.png", image[..., 0] if grey else image)
    write_png(folder / "masks" / f"{name}.png", mask)
    return Sample(
        id=name,
        image=f"images/{name}.png",
        mask=f"masks/{name}.png",
        defect=request.defect,
        part_id=clean.part_id,
        split="train",
        origin="synthetic",
        parents=(clean.id, sample_of(request.reference)),
    )


def _facts(judge: Judge, tally: Tally) -> dict[str, object]:
    def spread(values: list[float]) -> dict[str, float]:
        if not values:
            return {}
        return {f"q{round(100 * q)}": round(float(np.quantile(values, q)), 4) for q in (0.05, 0.5, 0.95)}

    return {
        "perceptual": judge.net.name,
        "artefact_bound": round(judge.bound, 4),
        "kept": dict(sorted(tally.kept.items())),
        "rejected": dict(sorted(tally.rejected.items())),
        "requests_without_answer": tally.unanswered,
        "score": spread(tally.scores),
        "iou_of_label_and_request": spread(tally.ious),
    }


def real_score_bound(net: Perceptual, train: Path, samples: Sequence[Sample], quantile: float, fold: int) -> float:
    """The score above which a candidate counts as an artefact.

    A real defect has no clean twin, so each reference is compared inside its mask with the same window of good photos; that
    includes the difference of two surfaces and is therefore a generous bound.
    """
    good = [s for s in good_samples(samples) if s.split == "train"]
    rng = np.random.default_rng(derive_seed(fold, "real scores"))
    scores: list[float] = []
    for reference in read_references(train, samples):
        window = window_around(reference.mask, REAL_CROP_SCALE, REAL_MIN_PX)
        crop, mask = read_window(reference.image, window), read_mask_window(reference.mask, window)
        others: list[Picture] = []
        for row in rng.integers(0, len(good), REAL_COMPARISONS):
            photo = read_rgb(train / good[row].image)
            height, width = photo.shape[:2]
            side = min(window.side, height, width)
            y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
            others.append(photo[y : y + side, x : x + side])
        scores += masked_distance(net, [crop] * len(others), others, [mask] * len(others)).tolist()
    return float(np.quantile(scores, quantile))
