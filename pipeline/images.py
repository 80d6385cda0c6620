"""Reading and writing of pictures: uint8 arrays on our side, PNG on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def read_rgb(path: Path) -> Picture:
    """(H, W, 3) uint8; a greyscale file has three equal channels."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"), dtype=np.uint8)


def read_mask(path: Path) -> Mask:
    """(H, W) bool; any non-zero pixel is defect."""
    with Image.open(path) as image:
        return np.array(image.convert("L"), dtype=np.uint8) > 0


def write_png(path: Path, picture: Picture | Mask) -> None:
    """Write an (H, W) bool mask as 0 / 255, an (H, W) grey or an (H, W, 3) RGB picture, losslessly, then rename."""
    array = np.asarray(picture)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    Image.fromarray(array).save(temporary, format="PNG", compress_level=1)
    temporary.replace(path)
