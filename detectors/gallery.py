"""Before and after: the same defects of real test photos under `real` and under the best learned arm, chosen by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from detectors.arms import parse_arm
from detectors.confusion import FOUND_IOU, Pairing, above, pair
from detectors.datasets import DetectionData, Record
from detectors.letterbox import resize
from pipeline.images import Picture, read_rgb

BEFORE = "real"
BASELINE_GENERATORS = ("copy_paste",)
TILE_PX = 240
JPEG_QUALITY = 85
VIEW_DEFECTS, VIEW_SHARE = 3.0, 0.4  # side of a view: at least so many sides of the defect, and so much of the photo
Colour = tuple[int, int, int]
# Okabe-Ito colours: told apart by colour-blind readers.
TRUTH, OTHER, RIGHT, WRONG = (0, 114, 178), (86, 180, 233), (0, 158, 115), (213, 94, 0)
_HALO = (255, 255, 255)


@dataclass(frozen=True)
class Side:
    """What one arm says of a photo: its detections, the surest first, and which defects they find."""

    detections: Sequence[dict[str, Any]]
    pairing: Pairing

    def finds(self, defect: dict[str, Any], place: int) -> bool:
        """Whether the defect at a place of the photo's annotations is found, as what it is."""
        found = self.pairing.found[place]
        return found is not None and self.detections[found]["category_id"] == defect["category_id"]

    def words(self, defect: dict[str, Any], place: int, classes: Sequence[str]) -> str:
        """What became of a defect."""
        found = self.pairing.found[place]
        if found is None:
            return "missed"
        row = self.detections[found]
        right = row["category_id"] == defect["category_id"]
        return f"found ({row['score']:.2f})" if right else f"taken for {classes[row['category_id'] - 1]} ({row['score']:.2f})"


@dataclass(frozen=True)
class Case:
    """One defect on a test photo, `place` among the photo's annotations, under both arms."""

    fold: int
    record: Record
    place: int
    before: Side
    after: Side

    @property
    def defect(self) -> dict[str, Any]:
        """Its annotation."""
        return self.record.annotations[self.place]

    @property
    def group(self) -> str:
        """`gained`, `lost`, `missed` (by both) or `kept` (found by both)."""
        found = (self.before.finds(self.defect, self.place), self.after.finds(self.defect, self.place))
        return {(False, True): "gained", (True, False): "lost", (False, False): "missed", (True, True): "kept"}[found]


def best_learned(val: Mapping[str, Sequence[float | None]]) -> str | None:
    """The arm with real and learned synthetic defects that is best on val, over all folds; None if none was trained.

    Args:
        val: Box mAP50 on val by arm, one a fold.
    """
    arms = {name: parse_arm(name) for name in sorted(val)}
    learned = [n for n, arm in arms.items() if arm.real and arm.generator and arm.generator not in BASELINE_GENERATORS]
    return max(learned, key=lambda name: float(np.mean([score or 0.0 for score in val[name]])), default=None)


def cases(
    fold: int, data: DetectionData, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], score: float
) -> list[Case]:
    """Every defect of a fold's test photos under both arms, by photo."""
    both = above(before, score), above(after, score)
    found: list[Case] = []
    for record in data.defective:
        own = [rows.get(record.image_id, []) for rows in both]
        sides = [Side(rows, pair(record.annotations, rows)) for rows in own]
        found += [Case(fold, record, place, sides[0], sides[1]) for place in range(len(record.annotations))]
    return found


def choose(group: Sequence[Case], count: int) -> list[Case]:
    """At most `count` of a group: types in turn, in the order of folds and photos; nothing else decides."""
    by_class: dict[int, list[Case]] = {}
    for case in group:
        by_class.setdefault(case.defect["category_id"], []).append(case)
    rounds = max((len(rows) for rows in by_class.values()), default=0)
    return [by_class[c][i] for i in range(rounds) for c in sorted(by_class) if i < len(by_class[c])][:count]


def view(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Half-open (x0, y0, x1, y1) of what is shown around a COCO box (x, y, width, height) on a photo of `size` (H, W)."""
    side = round(max(VIEW_DEFECTS * max(box[2], box[3]), VIEW_SHARE * max(size)))
    height, width = (min(side, whole) for whole in size)
    x0 = int(np.clip(round(box[0] + box[2] / 2 - width / 2), 0, size[1] - width))
    y0 = int(np.clip(round(box[1] + box[3] / 2 - height / 2), 0, size[0] - height))
    return x0, y0, x0 + width, y0 + height


def draw(
    picture: Picture, window: tuple[int, int, int, int], boxes: Sequence[tuple[Sequence[float], tuple[int, int, int]]]
) -> Picture:
    """A part of a photo, its longer side at TILE_PX, with COCO boxes in their colours."""
    x0, y0, x1, y1 = window
    scale = TILE_PX / max(x1 - x0, y1 - y0)
    size = (max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale)))
    tile = resize(np.ascontiguousarray(picture[y0:y1, x0:x1]), size, cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for width, halo in ((5, True), (3, False)):
        for (left, top, wide, high), colour in boxes:
            first = (round((left - x0) * scale), round((top - y0) * scale))
            last = (round((left + wide - x0) * scale) - 1, round((top + high - y0) * scale) - 1)
            cv2.rectangle(tile, first, last, _HALO if halo else colour, width)
    return tile


def _tiles(case: Case) -> dict[str, Picture]:
    """The truth, and what each arm found, on the same part of the photo."""
    picture, window = read_rgb(case.record.path), view(case.defect["bbox"], case.record.size)
    truths = [(one["bbox"], TRUTH if one is case.defect else OTHER) for one in case.record.annotations]
    tiles = {"truth": draw(picture, window, sorted(truths, key=lambda one: one[1] == TRUTH))}
    for name, side in (("before", case.before), ("after", case.after)):
        right = {found for place, found in enumerate(side.pairing.found) if side.finds(case.record.annotations[place], place)}
        # The surest on top, and what is right above what is not.
        order = sorted(range(len(side.detections)), key=lambda place: (place in right, -place))
        boxes = [(side.detections[place]["bbox"], RIGHT if place in right else WRONG) for place in order]
        tiles[name] = draw(picture, window, boxes)
    return tiles


def _write_case(case: Case, classes: Sequence[str], folder: Path, stem: str) -> dict[str, Any]:
    """Write the three pictures of a defect; returns its line of `gallery.json`."""
    files: dict[str, str] = {}
    for name, tile in _tiles(case).items():
        files[name] = f"{stem}-{name}.jpg"
        Image.fromarray(tile).save(folder / files[name], format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return {
        "type": classes[case.defect["category_id"] - 1],
        "photo": case.record.path.name,
        "fold": case.fold,
        "pictures": files,
        "before": case.before.words(case.defect, case.place, classes),
        "after": case.after.words(case.defect, case.place, classes),
    }


def write_gallery(
    folder: Path, after: str, found: Sequence[Case], classes: Sequence[str], count: int, score: float
) -> dict[str, Any]:
    """Write the pictures of one detector.

    Args:
        folder: Gets the pictures.
        after: The arm that `real` is compared with.
        found: Every defect of every fold.
        classes: Names of types.
        count: Defects shown of each group, at most.
        score: From which on detections count.

    Returns:
        What `gallery.json` says of it: `before` and `after` (arms), `score`, `iou`, `defects` (all that were tested), `counts` a
        group, and `shown`: lines by group, those found by one arm alone and those missed by both.
    """
    folder.mkdir(parents=True)
    groups = {name: [case for case in found if case.group == name] for name in ("gained", "lost", "missed", "kept")}
    shown = {
        name: [
            _write_case(case, classes, folder, f"{name}-{place:02d}") for place, case in enumerate(choose(groups[name], count))
        ]
        for name in ("gained", "lost", "missed")
    }
    return {
        "before": BEFORE,
        "after": after,
        "score": score,
        "iou": FOUND_IOU,
        "defects": len(found),
        "counts": {name: len(own) for name, own in groups.items()},
        "shown": shown,
    }
