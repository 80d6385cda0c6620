"""Scenes: one good photo each, and the defects wanted on it. Everything in a scene follows from fold, number and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.generators.protocol import Part, Request
from pipeline.images import Mask, Picture, grey_of, read_rgb
from pipeline.masks.bank import SIZES, Size, Template, area_range, bent, drawn, size_limits, template_of
from pipeline.masks.composite import distance_to
from pipeline.masks.crops import Window, mask_bounds, read_mask_window, read_window, window_around
from pipeline.masks.ground import Ground, open_ground
from pipeline.masks.habits import Example, Habits, learn_habits, spot_of
from pipeline.masks.placement import Rules, Stamp, WarpLimits, find_place
from pipeline.params import PaintedMaskParams, ParamsError, PastedMaskParams, SynthesizeParams
from pipeline.photo_cache import kept
from pipeline.records import Sample, fold_name
from pipeline.references import Reference, sample_of
from pipeline.regions import check_regions, region_of
from pipeline.registration import align
from pipeline.seeds import derive_seed
from pipeline.selection import RealSide
from pipeline.shards import PartRecord, RequestRecord
from pipeline.wanted import Wanted, deal

TWIN_CORRELATION = 0.9


@dataclass(frozen=True)
class Placed:
    """A request, and how it is kept."""

    request: Request
    record: RequestRecord


@dataclass(frozen=True)
class Bank:
    """What masks of one type are made from, and where they go.

    Attributes:
        templates: Of its references.
        habits: Where they occur.
        size_limits: Areas below which a defect is small, and above which it is large.
    """

    templates: Sequence[Template]
    habits: Habits
    size_limits: tuple[float, float]


@dataclass(frozen=True)
class Planner:
    """Makes the scenes of one fold, in any order and in any process; it holds masks and numbers, no photos.

    Attributes:
        fold: Fold and seed.
        train: Folder of the train manifest.
        good: Good train samples defects are put on.
        banks: By type.
        sources: Weights of the sources of masks.
        params: Section `synthesize`.
        kinds: (N,) index of every wanted defect's type among the sorted types, scene by scene.
        sizes: (N,) index of its size in `SIZES`.
        starts: (count + 1,) where each scene's defects begin in these.
    """

    fold: int
    train: Path
    good: Sequence[Sample]
    banks: Mapping[str, Bank]
    sources: PastedMaskParams | PaintedMaskParams
    params: SynthesizeParams
    kinds: NDArray[np.int16]
    sizes: NDArray[np.int8]
    starts: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of scenes."""
        return len(self.starts) - 1

    def wanted(self, number: int) -> int:
        """Number of defects wanted in a scene."""
        return int(self.starts[number + 1] - self.starts[number])

    def make(self, number: int) -> list[Placed]:
        """The requests of a scene; fewer, or none, where no place was found for a defect."""
        return self.plan(number)[0]

    def plan(self, number: int) -> tuple[list[Placed], list[str]]:
        """The requests of a scene, and for each defect that found no place its type and why."""
        rng = np.random.default_rng(derive_seed("scene", self.fold, number))
        clean = self.good[int(rng.integers(len(self.good)))]
        ground = self._ground(clean)
        photo = ground.photo
        occupied, kinds = np.zeros(photo.shape[:2], bool), sorted(self.banks)
        found: list[tuple[str, Stamp]] = []
        refused: list[str] = []
        for wanted in range(self.starts[number], self.starts[number + 1]):
            defect, size = kinds[self.kinds[wanted]], SIZES[self.sizes[wanted]]
            stamp = self._stamp(defect, size, ground, occupied, rng)
            if isinstance(stamp, str):
                refused.append(f"{defect}: {stamp}")
            else:
                occupied = stamp.on(occupied)
                found.append((defect, stamp))
        crops = crops_of([stamp for _, stamp in found], photo.shape[:2], self.params, rng)
        scene = f"{fold_name(self.fold)}-{number:05d}"
        groups = [([found[i] for i in members], window) for members, window in crops]
        return [_placed(f"{scene}-{n}", number, group, window, clean, photo) for n, (group, window) in enumerate(groups)], refused

    def _ground(self, clean: Sample) -> Ground:
        """A good photo, measured."""
        wanted, path = self.params.placement, self.train / clean.image

        def measured() -> Ground:
            photo = read_rgb(path)
            return open_ground(photo, region_of(photo, clean.id, wanted))

        return kept((path, clean.id, wanted.region, wanted.region_masks), measured)

    def _stamp(self, defect: str, size: Size, ground: Ground, occupied: Mask, rng: np.random.Generator) -> Stamp | str:
        bank = self.banks[defect]
        clear = distance_to(occupied) if occupied.any() else None
        area = area_range(size, bank.size_limits)
        return find_place(lambda draw: self._template(bank, draw), area, bank.habits, ground, clear, rules_of(self.params), rng)

    def _template(self, bank: Bank, rng: np.random.Generator) -> Template:
        """A mask from one of the sources."""
        masks, weights = self.params.masks, self.sources
        template = bank.templates[int(rng.integers(len(bank.templates)))]
        source = rng.random() * (weights.affine + weights.elastic + weights.drawn)
        if source < weights.affine:
            return template
        if source < weights.affine + weights.elastic:
            return bent(template, masks.bend, masks.bend_cells, rng)
        return drawn(template, masks.drawn_spread, rng)


def rules_of(params: SynthesizeParams) -> Rules:
    """What a place must keep to."""
    wanted, warp = params.placement, params.warp
    limits = WarpLimits(warp.rotate_deg, warp.scale, warp.flip)
    return Rules(
        wanted.inside_share,
        wanted.min_distance_px,
        wanted.places,
        wanted.spot_places,
        wanted.spot_mismatch,
        wanted.tries,
        wanted.uniform_share,
        limits,
    )


def _placed(scene: str, number: int, group: Sequence[tuple[str, Stamp]], window: Window, clean: Sample, photo: Picture) -> Placed:
    """The request for the masks of one crop; its id ends in their types."""
    parts: list[Part] = []
    empty = np.zeros(photo.shape[:2], bool)
    for defect, stamp in group:
        affine = None
        if stamp.template.source == "affine":
            # From the reference's photo to the template, to the clean photo, to the crop.
            shift = stamp.affine[:, :2] @ np.array(stamp.template.origin)
            affine = stamp.affine - np.array([[0, 0, window.x0 + shift[0]], [0, 0, window.y0 + shift[1]]])
        parts.append(Part(defect, read_mask_window(stamp.on(empty), window), stamp.template.reference, affine))
    sources = [stamp.template.source for _, stamp in group]
    records = tuple(
        PartRecord(p.defect, source, p.reference, None if p.affine is None else tuple(tuple(row) for row in p.affine.tolist()))
        for p, source in zip(parts, sources, strict=True)
    )
    request = Request(f"{scene}-{'+'.join(dict.fromkeys(d for d, _ in group))}", read_window(photo, window), tuple(parts))
    return Placed(request, RequestRecord(request.id, number, clean.id, window, records))


def crops_of(
    stamps: Sequence[Stamp], size: tuple[int, ...], params: SynthesizeParams, rng: np.random.Generator
) -> list[tuple[list[int], Window]]:
    """Which masks are painted together, and in which window.

    Masks go together while their own windows overlap by `join_overlap` of the smaller one, and the window around all of them is
    no larger than the greatest crop the longest of them could have alone.
    """
    empty, least = np.zeros(size, bool), params.crop_scale[0]
    masks = [stamp.on(empty) for stamp in stamps]
    scales = [float(rng.uniform(*params.crop_scale)) for _ in stamps]
    windows = [window_around(mask, scale, params.min_crop_px) for mask, scale in zip(masks, scales, strict=True)]
    groups: list[tuple[list[int], Window]] = []
    for new, window in enumerate(windows):
        for place, (members, _) in enumerate(groups):
            together = np.logical_or.reduce([masks[i] for i in [*members, new]])
            limit = max(params.min_crop_px, params.crop_scale[1] * max(longest_side(masks[i]) for i in [*members, new]))
            scale = min(max(scales[i] for i in [*members, new]), limit / longest_side(together))
            near = params.placement.join_overlap is not None and all(
                overlap(windows[i], window) >= params.placement.join_overlap for i in members
            )
            if near and (scale >= least or longest_side(together) * least <= limit):
                groups[place] = ([*members, new], window_around(together, scale, params.min_crop_px))
                break
        else:
            groups.append(([new], window))
    return groups


def longest_side(mask: Mask) -> int:
    """Longer side of the box of an (H, W) mask."""
    x0, y0, x1, y1 = mask_bounds(mask)
    return max(x1 - x0, y1 - y0)


def overlap(first: Window, second: Window) -> float:
    """Common area of two windows as a share of the smaller one."""
    across = min(first.x0 + first.side, second.x0 + second.side) - max(first.x0, second.x0)
    down = min(first.y0 + first.side, second.y0 + second.side) - max(first.y0, second.y0)
    return max(0, across) * max(0, down) / min(first.side, second.side) ** 2


def open_planner(generator: str, real: RealSide, params: SynthesizeParams, wanted: Wanted) -> Planner:
    """Read the references' masks and habits, and deal the wanted defects out to scenes.

    Raises:
        ParamsError: If sizes are wanted of a type whose masks all have one.
        RegionError: If the part is not found on a photo.
    """
    good = good_photos(real, params.good_photos)
    if params.placement.region == "object" or params.placement.region_masks is not None:
        check_regions(real.train, good, params.placement)
    banks = {d: open_bank(real, d, params) for d in sorted({r.defect for r in real.references})}
    for defect, sizes in wanted.items():
        low, high = banks[defect].size_limits
        if low == high and any(count for size, count in sizes.items() if size != "any"):
            raise ParamsError(f"data/targets.yaml: {defect!r} has masks of one size only; ask for a number without sizes")
    kinds, sizes, starts = deal(real.fold, wanted, sorted(banks), *crowding(real, params.placement.defects_per_image))
    sources = getattr(params.masks, generator)
    return Planner(real.fold, real.train, tuple(good), banks, sources, params, kinds, sizes, starts)


def crowding(real: RealSide, asked: Literal["references"] | Sequence[float]) -> tuple[Sequence[float], bool]:
    """Weights of one, two, three ... defects on a photo, and whether of several types: as asked, or as the references show."""
    if asked != "references":
        return asked, True
    shown: dict[str, list[str]] = {}
    for reference in real.references:
        shown.setdefault(real.samples[sample_of(reference.id)].image, []).append(reference.defect)
    counts = np.bincount([len(defects) for defects in shown.values()])[1:]
    return counts.tolist(), any(len(set(defects)) > 1 for defects in shown.values())


def good_photos(real: RealSide, limit: int) -> list[Sample]:
    """At most `limit` good train photos, drawn by the fold's seed.

    Raises:
        ValueError: If there is none.
    """
    good = real.good
    if not good:
        raise ValueError(f"fold {real.fold}: no good train photo to put defects on; add defect-free photos to the data set")
    order = np.random.default_rng(derive_seed(real.fold, "synthesize on")).permutation(len(good))[:limit]
    return [good[i] for i in sorted(order)]


def open_bank(real: RealSide, defect: str, params: SynthesizeParams) -> Bank:
    """Templates and habits of one type."""
    references = [r for r in real.references if r.defect == defect]
    grounds: dict[str, Ground] = {}
    twins: dict[str, Picture | None] = {}
    for reference in references:
        sample = sample_of(reference.id)
        if sample not in grounds:
            grounds[sample] = open_ground(reference.image, region_of(reference.image, sample, params.placement))
            twins[sample] = _twin(real, reference)
    examples = [
        Example(grounds[sample_of(r.id)], r.mask, real.samples[sample_of(r.id)].part_id, twins[sample_of(r.id)])
        for r in references
    ]
    every = [replace(template_of(r.mask, r.id), spot=spot_of(e)) for r, e in zip(references, examples, strict=True)]
    templates = with_spots(every)
    habits = learn_habits(examples, params.placement.bandwidth, flip=params.warp.flip)
    return Bank(templates, habits, size_limits(every, params.warp.scale))


def with_spots(templates: Sequence[Template]) -> Sequence[Template]:
    """Those that know their spot, where at least half of a type's do; else all.

    A place like a known spot is hard to find, and one without a spot is welcome anywhere: the few would be put down instead of
    the many, and where they make no sense.
    """
    known = [one for one in templates if one.spot is not None]
    return known if known and 2 * len(known) >= len(templates) else templates


def _twin(real: RealSide, reference: Reference) -> Picture | None:
    """A good photo of the same piece that, moved by some pixels, fits the reference's (its template), if there is one."""
    part = real.samples[sample_of(reference.id)].part_id
    for sample in real.good:
        if sample.part_id == part:
            photo = read_rgb(real.train / sample.image)
            if photo.shape != reference.image.shape:
                continue
            moved = align(photo, reference.image)
            if _alike(moved, reference.image) >= TWIN_CORRELATION:
                return moved
    return None


def _alike(first: Picture, second: Picture) -> float:
    """Correlation of the grey levels of two photos of one size; 0 for one without any contrast."""
    grey = [grey_of(one).astype(np.float64).ravel() for one in (first, second)]
    apart = [one - one.mean() for one in grey]
    return float(apart[0] @ apart[1] / max(1e-9, float(np.linalg.norm(apart[0]) * np.linalg.norm(apart[1]))))
