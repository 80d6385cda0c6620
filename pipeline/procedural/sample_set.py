"""A small inspection set from a seed: parts of two surfaces, photographed once or twice, good or with one of three defects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.images import Mask, Picture
from pipeline.procedural.camera import expose
from pipeline.procedural.factory import DrawingError, add_defect
from pipeline.procedural.surfaces import SURFACES
from pipeline.seeds import derive_seed

DEFECT_TYPES = ("hole", "scratch", "stain")
FAMILIES = ("brushed_metal", "plain_weave")
JITTER_PX = 2
"""Largest offset between two photos of one part."""
TWICE = 0.4
"""Share of the parts photographed under a second exposure."""
TWO_DEFECTS = 0.2


@dataclass(frozen=True, slots=True)
class DrawnPhoto:
    """An (H, W) uint8 photo; mask and defect are None on a good one."""

    id: str
    part_id: str
    picture: Picture
    mask: Mask | None
    defect: str | None


def draw_sample_set(seed: int, size_px: int, parts_per_type: int, good_parts: int) -> list[DrawnPhoto]:
    """All photos; each part depends on the seed and its own name only."""
    names = [(kind, f"{kind}-{index:03d}") for kind in DEFECT_TYPES for index in range(parts_per_type)]
    parts = [*names, *((None, f"good-{index:03d}") for index in range(good_parts))]
    return [photo for kind, name in parts for photo in draw_part(seed, size_px, name, kind)]


def draw_part(seed: int, size_px: int, name: str, defect: str | None) -> list[DrawnPhoto]:
    """The one or two photos of one part; surfaces take turns by the part's number."""
    rng = np.random.default_rng(derive_seed("sample", seed, name))
    canvas = size_px + 2 * JITTER_PX
    scene = SURFACES[FAMILIES[int(name.rsplit("-", 1)[1]) % len(FAMILIES)]](rng, canvas)
    mask = np.zeros((canvas, canvas), np.bool_)
    if defect is not None:
        for _ in range(1 + (rng.random() < TWO_DEFECTS)):
            added = add_defect(rng, scene, defect, mask)
            if added is None:
                raise DrawingError(f"{name}: {defect} found no room at {size_px} px; raise prepare.sample.size_px")
            scene, mask = added[0], mask | added[1]
    photos: list[DrawnPhoto] = []
    for exposure in range(1 + (rng.random() < TWICE)):
        top, left = (int(v) for v in rng.integers(0, 2 * JITTER_PX + 1, size=2))
        window = np.s_[top : top + size_px, left : left + size_px]
        shown = mask[window] if defect is not None else None
        photos.append(DrawnPhoto(f"{name}-{'ab'[exposure]}", name, expose(rng, scene.tone[window]), shown, defect))
    return photos
