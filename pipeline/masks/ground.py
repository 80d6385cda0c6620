"""A photo as a place for defects: where the part is, how deep inside it each place lies, and what a place looks like."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture, grey_of
from pipeline.masks.crops import mask_bounds

GRID = 32
"""Places a side on which preferences are held, relative to the region's box."""
DEPTH_PX = 128
"""Longest side at which depths are measured."""
REGION_SHARE = (0.02, 0.95)
BORDER_SHARE = 0.5
ONE_PIECE = 0.7
MINOR = 1 / 32
"""Fewer points than this share of a spot, darker or brighter than the rest, are specks."""
Looks = NDArray[np.float64]


class RegionError(ValueError):
    """The part was not found on a photo, or a region mask does not fit it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A photo and the region of the part on it.

    Attributes:
        photo: (H, W, 3).
        grey: (H, W) its grey levels.
        region: (H, W), not empty.
        box: Half-open (x0, y0, x1, y1) of the region.
        depth: (GRID, GRID) distance to the region's border on a grid over the box, as a share of the greatest; 0 outside it.
        level: Mean grey level of the region's photo.
        contrast: Standard deviation of the grey levels, at least 1.
    """

    photo: Picture
    grey: NDArray[np.uint8]
    region: Mask
    box: tuple[int, int, int, int]
    depth: NDArray[np.float32]
    level: float
    contrast: float

    @property
    def nbytes(self) -> int:
        """Memory it takes, about."""
        return self.photo.nbytes + self.grey.nbytes + self.region.nbytes + self.depth.nbytes


def open_ground(photo: Picture, region: Mask) -> Ground:
    """Measure depths and grey levels."""
    x0, y0, x1, y1 = mask_bounds(region)
    shrink = min(1.0, DEPTH_PX / max(region.shape))
    size = tuple(max(1, round(side * shrink)) for side in region.shape[::-1])
    small = cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    depth = cv2.distanceTransform(np.pad(small, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    middle = (np.arange(GRID) + 0.5) / GRID
    columns = np.minimum(((x0 + middle * (x1 - x0)) * size[0] / region.shape[1]).astype(int), size[0] - 1)
    rows = np.minimum(((y0 + middle * (y1 - y0)) * size[1] / region.shape[0]).astype(int), size[1] - 1)
    grey = grey_of(photo)
    mean, deviation = cv2.meanStdDev(grey)
    on_grid = (depth[np.ix_(rows, columns)] / max(float(depth.max()), 1e-6)).astype(np.float32)
    return Ground(photo, grey, region, (x0, y0, x1, y1), on_grid, float(mean[0, 0]), max(1.0, float(deviation[0, 0])))


def depth_at(ground: Ground, relative: NDArray[np.float64]) -> float:
    """Depth at a place (x, y) given in shares of the region's box."""
    column, row = np.clip((relative * GRID).astype(int), 0, GRID - 1)
    return float(ground.depth[row, column])


def estimated_region(photo: Picture) -> Mask:
    """(H, W) foreground: what differs from the colour of the photo's border (Otsu), its largest piece, holes filled.

    Raises:
        RegionError: If the result is no plausible part: too small or too large, scattered, or mostly at the photo's border.
    """
    lab = cv2.GaussianBlur(cv2.cvtColor(photo, cv2.COLOR_RGB2LAB), (0, 0), 2.0).astype(np.float32)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    apart = np.linalg.norm(lab - np.median(border, axis=0), axis=2)
    levels = np.clip(np.rint(apart), 0, 255).astype(np.uint8)
    _, found = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    _, names, facts, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
    if len(facts) < 2:
        raise RegionError("nothing differs from the colour of the photo's border")
    largest = 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
    whole = facts[largest, cv2.CC_STAT_AREA] / found.sum()
    outlines, _ = cv2.findContours((names == largest).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    region = np.zeros(found.shape, np.uint8)
    cv2.drawContours(region, outlines, -1, 1, cv2.FILLED)
    if fault := _implausible(region > 0, float(whole)):
        raise RegionError(fault)
    return region > 0


def _implausible(region: Mask, whole: float) -> str | None:
    """Why an estimated region cannot be the part; None if it may be."""
    share, edge = region.mean(), np.concatenate([region[0], region[-1], region[:, 0], region[:, -1]]).mean()
    if not REGION_SHARE[0] <= share <= REGION_SHARE[1]:
        return f"the foreground covers {share:.0%} of the photo, expected {REGION_SHARE[0]:.0%} to {REGION_SHARE[1]:.0%}"
    if edge > BORDER_SHARE:
        return f"the foreground holds {edge:.0%} of the photo's border, expected {BORDER_SHARE:.0%} at most"
    if whole < ONE_PIECE:
        return f"the largest piece is {whole:.0%} of the foreground, expected {ONE_PIECE:.0%} at least"
    return None


@dataclass(frozen=True, slots=True)
class Footing:
    """Where the points of N templates fall on a photo; see `Template.points`.

    Attributes:
        pixels: (N, 2, POINTS) the pixels they fall on, counted row by row; 0 for those beyond the photo.
        inside: (N, 2, POINTS) whether these lie in the region.
    """

    pixels: NDArray[np.int64]
    inside: Mask


def footing(ground: Ground, points: NDArray[np.float64], affines: NDArray[np.float64]) -> Footing:
    """Put (N, 2, POINTS, 2) points of templates, or (1, 2, POINTS, 2) of a single one, on a photo by (N, 2, 3) matrices."""
    height, width = ground.region.shape
    moved = np.rint(points @ affines[:, None, :, :2].swapaxes(-1, -2) + affines[:, None, None, :, 2]).astype(np.int64)
    x, y = moved[..., 0], moved[..., 1]
    there = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixels = np.where(there, y * width + x, 0)
    return Footing(pixels, there & ground.region.ravel()[pixels])


def surroundings(ground: Ground, at: Footing, under: NDArray[np.uint8] | None) -> Looks:
    """(N, 4) mean and deviation of the grey levels around a mask and under it, in units of the photo's own contrast.

    What lies outside the region does not count; NaN where nothing does.

    Args:
        ground: The photo.
        at: Where the points of N masks and of the rings around them are.
        under: (H, W) grey levels without the defect, for what is under the mask; None if nobody knows: those two are NaN then.
    """
    around = _spread(ground, ground.grey, at.pixels[:, 1], at.inside[:, 1])
    nobody_knows = np.full_like(around, np.nan)
    below = nobody_knows if under is None else _spread(ground, under, at.pixels[:, 0], at.inside[:, 0])
    return np.concatenate([around, below], axis=1)


def spots(ground: Ground, at: Footing, grey: NDArray[np.uint8]) -> Looks:
    """(N, 2, POINTS) grey levels of an (H, W) picture at the points, in units of the photo's contrast; NaN outside the region."""
    return np.where(at.inside, (grey.ravel()[at.pixels] - ground.level) / ground.contrast, np.nan)


def mismatch(wanted: Looks, found: Looks) -> Looks:
    """(N,) mean distances of (N, 2, POINTS) levels to wanted (2, POINTS) ones; one that is missing is as far off as the contrast.

    Points darker and brighter than the mean count alike, however few: the two ends are what makes a bridge.
    """
    known = ~np.isnan(wanted)
    dark = known & (wanted < np.mean(wanted, where=known))
    sides = [side for side in (dark, known & ~dark) if side.sum() >= MINOR * known.sum()]
    apart = np.nan_to_num(np.abs(found - wanted), nan=1.0)
    return np.mean([apart[:, side].mean(axis=1) for side in (sides if len(sides) == 2 else [known])], axis=0)


def _spread(ground: Ground, grey: NDArray[np.uint8], pixels: NDArray[np.int64], inside: Mask) -> Looks:
    """(N, 2) mean and deviation of the levels of (N, POINTS) pixels that lie inside."""
    levels = np.where(inside, grey.ravel()[pixels], 0).astype(np.float64)
    known = inside.sum(axis=1).astype(np.float64)
    known[known == 0] = np.nan
    mean, square = levels.sum(axis=1) / known, (levels * levels).sum(axis=1) / known
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    return np.stack([(mean - ground.level) / ground.contrast, deviation / ground.contrast], axis=1)
