"""Pictures of concepts: a gallery a data set, and forty shuffled crops for somebody to name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.generators.protocol import Synthetic
from pipeline.images import Mask, Picture
from pipeline.masks.crops import resize_picture
from pipeline.references import Reference
from pipeline.scenes import Placed
from tests.bench.concept_quality import SIDE_PX, real_crop, shown_mask

SHOWN_PX = 2 * SIDE_PX
COLUMNS = 12
QUIZ_EACH = 4
QUIZ_COLUMNS = 8
LABEL_PX = 16


def outlined(picture: Picture, mask: Mask) -> Picture:
    """(128, 128, 3): the crop enlarged, the mask's outline in red."""
    large = resize_picture(picture, SHOWN_PX).copy()
    wide = cv2.resize(mask.astype(np.uint8), (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(wide, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(large, outlines, -1, (255, 40, 40), 1)
    return large


def gallery(references: Sequence[Reference], placed: Sequence[Placed], *made: Sequence[Synthetic]) -> NDArray[np.uint8]:
    """A few rows a type: real references with outline, requests on clean crops with outline, and each way they were answered."""
    blank = np.full((SHOWN_PX, SHOWN_PX, 3), 255, np.uint8)
    rows: list[Picture] = []
    for defect in sorted({p.record.defect for p in placed}):
        real = [outlined(*real_crop(r)) for r in references if r.defect == defect][:COLUMNS]
        chosen = [place for place, one in enumerate(placed) if one.record.defect == defect][:COLUMNS]
        requests = [placed[place].request for place in chosen]
        asked = [outlined(resize_picture(r.clean, SIDE_PX), shown_mask(r.mask)) for r in requests]
        answered = [[resize_picture(way[place].image, SHOWN_PX) for place in chosen] for way in made]
        for cells in (real, asked, *answered):
            rows.append(np.concatenate([*cells, *[blank] * (COLUMNS - len(cells))], axis=1))
        rows.append(np.full((6, SHOWN_PX * COLUMNS, 3), 255, np.uint8))
    return np.concatenate(rows, axis=0)


def quiz(
    held_back: Sequence[Reference], placed: Sequence[Placed], made: Sequence[Synthetic], seed: int
) -> tuple[NDArray[np.uint8], list[dict[str, str]]]:
    """Numbered crops, as many real as synthetic of each type, shuffled; and what each of them is."""
    rng = np.random.default_rng(seed)
    kinds = sorted({p.record.defect for p in placed})
    cells: list[tuple[Picture, dict[str, str]]] = []
    for kind in kinds:
        real = [r for r in held_back if r.defect == kind]
        ours = [(p, m) for p, m in zip(placed, made, strict=True) if p.record.defect == kind]
        for i in rng.choice(len(real), QUIZ_EACH, replace=False):
            cells.append((real_crop(real[i])[0], {"type": kind, "origin": "real", "id": real[i].id}))
        for i in rng.choice(len(ours), QUIZ_EACH, replace=False):
            crop = resize_picture(ours[i][1].image, SIDE_PX)
            cells.append((crop, {"type": kind, "origin": "synthetic", "id": ours[i][0].request.id}))
    order = rng.permutation(len(cells))
    shown = [_numbered(cells[i][0], place + 1) for place, i in enumerate(order)]
    rows = [np.concatenate(shown[s : s + QUIZ_COLUMNS], axis=1) for s in range(0, len(shown), QUIZ_COLUMNS)]
    return np.concatenate(rows, axis=0), [{"number": str(place + 1), **cells[i][1]} for place, i in enumerate(order)]


def _numbered(crop: Picture, number: int) -> Picture:
    label = np.full((LABEL_PX, SHOWN_PX + 4, 3), 255, np.uint8)
    cv2.putText(label, str(number), (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    body = np.pad(resize_picture(crop, SHOWN_PX), ((0, 4), (0, 4), (0, 0)), constant_values=255)
    return np.concatenate([label, body], axis=0)


def confusion(key: Sequence[Mapping[str, str]], answers: Mapping[str, str]) -> dict[str, dict[str, dict[str, int]]]:
    """How often each type was named what, for real and synthetic crops apart.

    Raises:
        ValueError: If a crop has no answer.
    """
    missing = [row["number"] for row in key if row["number"] not in answers]
    if missing:
        raise ValueError(f"no answer for crops {missing}")
    kinds = sorted({row["type"] for row in key})
    table = {origin: {kind: dict.fromkeys(kinds, 0) for kind in kinds} for origin in ("real", "synthetic")}
    for row in key:
        table[row["origin"]][row["type"]][answers[row["number"]]] += 1
    return table
