"""The catalogue of surfaces. Every part gets its own from its own generator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.procedural.fabrics import knit, plain_weave, twill
from pipeline.procedural.materials import concrete, leather, painted_panel, printed_circuit, wood
from pipeline.procedural.metals import brushed_metal, cast_metal, ground_steel, magnetic_ceramic
from pipeline.procedural.noise import grid, unit_noise
from pipeline.procedural.scene import Scene, Surface

SURFACES: dict[str, Surface] = {
    "brushed_metal": brushed_metal,
    "cast_metal": cast_metal,
    "concrete": concrete,
    "ground_steel": ground_steel,
    "knit": knit,
    "leather": leather,
    "magnetic_ceramic": magnetic_ceramic,
    "painted_panel": painted_panel,
    "plain_weave": plain_weave,
    "printed_circuit": printed_circuit,
    "twill": twill,
    "wood": wood,
}


def with_edge(rng: np.random.Generator, scene: Scene) -> Scene:
    """The part ends inside the picture: beyond a nearly straight edge lies an even background."""
    size = scene.size_px
    rows, columns = grid(size)
    angle = rng.integers(0, 4) * np.pi / 2 + rng.normal(0, 0.04)
    reach = (columns - size / 2) * np.cos(angle) + (rows - size / 2) * np.sin(angle)
    inside = reach < rng.uniform(0.15, 0.4) * size + 0.4 * unit_noise(rng, size, (3, 3))
    beyond = rng.choice([rng.uniform(0.02, 0.15), rng.uniform(0.75, 0.95)])
    tone = np.where(inside, scene.tone, np.float32(beyond) + 0.01 * unit_noise(rng, size, (1, 1)))
    return replace(scene, tone=tone.astype(np.float32), inside=inside)
