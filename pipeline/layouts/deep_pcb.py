"""DeepPCB (Tang et al. 2019; github tangsanli5201/DeepPCB): aligned pairs of a clean and a defective board scan, with boxes.

Licence: MIT (its LICENSE file lies in the data set).
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from pipeline.images import Mask, Picture, grey_of
from pipeline.layouts.decoding import decode
from pipeline.layouts.raw import Fault, LayoutError, RawDefect, RawPhoto, RawSet, unique_ids
from pipeline.params import PrepareParams
from pipeline.records import Box
from pipeline.registration import align

TYPES = {1: "open", 2: "short", 3: "mousebite", 4: "spur", 5: "copper", 6: "pinhole"}
DIFFERENCE = 64
"""Grey levels by which board and template must differ; the scans are nearly binary, JPEG noise stays below."""
OPENING = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
"""Removes the one-pixel rims that scanner jitter leaves along copper edges."""
MIN_BLOB_SHARE = 0.15
"""Of the largest blob in the box; smaller ones are jitter where a copper edge crosses the box."""
NOTE = (
    "deep_pcb has boxes only: pixel masks are the difference to the template, moved onto the board where it lies beside it "
    "(above 64 grey levels, 3 px opening, no specks), "
    "inside each box; a box without any difference stops the run or is dropped, it is never filled. "
    "Boxes in the manifest are the annotators'."
)


def read(source: Path, params: PrepareParams) -> RawSet:
    """Read `group*/<g>/<id>_{temp,test}.jpg` and `group*/<g>_not/<id>.txt`; one part an id, its template is the good photo.

    Raises:
        LayoutError: If no board is found.
    """
    boards = sorted(source.glob("group*/*/*_test.*"))
    if not boards:
        raise LayoutError(f"{source}: no group*/<g>/<id>_test.jpg; expected a DeepPCB folder; see prepare.source, prepare.layout")
    photos: list[RawPhoto] = []
    faults: list[Fault] = []
    for board in boards:
        found, wrong = _read_board(source, board)
        photos += found
        faults += wrong
    types = tuple(sorted(TYPES.values()))
    return RawSet(source.name, unique_ids(photos), types, "annotation", tuple(faults), (NOTE,))


def _read_board(source: Path, board: Path) -> tuple[list[RawPhoto], list[Fault]]:
    part_id = board.stem.removesuffix("_test")
    template = board.with_name(f"{part_id}_temp{board.suffix}")
    labels = board.parent.with_name(board.parent.name + "_not") / f"{part_id}.txt"
    for path, what in ((template, "template"), (labels, "box file")):
        if not path.is_file():
            reason = f"board without its {what}; expected {path.relative_to(source).as_posix()}"
            return [], [Fault(board.relative_to(source).as_posix(), reason)]
    try:
        boxes = parse_boxes(labels.read_text(encoding="utf-8"))
    except ValueError as error:
        return [], [Fault(labels.relative_to(source).as_posix(), str(error))]
    defects = tuple(
        RawDefect(kind, partial(difference_mask, template=template, boxes=of_type), of_type)
        for kind, of_type in sorted(boxes.items())
    )
    good = RawPhoto(f"{part_id}_temp", template.relative_to(source).as_posix(), template, part_id)
    return [good, RawPhoto(f"{part_id}_test", board.relative_to(source).as_posix(), board, part_id, defects)], []


def parse_boxes(text: str) -> dict[str, tuple[Box, ...]]:
    """Boxes by type name from lines `x1 y1 x2 y2 type`.

    Raises:
        ValueError: If a line is not of this form, a box has no area, or there is no line.
    """
    boxes: dict[str, tuple[Box, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            x0, y0, x1, y1, kind = map(int, line.replace(",", " ").split())
            name = TYPES[kind]
        except (ValueError, KeyError) as error:
            raise ValueError(f"line {number} is {line!r}; expected x1 y1 x2 y2 and a type of 1 to 6") from error
        if not (0 <= x0 < x1 and 0 <= y0 < y1):
            raise ValueError(f"line {number}: box {x0} {y0} {x1} {y1} has no area; expected 0 <= x1 < x2 and 0 <= y1 < y2")
        boxes[name] = (*boxes.get(name, ()), (float(x0), float(y0), float(x1), float(y1)))
    if not boxes:
        raise ValueError("no box; a board without defects belongs to the templates")
    return boxes


@lru_cache(maxsize=2)
def _changed(board: bytes, shape: tuple[int, ...], template: Path) -> tuple[Mask, Mask]:
    """What differs without jitter, and whatever differs."""
    # Some scans are stored as RGB and their partner as grey, so both are compared in grey.
    clean, picture = grey_of(decode(template).picture), grey_of(np.frombuffer(board, np.uint8).reshape(shape))
    if clean.shape != picture.shape:
        (h, w), (height, width) = picture.shape, clean.shape
        raise ValueError(f"board is {w} x {h}, its template {width} x {height}; expected equal sizes")
    clean = align(clean, picture)
    different = (np.asarray(cv2.absdiff(clean, picture)) > DIFFERENCE).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(different, cv2.MORPH_OPEN, OPENING)) > 0, different > 0


def difference_mask(picture: Picture, template: Path, boxes: tuple[Box, ...]) -> Mask:
    """(H, W) mask of what differs from the template inside the boxes; jitter counts only where a box has nothing else.

    Raises:
        ValueError: If sizes differ, a box leaves the picture, or nothing differs inside a box.
    """
    clear, different = _changed(picture.tobytes(), picture.shape, template)
    mask: Mask = np.zeros_like(clear)
    height, width = mask.shape
    for x0, y0, x1, y1 in ((int(a), int(b), int(c), int(d)) for a, b, c, d in boxes):
        if x1 > width or y1 > height:
            raise ValueError(f"box {x0} {y0} {x1} {y1} leaves the picture of {width} x {height}")
        box = slice(y0, y1), slice(x0, x1)
        # A short over a gap of two pixels is as thin as jitter.
        inside = clear[box] if clear[box].any() else different[box]
        if not inside.any():
            raise ValueError(f"board equals its template inside box {x0} {y0} {x1} {y1}: no defect pixel to be found")
        mask[box] |= _main_blobs(inside)
    return mask


def _main_blobs(changed: Mask) -> Mask:
    """The blobs of a box that are no speck of edge jitter beside the largest one."""
    blobs = np.zeros(changed.shape, np.int32)
    ndimage.label(changed, structure=np.ones((3, 3)), output=blobs)
    areas = np.bincount(blobs.ravel())
    areas[0] = 0
    return (areas >= max(1.0, MIN_BLOB_SHARE * areas.max()))[blobs]
