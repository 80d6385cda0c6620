"""Training batches of DefectFill: a reference, a window around its defect, a random mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.diffusion.exposure import exposed, exposure_gain
from pipeline.diffusion.latents import mask_tensor, to_tensor
from pipeline.diffusion.photos import random_boxes_mask
from pipeline.images import Mask, Picture
from pipeline.masks.crops import paint_mask, read_mask_window, read_window, resize_picture, window_around
from pipeline.params import DefectFillParams
from pipeline.references import Reference


@dataclass(frozen=True)
class Batch:
    """One step's crops.

    Attributes:
        images: (B, 3, S, S) in [-1, 1].
        masks: True defect masks M, (B, 1, S, S).
        random_masks: M_rand, (B, 1, S, S).
        defects: Type of each row.
    """

    images: Tensor
    masks: Tensor
    random_masks: Tensor
    defects: list[str]


def zoomed(image: Picture, mask: Mask, side: int, factor: float, rng: np.random.Generator, cell: int = 2) -> tuple[Picture, Mask]:
    """Enlarge a square crop to `factor` times `side` and cut a random `side` out of it, image and mask alike.

    `cell` is that of `paint_mask`.
    """
    large = round(side * factor)
    x, y = (int(v) for v in rng.integers(0, large - side + 1, 2))
    cut = np.s_[y : y + side, x : x + side]
    return resize_picture(image, large)[cut], paint_mask(mask, large, cell)[cut]


def evened(batch: Batch) -> Batch:
    """All crops under one exposure, by the light outside their defect."""
    return replace(batch, images=exposed(batch.images, exposure_gain(batch.images, batch.masks)))


class BatchSource:
    """Draws crops: the type first, then one of its references."""

    def __init__(self, references: Sequence[Reference], params: DefectFillParams, side: int, cell: int = 2) -> None:
        """Group the references by type; crops have `side` pixels, and `cell` is that of `paint_mask`.

        Raises:
            ValueError: If there is none.
        """
        if not references:
            raise ValueError("no reference to learn from; `prepare` found no usable defect in the train split")
        self._by_defect = {
            defect: [r for r in references if r.defect == defect] for defect in sorted({r.defect for r in references})
        }
        self._params, self._side, self._cell = params, side, cell

    @property
    def defects(self) -> list[str]:
        """The types, sorted."""
        return list(self._by_defect)

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """A batch of `count` rows, each type equally likely."""
        return self.draw_types([self.defects[rng.integers(len(self._by_defect))] for _ in range(count)], rng)

    def draw_types(self, defects: Sequence[str], rng: np.random.Generator) -> Batch:
        """A batch with one row of each given type, in order."""
        count = len(defects)
        rows = [self._row(defect, rng) for defect in defects]
        images: NDArray[np.uint8] = np.stack([image for image, _ in rows])
        masks = np.stack([mask for _, mask in rows])
        random_masks = random_boxes_mask(count, self._side, self._params.random_boxes, rng)
        batch = Batch(to_tensor(images), mask_tensor(masks), mask_tensor(random_masks), list(defects))
        return evened(batch) if self._params.even_exposure else batch

    def _row(self, defect: str, rng: np.random.Generator) -> tuple[Picture, Mask]:
        choices = self._by_defect[defect]
        reference = choices[rng.integers(len(choices))]
        window = window_around(reference.mask, rng.uniform(*self._params.crop_scale), self._params.min_crop_px)
        image, mask = zoomed(
            read_window(reference.image, window),
            read_mask_window(reference.mask, window),
            self._side,
            rng.uniform(*self._params.scale_augment),
            rng,
            self._cell,
        )
        flips = rng.choice([-1, 1], 2) if self._params.flip else (1, 1)
        return image[:: flips[0], :: flips[1]], mask[:: flips[0], :: flips[1]]
