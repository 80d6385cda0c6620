"""Putting a mask on a photo: where the type occurs, inside the part, and clear of other defects. Bounded, and it says why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask
from pipeline.masks.bank import Area, Cut, Template
from pipeline.masks.crops import mask_bounds
from pipeline.masks.ground import GRID, Footing, Ground, footing, mismatch, spots, surroundings
from pipeline.masks.habits import Habits, density, unlikeness

OUTSIDE = "too little of it inside the part"
TOO_NEAR = "too near another defect"
UNLIKE = "nothing there looks like the spot of a reference"
WRONG_SIZE = "not of the wanted size"
Clear = NDArray[np.float32] | None
Point = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WarpLimits:
    """How far a mask may depart from its template.

    Attributes:
        rotate_deg: Largest rotation either way.
        scale: Smallest and largest enlargement.
        flip: Whether it may be mirrored.
    """

    rotate_deg: float
    scale: tuple[float, float]
    flip: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What a place must keep to, and how long one is looked for.

    Attributes:
        inside_share: Least share of the mask that lies in the region.
        min_distance_px: Least distance to other masks.
        places: Places of one template that are compared by their surroundings.
        spot_places: The same where the template knows its spot, which few places look like.
        spot_mismatch: Mean distance of grey levels, in units of the photo's contrast, above which a place is not such a spot.
        tries: Templates tried.
        uniform_share: Share of the places drawn anywhere in the region, whatever the type's habits.
        warp: How far masks may depart from their templates.
    """

    inside_share: float
    min_distance_px: int
    places: int
    spot_places: int
    spot_mismatch: float
    tries: int
    uniform_share: float
    warp: WarpLimits


@dataclass(frozen=True, slots=True)
class Stamp:
    """A mask on a photo.

    Attributes:
        mask: (h, w) pixels of it, inside the region.
        corner: Their (x0, y0) on the photo.
        template: What it was made from.
        affine: (2, 3) from pixels (x, y) of the template to pixels of the photo.
    """

    mask: Mask
    corner: tuple[int, int]
    template: Template
    affine: NDArray[np.float64]

    def on(self, canvas: Mask) -> Mask:
        """The canvas with the mask on it."""
        whole, (x0, y0) = canvas.copy(), self.corner
        whole[y0 : y0 + self.mask.shape[0], x0 : x0 + self.mask.shape[1]] |= self.mask
        return whole


@dataclass(frozen=True, slots=True)
class Try:
    """A template about to be put somewhere.

    Attributes:
        template: What is moved.
        affine: (2, 3) from pixels (x, y) of the template to pixels of the photo.
        cut: The sides where the mask goes on up to the photo's border, after mirroring.
        whole: Area of all of it on a plane without end.
    """

    template: Template
    affine: NDArray[np.float64]
    cut: Cut
    whole: float


def find_place(
    draw: Callable[[np.random.Generator], Template],
    area: Area,
    habits: Habits,
    ground: Ground,
    clear: Clear,
    rules: Rules,
    rng: np.random.Generator,
) -> Stamp | str:
    """Look for a place for one of at most `rules.tries` templates; of its `rules.places` places take the one that suits it best.

    Places are compared by a few points of the mask. Only the best one is put on the photo pixel by pixel, and must keep to the
    same rules there, or the next best is tried. Where none of a template's places is allowed, another template is drawn.

    Args:
        draw: Gives a template.
        area: Least and greatest area of the mask on the photo.
        habits: Of the type.
        ground: The photo.
        clear: (H, W) distance to the nearest mask that is there already; None if there is none.
        rules: What is allowed.
        rng: Of the scene.

    Returns:
        The mask where it is wanted, or the commonest reason why it is nowhere.
    """
    chances = np.cumsum(density(habits, ground, rules.uniform_share))
    refused: Counter[str] = Counter()
    for _ in range(rules.tries):
        template = draw(rng)
        scales = _scales(template, area, rules.warp)
        if scales is None:
            refused[WRONG_SIZE] += 1
            continue
        count = rules.places if template.spot is None else rules.spot_places
        tries = _drawn_tries(template, count, scales, chances, ground, rules.warp, rng)
        # With one place there is nothing to compare.
        judged = _compared(tries, area, habits, ground, clear, rules) if count > 1 else [0.0]
        refused.update(reason for reason in judged if isinstance(reason, str))
        allowed = [(value, one) for value, one in zip(judged, tries, strict=True) if not isinstance(value, str)]
        for _, one in sorted(allowed, key=lambda pair: pair[0]):
            stamp = _stamped(one, area, ground, clear, rules)
            if isinstance(stamp, Stamp):
                return stamp
            refused[stamp] += 1
    return max(sorted(refused), key=lambda reason: refused[reason])


def _scales(template: Template, area: Area, limits: WarpLimits) -> tuple[float, float] | None:
    """Enlargements that give a wanted area; None where the limits allow no such."""
    low, high = (float(np.sqrt(pixels / template.area)) for pixels in area)
    low, high = max(limits.scale[0], low), min(limits.scale[1], high)
    return (low, high) if low <= high else None


def _drawn_tries(
    template: Template,
    count: int,
    scales: tuple[float, float],
    chances: NDArray[np.float64],
    ground: Ground,
    limits: WarpLimits,
    rng: np.random.Generator,
) -> list[Try]:
    """Places of a template, each turned, enlarged and mirrored in its own way."""
    scale = rng.uniform(*scales, count)
    angle = np.deg2rad(rng.uniform(-limits.rotate_deg, limits.rotate_deg, count))
    mirror = 1.0 - 2.0 * rng.integers(0, 2, (count, 2)) if limits.flip else np.ones((count, 2))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    linear = scale[:, None, None] * turned * mirror[:, None]
    cuts = [mirrored(template.cut, signs) for signs in mirror]
    places = _drawn_places(chances, ground, count, rng)
    if any(template.cut):
        places = np.array([landing(cut, place, ground.region.shape) for cut, place in zip(cuts, places, strict=True)])
    affines = np.concatenate([linear, (places - linear @ template.pivot)[:, :, None]], axis=2)
    whole = template.area * scale**2
    return [Try(template, affines[n], cuts[n], float(whole[n])) for n in range(count)]


def _drawn_places(chances: NDArray[np.float64], ground: Ground, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 2) places (x, y) on the photo, drawn by the cumulated chances of the grid, anywhere in their cells."""
    cells = np.searchsorted(chances, rng.random(count) * chances[-1], side="right")
    rows, columns = np.divmod(np.minimum(cells, chances.size - 1), GRID)
    x0, y0, x1, y1 = ground.box
    shares = (np.stack([columns, rows], axis=1) + rng.random((count, 2))) / GRID
    return np.array([x0, y0]) + shares * np.array([x1 - x0, y1 - y0]) - 0.5


def _compared(tries: Sequence[Try], area: Area, habits: Habits, ground: Ground, clear: Clear, rules: Rules) -> list[float | str]:
    """How badly each place of a template suits it, or why it is not allowed; by the template's points, so nearly right.

    Where the template knows its spot without the defect, the place has to look the same point by point; else as the surroundings
    of some reference do on average.
    """
    template = tries[0].template
    at = footing(ground, template.points[None], np.stack([one.affine for one in tries]))
    shares, gaps = at.inside[:, 0].mean(axis=1), _gaps(at, clear)
    if template.spot is None:
        unlike, limit = unlikeness(habits, surroundings(ground, at, ground.grey)), np.inf
    else:
        unlike, limit = mismatch(template.spot, spots(ground, at, ground.grey)), rules.spot_mismatch
    return [
        _fault(share * one.whole, float(gap), one, area, rules) or (float(value) if value <= limit else UNLIKE)
        for one, share, gap, value in zip(tries, shares.tolist(), gaps, unlike, strict=True)
    ]


def _gaps(at: Footing, clear: Clear) -> NDArray[np.floating]:
    """(N,) least distance of the masks' points to the nearest mask that is there already."""
    if clear is None:
        return np.full(len(at.pixels), np.inf)
    return np.where(at.inside[:, 0], clear.ravel()[at.pixels[:, 0]], np.inf).min(axis=1)


def _fault(pixels: float, gap: float, one: Try, area: Area, rules: Rules) -> str | None:
    """Why a mask of so many pixels, at such a distance from others, is not allowed."""
    if pixels == 0 or pixels < rules.inside_share * one.whole:
        return OUTSIDE
    if not area[0] <= pixels <= area[1]:
        return WRONG_SIZE
    return TOO_NEAR if gap < rules.min_distance_px else None


def _stamped(one: Try, area: Area, ground: Ground, clear: Clear, rules: Rules) -> Stamp | str:
    """A try pixel by pixel, or why it is not allowed."""
    stamp = put(one, ground)
    if stamp is None:
        return OUTSIDE
    (x0, y0), (height, width) = stamp.corner, stamp.mask.shape
    gap = np.inf if clear is None else float(clear[y0 : y0 + height, x0 : x0 + width][stamp.mask].min())
    return _fault(int(stamp.mask.sum()), gap, one, area, rules) or stamp


def mirrored(cut: Cut, mirror: Point) -> Cut:
    """The sides on which a mask is cut off after mirroring (-1) along x and y."""
    left, top, right, bottom = cut
    if mirror[0] < 0:
        left, right = right, left
    if mirror[1] < 0:
        top, bottom = bottom, top
    return left, top, right, bottom


def landing(cut: Cut, place: Point, size: tuple[int, ...]) -> Point:
    """Where the pivot of a mask goes on a photo of `size` (H, W).

    A mask cut off by the photo's border is half a shape anywhere else: it goes to the same border, and one cut off on both sides
    to the middle between them. Along the border, and for all other masks, the drawn place holds.
    """
    ends = np.array([[-0.5, size[1] - 0.5], [-0.5, size[0] - 0.5]])
    found = place.copy()
    for axis in (0, 1):
        low, high = cut[axis], cut[axis + 2]
        if low or high:
            found[axis] = ends[axis].mean() if low and high else ends[axis, int(high)]
    return found


def put(one: Try, ground: Ground) -> Stamp | None:
    """The pixels of a try on the photo; None if nothing of it lies in the region."""
    height, width = one.template.mask.shape
    corners = np.array([[-0.5, -0.5, 1], [width - 0.5, -0.5, 1], [-0.5, height - 0.5, 1], [width - 0.5, height - 0.5, 1]])
    reached = corners @ one.affine.T
    low, high = np.floor(reached.min(axis=0)), np.ceil(reached.max(axis=0)) + 1
    size = np.array(ground.region.shape[::-1])
    low, high = np.where(one.cut[:2], 0, np.maximum(low, 0)), np.where(one.cut[2:], size, np.minimum(high, size))
    (x0, y0), (x1, y1) = low.astype(int), high.astype(int)
    if x1 <= x0 or y1 <= y0:
        return None
    local = one.affine - np.array([[0, 0, x0], [0, 0, y0]])
    # Where the photo cut the mask off it goes on as it was at its edge; on the other sides its rim ends it.
    moved = cv2.warpAffine(
        one.template.mask.astype(np.float32),
        local,
        (int(x1 - x0), int(y1 - y0)),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    mask = (moved >= 0.5) & ground.region[y0:y1, x0:x1]
    if not mask.any():
        return None
    left, top, right, bottom = mask_bounds(mask)
    return Stamp(mask[top:bottom, left:right], (int(x0) + left, int(y0) + top), one.template, one.affine)
