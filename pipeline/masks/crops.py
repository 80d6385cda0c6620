"""Square windows on photos: synthesis works on them, and pastes them back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture


class EmptyMaskError(ValueError):
    """A mask has no pixel where one is needed."""


@dataclass(frozen=True, slots=True)
class Window:
    """A square [x0, x0 + side) x [y0, y0 + side) in pixels of a photo; it may reach beyond the photo."""

    x0: int
    y0: int
    side: int


def mask_bounds(mask: Mask) -> tuple[int, int, int, int]:
    """Half-open (x0, y0, x1, y1) of the True pixels of an (H, W) mask.

    Raises:
        EmptyMaskError: If there is none.
    """
    ys, xs = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if len(xs) == 0:
        raise EmptyMaskError("mask has no defect pixel; drop the sample before cropping")
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def window_around(mask: Mask, scale: float, min_px: int) -> Window:
    """The square centred on the mask whose side is `scale` times the mask's longer side, moved inside the photo where it fits.

    The side is at least `min_px`, and at most the photo's shorter side unless the mask itself needs more. Beyond the photo
    there is only reflection, and a generator would learn a break at an edge as a shape with its own mirror image.
    """
    x0, y0, x1, y1 = mask_bounds(mask)
    longest = max(x1 - x0, y1 - y0)
    side = max(min_px, round(longest * scale))
    side = max(min(side, min(mask.shape)), round(longest * 1.1))
    height, width = mask.shape
    return Window(_inside((x0 + x1 - side) // 2, side, width), _inside((y0 + y1 - side) // 2, side, height), side)


def _inside(start: int, side: int, length: int) -> int:
    """A start from which `side` pixels fit into `length`; centred on it where they do not."""
    return min(max(start, 0), length - side) if side <= length else (length - side) // 2


def read_window(photo: Picture, window: Window) -> Picture:
    """(side, side, 3) pixels of an (H, W, 3) photo, reflected beyond its border."""
    return cut(photo, window, cv2.BORDER_REFLECT_101)


def read_mask_window(mask: Mask, window: Window) -> Mask:
    """(side, side) pixels of an (H, W) mask, False beyond its border."""
    return cut(mask.astype(np.uint8), window, cv2.BORDER_CONSTANT) > 0


def cut(array: NDArray[np.uint8], window: Window, border: int) -> NDArray[np.uint8]:
    """The window of an array, with OpenCV's border rule beyond the array."""
    height, width = array.shape[:2]
    left, top = max(0, -window.x0), max(0, -window.y0)
    right, bottom = max(0, window.x0 + window.side - width), max(0, window.y0 + window.side - height)
    if not (left or top or right or bottom):
        return array[window.y0 : window.y0 + window.side, window.x0 : window.x0 + window.side].copy()
    padded = cv2.copyMakeBorder(array, top, bottom, left, right, border)
    y, x = window.y0 + top, window.x0 + left
    return padded[y : y + window.side, x : x + window.side].astype(np.uint8, copy=False)


def paste_window(photo: NDArray[np.generic], patch: NDArray[np.generic], window: Window) -> None:
    """Write the part of a window that lies inside the photo into it, in place; the rest of the photo stays as it is."""
    height, width = photo.shape[:2]
    x0, y0 = max(0, window.x0), max(0, window.y0)
    x1, y1 = min(width, window.x0 + window.side), min(height, window.y0 + window.side)
    photo[y0:y1, x0:x1] = patch[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]


def put_back(photo: Picture, crops: Iterable[tuple[Picture, Window]]) -> Picture:
    """A copy of an (H, W, 3) photo with crops of it, (side, side, 3), put back where they were cut.

    Crops may overlap: of each only what differs from the photo is put back, over what those before it changed.
    """
    image = photo.copy()
    for crop, window in crops:
        paste_window(image, np.where(crop != read_window(photo, window), crop, read_window(image, window)), window)
    return image


def warp_picture(picture: Picture, affine: NDArray[np.float64], side: int) -> Picture:
    """Move an (h, w, 3) picture by a (2, 3) matrix onto a square canvas, reflected beyond its border."""
    moved = cv2.warpAffine(picture, affine, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return moved.astype(np.uint8, copy=False)


def resize_picture(picture: Picture, side: int) -> Picture:
    """Square picture at another side; see `resize_square`."""
    return resize_square(picture, side).astype(np.uint8, copy=False)


def resize_square(array: NDArray[np.uint8] | NDArray[np.float32], side: int) -> NDArray[np.uint8 | np.float32]:
    """Square (H, H) or (H, H, C) array at another side: area averaging down, cubic up."""
    if array.shape[0] == side:
        return array
    how = cv2.INTER_AREA if side < array.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(array, (side, side), interpolation=how).astype(array.dtype, copy=False)


def coverage(mask: Mask, side: int) -> NDArray[np.float32]:
    """(side, side) share of each pixel that a square mask covers at another side."""
    how = cv2.INTER_AREA if side < mask.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(mask.astype(np.float32), (side, side), interpolation=how).astype(np.float32, copy=False)


def resize_mask(mask: Mask, side: int) -> Mask:
    """Square mask at another side; a pixel is set when at least a quarter of it is covered, so that thin cracks survive."""
    if mask.shape[0] == side:
        return mask
    return coverage(mask, side) >= (0.25 if side < mask.shape[0] else 0.5)


def paint_mask(mask: Mask, side: int, cell: int = 2) -> Mask:
    """A square mask at the size of a network, wider all round by half a latent cell.

    At latent size, by nearest sampling, one pixel of each cell is looked at: a thinner line would fall apart or vanish. The
    composite and the label still follow the mask itself.

    Args:
        mask: (H, H).
        side: Pixels of the network's picture.
        cell: Pixels of it that one latent stands for along a side: the scale factor of the VAE, 2 in the embedded base.
    """
    return cv2.dilate(resize_mask(mask, side).astype(np.uint8), np.ones((2 * (cell // 2) + 1,) * 2, np.uint8)) > 0


def close_up(picture: Picture, mask: Mask, scale: float, side: int) -> tuple[Picture, NDArray[np.float32]]:
    """The square around a mask, `scale` times its longer side, at (side, side, 3), with how much of each pixel the mask covers.

    So that defects of all sizes, on photos and on crops, are looked at from the same distance.
    """
    window = window_around(mask, scale, 1)
    return resize_picture(read_window(picture, window), side), coverage(read_mask_window(mask, window), side)
