"""Photos that show the same piece: found by the correlation of what makes a photo different from the rest of its set.

Measured on the real sets (64 x 64 frames, best of shifts up to one pixel, 1.5 % of the side):

- Plain grey difference cannot tell: exposures of one tile differ more (median 11 grey levels) than different tiles (median 10).
- With local contrast normalised, photos of one magnetic tile correlate at 0.85 to 0.95. Removing the mean frame and the four
  strongest components of the set (lighting, frame edges, what all pieces share) thins out the zone between "other" and "same":
  pairs of parts by correlation from 0.60 in steps of 0.05: tiles 5, 1, 2, 8, 1, 15, 28, 49; PCBs 62, 26, 23, 7, 8, 13, 5, 37.
- All pairs of tile parts from 0.74 to 0.93 were looked at: from 0.75 on each shows one tile (same crack, same scratches); two
  different tiles reach 0.743. So the rule of magnetic_tile (259 parts) is too fine where a tile came back to the camera:
  208 remain.
  Among PCBs, pairs from 0.75 to 0.85 are look-alikes of sparse boards as well as twins; joining them leaks nothing.
- Shifts are kept to one pixel: boards of DeepPCB repeat their circuit, and with larger shifts different boards match.
- Known limit: like objects at any angle with a printed mark (simulated: 300 bottles) chain into a few groups at 0.75. `prepare`
  warns when a group is that large, and the threshold is a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from pipeline.images import Picture, grey_of

Frame = NDArray[np.float32]
Hit = tuple[int, int, float]
"""Positions i < j of two photos, and their correlation."""

FRAME_PX = 64
SOFTEN_PX = 0.7
"""Without it, grain as fine as a frame pixel hides crops by a fraction of one: of 45 planted copies of real tiles, cropped by
4 pixels, 37 were found, and 45 with it; cropped by 10, 25 and 36."""
DETAIL_PX = 4.0
"""Structure wider than this (lighting, vignetting) is not part of a piece's identity."""
COMMON_COMPONENTS = 4
PHOTOS_PER_COMPONENT = 25
"""Below this many photos for each component, removing it would remove what makes a photo unlike the others."""
MIN_PHOTOS_FOR_MEAN = 20
SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1))
"""Half of all shifts up to one pixel; the other half are the same pairs with their roles exchanged."""
BLOCK = 1024


def frame(picture: Picture) -> Frame:
    """(64, 64) float32: grey, common size, local mean removed and local contrast divided out, so that exposure cancels."""
    small = cv2.resize(grey_of(picture), (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), SOFTEN_PX)
    detail = small - cv2.GaussianBlur(small, (0, 0), DETAIL_PX)
    # One grey level in the divisor keeps sensor noise of a black border from counting as texture.
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 2 * DETAIL_PX)) + 1.0
    return (detail / contrast).astype(np.float32)


def fingerprints(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """(N, 64, 64) float32 of unit length: frames without what the set has in common, faded out at the border."""
    count = len(frames)
    flat = np.stack(frames).reshape(count, -1).astype(np.float64)
    if count >= MIN_PHOTOS_FOR_MEAN:
        flat -= flat.mean(axis=0)
    components = min(COMMON_COMPONENTS, count // PHOTOS_PER_COMPONENT)
    if components:
        start = np.random.default_rng(0).standard_normal(min(flat.shape))  # svds draws its own otherwise
        _, _, common = svds(flat, k=components, v0=start)
        assert common is not None
        flat -= (flat @ common.T) @ common
    side = np.sqrt(np.hanning(FRAME_PX + 2)[1:-1])
    flat = (flat - flat.mean(axis=1, keepdims=True)) * np.outer(side, side).ravel()
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return (flat / np.maximum(length, 1e-9)).astype(np.float32).reshape(count, FRAME_PX, FRAME_PX)


def find_near_duplicates(frames: Sequence[Frame], min_correlation: float) -> list[Hit]:
    """Pairs of photos that show one piece, strongest first; every pair of the set is compared."""
    if len(frames) < 2:
        return []
    prints = fingerprints(frames)
    count = len(prints)
    flat = prints.reshape(count, -1)
    best: dict[tuple[int, int], float] = {}
    for shift in SHIFTS:
        moved = np.roll(prints, shift, axis=(1, 2)).reshape(count, -1)
        for first in range(0, count, BLOCK):
            block = flat[first : first + BLOCK] @ moved.T
            for a, b in np.argwhere(block >= min_correlation):
                pair = (int(min(a + first, b)), int(max(a + first, b)))
                if pair[0] != pair[1]:
                    best[pair] = max(best.get(pair, -1.0), float(block[a, b]))
    return sorted(((i, j, value) for (i, j), value in best.items()), key=lambda hit: (-hit[2], hit[0], hit[1]))


def merge_parts(parts: Sequence[str], hits: Iterable[Hit]) -> tuple[list[str], tuple[tuple[str, ...], ...]]:
    """Join the parts of photos that are near-duplicates, transitively.

    Args:
        parts: Part of every photo.
        hits: Pairs of positions in `parts`.

    Returns:
        The new part of every photo (the alphabetically first of a group), and each group of two or more old parts.
    """
    root = {part: part for part in parts}
    for i, j, _ in hits:
        a, b = _root_of(root, parts[i]), _root_of(root, parts[j])
        root[max(a, b)] = min(a, b)
    groups: dict[str, list[str]] = {}
    for part in sorted(root):
        groups.setdefault(_root_of(root, part), []).append(part)
    return [_root_of(root, part) for part in parts], tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _root_of(root: Mapping[str, str], part: str) -> str:
    while root[part] != part:
        part = root[part]
    return part
