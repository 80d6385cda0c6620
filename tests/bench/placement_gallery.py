"""`make placement-gallery`: where defects are asked for on the good photos of any data set, beside the references."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.images import Mask, Picture, read_rgb
from pipeline.masks.crops import paste_window, read_mask_window, read_window, window_around
from pipeline.params import SynthesizeParams, load_section
from pipeline.scenes import Planner, open_planner
from pipeline.selection import RealSide, read_real
from pipeline.wanted import Wanted
from tests.bench.bars import work_folder
from tests.bench.embedded import prepare_once

TILE_PX = 160
COLUMNS = 12
MIXED_ROWS = 2
CLOSE, CLOSE_PX = 6.0, 64
COLOURS = ((255, 40, 40), (60, 220, 60), (70, 130, 255), (255, 190, 0), (230, 70, 230), (0, 220, 220))
"""Of the types, in alphabetical order."""
MIX = {"affine": 0.4, "elastic": 0.3, "drawn": 0.3}
SEVERAL = (0.0, 0.5, 0.5)


def tile(photo: Picture, outlined: Sequence[tuple[Mask, int]], *, close: bool) -> Picture:
    """(160, 160, 3): the whole photo, or a square around its first mask; outlines of masks in the colours of their types."""
    if close:
        window = window_around(outlined[0][0], CLOSE, CLOSE_PX)
        photo = read_window(photo, window)
        outlined = [(read_mask_window(mask, window), colour) for mask, colour in outlined]
    shrink = TILE_PX / max(photo.shape[:2])
    size = (max(1, round(photo.shape[1] * shrink)), max(1, round(photo.shape[0] * shrink)))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    for mask, colour in outlined:
        fine = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.1
        outlines, _ = cv2.findContours(fine.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(small, outlines, -1, COLOURS[colour % len(COLOURS)], 1)
    canvas = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
    canvas[: size[1], : size[0]] = small
    return canvas


def scene_tile(planner: Planner, number: int, kinds: Sequence[str], *, close: bool) -> Picture:
    """The photo of a scene with all its masks."""
    placed = planner.make(number)
    if not placed:
        return np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
    photo = read_rgb(planner.train / next(s.image for s in planner.good if s.id == placed[0].record.clean))
    outlined: list[tuple[Mask, int]] = []
    for one in placed:
        for part in one.request.parts:
            mask = np.zeros(photo.shape[:2], bool)
            paste_window(mask, part.mask, one.record.window)
            outlined.append((mask, kinds.index(part.defect)))
    return tile(photo, outlined, close=close)


def rows_of(planner: Planner, kinds: Sequence[str], *, close: bool) -> list[Picture]:
    """A planner's scenes, so many a row."""
    tiles = [scene_tile(planner, number, kinds, close=close) for number in range(planner.count)]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    return [np.concatenate(tiles[start : start + COLUMNS], axis=1) for start in range(0, len(tiles), COLUMNS)]


def sheet(real: RealSide, params: SynthesizeParams, *, close: bool) -> Picture:
    """Three rows a type: references, places of the masks copy-paste uses, and of a mixed bank; then rows of several types."""
    kinds = sorted({r.defect for r in real.references})
    masks = params.masks.model_copy(update={"defectfill": params.masks.defectfill.model_copy(update=MIX)})
    single = params.model_copy(update={"placement": params.placement.model_copy(update={"defects_per_image": (1.0,)})})
    mixed = single.model_copy(update={"masks": masks})
    rows: list[Picture] = []
    for number, defect in enumerate(kinds):
        references = [r for r in real.references if r.defect == defect]
        shown = [
            tile(r.image, [(r.mask, number)], close=close) for r in references[:: max(1, len(references) // COLUMNS)][:COLUMNS]
        ]
        shown += [np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)] * (COLUMNS - len(shown))
        wanted: Wanted = {defect: {"any": COLUMNS}}
        rows.append(np.concatenate(shown, axis=1))
        rows += rows_of(open_planner("copy_paste", real, single, wanted), kinds, close=close)
        rows += rows_of(open_planner("defectfill", real, mixed, wanted), kinds, close=close)
        rows.append(np.full((8, TILE_PX * COLUMNS, 3), 255, np.uint8))
    several = params.placement.model_copy(update={"defects_per_image": SEVERAL})
    everything: Wanted = {defect: {"any": -(-5 * MIXED_ROWS * COLUMNS // (2 * len(kinds)))} for defect in kinds}
    together = open_planner("defectfill", real, mixed.model_copy(update={"placement": several}), everything)
    return np.concatenate([*rows, *rows_of(together, kinds, close=False)[:MIXED_ROWS]], axis=0)


def main() -> None:
    """Write one JPEG."""
    parser = argparse.ArgumentParser(description="Where defects are asked for on a data set.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--layout", required=True, help="its layout, e.g. magnetic_tile or deep_pcb")
    parser.add_argument("--close", action="store_true", help="show single masks in a crop, for small defects on large photos")
    args = parser.parse_args()
    prepared = prepare_once(args.data, args.layout, (0,), work_folder(f"gallery-{args.layout}") / "prepared")
    out = Path("docs/placement") / f"{args.layout}.jpg"
    out.parent.mkdir(parents=True, exist_ok=True)
    made = sheet(read_real(prepared / "train", 0), load_section("synthesize", SynthesizeParams), close=args.close)
    Image.fromarray(made).save(out, quality=85)
    print(out)


if __name__ == "__main__":
    main()
