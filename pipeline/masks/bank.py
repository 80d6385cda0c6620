"""The mask bank of a type: its references' masks, the same bent, and drawn shapes of their proportions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask
from pipeline.masks.composite import distance_to
from pipeline.masks.crops import mask_bounds

Source = Literal["affine", "elastic", "drawn"]
Size = Literal["any", "small", "medium", "large"]
SIZES: tuple[Size, ...] = ("any", "small", "medium", "large")
CUT_PX = 2
"""A mask that comes as near to the photo's border is cut off by it: annotators leave a pixel or two."""
LINE_WIDTH = 0.25
"""A mask whose thickness is a smaller share of its length is a line."""
FINE = 4
POINTS = 128
"""Pixels of a mask, and of the ring around it, by which its places are compared."""
GOLDEN = (5**0.5 - 1) / 2
Cut = tuple[bool, bool, bool, bool]
Area = tuple[float, float]


@dataclass(frozen=True)  # without slots: what is measured of it once is kept with it
class Template:
    """A mask before it is put somewhere.

    Attributes:
        mask: (h, w), with a rim of False but on sides where the photo's border cut it off.
        cut: Which sides those are: left, top, right, bottom.
        origin: Place (x, y) of its first pixel in the reference's photo.
        reference: Id of the reference it comes from; None for a drawn shape.
        source: How it was made.
        spot: (2, POINTS) what its points show on the reference's photo without the defect; None where nobody knows.
    """

    mask: Mask
    cut: Cut
    origin: tuple[int, int]
    reference: str | None
    source: Source
    spot: NDArray[np.float64] | None = None

    @cached_property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())

    @cached_property
    def pivot(self) -> NDArray[np.float64]:
        """The point (x, y) that is put on its landing: the middle of its cut side, or its own."""
        height, width = self.mask.shape
        ends = np.array([[-0.5, width - 0.5], [-0.5, height - 0.5]])
        found = ends.mean(axis=1)
        for axis in (0, 1):
            low, high = self.cut[axis], self.cut[axis + 2]
            if low != high:
                found[axis] = ends[axis, int(high)]
                lines = self.mask.T if axis == 0 else self.mask
                touching = np.flatnonzero(lines[-1 if high else 0])
                if touching.size and not (self.cut[1 - axis] or self.cut[3 - axis]):
                    found[1 - axis] = float(touching.mean())
        return found

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """(2, POINTS, 2) pixels (x, y): some of the mask, and some of a ring around it of a quarter of its size."""
        ring_px = max(2, round(0.25 * self.area**0.5))
        away = distance_to(np.pad(self.mask, ring_px))
        ring = np.argwhere((away > 0) & (away <= ring_px)) - ring_px
        return np.stack([_evenly(np.argwhere(self.mask)), _evenly(ring)])[..., ::-1].astype(np.float64)


def _evenly(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(POINTS, 2) of (N, 2) pixels in raster order: one of each stretch, at places in it that never fall into step with rows."""
    steps = np.arange(POINTS)
    return pixels[((steps + steps * GOLDEN % 1.0) * len(pixels) / POINTS).astype(int)]


def template_of(mask: Mask, reference: str) -> Template:
    """Cut a reference's (H, W) mask out of its photo."""
    x0, y0, x1, y1 = mask_bounds(mask)
    height, width = mask.shape
    cut = (x0 <= CUT_PX, y0 <= CUT_PX, x1 >= width - CUT_PX, y1 >= height - CUT_PX)
    return Template(_rimmed(mask[y0:y1, x0:x1], cut, 1), cut, (x0 - (not cut[0]), y0 - (not cut[1])), reference, "affine")


def _rimmed(mask: Mask, cut: Cut, rim_px: int) -> Mask:
    """A mask with so many rows and columns of False around it, but on the sides where it is cut."""
    left, top, right, bottom = (0 if side else rim_px for side in cut)
    return np.pad(mask, ((top, bottom), (left, right)))


def bent(template: Template, amplitude: float, cells: int, rng: np.random.Generator) -> Template:
    """The mask under a smooth random displacement, whose deviation is a share `amplitude` of its longer side.

    The displacement is drawn on a coarse grid of about `cells` cells along the longer side, and cubic between them. A draw that
    tears half of the mask away leaves it as it was.
    """
    longest = max(template.mask.shape)
    mask = _rimmed(template.mask, template.cut, round(2 * amplitude * longest) + 1)
    height, width = mask.shape
    coarse = (max(2, round(cells * height / longest) + 1), max(2, round(cells * width / longest) + 1))
    shift = rng.normal(0.0, amplitude * longest, (2, *coarse)).astype(np.float32)
    fields = [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in shift]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    # Beyond a side where the photo cut it off the mask goes on as it was there; the rim ends it elsewhere.
    moved = cv2.remap(
        mask.astype(np.float32), columns + fields[0], rows + fields[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    found = moved >= 0.5
    if found.sum() < 0.5 * template.area:
        return template
    x0, y0, x1, y1 = mask_bounds(found)
    left, top, right, bottom = template.cut
    trimmed = found[0 if top else y0 : height if bottom else y1, 0 if left else x0 : width if right else x1]
    return Template(_rimmed(trimmed, template.cut, 1), template.cut, (0, 0), template.reference, "elastic")


@dataclass(frozen=True, slots=True)
class Proportions:
    """Of a mask: area, length and breadth of the least rectangle around it, thickness (twice its greatest depth), in pixels."""

    area: float
    length: float
    breadth: float
    thickness: float


def proportions(mask: Mask) -> Proportions:
    """Measure an (H, W) mask."""
    points = np.argwhere(mask)[:, ::-1].astype(np.float32)
    sides = sorted(side + 1.0 for side in cv2.minAreaRect(points)[1])
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return Proportions(float(mask.sum()), sides[1], sides[0], 2.0 * float(depth.max()))


def drawn(like: Template, spread: float, rng: np.random.Generator) -> Template:
    """A shape of its own: a line, perhaps branched, where the reference is one, else a blob or a polygon.

    Area, aspect ratio and thickness are log-normal around those of the reference with deviation `spread`. Where the photo's
    border cut the reference off, the shape is cut off, too.
    """
    wanted = proportions(like.mask)
    area = wanted.area * float(np.exp(rng.normal(0.0, spread)))
    if wanted.thickness < LINE_WIDTH * wanted.length:
        thickness = max(1.0, wanted.area / wanted.length * float(np.exp(rng.normal(0.0, spread))))
        mask = _line(area / thickness, thickness, rng)
    else:
        aspect = max(1.0, wanted.length / wanted.breadth * float(np.exp(rng.normal(0.0, spread))))
        mask = _outline(area, aspect, rng)
    x0, y0, x1, y1 = mask_bounds(mask)
    return Template(_cut_off(mask[y0:y1, x0:x1], like.cut, rng), like.cut, (0, 0), None, "drawn")


def _cut_off(mask: Mask, cut: Cut, rng: np.random.Generator) -> Mask:
    """Take 5 to 30 % of the extent away on each side where it is cut, as long as something is left; a rim on the others."""
    height, width = mask.shape
    left, top, right, bottom = (
        int(rng.uniform(0.05, 0.3) * side * is_cut) for side, is_cut in zip((width, height) * 2, cut, strict=True)
    )
    kept = mask[top : height - bottom, left : width - right]
    return _rimmed(kept if kept.any() else mask, cut, 1)


def _filled(points: NDArray[np.float64]) -> Mask:
    corners = np.rint(points - points.min(axis=0)).astype(np.int32)
    canvas = np.zeros((int(corners[:, 1].max()) + 1, int(corners[:, 0].max()) + 1), np.uint8)
    cv2.fillPoly(canvas, [corners], 1)
    return canvas > 0


def _outline(area: float, aspect: float, rng: np.random.Generator) -> Mask:
    """A blob (an ellipse with three random harmonics) or a polygon (4 to 7 corners), turned at random."""
    if rng.random() < 0.5:
        angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        waves = [rng.normal(0, 0.12 / order) * np.cos(order * angles + rng.uniform(0, 2 * np.pi)) for order in (2, 3, 4)]
        radius = np.maximum(0.3, 1.0 + sum(waves))
    else:
        count = int(rng.integers(4, 8))
        angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
        radius = rng.uniform(0.8, 1.2, count)
    points = np.stack([radius * np.cos(angles) * aspect**0.5, radius * np.sin(angles) / aspect**0.5], axis=1)
    size = abs(float(cv2.contourArea(points.astype(np.float32))))
    return _filled(_turned(points * (area / size) ** 0.5, rng))


def _line(length: float, thickness: float, rng: np.random.Generator) -> Mask:
    """A line of six bends, on one in four with a branch of a third of its length."""
    bends = np.cumsum(rng.normal(0.0, 0.25, 6)) + rng.uniform(0, 2 * np.pi)
    branch = rng.random() < 0.25
    main = _steps(bends, length * (0.75 if branch else 1.0))
    lines = [main]
    if branch:
        fork = bends[3] + rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0)
        lines.append(main[3] + _steps(np.full(3, fork) + np.cumsum(rng.normal(0.0, 0.2, 3)), length * 0.25))
    return _stroke(lines, thickness)


def _stroke(lines: Sequence[NDArray[np.float64]], thickness: float) -> Mask:
    """Lines of any thickness; drawn `FINE` times as large, since OpenCV's thick lines come out a pixel or two too wide."""
    margin = math.ceil(thickness)
    low = np.concatenate(lines).min(axis=0) - margin
    width, height = (int(side) for side in np.ceil(np.concatenate(lines).max(axis=0) - low) + margin)
    canvas = np.zeros((FINE * height, FINE * width), np.uint8)
    cv2.polylines(canvas, [np.rint(FINE * (line - low)).astype(np.int32) for line in lines], isClosed=False, color=1)
    fine = distance_to(canvas > 0) <= FINE * thickness / 2
    return cv2.resize(fine.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5


def _steps(headings: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Points of a path from (0, 0) whose legs have these headings and one length."""
    legs = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / len(headings)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(legs, axis=0)])


def _turned(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, np.pi)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def size_limits(templates: Sequence[Template], scale: tuple[float, float]) -> tuple[float, float]:
    """Areas below which a defect of the type is small, and above which it is large: terciles of what the references give.

    Of the areas of all references under nine enlargements from `scale`, evenly spread. The limits of COCO (32 x 32 and
    96 x 96 px) say nothing on small photos.
    """
    areas = np.outer([template.area for template in templates], np.linspace(*scale, 9) ** 2)
    low, high = np.quantile(areas, [1 / 3, 2 / 3])
    return float(low), float(high)


def area_range(size: Size, limits: tuple[float, float]) -> Area:
    """Least and greatest area of a defect of a size."""
    low, high = limits
    return {"any": (0.0, np.inf), "small": (0.0, low), "medium": (low, high), "large": (high, np.inf)}[size]
