"""How much a defect looks like real ones of its type, by a fixed bank of filters: nothing learned, nothing to download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture, grey_of
from pipeline.masks.crops import close_up

JUDGE = "Gabor filter bank, 4 wavelengths, 6 orientations"
SIDE_PX = 64
CONTEXT = 3.0
"""Side of the picture over the side of the mask: a defect is what differs from the surface around it."""
WAVELENGTHS_PX = (3, 5, 9, 16)
ORIENTATIONS = 6
COVERED = 0.25
"""Share of a pixel from which on it belongs to the defect."""
FLOOR = 0.3
"""Grey levels of response that count as none."""
Looks = NDArray[np.float64]


@cache
def _bank() -> tuple[tuple[NDArray[np.float32], ...], ...]:
    """Even and odd Gabor kernels of each wavelength and orientation; the even ones without mean, so that brightness cancels."""
    rows: list[tuple[NDArray[np.float32], ...]] = []
    for length in WAVELENGTHS_PX:
        for turn in range(ORIENTATIONS):
            side, angle = 4 * length | 1, np.pi * turn / ORIENTATIONS
            pair = [cv2.getGaborKernel((side, side), 0.5 * length, angle, length, 0.7, phase) for phase in (0.0, -np.pi / 2)]
            pair[0] -= pair[0].mean()
            rows.append(tuple((kernel / np.abs(kernel).sum()).astype(np.float32) for kernel in pair))
    return tuple(rows)


def energies(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """(wavelengths, orientations, H, W) local energy of an (H, W) picture: the modulus of the even and odd response."""
    found = [np.hypot(*(cv2.filter2D(grey, -1, k, borderType=cv2.BORDER_REFLECT_101) for k in pair)) for pair in _bank()]
    return np.stack(found).reshape(len(WAVELENGTHS_PX), ORIENTATIONS, *grey.shape).astype(np.float32)


def look(picture: Picture, mask: Mask) -> Looks:
    """(D,) what a defect looks like in a mask and against its surroundings.

    Args:
        picture: (H, W, 3) uint8.
        mask: (H, W), not empty.
    """
    close, covered = close_up(picture, mask, CONTEXT, SIDE_PX)
    inside = covered >= min(COVERED, float(covered.max()))
    outside = cv2.dilate(covered, np.ones((3, 3), np.uint8)) == 0
    if not outside.any():
        outside = inside
    grey = grey_of(close).astype(np.float32)
    bands = [value for band in energies(grey) for value in _band_look(band, inside, outside)]
    return np.array([*_grey_look(grey[inside], grey[outside]), *bands], dtype=np.float64)


def _grey_look(inside: NDArray[np.float32], outside: NDArray[np.float32]) -> tuple[float, ...]:
    """Step in brightness in units of the surface's contrast, contrast against the surface's and in itself, and its skewness."""
    contrast, around = inside.std() + 1.0, outside.std() + 1.0
    step, skewness = (inside.mean() - outside.mean()) / (around + 1.0), ((inside - inside.mean()) ** 3).mean() / contrast**3
    return float(step), float(np.log(contrast / around)), float(np.log(contrast)), float(skewness)


def _band_look(band: NDArray[np.float32], inside: Mask, outside: Mask) -> tuple[float, ...]:
    """Of one wavelength, in logarithms: energy, energy against the surface's, patchiness, how directed in places and as a whole.

    Args:
        band: Energies, (orientations, H, W).
        inside: The defect's pixels, (H, W).
        outside: The surface's.
    """
    energy = band.mean(axis=0)
    here, around, directions = energy[inside], energy[outside], band[:, inside].mean(axis=1)
    values = (
        here.mean() + FLOOR,
        (here.mean() + FLOOR) / (around.mean() + FLOOR),
        (here.std() + FLOOR) / (here.mean() + FLOOR),
        (band.max(axis=0)[inside] / (here + FLOOR)).mean() + FLOOR,
        (directions.max() + FLOOR) / (directions.mean() + FLOOR),
    )
    return tuple(float(np.log(value)) for value in values)


@dataclass(frozen=True)
class RealLooks:
    """Looks of the real defects of one fold.

    Attributes:
        by_type: (R, D) of each type.
        spread: (D,) standard deviation over the real defects of all types; the unit of distances.
    """

    by_type: Mapping[str, Looks]
    spread: Looks


def real_looks(found: Sequence[tuple[str, Looks]]) -> RealLooks:
    """Collect the types and looks of the real defects."""
    by_type = {d: np.stack([one for name, one in found if name == d]) for d in sorted({name for name, _ in found})}
    return RealLooks(by_type, np.concatenate(list(by_type.values())).std(axis=0) + 1e-6)


def quality(looks: Looks, defect: str, real: RealLooks, neighbours: int) -> NDArray[np.float64]:
    """(B,) mean likeness, in (0, 1], of (B, D) looks to the nearest real defects of a type.

    Likeness is 1 / (1 + d), d the root mean square difference in units of the real spread: equal looks have 1, and looks as far
    apart as real defects of any two types about 0.4.
    """
    apart = (looks[:, None] - real.by_type[defect][None]) / real.spread
    likeness = 1.0 / (1.0 + np.sqrt((apart**2).mean(axis=2)))
    return np.sort(likeness, axis=1)[:, -neighbours:].mean(axis=1)
