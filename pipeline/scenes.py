"""What is asked of a generator: warped reference masks on good photos, each request decided by its number alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pipeline.generators.protocol import Request
from pipeline.images import Mask, Picture
from pipeline.masks.crops import read_mask_window, read_window, window_around
from pipeline.masks.placement import WarpLimits, place
from pipeline.params import ParamsError, SynthesizeParams
from pipeline.photo_cache import read_photo
from pipeline.records import Sample, fold_name
from pipeline.references import Reference
from pipeline.seeds import derive_seed
from pipeline.selection import RealSide
from pipeline.shards import RequestRecord


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
        photo: Picture = read_photo(self.root / clean.image)
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
class Plan:
    """All requests of a fold, by number: those of the first type, then those of the next.

    Attributes:
        factory: Makes them.
        wanted: How many of each type.
    """

    factory: Factory
    wanted: Mapping[str, int]

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(self.wanted.values())

    def make(self, number: int) -> list[Placed]:
        """The requests of one number in [0, count); the numbers do not depend on each other."""
        left = number
        for defect in sorted(self.wanted):
            if left < self.wanted[defect]:
                return [self.factory.make(defect, left)]
            left -= self.wanted[defect]
        raise IndexError(f"no request {number}; there are {self.count}")


def open_plan(real: RealSide, params: SynthesizeParams, targets: Path) -> Plan:
    """What `data/targets.yaml` asks for, on the train side of a fold.

    Raises:
        ParamsError: If it asks for what the data set does not have.
        ValueError: If there is no good photo.
    """
    by_defect = {d: [r for r in real.references if r.defect == d] for d in sorted({r.defect for r in real.references})}
    factory = Factory(real.fold, by_defect, good_photos(real, params.good_photos), real.train, params)
    return Plan(factory, read_targets(targets, list(by_defect)))


def good_photos(real: RealSide, limit: int) -> list[Sample]:
    """The photos defects are put on, at most `limit` of them, drawn by the fold's seed.

    Raises:
        ValueError: If there is none.
    """
    good = real.good
    if not good:
        raise ValueError(f"fold {real.fold}: no good train photo to put defects on; add defect-free photos to the data set")
    order = np.random.default_rng(derive_seed(real.fold, "synthesize on")).permutation(len(good))[:limit]
    return [good[i] for i in sorted(order)]
