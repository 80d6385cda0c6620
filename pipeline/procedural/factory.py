"""Drawings of parts with defects, each with the exact mask of what changed: what the embedded models are pre-trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.images import Mask, Picture
from pipeline.procedural.camera import expose
from pipeline.procedural.defects import DEFECT_TYPES, DEFECTS, defects_on
from pipeline.procedural.scene import Scene
from pipeline.procedural.surfaces import SURFACES, with_edge

__all__ = ["DEFECT_TYPES", "Drawing", "DrawingError", "add_defect", "draw"]

EDGE_SHARE = 0.2
"""Share of the hard parts that end inside the picture."""
GREY_SHARE = 0.4
"""Share of the photos taken by a grey camera."""
DEFECT_COUNTS = (0.2, 0.5, 0.2, 0.1)
"""Chances of 0, 1, 2, 3 defects."""
TRIES = 8
MIN_AREA_PX = 8
MAX_SHARE = 0.35
GAP_PX = 3


class DrawingError(ValueError):
    """A defect does not occur on the surface, or found no room."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn photo.

    Attributes:
        picture: (H, W, 3) uint8.
        surface: Its family, a key of `SURFACES`.
        instances: Defect type and exact (H, W) mask of each defect; empty on a good part.
    """

    picture: Picture
    surface: str
    instances: tuple[tuple[str, Mask], ...]


def draw(rng: np.random.Generator, size_px: int, surface: str | None = None, defects: Sequence[str] | None = None) -> Drawing:
    """One photo of `size_px` x `size_px`; everything comes from `rng`.

    Args:
        rng: Decides all.
        size_px: Side, at least 32.
        surface: Family; drawn at random if None.
        defects: Types to add; None for 0 to 3 that occur on the surface, empty for a good part.

    Raises:
        DrawingError: If a named defect does not occur on the surface or finds no room in `TRIES` tries. Defects drawn at
            random that find no room are left out.
    """
    family = surface if surface is not None else str(rng.choice(list(SURFACES)))
    scene = SURFACES[family](rng, size_px)
    if family in DEFECTS["edge_break"][1] and rng.random() < EDGE_SHARE:
        scene = with_edge(rng, scene)
    names = list(defects) if defects is not None else _some(rng, family)
    instances: list[tuple[str, Mask]] = []
    taken = np.zeros(scene.tone.shape, np.bool_)
    for name in names:
        added = add_defect(rng, scene, name, taken)
        if added is None:
            if defects is not None:
                raise DrawingError(f"{name} found no room on {family} at {size_px} px in {TRIES} tries; use a larger picture")
            continue
        scene, mask = added
        taken |= cv2.dilate(mask.astype(np.uint8), np.ones((2 * GAP_PX + 1,) * 2, np.uint8)) > 0
        instances.append((name, mask))
    return Drawing(_photograph(rng, scene), family, tuple(instances))


def _some(rng: np.random.Generator, family: str) -> list[str]:
    count = int(rng.choice(len(DEFECT_COUNTS), p=DEFECT_COUNTS))
    return [str(name) for name in rng.choice(defects_on(family), size=count)]


def add_defect(rng: np.random.Generator, scene: Scene, name: str, taken: Mask) -> tuple[Scene, Mask] | None:
    """The scene with one more defect and the exact mask of what changed, off `taken`; None if no try fits.

    Raises:
        DrawingError: If the defect does not occur on this surface.
    """
    if name not in DEFECTS or scene.family not in DEFECTS[name][1]:
        known = ", ".join(defects_on(scene.family))
        raise DrawingError(f"{name!r} does not occur on {scene.family}; expected one of {known}")
    for _ in range(TRIES):
        changed = DEFECTS[name][0](rng, scene)
        mask = np.abs(changed.tone - scene.tone) > 0
        area = int(mask.sum())
        if MIN_AREA_PX <= area <= MAX_SHARE * mask.size and not (mask & taken).any() and _visible(scene, changed, mask):
            return changed, mask
    return None


def _visible(before: Scene, after: Scene, mask: Mask) -> bool:
    """Whether the change is more than a person would overlook: 3 % of the range on average."""
    return float(np.abs(after.tone - before.tone)[mask].mean()) > 0.03


def _photograph(rng: np.random.Generator, scene: Scene) -> Picture:
    if rng.random() < GREY_SHARE:
        grey = scene.rgb().mean(axis=2)
        return np.repeat(expose(rng, grey)[..., None], 3, axis=2)
    return expose(rng, scene.rgb())
