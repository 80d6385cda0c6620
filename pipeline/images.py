"""Reading and writing of pictures: uint8 arrays on our side, PNG on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class PictureError(ValueError):
    """A file is no picture, or only a part of one."""


def read_rgb(path: Path) -> Picture:
    """(H, W, 3) uint8; a greyscale file has three equal channels.

    Raises:
        PictureError: Names a file that cannot be decoded.
    """
    with _opened(path) as image:
        return np.array(image.convert("RGB"), dtype=np.uint8)


def read_mask(path: Path) -> Mask:
    """(H, W) bool; any non-zero pixel is defect.

    Raises:
        PictureError: Names a file that cannot be decoded.
    """
    with _opened(path) as image:
        return np.array(image.convert("L"), dtype=np.uint8) > 0


def read_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture, from its header alone."""
    with _opened(path) as image:
        return image.height, image.width


def grey_of(picture: Picture) -> Picture:
    """(H, W) grey levels of an (H, W) or (H, W, 3) picture."""
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:  # Pillow raises either, and not always with the name of the file
        raise PictureError(f"{path} cannot be read as a picture ({error}); restore the file") from error


def write_png(path: Path, picture: Picture | Mask) -> None:
    """Write an (H, W) bool mask as 0 / 255, an (H, W) grey or an (H, W, 3) RGB picture, losslessly, then rename."""
    array = np.asarray(picture)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    Image.fromarray(array).save(temporary, format="PNG", compress_level=1)
    temporary.replace(path)
