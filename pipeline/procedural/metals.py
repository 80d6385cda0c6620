"""Metal and ceramic surfaces."""

from __future__ import annotations

import numpy as np

from pipeline.procedural.noise import lit_relief, roomy, turned, unit_noise
from pipeline.procedural.scene import Scene


def brushed_metal(rng: np.random.Generator, size_px: int) -> Scene:
    """Streaks of several widths along nearly one direction, over a slow change of sheen."""
    side, length = roomy(size_px), rng.uniform(15, 40)
    streaks = unit_noise(rng, side, (rng.uniform(0.4, 0.9), length)) + 0.8 * unit_noise(rng, side, (2.0, 2 * length))
    slow = unit_noise(rng, size_px, (size_px / 5, size_px / 3))
    tone = rng.uniform(0.35, 0.65) + rng.uniform(0.025, 0.06) * turned(rng, streaks, 8)[:size_px, :size_px] + 0.04 * slow
    return Scene("brushed_metal", tone.astype(np.float32))


def cast_metal(rng: np.random.Generator, size_px: int) -> Scene:
    """A rough skin: relief of several grain sizes under slanting light."""
    grain = rng.uniform(0.8, 1.8)
    height = unit_noise(rng, size_px, (grain, grain)) + 2.5 * unit_noise(rng, size_px, (3 * grain, 3 * grain))
    light = lit_relief(height, rng.uniform(0, 2 * np.pi))
    speckle = unit_noise(rng, size_px, (0.6, 0.6))
    tone = rng.uniform(0.3, 0.55) + rng.uniform(0.05, 0.09) * light / light.std() + 0.02 * speckle
    return Scene("cast_metal", (tone + 0.03 * unit_noise(rng, size_px, size_px / 6)).astype(np.float32))


def ground_steel(rng: np.random.Generator, size_px: int) -> Scene:
    """A rolled and ground strip: fine straight lines the length of the picture, bands across, little contrast."""
    side = roomy(size_px)
    lines = unit_noise(rng, side, (0.45, 6 * side)) + 0.6 * unit_noise(rng, side, (1.5, 2 * side))
    bands = unit_noise(rng, side, (rng.uniform(6, 20), 3 * side))
    plane = turned(rng, rng.uniform(0.012, 0.03) * lines + rng.uniform(0.01, 0.04) * bands, 3)[:size_px, :size_px]
    tone = rng.uniform(0.35, 0.75) + plane + 0.012 * unit_noise(rng, size_px, (0.6, 0.6))
    return Scene("ground_steel", tone.astype(np.float32))


def magnetic_ceramic(rng: np.random.Generator, size_px: int) -> Scene:
    """Sintered ferrite: dark, matt, finely grained, with faint grinding marks and cloudy patches."""
    grain = unit_noise(rng, size_px, (0.7, 0.7)) + 0.7 * unit_noise(rng, size_px, (1.6, 1.6))
    side = roomy(size_px)
    marks = turned(rng, unit_noise(rng, side, (0.8, side / 2)), 4)[:size_px, :size_px]
    clouds = unit_noise(rng, size_px, size_px / 7)
    tone = rng.uniform(0.2, 0.55) + rng.uniform(0.01, 0.03) * grain + rng.uniform(0.0, 0.025) * marks
    return Scene("magnetic_ceramic", (tone + rng.uniform(0.01, 0.03) * clouds).astype(np.float32))
