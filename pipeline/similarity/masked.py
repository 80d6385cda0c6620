"""One number for how different two crops look inside a mask."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.images import Mask, Picture
from pipeline.masks.crops import coverage, resize_picture
from pipeline.similarity.perceptual import Perceptual


def _stack(pictures: list[Picture], side: int) -> Tensor:
    array = np.stack([resize_picture(p, side) for p in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def masked_distance(net: Perceptual, first: list[Picture], second: list[Picture], masks: list[Mask]) -> NDArray[np.float64]:
    """(B,) mean of the distance map over each mask.

    The map is averaged inside the mask instead of blanking the pictures outside it: blanking scores its own hard edge, and
    dilutes small defects with zeros. Each pixel counts as far as the mask covers it, so that no thin crack vanishes on a small
    picture.

    Args:
        net: Distance.
        first: B square pictures (S_i, S_i, 3) uint8.
        second: B pictures of the same sizes.
        masks: B masks of the same sizes; an empty one scores 0.
    """
    maps = net.distance(_stack(first, net.side_px), _stack(second, net.side_px)).numpy()
    scores = np.zeros(len(maps))
    for row, mask in enumerate(masks):
        if mask.any():
            scores[row] = np.average(maps[row], weights=coverage(mask, net.side_px))
    return scores
