"""Grown, poured, printed and painted surfaces."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.images import Mask
from pipeline.procedural.noise import lit_relief, roomy, turned, unit_noise
from pipeline.procedural.scene import WHITE, Scene, Traces


def wood(rng: np.random.Generator, size_px: int) -> Scene:
    """Growth rings cut lengthwise, with fine pores along the grain."""
    side = roomy(size_px)
    course = np.linspace(0, side / rng.uniform(9, 28), side, dtype=np.float32)[:, None]
    course = course + rng.uniform(0.4, 1.2) * unit_noise(rng, side, (side / 8, side / 2))
    rings = np.abs((course % 1.0) * 2 - 1) ** rng.uniform(0.6, 1.6)
    pores = np.clip(unit_noise(rng, side, (0.5, rng.uniform(4, 9))) - 1.4, 0, 1)
    grain = unit_noise(rng, side, (0.6, 14))
    plane = rng.uniform(0.1, 0.2) * rings - 0.16 * pores + 0.015 * grain
    tone = rng.uniform(0.4, 0.6) + turned(rng, plane.astype(np.float32), 8)[:size_px, :size_px]
    return Scene("wood", tone.astype(np.float32), (1.15, float(rng.uniform(0.8, 0.95)), float(rng.uniform(0.5, 0.75))))


def leather(rng: np.random.Generator, size_px: int) -> Scene:
    """Pebbled grain: cushions between dark creases, lit from one side."""
    pebble = rng.uniform(2.2, 5.0)
    creases = np.minimum(np.abs(unit_noise(rng, size_px, pebble)), np.abs(unit_noise(rng, size_px, 1.4 * pebble)))
    height = np.sqrt(np.minimum(creases, 0.6))
    light = lit_relief(height.astype(np.float32), rng.uniform(0, 2 * np.pi))
    tone = rng.uniform(0.22, 0.45) + rng.uniform(0.12, 0.2) * height + 0.25 * light + 0.01 * unit_noise(rng, size_px, (0.7, 0.7))
    brown = (1.15, float(rng.uniform(0.75, 0.95)), float(rng.uniform(0.5, 0.8)))
    return Scene("leather", tone.astype(np.float32), brown if rng.random() < 0.6 else WHITE)


def concrete(rng: np.random.Generator, size_px: int) -> Scene:
    """Cement with clouds, sand grains and small pores."""
    clouds = unit_noise(rng, size_px, size_px / 9) + 0.6 * unit_noise(rng, size_px, (4, 4))
    sand = unit_noise(rng, size_px, (0.8, 0.8))
    pores = np.clip(unit_noise(rng, size_px, (1.1, 1.1)) - rng.uniform(2.2, 2.8), 0, 0.7)
    tone = rng.uniform(0.45, 0.65) + rng.uniform(0.02, 0.045) * clouds + rng.uniform(0.02, 0.04) * sand - 0.3 * pores
    return Scene("concrete", tone.astype(np.float32))


def painted_panel(rng: np.random.Generator, size_px: int) -> Scene:
    """Lacquer: one colour, faint orange peel, a broad reflection."""
    peel = rng.uniform(1.5, 3.5)
    light = lit_relief(unit_noise(rng, size_px, (peel, peel)), rng.uniform(0, 2 * np.pi))
    gloss = unit_noise(rng, size_px, size_px / 3)
    tone = rng.uniform(0.25, 0.8) + rng.uniform(0.003, 0.012) * light / light.std() + rng.uniform(0.01, 0.05) * gloss
    colour = tuple(float(v) for v in rng.uniform(0.45, 1.15, size=3))
    return Scene("painted_panel", tone.astype(np.float32), (colour[0], colour[1], colour[2]))


def printed_circuit(rng: np.random.Generator, size_px: int) -> Scene:
    """Parallel traces with bends of 45 degrees, pads and vias; black and white as a scan, or copper under solder mask."""
    width = rng.uniform(3, max(4.0, size_px / 14))
    copper = _route(rng, size_px, width)
    scan = rng.random() < 0.5
    tones = (0.05, 0.92) if scan else (float(rng.uniform(0.5, 0.75)), float(rng.uniform(0.15, 0.35)))
    if rng.random() < 0.3:
        tones = (tones[1], tones[0])
    texture = 0.004 if scan else 0.02
    tone = np.where(copper, tones[0], tones[1]) + texture * unit_noise(rng, size_px, (0.7, 0.7))
    colour = WHITE if scan else (float(rng.uniform(0.5, 0.9)), 1.05, float(rng.uniform(0.4, 0.8)))
    return Scene("printed_circuit", tone.astype(np.float32), colour, traces=Traces(copper, tones, width))


def _route(rng: np.random.Generator, size_px: int, width: float) -> Mask:
    canvas = np.zeros((size_px, size_px), np.uint8)
    pitch = width * rng.uniform(1.8, 3.2)
    bend, shift = rng.uniform(0.2, 0.8) * size_px, rng.uniform(-0.35, 0.35) * size_px
    for start in np.arange(-0.5 * size_px, 1.5 * size_px, pitch):
        if rng.random() < 0.2:
            continue
        ends = np.array([[-9, start], [bend, start], [bend + abs(shift), start + shift], [size_px + 9, start + shift]])
        cv2.polylines(canvas, [np.rint(ends * 16).astype(np.int32)], False, 1, max(1, round(width)), cv2.LINE_8, 4)
        if rng.random() < 0.35:
            y, x = (
                start + (shift if (late := rng.random() < 0.5) else 0),
                rng.uniform(0, bend) if not late else rng.uniform(bend, size_px),
            )
            centre = (round(float(x)), round(float(y)))
            cv2.circle(canvas, centre, round(width * rng.uniform(0.9, 1.4)), 1, -1)
            if rng.random() < 0.6:
                cv2.circle(canvas, centre, max(1, round(width * 0.4)), 0, -1)
    return (canvas.T if rng.random() < 0.5 else canvas) > 0
