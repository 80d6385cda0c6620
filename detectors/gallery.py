"""Test photos with truth and detections, one column an arm, so that a person can look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from detectors.datasets import DetectionData, Record
from detectors.letterbox import resize
from pipeline.images import Mask, Picture, read_rgb
from pipeline.labels.coco import decode_mask

TILE_PX = 256
HEAD_PX = 26
# Okabe-Ito colours: told apart by colour-blind readers.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))


def choose(data: DetectionData, count: int) -> list[Record]:
    """Photos of every type in turn, the last one good; the choice depends on the test data alone, never on results."""
    by_class: dict[int, list[Record]] = {}
    for record in data.defective:
        by_class.setdefault(record.annotations[0]["category_id"], []).append(record)
    rounds = max((len(rows) for rows in by_class.values()), default=0)
    in_turn = [by_class[c][i] for i in range(rounds) for c in sorted(by_class) if i < len(by_class[c])]
    good = list(data.good[:1])
    return in_turn[: count - len(good)] + good


def _tile(picture: Picture) -> tuple[Picture, float]:
    scale = TILE_PX / max(picture.shape[:2])
    size = (max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale)))
    tile = np.full((TILE_PX, TILE_PX, 3), 255, dtype=np.uint8)
    tile[: size[0], : size[1]] = resize(picture, size, cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return tile, scale


def _outline(tile: Picture, mask: Mask, scale: float, colour: tuple[int, int, int]) -> None:
    size = (max(1, round(mask.shape[0] * scale)), max(1, round(mask.shape[1] * scale)))
    small = resize(mask.astype(np.uint8), size, cv2.INTER_NEAREST)
    rings, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, rings, -1, colour, 1)


def draw(record: Record, rows: Sequence[dict[str, Any]], classes: tuple[str, ...]) -> Picture:
    """One photo with boxes (and mask outlines, where rows have them), named and, for detections, scored."""
    tile, scale = _tile(read_rgb(record.path))
    for row in rows:
        colour = COLOURS[(row["category_id"] - 1) % len(COLOURS)]
        x, y, width, height = (v * scale for v in row["bbox"])
        corner = (round(x), round(y))
        cv2.rectangle(tile, corner, (round(x + width) - 1, round(y + height) - 1), colour, 1)
        if "segmentation" in row:
            _outline(tile, decode_mask(row["segmentation"]), scale, colour)
        name = classes[row["category_id"] - 1]
        text = f"{name} {row['score']:.2f}" if "score" in row else name
        _write(tile, text, (min(corner[0], TILE_PX - 8 * len(text)), max(11, corner[1] - 3)), colour)
    return tile


def _write(picture: Picture, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    cv2.rectangle(picture, (at[0], at[1] - height - 1), (at[0] + width, at[1] + 2), (40, 40, 40), -1)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)


def _head(text: str) -> Picture:
    strip = np.full((HEAD_PX, TILE_PX, 3), 255, dtype=np.uint8)
    cv2.putText(strip, text, (4, HEAD_PX - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def gallery(data: DetectionData, by_arm: Mapping[str, Sequence[dict[str, Any]]], count: int, min_score: float) -> Picture:
    """Rows: photos; columns: the truth, then each arm's detections from `min_score`."""
    records = choose(data, count)
    columns = [np.concatenate([_head("truth"), *(draw(r, r.annotations, data.classes) for r in records)])]
    for arm, results in by_arm.items():
        shown = [[d for d in results if d["image_id"] == r.image_id and d["score"] >= min_score] for r in records]
        tiles = [draw(r, rows, data.classes) for r, rows in zip(records, shown, strict=True)]
        columns.append(np.concatenate([_head(arm), *tiles]))
    gap = np.full((columns[0].shape[0], 6, 3), 255, dtype=np.uint8)
    spaced = [part for column in columns for part in (column, gap)]
    return np.concatenate(spaced[:-1], axis=1)
