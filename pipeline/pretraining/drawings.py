"""Procedural crops for the pre-training of the embedded base: what is drawn, where the hole is, what the prompt says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.diffusion.latents import mask_tensor, to_tensor
from pipeline.diffusion.photos import random_boxes_mask
from pipeline.diffusion.sources import MAX_BOXES, InpaintBatch
from pipeline.images import Mask, Picture
from pipeline.masks.crops import Window, paint_mask, read_mask_window, read_window, resize_picture, window_around
from pipeline.procedural.factory import Drawing, draw

DEFECT_SHARE = 0.65
"""Share of the rows that show a defect; its mask is the hole."""
PLAIN_WORD_SHARE = 0.25
"""Share of the prompts that say "surface" or "defect" instead of the name."""
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
        return to_tensor(np.stack([_row(side, rng)[0] for _ in range(rows)]))

    def inpainting(self, count: int, rng: np.random.Generator) -> InpaintBatch:  # noqa: D102
        side, rows = self._side(count, rng)
        drawn = [_row(side, rng) for _ in range(rows)]
        images: NDArray[np.uint8] = np.stack([picture for picture, _, _ in drawn])
        masks = np.stack([mask for _, mask, _ in drawn])
        return InpaintBatch(to_tensor(images), mask_tensor(masks), [prompt for _, _, prompt in drawn])


def _row(side: int, rng: np.random.Generator) -> tuple[Picture, Mask, str]:
    """Crop, hole and prompt of one drawing twice as large as the crop."""
    drawing = draw(rng, 2 * side)
    if drawing.instances and rng.random() < DEFECT_SHARE:
        return _defect_row(drawing, side, rng)
    return _surface_row(drawing, side, rng)


def _defect_row(drawing: Drawing, side: int, rng: np.random.Generator) -> tuple[Picture, Mask, str]:
    kind, mask = drawing.instances[rng.integers(len(drawing.instances))]
    window = window_around(mask, rng.uniform(*CROP_SCALE), side // 2)
    hole = paint_mask(read_mask_window(mask, window), side)
    if rng.random() < 0.25:
        # A rough hole, so that the network also decides where in it the defect lies.
        hole |= random_boxes_mask(1, side, int(rng.integers(1, 6)), rng)[0]
    return resize_picture(read_window(drawing.picture, window), side), hole, _defect_prompt(drawing.surface, kind, rng)


def _surface_row(drawing: Drawing, side: int, rng: np.random.Generator) -> tuple[Picture, Mask, str]:
    size = len(drawing.picture)
    extent = int(rng.integers(round(0.6 * side), size + 1))
    x, y = (int(v) for v in rng.integers(0, size - extent + 1, 2))
    window = Window(x, y, extent)
    hole = random_boxes_mask(1, side, int(rng.integers(1, MAX_BOXES + 1)), rng)[0]
    for _, mask in drawing.instances:
        # The prompt names the surface alone: what lies under the hole must be surface.
        hole &= ~paint_mask(read_mask_window(mask, window), side)
    return resize_picture(read_window(drawing.picture, window), side), hole, _surface_prompt(drawing.surface, rng)


def _words(name: str, plain: str, rng: np.random.Generator) -> str:
    return plain if rng.random() < PLAIN_WORD_SHARE else name.replace("_", " ")


def _defect_prompt(surface: str, kind: str, rng: np.random.Generator) -> str:
    """One of the two prompts a concept is learned with: the defect alone, or on its surface."""
    defect = _words(kind, "defect", rng)
    return f"A photo of {defect}" if rng.random() < 0.5 else f"A {_words(surface, 'surface', rng)} with {defect}"


def _surface_prompt(surface: str, rng: np.random.Generator) -> str:
    return f"A photo of a {_words(surface, 'surface', rng)}"
