"""YOLO text labels: an export for other tools. Polygons lose a little, so the loss is measured and reported."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask
from pipeline.labels.boxes import coco_to_box
from pipeline.labels.coco import decode_mask

Points = NDArray[np.float64]
"""(N, 2) x, y in pixels; the centre of pixel (0, 0) is (0.5, 0.5)."""


def _nearest_pair(a: NDArray[np.int32], b: NDArray[np.int32]) -> tuple[int, int]:
    distance = ((a[:, None, :].astype(np.int64) - b[None, :, :]) ** 2).sum(2)
    i, j = np.unravel_index(int(np.argmin(distance)), distance.shape)
    return int(i), int(j)


def _bridged(ring: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32]:
    """One ring that walks along `ring`, over the shortest way to `other`, around it and back."""
    i, j = _nearest_pair(ring, other)
    tour = np.concatenate([other[j:], other[: j + 1]])
    return np.concatenate([ring[: i + 1], tour, ring[i:]])


def _spread(ring: NDArray[np.int32]) -> Points:
    """Pixel centres, or for one or two pixels a thin outline that stays inside them: readers need three points."""
    if len(ring) >= 3:
        return ring.astype(np.float64) + 0.5
    near, far = ring.astype(np.float64) + 0.05, ring[::-1].astype(np.float64) + 0.95
    if len(ring) == 1:
        x, y = float(ring[0, 0]), float(ring[0, 1])
        return np.array([[x + 0.05, y + 0.05], [x + 0.95, y + 0.05], [x + 0.95, y + 0.95], [x + 0.05, y + 0.95]])
    return np.concatenate([near, far])


def mask_to_polygon(mask: Mask) -> Points:
    """One ring around a mask; further pieces and holes hang on it by a line there and back.

    The ring runs through pixel centres: the usual reader truncates to whole pixels and fills by the even-odd rule, which
    gives a simple shape back exactly.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = sorted((c.reshape(-1, 2).astype(np.int32) for c in found), key=lambda r: (-len(r), r.tolist()))
    ring = rings[0]
    for other in rings[1:]:
        ring = _bridged(ring, other)
    return _spread(ring)


def polygon_to_mask(points: Points, size: tuple[int, int]) -> Mask:
    """Fill a ring as YOLO readers do: truncated to pixels, even-odd."""
    canvas = np.zeros(size, dtype=np.uint8)
    cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
    return canvas > 0


def mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks, 1 if both are empty."""
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union


def _numbers(values: Any) -> str:
    return " ".join(f"{float(v):.6f}" for v in np.asarray(values).ravel())


def detection_line(annotation: dict[str, Any], width: int, height: int) -> str:
    """`class cx cy w h`, class from 0, the rest as shares of the picture."""
    x0, y0, x1, y1 = coco_to_box(annotation["bbox"])
    shares = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    return f"{annotation['category_id'] - 1} {_numbers(shares)}"


def segmentation_line(annotation: dict[str, Any], width: int, height: int) -> str:
    """`class x y x y ...`, class from 0, points as shares of the picture."""
    ring = mask_to_polygon(decode_mask(annotation["segmentation"])) / (width, height)
    return f"{annotation['category_id'] - 1} {_numbers(ring)}"


def parse_segmentation(line: str, width: int, height: int) -> tuple[int, Mask]:
    """Class index and (H, W) mask of one line."""
    name, *numbers = line.split()
    points = np.array([float(v) for v in numbers]).reshape(-1, 2) * (width, height)
    return int(name), polygon_to_mask(points, (height, width))


def yolo_labels(coco: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Texts of detection and of segmentation labels by `file_name`; a good image has an empty text."""
    rows: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in coco["annotations"]:
        rows[annotation["image_id"]].append(annotation)
    det: dict[str, str] = {}
    seg: dict[str, str] = {}
    for image in coco["images"]:
        size = (image["width"], image["height"])
        det[image["file_name"]] = "".join(detection_line(a, *size) + "\n" for a in rows[image["id"]])
        seg[image["file_name"]] = "".join(segmentation_line(a, *size) + "\n" for a in rows[image["id"]])
    return det, seg


def round_trip_iou(coco: dict[str, Any], seg: dict[str, str]) -> float | None:
    """Mean IoU of each instance's mask with what a reader makes of its polygon; None without instances."""
    images = {image["id"]: image for image in coco["images"]}
    lines = {name: iter(text.splitlines()) for name, text in seg.items()}
    values: list[float] = []
    for annotation in coco["annotations"]:
        image = images[annotation["image_id"]]
        _, mask = parse_segmentation(next(lines[image["file_name"]]), image["width"], image["height"])
        values.append(mask_iou(mask, decode_mask(annotation["segmentation"])))
    return float(np.mean(values)) if values else None
