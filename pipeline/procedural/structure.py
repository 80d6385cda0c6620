"""Defects of a structure: threads of a fabric, traces of a printed circuit, the edge of a part."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.procedural.fabrics import thread_number
from pipeline.procedural.marks import blend, outlined_blob, place, stroke, wander
from pipeline.procedural.noise import Plane, grid, lit_relief, log_uniform, soften, unit_noise
from pipeline.procedural.scene import Scene, Threads, Traces


def _threads(scene: Scene) -> Threads:
    if scene.threads is None:
        raise ValueError(f"{scene.family} has no threads; draw this defect on plain_weave, twill or knit")
    return scene.threads


def _traces(scene: Scene) -> Traces:
    if scene.traces is None:
        raise ValueError(f"{scene.family} has no traces; draw this defect on printed_circuit")
    return scene.traces


def _segment(rng: np.random.Generator, scene: Scene, share: tuple[float, float], wide: int) -> tuple[Plane, Plane]:
    """1 on a stretch of `wide` neighbouring threads, and the distance from their middle in threads."""
    threads = _threads(scene)
    across, along = (threads.warp, threads.weft) if rng.random() < 0.5 else (threads.weft, threads.warp)
    row, column = (int(v) for v in place(rng, scene, 0.1 * scene.size_px))
    number = thread_number(across)
    first = number[row, column]
    chosen = (number >= first) & (number < first + wide)
    pixels_a_thread = scene.size_px / max(float(np.ptp(along)), 1e-6)
    reach = 0.5 * log_uniform(rng, *share) * scene.size_px / pixels_a_thread
    near = np.abs(along - along[row, column]) < reach
    return (chosen & near).astype(np.float32), np.abs(across - (first + (wide - 1) / 2))


def missing_thread(rng: np.random.Generator, scene: Scene) -> Scene:
    """A gap where a thread should run: dark, with the crossing threads faintly seen."""
    gap, _ = _segment(rng, scene, (0.25, 1.2), int(rng.integers(1, 3)))
    under = soften(scene.tone, 2.0) * rng.uniform(0.35, 0.65) + 0.15 * (scene.tone - scene.tone.mean())
    return blend(scene, under, gap)


def thick_thread(rng: np.random.Generator, scene: Scene) -> Scene:
    """A slub: one thread swollen over its neighbours, bright along its middle."""
    wide = int(rng.integers(2, 4))
    swollen, away = _segment(rng, scene, (0.15, 0.7), wide)
    crown = np.clip(1 - (away / (wide / 2 + 0.1)) ** 2, 0, 1)
    level = float(scene.tone.mean()) + rng.choice([-1, 1], p=[0.3, 0.7]) * rng.uniform(0.1, 0.22)
    thread = level + rng.uniform(0.08, 0.16) * crown + 0.02 * unit_noise(rng, scene.size_px, (0.7, 0.7))
    return blend(scene, thread, soften(swollen, 0.5))


def broken_end(rng: np.random.Generator, scene: Scene) -> Scene:
    """A torn thread: a short gap, and the loose end curling over the fabric."""
    gap, _ = _segment(rng, scene, (0.08, 0.3), 1)
    under = soften(scene.tone, 2.0) * rng.uniform(0.35, 0.6)
    torn = blend(scene, under, gap)
    ys, xs = np.nonzero(gap)
    if len(ys) == 0:
        return torn
    tip = int(rng.integers(len(ys)))
    curl = wander(rng, (float(ys[tip]), float(xs[tip])), rng.uniform(0, 2 * np.pi), 0.12 * scene.size_px, 0.45)
    end = stroke(scene.size_px, curl, rng.uniform(1.5, 3))
    return blend(torn, np.full_like(scene.tone, min(0.95, float(scene.tone.mean()) + rng.uniform(0.12, 0.3))), end)


def short(rng: np.random.Generator, scene: Scene) -> Scene:
    """Copper that bridges the gap between two traces."""
    traces = _traces(scene)
    gap = _nearest(rng, ~traces.copper, traces.width_px)
    width = max(1.5, traces.width_px * rng.uniform(0.4, 1.0))
    angle = _across(traces.copper, *gap)
    half = 1.6 * traces.width_px * np.array([np.cos(angle), np.sin(angle)])
    middle = np.array([gap[1], gap[0]], np.float64)
    bridge = stroke(scene.size_px, np.stack([middle - half, middle + half]), width)
    return blend(scene, np.full_like(scene.tone, traces.tones[0]), bridge * ~traces.copper)


def spur(rng: np.random.Generator, scene: Scene) -> Scene:
    """Copper that sticks out of a trace into the gap."""
    return _at_border(rng, scene, 0, rng.uniform(0.35, 0.7))


def mousebite(rng: np.random.Generator, scene: Scene) -> Scene:
    """A bite out of a trace's border."""
    return _at_border(rng, scene, 1, rng.uniform(0.3, 0.6))


def open_circuit(rng: np.random.Generator, scene: Scene) -> Scene:
    """A trace that is cut through."""
    traces = _traces(scene)
    row, column = _nearest(rng, traces.copper, traces.width_px)
    angle = _across(~traces.copper, row, column)
    half = 1.1 * traces.width_px * np.array([np.cos(angle), np.sin(angle)])
    middle = np.array([column, row], np.float64)
    cut = stroke(scene.size_px, np.stack([middle - half, middle + half]), max(1.5, traces.width_px * rng.uniform(0.3, 0.9)))
    return blend(scene, np.full_like(scene.tone, traces.tones[1]), cut * traces.copper)


def _at_border(rng: np.random.Generator, scene: Scene, to: int, radius: float) -> Scene:
    traces = _traces(scene)
    border = cv2.morphologyEx(traces.copper.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    row, column = _nearest(rng, border, traces.width_px)
    rows, columns = grid(scene.size_px)
    reach = max(1.8, radius * traces.width_px)
    distance = np.hypot(rows - row, columns - column) * np.exp(0.15 * unit_noise(rng, scene.size_px, (reach, reach)))
    target = ~traces.copper if to == 0 else traces.copper
    strength = np.clip(reach - distance + 0.5, 0, 1) * target
    return blend(scene, np.full_like(scene.tone, traces.tones[to]), strength.astype(np.float32))


def _nearest(rng: np.random.Generator, allowed: np.ndarray, width_px: float) -> tuple[int, int]:
    """A random pixel of `allowed`, off the border of the picture, in the middle of its stripe where there is one."""
    depth = cv2.distanceTransform(allowed.astype(np.uint8), cv2.DIST_L2, 3)
    margin = min(len(allowed) // 4, round(width_px) + 2)
    inner = np.zeros_like(depth)
    inner[margin:-margin, margin:-margin] = depth[margin:-margin, margin:-margin]
    # Stripes no wider than two traces: free fields have no middle to bridge.
    rows, columns = np.nonzero((inner > 0) & (inner >= 0.8 * cv2.dilate(depth, np.ones((5, 5)))) & (inner <= 2 * width_px))
    if len(rows) == 0:
        rows, columns = np.nonzero(inner > 0)
    if len(rows) == 0:
        return len(allowed) // 2, len(allowed) // 2
    pick = int(rng.integers(len(rows)))
    return int(rows[pick]), int(columns[pick])


def _across(other: np.ndarray, row: int, column: int) -> float:
    """Direction (radians, x to y) towards the nearest pixel of `other` within 40 px."""
    top, left = max(0, row - 40), max(0, column - 40)
    rows, columns = np.nonzero(other[top : row + 41, left : column + 41])
    if len(rows) == 0:
        return 0.0
    dy, dx = rows + top - row, columns + left - column
    best = int(np.argmin(dy**2 + dx**2))
    return float(np.arctan2(dy[best], dx[best]))


def edge_break(rng: np.random.Generator, scene: Scene) -> Scene:
    """A chip off the part's edge (or, with no edge in view, out of its face): a rough fracture, lighter or darker."""
    radius = log_uniform(rng, 0.06, 0.25) * scene.size_px
    distance = _at_edge(rng, scene, radius)
    rough = lit_relief(
        unit_noise(rng, scene.size_px, (1.5, 1.5)) + 2 * unit_noise(rng, scene.size_px, (4, 4)), rng.uniform(0, 6.28)
    )
    level = scene.tone.mean() + rng.choice([-1, 1]) * rng.uniform(0.1, 0.3)
    fracture = level + rng.uniform(0.06, 0.14) * rough / rough.std()
    return blend(scene, fracture.astype(np.float32), np.clip((1.05 - distance) / 0.12, 0, 1))


def fray(rng: np.random.Generator, scene: Scene) -> Scene:
    """Worn along the edge: light, fibrous streaks running inwards."""
    radius = log_uniform(rng, 0.08, 0.25) * scene.size_px
    distance = _at_edge(rng, scene, radius)
    sigma = (0.6, 5.0) if rng.random() < 0.5 else (5.0, 0.6)
    fibres = unit_noise(rng, scene.size_px, sigma)
    strength = np.clip((1.1 - distance - 0.12 * fibres) / 0.4, 0, 1)
    worn = scene.tone + rng.uniform(0.08, 0.2) + rng.uniform(0.05, 0.12) * fibres
    return blend(scene, worn.astype(np.float32), strength)


def _at_edge(rng: np.random.Generator, scene: Scene, radius_px: float) -> Plane:
    """As `outlined_blob`, its middle on the part's edge where one is in view."""
    if scene.inside is None:
        return outlined_blob(rng, scene, radius_px, 0.3, rng.uniform(0.4, 1.0))
    depth = cv2.distanceTransform(scene.inside.astype(np.uint8), cv2.DIST_L2, 3)
    rows, columns = np.nonzero((depth > 0) & (depth <= 2))
    pick = int(rng.integers(len(rows)))
    ys, xs = grid(scene.size_px)
    away = np.hypot(ys - rows[pick], xs - columns[pick]) / np.float32(radius_px)
    return away * np.exp(np.float32(0.3) * unit_noise(rng, scene.size_px, max(1.0, radius_px / 2)))
