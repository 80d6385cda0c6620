"""Procedural crops for the pre-training of the embedded base: what is drawn, where the hole is, what the prompt says."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch import Tensor

from pipeline.diffusion.latents import mask_tensor, to_tensor
from pipeline.diffusion.photos import random_boxes_mask
from pipeline.diffusion.sources import MAX_BOXES, InpaintBatch, relit
from pipeline.images import Mask, Picture
from pipeline.masks.crops import Window, paint_mask, read_mask_window, read_window, resize_picture, window_around
from pipeline.procedural.factory import Drawing, draw

DEFECT_SHARE = 0.65
"""Share of the rows that show a defect; its mask is the hole."""
PLAIN_WORD_SHARE = 0.25
"""Share of the prompts that say "surface" or "defect" instead of the name."""
GREY_SHARE = 0.4
"""Share of the crops without colour, as most inspection cameras see."""
LENT_HOLE_SHARE = 0.6
"""Share of the surface rows whose hole has a defect's shape; the others have boxes."""
CROP_SCALE = (1.6, 4.0)
"""Crop side / mask side, a little wider than concepts are learned with."""


@dataclass(frozen=True)
class DrawnCrops:
    """Square crops of fresh drawings.

    Attributes:
        sides: Sides of the crops in pixels, smallest first; a batch has one of them.
        large_share: Share of the batches that have not the smallest side. They hold fewer rows, so that each costs the same.
    """

    sides: tuple[int, ...]
    large_share: float

    def _side(self, count: int, rng: np.random.Generator) -> tuple[int, int]:
        smallest, larger = self.sides[0], list(self.sides[1:])
        side = int(rng.choice(larger)) if larger and rng.random() < self.large_share else smallest
        return side, max(1, round(count * (smallest / side) ** 2))

    def images(self, count: int, rng: np.random.Generator) -> Tensor:  # noqa: D102
        side, rows = self._side(count, rng)
        return to_tensor(np.stack([_row(side, rng).picture for _ in range(rows)]))

    def inpainting(self, count: int, rng: np.random.Generator) -> InpaintBatch:  # noqa: D102
        side, rows = self._side(count, rng)
        drawn = _with_lent_holes([_row(side, rng) for _ in range(rows)], rng)
        images = to_tensor(np.stack([row.picture for row in drawn]))
        masks = np.stack([row.hole for row in drawn])
        return InpaintBatch(relit(images, rng).clamp(-1.0, 1.0), mask_tensor(masks), [row.prompt for row in drawn])


@dataclass(frozen=True)
class _Row:
    """A square crop, its hole and its prompt; `free` is where surface alone shows, None if the prompt names a defect."""

    picture: Picture
    hole: Mask
    prompt: str
    free: Mask | None = None


def _row(side: int, rng: np.random.Generator) -> _Row:
    """A crop of a drawing twice as large."""
    drawing = draw(rng, 2 * side)
    row = (_defect_row if drawing.instances and rng.random() < DEFECT_SHARE else _surface_row)(drawing, side, rng)
    if rng.random() < GREY_SHARE:
        return replace(row, picture=np.repeat(cv2.cvtColor(row.picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2))
    return row


def _with_lent_holes(rows: list[_Row], rng: np.random.Generator) -> list[_Row]:
    """Holes of the defect rows lent to surface rows: else their shape, not the prompt, would say that a defect belongs there."""
    shapes = [row.hole for row in rows if row.free is None]
    return [
        row
        if row.free is None or not shapes or rng.random() >= LENT_HOLE_SHARE
        else replace(row, hole=shapes[rng.integers(len(shapes))] & row.free)
        for row in rows
    ]


def _defect_row(drawing: Drawing, side: int, rng: np.random.Generator) -> _Row:
    kind, mask = drawing.instances[rng.integers(len(drawing.instances))]
    window = window_around(mask, rng.uniform(*CROP_SCALE), side // 2)
    hole = paint_mask(read_mask_window(mask, window), side)
    if rng.random() < 0.25:
        # A rough hole, so that the network also decides where in it the defect lies.
        hole |= random_boxes_mask(1, side, int(rng.integers(1, 6)), rng)[0]
    return _Row(resize_picture(read_window(drawing.picture, window), side), hole, _defect_prompt(drawing.surface, kind, rng))


def _surface_row(drawing: Drawing, side: int, rng: np.random.Generator) -> _Row:
    size = len(drawing.picture)
    extent = int(rng.integers(round(0.6 * side), size + 1))
    x, y = (int(v) for v in rng.integers(0, size - extent + 1, 2))
    window = Window(x, y, extent)
    hole = random_boxes_mask(1, side, int(rng.integers(1, MAX_BOXES + 1)), rng)[0]
    free = np.ones((side, side), bool)
    for _, mask in drawing.instances:
        # The prompt names the surface alone: what lies under the hole must be surface.
        free &= ~paint_mask(read_mask_window(mask, window), side)
    picture = resize_picture(read_window(drawing.picture, window), side)
    return _Row(picture, hole & free, _surface_prompt(drawing.surface, rng), free)


def _words(name: str, plain: str, rng: np.random.Generator) -> str:
    return plain if rng.random() < PLAIN_WORD_SHARE else name.replace("_", " ")


def _defect_prompt(surface: str, kind: str, rng: np.random.Generator) -> str:
    """One of the two prompts a concept is learned with: the defect alone, or on its surface."""
    defect = _words(kind, "defect", rng)
    return f"A photo of {defect}" if rng.random() < 0.5 else f"A {_words(surface, 'surface', rng)} with {defect}"


def _surface_prompt(surface: str, rng: np.random.Generator) -> str:
    return f"A photo of a {_words(surface, 'surface', rng)}"
