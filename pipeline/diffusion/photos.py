"""Random training crops of whole photos."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.images import Picture
from pipeline.masks.crops import Window, read_window, resize_picture


def rng_from_torch() -> np.random.Generator:
    """A numpy generator seeded from torch's global one, so that one seed a step decides everything drawn in it."""
    return np.random.default_rng(int(torch.randint(0, 2**62, (1,)).item()))


def random_crops(
    photos: list[Picture], count: int, crop_px: int, side_px: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """(count, crop_px, crop_px, 3) crops of random photos at random places, sides and flips."""
    crops = np.empty((count, crop_px, crop_px, 3), np.uint8)
    for row in range(count):
        photo = photos[rng.integers(len(photos))]
        height, width = photo.shape[:2]
        side = int(min(rng.integers(side_px[0], side_px[1] + 1), height, width))
        window = Window(int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1)), side)
        crop = resize_picture(read_window(photo, window), crop_px)
        crops[row] = crop[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    return crops


def random_boxes_mask(count: int, side: int, boxes: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(count, side, side) unions of `boxes` boxes, sides uniform in 3 to 25 % of the picture's, at uniform places.

    M_rand of DefectFill (spec section 3), after RealFill; 30 boxes cover 0.41 on average.
    """
    masks = np.zeros((count, side, side), bool)
    for mask in masks:
        for _ in range(boxes):
            width, height = (max(1, round(side * rng.uniform(0.03, 0.25))) for _ in range(2))
            x, y = int(rng.integers(0, side - width + 1)), int(rng.integers(0, side - height + 1))
            mask[y : y + height, x : x + width] = True
    return masks
