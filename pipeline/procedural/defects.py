"""Defects drawn into a surface. Each returns the changed surface and the mask outside of which nothing changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from pipeline.images import Mask
from pipeline.procedural.surfaces import Plane, unit_noise

Defect = Callable[[np.random.Generator, Plane], tuple[Plane, Mask]]

VISIBLE = 0.25
"""Share of the full effect under which a defect's fading edge is cut, so that the mask is what a person would outline."""


def _blend(surface: Plane, altered: Plane, strength: Plane) -> tuple[Plane, Mask]:
    mask = strength >= VISIBLE
    return np.where(mask, surface + strength * (altered - surface), surface), mask


def _blob(rng: np.random.Generator, surface: Plane, radius_px: float, roughness: float) -> Plane:
    """Distance from the edge of an irregular ellipse in units of its radius: 0 in the middle, 1 on the edge."""
    size = surface.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
    margin = 1.5 * radius_px + 4
    y, x = rng.uniform(margin, size - margin, size=2)
    angle, squeeze = rng.uniform(0, np.pi), rng.uniform(0.6, 1.0)
    u = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    v = ((rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)) / squeeze
    distance = np.hypot(u, v) / radius_px
    return distance * np.exp(roughness * unit_noise(rng, size, (radius_px / 2, radius_px / 2)))


def scratch(rng: np.random.Generator, surface: Plane) -> tuple[Plane, Mask]:
    """A bent, thin groove: bright on the side that faces the light, dark on the other, fading towards its ends."""
    size = surface.shape[0]
    length, angle = rng.uniform(0.22, 0.5) * size, rng.uniform(0, 2 * np.pi)
    along = np.linspace(-0.5, 0.5, 4 * size)
    half = 0.5 * length + 5
    y, x = rng.uniform(half, size - half, size=2)
    bend = rng.uniform(-0.12, 0.12) * length * (4 * along**2 - 0.5) + 0.6 * np.sin(along * rng.uniform(6, 14))
    path_x = x + along * length * np.cos(angle) - bend * np.sin(angle)
    path_y = y + along * length * np.sin(angle) + bend * np.cos(angle)
    line = np.zeros_like(surface)
    taper = np.clip(4 * (0.5 - np.abs(along)), 0.3, 1)
    np.maximum.at(line, (np.rint(path_y).astype(int) % size, np.rint(path_x).astype(int) % size), taper)
    width = rng.uniform(0.6, 1.1)
    soft = ndimage.gaussian_filter(line, width)
    strength = np.clip(soft / (0.8 * soft.max()), 0, 1)
    lit = ndimage.sobel(soft, axis=0) * np.cos(angle) - ndimage.sobel(soft, axis=1) * np.sin(angle)
    lit /= np.abs(lit).max()
    groove = ndimage.gaussian_filter(surface, 1.5) + rng.choice([-1, 1]) * rng.uniform(0.12, 0.2) + 0.16 * lit
    return _blend(surface, groove, strength)


def hole(rng: np.random.Generator, surface: Plane) -> tuple[Plane, Mask]:
    """A pit: dark, a little of the surface still seen at its bottom, with a rim that catches the light on one side."""
    radius = rng.uniform(0.03, 0.075) * surface.shape[0]
    distance = _blob(rng, surface, radius, 0.22)
    strength = np.clip((1.12 - distance) / 0.3, 0, 1)
    slope_y, slope_x = np.gradient(ndimage.gaussian_filter(strength, 0.8))
    light = rng.uniform(0, 2 * np.pi)
    rim = slope_y * np.sin(light) + slope_x * np.cos(light)
    floor = rng.uniform(0.4, 0.55) * ndimage.gaussian_filter(surface, 1.0) + 0.35 * rim
    return _blend(surface, floor, strength)


def stain(rng: np.random.Generator, surface: Plane) -> tuple[Plane, Mask]:
    """A dried liquid: texture stays visible under a darker tone, darkest along the edge."""
    radius = rng.uniform(0.08, 0.16) * surface.shape[0]
    distance = _blob(rng, surface, radius, 0.3)
    strength = np.clip((1.0 - distance) / 0.12, 0, 1)
    edge = np.exp(-(((distance - 0.88) / 0.1) ** 2))
    dark = rng.uniform(0.74, 0.84) - rng.uniform(0.08, 0.16) * edge
    return _blend(surface, surface * dark, strength)


DEFECTS: dict[str, Defect] = {"hole": hole, "scratch": scratch, "stain": stain}
