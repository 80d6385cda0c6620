"""From a photo to the network's square and back: scaled down, never up, aspect kept, padded right and below."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture
from pipeline.records import Box

STRIDE_PX = 32
PAD_GREY = 114


def network_side(sizes: Iterable[tuple[int, int]], image_px: int) -> int:
    """Side of the square every photo of a data set fits: the longest train side, at most `image_px`, rounded up to 32."""
    longest = max(max(size) for size in sizes)
    return -(-min(longest, image_px) // STRIDE_PX) * STRIDE_PX


@dataclass(frozen=True)
class Fit:
    """How one photo of `size` (height, width) was scaled to `fitted` (height, width); the top left corner stays."""

    size: tuple[int, int]
    fitted: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Fitted pixels a photo pixel, along x and y."""
        return self.fitted[1] / self.size[1], self.fitted[0] / self.size[0]

    def to_network(self, box: Box) -> Box:
        """Half-open box of the photo in the network's pixels."""
        sx, sy = self.scale
        return (box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy)

    def to_photo(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 4) half-open boxes of the network in the photo's pixels, clipped to the photo."""
        sx, sy = self.scale
        height, width = self.size
        return (boxes / np.array([sx, sy, sx, sy])).clip(0, np.array([width, height, width, height]))

    def shrink(self, picture: Picture) -> Picture:
        """The photo at its fitted size."""
        return resize(picture, self.fitted, cv2.INTER_AREA)

    def shrink_mask(self, mask: Mask) -> Mask:
        """The mask at its fitted size; a scratch thinner than a fitted pixel keeps the pixels it touches most."""
        if self.fitted == self.size:
            return mask
        share = resize(mask.astype(np.float32), self.fitted, cv2.INTER_AREA)
        # Half coverage would delete thin scratches altogether, and with them a real defect from training.
        return share >= min(0.5, max(float(share.max()) * 0.5, 1e-6))

    def mask_to_photo(self, share: NDArray[np.float32]) -> Mask:
        """A network-side (S, S) mask in [0, 1] at the photo's size."""
        inner = share[: self.fitted[0], : self.fitted[1]]
        return resize(inner, self.size, cv2.INTER_LINEAR) >= 0.5


def resize(array: NDArray[Any], size: tuple[int, int], how: int) -> NDArray[Any]:
    """Resize to (height, width); untouched if it has that size."""
    if tuple(array.shape[:2]) == size:
        return array
    return cv2.resize(array, (size[1], size[0]), interpolation=how)


def fit(size: tuple[int, int], side_px: int) -> Fit:
    """Scale a photo of `size` (height, width) down until it fits a square of `side_px`."""
    factor = min(1.0, side_px / max(size))
    return Fit(size, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor))))


def pad(picture: Picture, side_px: int) -> Picture:
    """(S, S, 3): the picture at the top left on grey."""
    square = np.full((side_px, side_px, 3), PAD_GREY, dtype=np.uint8)
    square[: picture.shape[0], : picture.shape[1]] = picture
    return square
