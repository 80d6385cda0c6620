"""From photos to detections in COCO result form, in the pixels of the original photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectors.datasets import DetectionData, Record
from detectors.letterbox import Fit, fit, pad
from detectors.protocol import Detector, Found, Limits
from pipeline.images import Picture, read_rgb
from pipeline.labels.coco import encode_mask


def to_tensor(pictures: Sequence[Picture], side_px: int) -> Tensor:
    """(B, 3, S, S) float32 in [0, 1] of pictures at network scale."""
    stack = np.stack([pad(picture, side_px) for picture in pictures])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255.0


def to_results(found: Found, image_id: int, shrink: Fit) -> list[dict[str, Any]]:
    """COCO results of one photo; boxes that end up without area on it are left out."""
    rows: list[dict[str, Any]] = []
    corners = shrink.to_photo(found.boxes)
    for place, (x0, y0, x1, y1) in enumerate(corners.tolist()):
        if x1 <= x0 or y1 <= y0:
            continue
        row: dict[str, Any] = {
            "image_id": image_id,
            "category_id": int(found.categories[place]) + 1,
            "bbox": [round(x0, 3), round(y0, 3), round(x1 - x0, 3), round(y1 - y0, 3)],
            "score": round(float(found.scores[place]), 6),
        }
        if found.masks is not None:
            row["segmentation"] = encode_mask(shrink.mask_to_photo(found.masks[place]))
        rows.append(row)
    return rows


def detect(detector: Detector, network: nn.Module, picture: Picture, side_px: int, limits: Limits) -> Found:
    """Detections on one picture at network scale, alone in its batch: bytes do not depend on grouping, nor memory on numbers."""
    device = next(network.parameters()).device
    with torch.no_grad():
        return detector.decode(network, to_tensor([picture], side_px).to(device), limits)[0]


def _detect_photo(detector: Detector, network: nn.Module, record: Record, side_px: int, limits: Limits) -> list[dict[str, Any]]:
    shrink = fit(record.size, side_px)
    found = detect(detector, network, shrink.shrink(read_rgb(record.path)), side_px, limits)
    return to_results(found, record.image_id, shrink)


def predict(detector: Detector, network: nn.Module, data: DetectionData, side_px: int, limits: Limits) -> list[dict[str, Any]]:
    """Detections on every image of a data set, good ones included, by image and falling score."""
    network.eval()
    return [row for record in data.records for row in _detect_photo(detector, network, record, side_px, limits)]
