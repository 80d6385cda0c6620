"""Marks on solid surfaces: grooves, cracks, pits, spots, stains, dents. Each returns the changed scene.

A mark alters the tone by a strength in [0, 1]; where the strength is under `VISIBLE` it is cut off, so that the mask is what a
person would outline and nothing at all changes outside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.procedural.noise import Plane, grid, lit_relief, log_uniform, soften, unit_noise
from pipeline.procedural.scene import Colour, Scene

Defect = Callable[[np.random.Generator, Scene], Scene]

VISIBLE = 0.25
SUB_PIXEL = 4
"""Fractional bits of drawn coordinates."""


def blend(scene: Scene, altered: Plane, strength: Plane, tint: Colour | None = None) -> Scene:
    """Tone moved towards `altered` by `strength`; with a tint, colour too."""
    strength = np.where(strength >= VISIBLE, strength, 0).astype(np.float32)
    if scene.inside is not None:
        strength *= scene.inside
    tone = scene.tone + strength * (altered - scene.tone)
    tints = scene.tints if tint is None else (*scene.tints, (strength, tint))
    return replace(scene, tone=tone.astype(np.float32), tints=tints)


def place(rng: np.random.Generator, scene: Scene, reach_px: float) -> tuple[float, float]:
    """Row and column of a middle, at least `reach_px` from the border where there is room, on the part."""
    size = scene.size_px
    margin = min(reach_px, 0.45 * size)
    for _ in range(20):
        row, column = rng.uniform(margin, size - margin, size=2)
        if scene.inside is None or scene.inside[int(row), int(column)]:
            break
    return float(row), float(column)


def outlined_blob(rng: np.random.Generator, scene: Scene, radius_px: float, roughness: float, squeeze: float) -> Plane:
    """Distance from the middle of an irregular ellipse in units of its radius: 0 in the middle, 1 on the edge."""
    size = scene.size_px
    rows, columns = grid(size)
    y, x = place(rng, scene, 1.3 * radius_px + 3)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = (columns - np.float32(x)) * cos + (rows - np.float32(y)) * sin
    v = ((rows - np.float32(y)) * cos - (columns - np.float32(x)) * sin) / np.float32(squeeze)
    grain = max(1.0, radius_px / 2)
    return np.hypot(u, v) / np.float32(radius_px) * np.exp(np.float32(roughness) * unit_noise(rng, size, (grain, grain)))


def stroke(size_px: int, path: NDArray[np.float64], width_px: float) -> Plane:
    """Coverage in [0, 1] of an antialiased line through (N, 2) points (x, y)."""
    canvas = np.zeros((size_px, size_px), np.uint8)
    points = np.rint(path * 2**SUB_PIXEL).astype(np.int32)
    cv2.polylines(canvas, [points], False, 255, max(1, round(width_px)), cv2.LINE_AA, SUB_PIXEL)
    return canvas.astype(np.float32) / 255


def wander(
    rng: np.random.Generator, start: tuple[float, float], angle: float, length_px: float, jag: float
) -> NDArray[np.float64]:
    """A random walk of (N, 2) points (x, y), steps of about 3 px, turning by `jag` radians a step."""
    steps = max(3, round(length_px / 3))
    turns = angle + np.cumsum(rng.normal(0, jag, steps)) + rng.normal(0, 2 * jag, steps)
    moves = length_px / steps * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)]) + np.array(start[::-1])


def centred(path: NDArray[np.float64], row: float, column: float) -> NDArray[np.float64]:
    """The path moved so that the middle of its extent lies at the place."""
    return path + np.array([column, row]) - (path.min(axis=0) + path.max(axis=0)) / 2


def scratch(rng: np.random.Generator, scene: Scene) -> Scene:
    """A bent, thin groove: bright on the side that faces the light, dark on the other, fading towards its ends."""
    size, angle = scene.size_px, rng.uniform(0, 2 * np.pi)
    length = log_uniform(rng, 0.12, 0.6) * size
    path = centred(wander(rng, (0, 0), angle, length, rng.uniform(0.01, 0.06)), *place(rng, scene, 0.5 * length))
    width = rng.uniform(1.0, max(1.5, size / 90))
    soft = soften(stroke(size, path, width), rng.uniform(0.4, 0.8))
    strength = np.clip(soft / (0.75 * soft.max()), 0, 1)
    side = lit_relief(soft, angle + np.pi / 2)
    depth = rng.choice([-1, 1]) * rng.uniform(0.08, 0.25)
    groove = soften(scene.tone, 1.2) + depth + rng.uniform(0.05, 0.18) * side / max(float(np.abs(side).max()), 1e-6)
    return blend(scene, groove, strength)


def crack(rng: np.random.Generator, scene: Scene) -> Scene:
    """A jagged dark line of changing width, now and then with branches."""
    size, angle = scene.size_px, rng.uniform(0, 2 * np.pi)
    length = log_uniform(rng, 0.15, 0.8) * size
    path = centred(wander(rng, (0, 0), angle, length, rng.uniform(0.12, 0.3)), *place(rng, scene, 0.4 * length))
    width = rng.uniform(1.0, max(2.0, size / 60))
    half = len(path) // 2
    cover = np.maximum(stroke(size, path, 0.7 * width), stroke(size, path[half // 2 : -(half // 2) or None], width))
    for _ in range(rng.integers(0, 3)):
        knot = path[rng.integers(len(path))]
        branch = wander(rng, (knot[1], knot[0]), angle + rng.choice([-1, 1]) * rng.uniform(0.5, 1.2), 0.35 * length, 0.25)
        cover = np.maximum(cover, stroke(size, branch, 0.6 * width))
    soft = soften(cover, 0.5)
    dark = scene.tone * rng.uniform(0.15, 0.6)
    return blend(scene, dark, np.clip(soft / 0.6, 0, 1))


def hole(rng: np.random.Generator, scene: Scene) -> Scene:
    """A pit or tear: a dark floor, and a rim that catches the light on one side."""
    radius = log_uniform(rng, 0.025, 0.12) * scene.size_px
    distance = outlined_blob(rng, scene, radius, 0.2, rng.uniform(0.6, 1.0))
    strength = np.clip((1.1 - distance) / 0.25, 0, 1)
    rim = lit_relief(soften(strength, 0.8), rng.uniform(0, 2 * np.pi))
    floor = rng.uniform(0.08, 0.5) * soften(scene.tone, 1.5) + rng.uniform(0.2, 0.6) * rim
    return blend(scene, floor, strength)


def blowhole(rng: np.random.Generator, scene: Scene) -> Scene:
    """A gas bubble cut open: small, smooth, darkest off its middle, often with a bright crescent."""
    radius = max(1.8, log_uniform(rng, 0.015, 0.07) * scene.size_px)
    distance = outlined_blob(rng, scene, radius, 0.1, rng.uniform(0.45, 1.0))
    strength = np.clip((1.15 - distance) / 0.45, 0, 1)
    light = lit_relief(soften(np.clip(1.2 - distance, 0, 1), 0.7), rng.uniform(0, 2 * np.pi))
    floor = scene.tone * rng.uniform(0.2, 0.65) + rng.uniform(0.0, 0.5) * np.clip(light, 0, None)
    return blend(scene, floor, strength)


def stain(rng: np.random.Generator, scene: Scene) -> Scene:
    """A dried liquid: texture stays visible under another tone, strongest along the edge."""
    radius = log_uniform(rng, 0.06, 0.22) * scene.size_px
    distance = outlined_blob(rng, scene, radius, 0.3, rng.uniform(0.5, 1.0))
    strength = np.clip((1.05 - distance) / 0.15, 0, 1)
    edge = np.exp(-(((distance - 0.88) / 0.1) ** 2))
    factor = rng.uniform(0.65, 0.86) if rng.random() < 0.8 else rng.uniform(1.15, 1.35)
    tint = (1.0, float(rng.uniform(0.8, 1)), float(rng.uniform(0.6, 1))) if rng.random() < 0.5 else None
    return blend(scene, scene.tone * (factor + np.sign(factor - 1) * rng.uniform(0.0, 0.15) * edge), strength, tint)


def oil(rng: np.random.Generator, scene: Scene) -> Scene:
    """A film: the texture's contrast sinks, the tone darkens softly, a reflection shines in it."""
    radius = log_uniform(rng, 0.08, 0.25) * scene.size_px
    distance = outlined_blob(rng, scene, radius, 0.2, rng.uniform(0.6, 1.0))
    strength = np.clip((1.0 - distance) / rng.uniform(0.2, 0.5), 0, 1)
    smooth = soften(scene.tone, 2.5)
    shine = np.clip(unit_noise(rng, scene.size_px, radius / 2) - 0.9, 0, 1)
    film = (0.5 * smooth + 0.5 * scene.tone) * rng.uniform(0.55, 0.82) + rng.uniform(0.05, 0.2) * shine
    return blend(scene, film, strength, (1.0, 0.95, float(rng.uniform(0.7, 0.95))) if rng.random() < 0.5 else None)


def spot(rng: np.random.Generator, scene: Scene) -> Scene:
    """A speck of dirt or paint lying on the surface, darker or brighter than all of it."""
    radius = max(1.6, log_uniform(rng, 0.012, 0.05) * scene.size_px)
    distance = outlined_blob(rng, scene, radius, 0.15, rng.uniform(0.7, 1.0))
    level = float(np.clip(scene.tone.mean() + rng.choice([-1, 1]) * rng.uniform(0.2, 0.4), 0.03, 0.97))
    speck = level + 0.01 * unit_noise(rng, scene.size_px, (1, 1))
    return blend(scene, speck, np.clip((1.15 - distance) / 0.35, 0, 1))


def burn(rng: np.random.Generator, scene: Scene) -> Scene:
    """Scorched: black in the middle, brown and fading outwards."""
    radius = log_uniform(rng, 0.05, 0.2) * scene.size_px
    distance = outlined_blob(rng, scene, radius, 0.25, rng.uniform(0.5, 1.0))
    strength = np.clip((1.15 - distance) / 0.8, 0, 1)
    return blend(scene, scene.tone * rng.uniform(0.12, 0.4), strength, (1.0, 0.8, 0.6))


def dent(rng: np.random.Generator, scene: Scene) -> Scene:
    """Pressed in: the texture is whole, one side lies in shadow and the other in light."""
    radius = log_uniform(rng, 0.05, 0.18) * scene.size_px
    distance = outlined_blob(rng, scene, radius, 0.12, rng.uniform(0.5, 1.0))
    bowl = np.exp(-2.0 * distance**2)
    slope = lit_relief(bowl, rng.uniform(0, 2 * np.pi))
    slope /= max(float(np.abs(slope).max()), 1e-6)
    shade = scene.tone * (1 + rng.uniform(0.25, 0.6) * slope)
    return blend(scene, shade, np.clip(np.abs(slope) / 0.3, 0, 1) * (distance < 1.6))


def uneven(rng: np.random.Generator, scene: Scene) -> Scene:
    """A large patch of another shade with a soft border, as after uneven grinding or dyeing."""
    radius = log_uniform(rng, 0.18, 0.4) * scene.size_px
    distance = outlined_blob(rng, scene, radius, 0.25, rng.uniform(0.3, 1.0))
    shift = rng.choice([-1, 1]) * rng.uniform(0.06, 0.15)
    return blend(scene, scene.tone + shift, np.clip((1.1 - distance) / 0.5, 0, 1))
