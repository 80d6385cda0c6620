"""Putting a mask on a photo: where the type occurs, inside the part, and clear of other defects. Bounded, and it says why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask
from pipeline.masks.bank import Area, Cut, Template
from pipeline.masks.crops import mask_bounds
from pipeline.masks.ground import GRID, Ground, surroundings
from pipeline.masks.habits import Habits, density, unlikeness

OUTSIDE = "too little of it inside the part"
TOO_NEAR = "too near another defect"
WRONG_SIZE = "not of the wanted size"
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
        places: Allowed places that are compared by their surroundings.
        tries: Places looked at in all.
        uniform_share: Share of the places drawn anywhere in the region, whatever the type's habits.
        warp: How far masks may depart from their templates.
    """

    inside_share: float
    min_distance_px: int
    places: int
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


def find_place(
    draw: Callable[[np.random.Generator], Template],
    area: Area,
    habits: Habits,
    ground: Ground,
    clear: NDArray[np.float32] | None,
    rules: Rules,
    rng: np.random.Generator,
) -> Stamp | str:
    """Look for a place, at most `rules.tries` times; of up to `rules.places` allowed ones take the one most like a reference's.

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
    chances = density(habits, ground, rules.uniform_share).ravel()
    found: list[tuple[float, Stamp]] = []
    refused: Counter[str] = Counter()
    for _ in range(rules.tries):
        result = _attempt(draw(rng), area, chances, ground, clear, rules, rng)
        if isinstance(result, str):
            refused[result] += 1
            continue
        # With one place there is nothing to compare.
        looks = surroundings(ground, result.mask, result.corner, ground.photo) if rules.places > 1 else None
        found.append((0.0 if looks is None else unlikeness(habits, looks), result))
        if len(found) == rules.places:
            break
    if not found:
        return max(sorted(refused), key=lambda reason: refused[reason])
    return min(found, key=lambda one: one[0])[1]


def _attempt(
    template: Template,
    area: Area,
    chances: NDArray[np.float64],
    ground: Ground,
    clear: NDArray[np.float32] | None,
    rules: Rules,
    rng: np.random.Generator,
) -> Stamp | str:
    """One place of one template, or why it is not allowed."""
    scale = _scale(template.area, area, rules.warp.scale, rng)
    if scale is None:
        return WRONG_SIZE
    angle = np.deg2rad(rng.uniform(-rules.warp.rotate_deg, rules.warp.rotate_deg))
    mirror = rng.choice([-1.0, 1.0], 2) if rules.warp.flip else np.ones(2)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(mirror)
    cut = mirrored(template.cut, mirror)
    stamp = put(template, linear, landing(cut, _drawn_place(chances, ground, rng), ground.region.shape), cut, ground)
    if stamp is None or stamp.mask.sum() < rules.inside_share * template.area * scale**2:
        return OUTSIDE
    if not area[0] <= stamp.mask.sum() <= area[1]:
        return WRONG_SIZE
    if clear is not None and _window(clear, stamp)[stamp.mask].min() < rules.min_distance_px:
        return TOO_NEAR
    return stamp


def _scale(template_area: int, area: Area, limits: tuple[float, float], rng: np.random.Generator) -> float | None:
    """An enlargement within the limits that gives a wanted area, if there is one."""
    low, high = max(limits[0], (area[0] / template_area) ** 0.5), min(limits[1], (area[1] / template_area) ** 0.5)
    return float(rng.uniform(low, high)) if low <= high else None


def _window(array: NDArray[np.generic], stamp: Stamp) -> NDArray[np.generic]:
    (x0, y0), (height, width) = stamp.corner, stamp.mask.shape
    return array[y0 : y0 + height, x0 : x0 + width]


def _drawn_place(chances: NDArray[np.float64], ground: Ground, rng: np.random.Generator) -> Point:
    """A place (x, y) on the photo, drawn by the chances of the grid, anywhere in its cell."""
    cell = np.searchsorted(np.cumsum(chances), rng.random() * chances.sum(), side="right")
    row, column = divmod(min(int(cell), chances.size - 1), GRID)
    x0, y0, x1, y1 = ground.box
    share = (np.array([column, row]) + rng.random(2)) / GRID
    return np.array([x0, y0]) + share * np.array([x1 - x0, y1 - y0]) - 0.5


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


def pivot(template: Template) -> Point:
    """The point of a template that is put on its landing: the middle of its cut side, or its own."""
    height, width = template.mask.shape
    ends = np.array([[-0.5, width - 0.5], [-0.5, height - 0.5]])
    found = ends.mean(axis=1)
    for axis in (0, 1):
        low, high = template.cut[axis], template.cut[axis + 2]
        if low != high:
            found[axis] = ends[axis, int(high)]
            lines = template.mask.T if axis == 0 else template.mask
            touching = np.flatnonzero(lines[-1 if high else 0])
            if touching.size and not (template.cut[1 - axis] or template.cut[3 - axis]):
                found[1 - axis] = float(touching.mean())
    return found


def put(template: Template, linear: NDArray[np.float64], target: Point, cut: Cut, ground: Ground) -> Stamp | None:
    """Move a template's pivot to a place on the photo; None if nothing of it lies in the region.

    Args:
        template: What is moved.
        linear: (2, 2) rotation, mirroring and enlargement.
        target: Where the pivot goes, (x, y).
        cut: The sides where the mask goes on up to the photo's border, after mirroring.
        ground: The photo.
    """
    height, width = template.mask.shape
    affine = np.column_stack([linear, target - linear @ pivot(template)])
    corners = np.array([[-0.5, -0.5, 1], [width - 0.5, -0.5, 1], [-0.5, height - 0.5, 1], [width - 0.5, height - 0.5, 1]])
    reached = corners @ affine.T
    low, high = np.floor(reached.min(axis=0)), np.ceil(reached.max(axis=0)) + 1
    size = np.array(ground.region.shape[::-1])
    low, high = np.where(cut[:2], 0, np.maximum(low, 0)), np.where(cut[2:], size, np.minimum(high, size))
    (x0, y0), (x1, y1) = low.astype(int), high.astype(int)
    if x1 <= x0 or y1 <= y0:
        return None
    local = affine - np.array([[0, 0, x0], [0, 0, y0]])
    # Where the photo cut the mask off it goes on as it was at its edge; on the other sides its rim ends it.
    moved = cv2.warpAffine(
        template.mask.astype(np.float32),
        local,
        (int(x1 - x0), int(y1 - y0)),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    mask = (moved >= 0.5) & ground.region[y0:y1, x0:x1]
    if not mask.any():
        return None
    left, top, right, bottom = mask_bounds(mask)
    return Stamp(mask[top:bottom, left:right], (int(x0) + left, int(y0) + top), template, affine)
