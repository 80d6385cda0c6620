"""Woven and knitted surfaces. Pitches are in pixels a thread."""

from __future__ import annotations

import numpy as np

from pipeline.procedural.noise import Plane, grid, unit_noise
from pipeline.procedural.scene import WHITE, Colour, Scene, Threads

TONES_KEPT = 512
"""Threads with a tone of their own; more than any picture shows."""


def _course(rng: np.random.Generator, size_px: int, pitch: tuple[float, float]) -> Threads:
    """Thread coordinates with a wavering course."""
    rows, columns = grid(size_px)
    sigma = rng.uniform(10, 20)
    offsets = rng.uniform(0, 9, size=2)
    sway = rng.uniform(0.1, 0.35)
    warp = columns / pitch[0] + sway * unit_noise(rng, size_px, (sigma, sigma)) + offsets[0]
    weft = rows / pitch[1] + sway * unit_noise(rng, size_px, (sigma, sigma)) + offsets[1]
    return Threads(warp.astype(np.float32), weft.astype(np.float32))


def thread_number(course: Plane) -> np.ndarray:
    """Number of the thread a pixel belongs to."""
    return np.floor(course + 0.5).astype(np.int32)


def _profile(course: Plane) -> Plane:
    """1 in a thread's middle, 0 between two."""
    return 0.5 + 0.5 * np.cos(2 * np.pi * course)


def _colour(rng: np.random.Generator) -> Colour:
    return (
        WHITE
        if rng.random() < 0.5
        else (float(rng.uniform(0.6, 1.1)), float(rng.uniform(0.6, 1.1)), float(rng.uniform(0.6, 1.1)))
    )


def _woven(rng: np.random.Generator, size_px: int, family: str, float_over: int) -> Scene:
    pitch = rng.uniform(3.5, 9.0)
    threads = _course(rng, size_px, (pitch, pitch * rng.uniform(0.8, 1.25)))
    number_x, number_y = thread_number(threads.warp), thread_number(threads.weft)
    on_top = (number_x + number_y) % (2 * float_over) < float_over
    tones = rng.normal(0, 0.03, size=(2, TONES_KEPT)).astype(np.float32)
    warp = rng.uniform(0.12, 0.2) * _profile(threads.warp) + tones[0, number_x % TONES_KEPT]
    weft = rng.uniform(0.1, 0.18) * _profile(threads.weft) + tones[1, number_y % TONES_KEPT]
    second = rng.uniform(-0.12, 0.12)
    relief = np.where(on_top, warp, weft + second)
    fluff = 0.015 * unit_noise(rng, size_px, (0.7, 0.7)) + 0.02 * unit_noise(rng, size_px, (9, 9))
    tone = (rng.uniform(0.2, 0.6) + relief + fluff).astype(np.float32)
    return Scene(family, tone, _colour(rng), threads=threads)


def plain_weave(rng: np.random.Generator, size_px: int) -> Scene:
    """Warp over weft and back."""
    return _woven(rng, size_px, "plain_weave", 1)


def twill(rng: np.random.Generator, size_px: int) -> Scene:
    """Two over, two under, shifted by one: diagonal ribs."""
    return _woven(rng, size_px, "twill", 2)


def knit(rng: np.random.Generator, size_px: int) -> Scene:
    """Columns of V-shaped loops with dark gaps between them."""
    pitch = rng.uniform(6.0, 12.0)
    threads = _course(rng, size_px, (pitch, pitch * rng.uniform(0.6, 0.85)))
    across = np.abs(threads.warp - thread_number(threads.warp))
    loops = _profile(threads.weft + rng.uniform(0.8, 1.2) * across)
    gap = np.clip(1.15 - 2.2 * across, 0, 1)
    tones = rng.normal(0, 0.02, size=TONES_KEPT).astype(np.float32)[thread_number(threads.weft) % TONES_KEPT]
    fluff = 0.02 * unit_noise(rng, size_px, (0.8, 0.8)) + 0.02 * unit_noise(rng, size_px, (12, 12))
    tone = rng.uniform(0.2, 0.5) + rng.uniform(0.15, 0.25) * loops * (0.4 + 0.6 * gap) + 0.06 * gap + tones + fluff
    return Scene("knit", tone.astype(np.float32), _colour(rng), threads=threads)
