"""Any picture file to 8-bit grey or RGB, with what had to be converted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps

from pipeline.images import Mask, Picture

ORIENTATION = 0x0112
"""EXIF tag; 1 is upright, 2 to 8 are flips and turns."""
WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)
"""Full scale of 8, 10, 12, 14 and 16 bit cameras."""
DEEP_COLOUR = re.compile(r"(RGB[AX]?|LA|CMYK);16[BLN]")
"""How pillow names the pixels of files with 16 bits a channel and more than one; it would keep the high byte of each alone."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What pillow raises for empty, truncated or foreign files."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded photo.

    Attributes:
        picture: (H, W) or (H, W, 3) uint8, upright.
        conversions: What was converted, as short phrases that can be counted.
        peak: Highest value of a picture deeper than 8 bits, else 0.
        orientation: EXIF orientation of the file, 1 if none.
        stored_size: (height, width) before the EXIF turn.
    """

    picture: Picture
    conversions: tuple[str, ...]
    peak: int
    orientation: int
    stored_size: tuple[int, int]


def white_level(peak: int) -> int:
    """Full scale of the camera that gave `peak`, the highest value of the whole set, so that exposures stay comparable."""
    return next((level for level in WHITE_LEVELS if peak <= level), WHITE_LEVELS[-1])


def decode(source: Path | Picture, white: int | None = None) -> Decoded:
    """Decode a file; an array passes as it is.

    In pictures deeper than 8 bits `white` becomes 255; None takes the full scale that holds this picture's own peak.

    Raises:
        OSError, SyntaxError, ValueError: If the file cannot be decoded to its end (see `UNREADABLE`).
    """
    if not isinstance(source, Path):
        return Decoded(source, (), 0, 1, (source.shape[0], source.shape[1]))
    with _opened(source) as opened:
        deep = any(DEEP_COLOUR.match(_raw_mode(tile)) for tile in opened.tile)  # known before the pixels are read, not after
        orientation, stored = _orientation(opened), _stored_size(opened)
        opened.load()
        conversions = [f"turned upright (EXIF orientation {orientation})"] if orientation != 1 else []
        image = ImageOps.exif_transpose(opened) if orientation != 1 else opened  # it copies even what it does not turn
        if image.mode == "F":
            raise ValueError("floating-point picture, its white is unknown; save it with 8 or 16 bits")
        if deep or image.mode.startswith("I"):
            # OpenCV turns a TIFF itself, as pillow does, and leaves other files as they are stored.
            left = 1 if opened.format == "TIFF" else orientation
            values = (_turned(_deep_colour(source), left) if deep else np.array(image)).astype(np.float64)
            peak = int(values.max(initial=0))
            picture = np.clip(np.rint(values * (255.0 / (white or white_level(peak)))), 0, 255).astype(np.uint8)
            return Decoded(picture, (*conversions, "16-bit to 8-bit"), peak, orientation, stored)
        target = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        if image.mode not in ("L", "RGB"):
            conversions.append(_conversion_name(image))
        if "transparency" in image.info:
            image = image.convert("RGBA")  # pillow asks for this step where a palette has transparent entries
        return Decoded(np.array(image.convert(target), dtype=np.uint8), tuple(conversions), 0, orientation, stored)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """A file by its handle: of a grey TIFF that is stored lying, pillow 13 scrambles the pixels where it gets a path."""
    with path.open("rb") as file, Image.open(file) as image:
        yield image


def _raw_mode(tile: Any) -> str:
    """How a file's pixels are stored, of one of pillow's tiles: codec, extents, offset and its arguments, the mode first."""
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _deep_colour(path: Path) -> np.ndarray:
    """(H, W, 3) or (H, W) uint16 as OpenCV reads a file with several channels of 16 bits; transparency is dropped.

    Raises:
        ValueError: If OpenCV cannot read it with its depth.
    """
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        raise ValueError("picture of 16 bits a channel that cannot be read with its depth; save it as RGB or grey PNG of 16 bits")
    return values if values.ndim == 2 else values[..., 2::-1]  # OpenCV has blue first


def _orientation(image: Image.Image) -> int:
    """Of a file whose pixels are not loaded yet: pillow turns a TIFF while it loads, and forgets that it did."""
    value = image.getexif().get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of the pixels as stored, of a file that is not loaded yet; a TIFF says its upright size."""
    sideways = image.format == "TIFF" and _orientation(image) >= 5
    return (image.width, image.height) if sideways else (image.height, image.width)


def _conversion_name(image: Image.Image) -> str:
    names = {
        "P": "palette to RGB",
        "PA": "palette to RGB",
        "CMYK": "CMYK to RGB",
        "1": "1-bit to 8-bit",
        "LA": "alpha channel dropped",
    }
    return names.get(image.mode, "alpha channel dropped" if "A" in image.getbands() else f"{image.mode} to RGB")


def decode_mask(path: Path, photo: Decoded) -> Mask:
    """(H, W) bool in the upright frame of `photo`.

    A mask file with its own EXIF orientation is turned by that. Without one it was drawn over the stored pixels, so it is turned
    like the photo, unless only the upright frame has its size.

    Raises:
        ValueError: If the mask does not have the photo's size.
        OSError, SyntaxError: If the file cannot be decoded.
    """
    with _opened(path) as opened:
        own = _orientation(opened)
        opened.load()
        values = _mask_values(ImageOps.exif_transpose(opened), lossy=opened.format == "JPEG")
    if own == 1 and photo.orientation != 1 and values.shape == photo.stored_size:
        values = _turned(values, photo.orientation)
    if values.shape != photo.picture.shape[:2]:
        (h, w), (height, width) = values.shape, photo.picture.shape[:2]
        raise ValueError(f"mask is {w} x {h}, image is {width} x {height}")
    return values


def _mask_values(image: Image.Image, *, lossy: bool) -> Mask:
    if image.mode.startswith(("I", "F")):
        return np.array(image) > 0
    flat = np.array(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))
    grey = flat if flat.ndim == 2 else flat.max(axis=2)
    # JPEG rings around the edges of a mask; a lossless file may use any non-zero value, also 1, for "defect".
    return grey > (127 if lossy else 0)


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """`values`, (H, W) or (H, W, C), turned and flipped as EXIF `orientation` asks."""
    turns = {
        1: lambda m: m,
        2: lambda m: m[:, ::-1],
        3: lambda m: m[::-1, ::-1],
        4: lambda m: m[::-1],
        5: lambda m: m.swapaxes(0, 1),
        6: lambda m: np.rot90(m, -1),
        7: lambda m: m[::-1, ::-1].swapaxes(0, 1),
        8: lambda m: np.rot90(m, 1),
    }
    return np.ascontiguousarray(turns[orientation](values))
