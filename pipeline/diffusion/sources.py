"""Where the networks of a base get their training pictures from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.exposure import exposed, exposure_gain
from pipeline.diffusion.latents import mask_tensor, to_tensor
from pipeline.diffusion.photos import random_boxes_mask, random_crops
from pipeline.images import Picture

BASE_PROMPT = "A photo of a surface"
MAX_BOXES = 30
RELIT = ((0.6, 1.4), (-0.4, 0.4))
"""Ranges of contrast and brightness: defects are darker and brighter than any good crop, parts than any drawing."""


@dataclass(frozen=True)
class InpaintBatch:
    """Pictures with holes.

    Attributes:
        images: (B, 3, S, S) in [-1, 1].
        masks: The holes, (B, 1, S, S) of 0 and 1.
        prompts: What each picture shows.
    """

    images: Tensor
    masks: Tensor
    prompts: list[str]


class Source(Protocol):
    """Endless training pictures; everything random comes from the generator handed in."""

    def images(self, count: int, rng: np.random.Generator) -> Tensor:
        """(about `count`, 3, S, S) pictures in [-1, 1]; S may differ from call to call."""
        ...

    def inpainting(self, count: int, rng: np.random.Generator) -> InpaintBatch:
        """The same with holes and prompts."""
        ...


@dataclass(frozen=True)
class GoodCrops:
    """Crops of good photos with random boxes as holes, all with one prompt."""

    photos: list[Picture]
    crop_px: int
    side_px: tuple[int, int]
    even_exposure: bool

    def images(self, count: int, rng: np.random.Generator) -> Tensor:  # noqa: D102
        return to_tensor(random_crops(self.photos, count, self.crop_px, self.side_px, rng))

    def inpainting(self, count: int, rng: np.random.Generator) -> InpaintBatch:  # noqa: D102
        holes = mask_tensor(random_boxes_mask(count, self.crop_px, int(rng.integers(1, MAX_BOXES + 1)), rng))
        images = self.images(count, rng)
        if self.even_exposure:
            images = exposed(images, exposure_gain(images, holes))
        return InpaintBatch(images, holes, [BASE_PROMPT] * count)


def relit(images: Tensor, rng: np.random.Generator) -> Tensor:
    """(B, 3, S, S) pictures under random contrast and brightness, one of each a picture; may leave [-1, 1]."""
    gain, shift = (torch.from_numpy(rng.uniform(low, high, (len(images), 1, 1, 1))).float() for low, high in RELIT)
    return images * gain + shift
