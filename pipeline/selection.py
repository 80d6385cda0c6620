"""Which candidates may be kept: the guards by which `synthesize` draws again and which `select` obeys."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture, read_rgb
from pipeline.masks.composite import divided
from pipeline.masks.crops import read_mask_window, read_window, warp_picture, window_around
from pipeline.params import SelectParams
from pipeline.records import Sample, read_manifest
from pipeline.references import Reference, read_references, sample_of
from pipeline.seeds import derive_seed
from pipeline.shards import Candidates, PartRecord
from pipeline.similarity.masked import masked_distance
from pipeline.similarity.memory import distances, orientations, own_detail
from pipeline.similarity.perceptual import Perceptual

logger = logging.getLogger(__name__)

KEPT = "kept"
OUTRANKED = "less different than the kept one"
TOO_LITTLE = "changed too little of the mask"
ARTEFACT = "beyond real defects (artefact)"
REMEMBERED = "too near a training reference"
RANKED_LOW = "ranked low early"
REAL_COMPARISONS = 4
REAL_CROP_SCALE, REAL_MIN_PX = 3.0, 32


@dataclass(frozen=True)
class RealSide:
    """What the train side of one fold holds.

    Attributes:
        train: Folder of the manifest.
        fold: Fold and seed.
        samples: By id.
        references: The real defects within the budget.
    """

    train: Path
    fold: int
    samples: Mapping[str, Sample]
    references: Sequence[Reference]

    @property
    def good(self) -> list[Sample]:
        """Photos without a defect, in manifest order."""
        return [s for s in self.samples.values() if s.is_good and s.split == "train"]


def read_real(train: Path, fold: int) -> RealSide:
    """Read the manifest and the references of a fold."""
    samples = read_manifest(train, fold)
    return RealSide(train, fold, {sample.id: sample for sample in samples}, read_references(train, samples))


@dataclass(frozen=True)
class Memory:
    """The references of one type, and how near to each other they come.

    Attributes:
        references: R of them.
        details: Their own detail in eight orientations, (R, 8, D).
        bound: A candidate nearer than this to any of them is remembered.
    """

    references: Sequence[Reference]
    details: NDArray[np.float32]
    bound: float

    def nearest(self, images: Sequence[Picture], mask: Mask, part: PartRecord) -> list[tuple[str, float]]:
        """For each of a request's images the reference that one part of it repeats most, and the distance to it.

        The reference the mask came from is also laid under the mask exactly as it was warped; the others only fit by their
        box, and so does that of a bent mask. A drawn mask came from none.
        """
        ids = [reference.id for reference in self.references]
        source, aligned = None, None
        if part.reference is not None and part.affine is not None:
            source = ids.index(part.reference)
            aligned = own_detail(warp_picture(self.references[source].image, np.array(part.affine), len(mask)), mask)
        found: list[tuple[str, float]] = []
        for image in images:
            own = own_detail(image, mask)
            away = distances(own, self.details)
            if source is not None and aligned is not None:
                away[source] = min(away[source], 1.0 - float((aligned * own).sum()))
            best = int(away.argmin())
            found.append((ids[best], float(away[best])))
        return found


def memories(real: RealSide, share: float) -> dict[str, Memory]:
    """What each type's candidates are compared with.

    The bound is a share of the median distance of real references to the nearest one of another part: two photos of one part
    show the same defect. A type seen on one part only takes the bound of all types together.
    """
    groups = {d: [r for r in real.references if r.defect == d] for d in sorted({r.defect for r in real.references})}
    details = {d: np.stack([orientations(own_detail(r.image, r.mask)) for r in group]) for d, group in groups.items()}
    apart = {d: _nearest_of_other_parts(real, group, details[d]) for d, group in groups.items()}
    everything = [distance for found in apart.values() for distance in found]
    if not everything:
        logger.warning("fold %d: no type has references of two parts; nothing guards against remembered ones", real.fold)
    bounds = {d: found or everything or [0.0] for d, found in apart.items()}
    return {d: Memory(group, details[d], share * float(np.median(bounds[d]))) for d, group in groups.items()}


def _nearest_of_other_parts(real: RealSide, group: Sequence[Reference], details: NDArray[np.float32]) -> list[float]:
    parts = np.array([real.samples[sample_of(reference.id)].part_id for reference in group])
    found: list[float] = []
    for row, part in enumerate(parts):
        others = details[parts != part]
        if len(others):
            own = details[row, 0]
            found.append(float(distances(own, others).min()))
    return found


@dataclass(frozen=True)
class Guards:
    """What the candidates of one fold are judged by.

    Attributes:
        net: Selecting distance.
        artefact_bound: Scores above it are artefacts.
        min_changed_share: Least share of the requested mask that must have changed.
        memories: By type; None where a generator pastes references by design.
    """

    net: Perceptual
    artefact_bound: float
    min_changed_share: float
    memories: Mapping[str, Memory] | None


def open_guards(net: Perceptual, params: SelectParams, generator: str, real: RealSide) -> Guards:
    """Measure the bounds on the real defects of the fold."""
    share = getattr(params.remembered_share, generator)
    known = None if share is None else memories(real, share)
    return Guards(net, real_score_bound(net, real, params.outlier_quantile), params.min_changed_share, known)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guards say of one candidate.

    Attributes:
        score: Distance to the clean crop inside the mask; the greatest wins (Low-Fidelity Selection).
        changed_share: Share of the requested mask that changed; of several parts the least.
        label_iou: IoU of what changed and what was requested.
        nearest_reference: The reference it repeats most; None where nothing guards against that.
        reference_distance: Distance to it.
        fault: Why it must not be kept; None if it may.
    """

    score: float
    changed_share: float
    label_iou: float
    nearest_reference: str | None
    reference_distance: float | None
    fault: str | None


def verdicts(entry: Candidates, clean: Picture, guards: Guards) -> list[Verdict]:
    """Judge every candidate of a request against the clean crop it was painted on; of several parts each must pass."""
    count, mask = len(entry.images), entry.mask
    scores = masked_distance(guards.net, list(entry.images), [clean] * count, [mask] * count)
    near = _remembered(entry, guards.memories)
    found: list[Verdict] = []
    for score, changed, (reference, distance, remembered) in zip(scores.tolist(), entry.changed, near, strict=True):
        shares = [int((own & part).sum()) / max(1, int(part.sum())) for own, part in _by_part(changed, entry.masks)]
        fault = None
        if not changed.any() or min(shares) < guards.min_changed_share:
            fault = TOO_LITTLE
        elif score > guards.artefact_bound:
            fault = ARTEFACT
        elif remembered:
            fault = REMEMBERED
        iou = int((changed & mask).sum()) / max(1, int((changed | mask).sum()))
        found.append(Verdict(score, min(shares), iou, reference, distance, fault))
    return found


def _by_part(changed: Mask, masks: Sequence[Mask]) -> list[tuple[Mask, Mask]]:
    return list(zip(divided(changed, masks), masks, strict=True))


def _remembered(entry: Candidates, memories: Mapping[str, Memory] | None) -> list[tuple[str | None, float | None, bool]]:
    """For each candidate the reference a part of it repeats most, the distance to it, and whether any part is too near to one.

    A candidate that shows its references' detail by design is not asked for the parts that have one.
    """
    found: list[tuple[str | None, float | None, bool]] = [(None, None, False)] * len(entry.images)
    if memories is None:
        return found
    for part, mask in zip(entry.request.parts, entry.masks, strict=True):
        by_design = entry.detailed if part.affine is not None else ()
        asked = [place for place, number in enumerate(entry.numbers) if number not in by_design]
        memory = memories[part.defect]
        near = memory.nearest([entry.images[place] for place in asked], mask, part) if asked else []
        for place, (reference, distance) in zip(asked, near, strict=True):
            before, least, remembered = found[place]
            if least is None or distance < least:
                before, least = reference, distance
            found[place] = (before, least, remembered or distance < memory.bound)
    return found


def ranked(found: Sequence[Verdict]) -> list[int]:
    """Places of the candidates without a fault, the least faithful to the clean crop first (Low-Fidelity Selection)."""
    passing = [index for index, verdict in enumerate(found) if verdict.fault is None]
    return sorted(passing, key=lambda index: (-found[index].score, index))


def visible(entry: Candidates, size: tuple[int, int]) -> Candidates:
    """The entry with its masks cut to the (H, W) photo: beyond it a window holds only reflection, which is never pasted."""
    inside = read_mask_window(np.ones(size, bool), entry.request.window)
    masks = tuple(mask & inside for mask in entry.masks)
    return replace(entry, masks=masks, changed=tuple(changed & inside for changed in entry.changed))


def real_score_bound(net: Perceptual, real: RealSide, quantile: float) -> float:
    """The score above which a candidate counts as an artefact: a quantile of what real defects score.

    A real defect has no clean twin, so each reference is compared inside its mask with the same window of good photos. That
    includes the difference of two surfaces and is a generous bound. Evening out their brightness first makes it a wrong one: on
    products of several surfaces a dark hole, as it should be, then scores beyond the real ones.
    """
    good = real.good
    rng = np.random.default_rng(derive_seed(real.fold, "real scores"))
    scores: list[float] = []
    for reference in real.references:
        window = window_around(reference.mask, REAL_CROP_SCALE, REAL_MIN_PX)
        crop, mask = read_window(reference.image, window), read_mask_window(reference.mask, window)
        others: list[Picture] = []
        for row in rng.integers(0, len(good), REAL_COMPARISONS):
            photo = read_rgb(real.train / good[row].image)
            height, width = photo.shape[:2]
            side = min(window.side, height, width)
            y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
            others.append(photo[y : y + side, x : x + side])
        scores += masked_distance(net, [crop] * len(others), others, [mask] * len(others)).tolist()
    return float(np.quantile(scores, quantile))
