"""What was changed where: rows of small pictures of synthetic samples, and of the candidates they were selected from."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from pipeline.images import Mask, Picture, read_mask, read_rgb
from pipeline.records import Box, Sample

TILE_PX = 160
CANDIDATE_PX = 112
"""Of pictures shown side by side in numbers: the report stays small."""
JPEG_QUALITY = 85
AMPLIFY = 4
_FRAME = (214, 39, 40)
_MIN_SIDE_PX = 48
_CONTEXT = 2.0


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """Pictures of one synthetic sample or of one request, each with its caption, in the order they are read."""

    title: str
    tiles: tuple[tuple[str, str], ...]


def picture_uri(image: Image.Image) -> str:
    """A picture as a data URI: PNG for masks of two colours, else JPEG, a fifth of the size; grey pictures are stored as grey."""
    if image.mode == "RGB":
        red, green, blue = (np.asarray(band) for band in image.split())
        if np.array_equal(red, green) and np.array_equal(red, blue):
            image = image.convert("L")
    buffer = io.BytesIO()
    if image.mode == "L" and not set(np.unique(np.asarray(image))) - {0, 255}:
        image.convert("1").save(buffer, format="PNG", optimize=True)
        return bytes_uri(buffer.getvalue(), "png")
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return bytes_uri(buffer.getvalue(), "jpeg")


def bytes_uri(content: bytes, kind: Literal["png", "jpeg"]) -> str:
    """The bytes of a picture file as a data URI."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def window_around(mask: Mask) -> tuple[int, int, int, int]:
    """Half-open (x0, y0, x1, y1): a square of twice the mask's longer side, at least 48 px, cut off at the picture's edges."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        raise ValueError("mask has no changed pixel; run `select` again")
    wanted = max(_MIN_SIDE_PX, round(_CONTEXT * (max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1)))
    height, width = (min(int(wanted), side) for side in mask.shape)
    y0 = int(np.clip((rows[0] + rows[-1] + 1 - height) // 2, 0, mask.shape[0] - height))
    x0 = int(np.clip((columns[0] + columns[-1] + 1 - width) // 2, 0, mask.shape[1] - width))
    return x0, y0, x0 + width, y0 + height


def spread_over_types(types: Mapping[str, str | None], count: int) -> list[str]:
    """At most `count` of the ids, the same number of each type as far as there are, evenly spaced within a type."""
    groups: dict[str, list[str]] = {}
    for name in sorted(types):
        groups.setdefault(str(types[name]), []).append(name)
    quota = dict.fromkeys(sorted(groups), 0)
    while sum(quota.values()) < min(count, len(types)):
        defect = min((n for n in quota if quota[n] < len(groups[n])), key=lambda n: (quota[n], n))
        quota[defect] += 1
    chosen: list[str] = []
    for name, wanted in quota.items():
        chosen += [groups[name][step * len(groups[name]) // wanted] for step in range(wanted)]
    return chosen


def amplified_difference(clean: Picture, result: Picture) -> Picture:
    """(H, W) uint8: largest change of the three channels times AMPLIFY, clipped at white."""
    change = np.abs(result.astype(np.int16) - clean.astype(np.int16)).max(axis=2)
    return np.clip(change * AMPLIFY, 0, 255).astype(np.uint8)


def _shrink(image: Image.Image, kind: Image.Resampling, side_px: int = TILE_PX) -> tuple[Image.Image, float]:
    """The picture with its longer side at `side_px`, and the factor."""
    scale = side_px / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), kind), scale


def _tile(picture: Picture | Mask, window: tuple[int, int, int, int]) -> Image.Image:
    return _shrink(_image(picture).crop(window), _resampling(picture))[0]


def _image(picture: Picture | Mask) -> Image.Image:
    return Image.fromarray(picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture)


def _framed(image: Image.Image, boxes: Sequence[Box], origin: tuple[int, int], scale: float) -> Image.Image:
    """Draw half-open boxes, given in pixels of the photo, onto a view that starts at `origin` and is `scale` times as large."""
    image = image.convert("RGB")
    pen = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in boxes:
        left, top = (x0 - origin[0]) * scale, (y0 - origin[1]) * scale
        right, bottom = (x1 - origin[0]) * scale - 1, (y1 - origin[1]) * scale - 1
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=_FRAME, width=2)
    return image


def _thumbnail(picture: Picture, window: tuple[int, int, int, int]) -> Image.Image:
    """The whole photo with the window framed."""
    image, scale = _shrink(Image.fromarray(picture), Image.Resampling.BICUBIC)
    return _framed(image, [window], (0, 0), scale)


def boxes_by_image(coco: Mapping[str, Any]) -> dict[str, list[Box]]:
    """Half-open boxes of every image of a COCO document, by file name."""
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    found: dict[str, list[Box]] = {name: [] for name in names.values()}
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        found[names[annotation["image_id"]]].append((x, y, x + width, y + height))
    return found


def gallery_row(sample: Sample, folder: Path, clean_photo: Path, boxes: Sequence[Box]) -> GalleryRow:
    """Pictures of one synthetic sample.

    Args:
        sample: Of a generator's selected manifest; its mask is what really changed.
        folder: That manifest's folder.
        clean_photo: The photo it was made from.
        boxes: Labels of the whole image, in its pixels.
    """
    if sample.mask is None:
        raise ValueError(f"{sample.id}: a synthetic defect without a mask; run `select` again")
    clean, result, mask = read_rgb(clean_photo), read_rgb(folder / sample.image), read_mask(folder / sample.mask)
    if not clean.shape == result.shape == (*mask.shape, 3):
        raise ValueError(f"{sample.id}: clean photo {clean.shape}, result {result.shape} and mask {mask.shape} differ in size")
    window = window_around(mask)
    tiles = {
        "whole photo": _thumbnail(result, window),
        "clean": _tile(clean, window),
        "changed": _tile(mask, window),
        "result": _tile(result, window),
        f"difference × {AMPLIFY}": _tile(amplified_difference(clean, result), window),
        "boxes": _framed(_tile(result, window), boxes, window[:2], TILE_PX / max(window[2] - window[0], window[3] - window[1])),
    }
    return GalleryRow(f"{sample.defect}, {sample.id}", tuple((name, picture_uri(tile)) for name, tile in tiles.items()))


def candidates_row(title: str, tiles: Sequence[tuple[str, Picture | Mask]]) -> GalleryRow:
    """Crops of one request side by side, small."""
    small = [(caption, _shrink(_image(crop), _resampling(crop), CANDIDATE_PX)[0]) for caption, crop in tiles]
    return GalleryRow(title, tuple((caption, picture_uri(image)) for caption, image in small))


def _resampling(picture: Picture | Mask) -> Image.Resampling:
    """A mask keeps its two colours."""
    return Image.Resampling.NEAREST if picture.dtype == np.bool_ else Image.Resampling.BICUBIC
