"""Where a type of defect occurs, learned from its references, where they show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture, grey_of
from pipeline.masks.bank import template_of
from pipeline.masks.crops import mask_bounds
from pipeline.masks.ground import GRID, Footing, Ground, Looks, depth_at, footing, spots, surroundings

BINS = 32
"""Of depth, from 0 at the region's border to 1."""
TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Example:
    """One reference where it was found.

    Attributes:
        ground: Its photo.
        mask: (H, W).
        part: The piece; all references of one piece together count once.
        twin: The same photo without the defect, where there is one.
    """

    ground: Ground
    mask: Mask
    part: str
    twin: Picture | None


@dataclass(frozen=True)
class Habits:
    """Of one type; what is None was not shown.

    Attributes:
        place: (GRID, GRID) density of relative places, 1 on average.
        depth: (BINS,) density of depths.
        smooth: (BINS, BINS) the kernel depths are smoothed with.
        looks: (R, 4) surroundings of the references.
    """

    place: NDArray[np.float64] | None
    depth: NDArray[np.float64] | None
    smooth: NDArray[np.float64]
    looks: Looks


def learn_habits(examples: Sequence[Example], bandwidth: float, *, flip: bool) -> Habits:
    """Estimate densities of place and depth where the parts depart from chance, and keep how the surroundings look.

    Args:
        examples: Of one type.
        bandwidth: Standard deviation of both kernels, as a share of the region's sides and of its greatest depth.
        flip: Whether the part may be mirrored: then places are, too.
    """
    weights = _part_weights([example.part for example in examples])
    places = np.stack([_relative(example) for example in examples])
    depths = np.array([depth_at(e.ground, place) for e, place in zip(examples, places, strict=True)])
    parts = len({example.part for example in examples})
    # Places of a mirrored part are folded: 0 in the middle, 1 at either end. Both are uniform if places are.
    folded = np.abs(2 * places - 1) if flip else places
    ranks = [_border_rank(example) for example in examples]
    shows_place = any(departs(float(weights @ folded[:, axis]), parts) for axis in (0, 1))
    smooth = _kernel(bandwidth)
    return Habits(
        _place_density(places, weights, bandwidth, flip=flip) if shows_place else None,
        smooth @ _histogram(depths, weights) if _shows_border(ranks, [e.part for e in examples]) else None,
        smooth,
        np.stack([_looks(example) for example in examples]),
    )


def departs(mean: float, parts: int) -> bool:
    """Whether the mean of a rank that is uniform on [0, 1] by chance lies beyond what `parts` pieces show by chance (95 %).

    The mean of n uniform ranks has variance 1 / (12 n). Two parts never show anything but the extreme.
    """
    return abs(mean - 0.5) > TWO_SIDED_95 / (12 * parts) ** 0.5


def density(habits: Habits, ground: Ground, uniform_share: float) -> NDArray[np.float64]:
    """(GRID, GRID) probability of each place on a photo; a share of it is uniform over the region."""
    inside = (ground.depth > 0).astype(np.float64)
    if not inside.any():
        inside[:] = 1.0
    wanted = inside if habits.place is None else inside * habits.place
    if habits.depth is not None:
        bins = _bin(ground.depth)
        # Against what the photo has of each depth: most places of any photo are near its border.
        there = habits.smooth @ np.bincount(bins[ground.depth > 0], minlength=BINS).astype(np.float64)
        wanted = wanted * (habits.depth / (there + 1e-9))[bins]
    even = inside / inside.sum()
    return even if wanted.sum() <= 0 else (1 - uniform_share) * wanted / wanted.sum() + uniform_share * even


def unlikeness(habits: Habits, looks: Looks) -> NDArray[np.float64]:
    """(N,) mean distances of the (N, 4) surroundings of places to those of the nearest reference; what is NaN does not count."""
    apart = np.abs(habits.looks - looks[:, None])
    known = ~np.isnan(apart)
    return (np.where(known, apart, 0.0).sum(axis=2) / np.maximum(1, known.sum(axis=2))).min(axis=1)


def _part_weights(parts: Sequence[str]) -> NDArray[np.float64]:
    """One over the number of references of the same piece, 1 in sum."""
    weights = np.array([1.0 / parts.count(part) for part in parts])
    return weights / weights.sum()


def _relative(example: Example) -> NDArray[np.float64]:
    """Middle (x, y) of the mask in shares of the region's box."""
    x0, y0, x1, y1 = mask_bounds(example.mask)
    left, top, right, bottom = example.ground.box
    return np.array([((x0 + x1) / 2 - left) / (right - left), ((y0 + y1) / 2 - top) / (bottom - top)])


def _border_rank(example: Example) -> float | None:
    """Chance that the mask's box, put anywhere in the region's box, comes as near to its sides; None where it spans that box."""
    x0, y0, x1, y1 = mask_bounds(example.mask)
    left, top, right, bottom = example.ground.box
    free = ((right - left) - (x1 - x0), (bottom - top) - (y1 - y0))
    if min(free) <= 0:
        return None
    gap = max(0, min(x0 - left, y0 - top, right - x1, bottom - y1))
    return 1.0 - max(0.0, 1.0 - 2 * gap / free[0]) * max(0.0, 1.0 - 2 * gap / free[1])


def _shows_border(ranks: Sequence[float | None], parts: Sequence[str]) -> bool:
    """Whether the parts lie nearer to the border, or further from it, than by chance."""
    known = [(rank, part) for rank, part in zip(ranks, parts, strict=True) if rank is not None]
    if not known:
        return False
    weights = _part_weights([part for _, part in known])
    return departs(float(weights @ np.array([rank for rank, _ in known])), len({part for _, part in known}))


def _place_density(
    places: NDArray[np.float64], weights: NDArray[np.float64], bandwidth: float, *, flip: bool
) -> NDArray[np.float64]:
    """(GRID, GRID) Gaussian kernel density, 1 on average; of all four mirror images where parts may be mirrored."""
    middle = (np.arange(GRID) + 0.5) / GRID
    across, down = (np.exp(-0.5 * ((middle - places[:, axis, None]) / bandwidth) ** 2) for axis in (0, 1))
    if flip:
        across, down = across + across[:, ::-1], down + down[:, ::-1]
    found = np.einsum("r,ry,rx->yx", weights, down, across)
    return found / found.mean()


def _bin(depth: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.clip((depth * BINS).astype(np.int64), 0, BINS - 1)


def _histogram(depths: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(_bin(depths), weights, minlength=BINS).astype(np.float64)


def _kernel(bandwidth: float) -> NDArray[np.float64]:
    """(BINS, BINS) Gaussian between depths, reflected at both ends."""
    middle = (np.arange(BINS) + 0.5) / BINS
    images = (middle, -middle, 2 - middle)
    return sum((np.exp(-0.5 * ((middle[:, None] - image) / bandwidth) ** 2) for image in images), np.zeros((BINS, BINS)))


def _looks(example: Example) -> Looks:
    """(4,) surroundings of a reference, by the same points as those of places."""
    at = _standing(example)
    return surroundings(example.ground, at, None if example.twin is None else grey_of(example.twin))[0]


def spot_of(example: Example) -> Looks | None:
    """(2, POINTS) what a reference's points show without the defect; None without a twin, or with no point in the region."""
    if example.twin is None:
        return None
    found = spots(example.ground, _standing(example), grey_of(example.twin))[0]
    return None if np.isnan(found).all() else found


def _standing(example: Example) -> Footing:
    """Where the points of a reference are on its own photo."""
    template = template_of(example.mask, "")
    return footing(example.ground, template.points[None], np.column_stack([np.eye(2), template.origin])[None])
