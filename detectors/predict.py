"""From photos to detections in COCO result form, in the pixels of the original photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectors.datasets import DetectionData
from detectors.letterbox import pad
from detectors.protocol import Detector, Found, Limits
from detectors.tiling import REPEAT_SHARE, Framing, Patch, Window, windows
from pipeline.images import Picture, read_rgb
from pipeline.labels.coco import encode_mask
from pipeline.records import Box


def to_tensor(pictures: Sequence[Picture], side_px: int) -> Tensor:
    """(B, 3, S, S) float32 in [0, 1] of pictures at network scale."""
    stack = np.stack([pad(picture, side_px) for picture in pictures])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255.0


@dataclass(frozen=True)
class _Hit:
    """One detection: its box in the photo's pixels, and its mask at the scale of the window it was found in."""

    window: Window
    category: int
    box: Box
    score: float
    mask: Patch | None

    def result(self, image_id: int) -> dict[str, Any]:
        x0, y0, x1, y1 = self.box
        row: dict[str, Any] = {
            "image_id": image_id,
            "category_id": self.category + 1,
            "bbox": [round(x0, 3), round(y0, 3), round(x1 - x0, 3), round(y1 - y0, 3)],
            "score": round(self.score, 6),
        }
        if self.mask is not None:
            shrink = self.window.shrink
            row["segmentation"] = encode_mask(shrink.mask_to_photo(self.mask.on((0, 0), shrink.fitted).astype(np.float32)))
        return row


def _hits(found: Found, window: Window) -> list[_Hit]:
    """The detections that count of a window (`Window.finds`); those that end up without area on the photo are left out."""
    corners, counts = window.to_photo(found.boxes), window.finds(found.boxes)
    return [
        _Hit(
            window,
            int(found.categories[place]),
            (x0, y0, x1, y1),
            float(found.scores[place]),
            None if found.masks is None else window.to_scaled(found.masks[place] >= 0.5),
        )
        for place, (x0, y0, x1, y1) in enumerate(corners.tolist())
        if x1 > x0 and y1 > y0 and counts[place]
    ]


def _joined(hits: Sequence[_Hit], limits: Limits) -> list[_Hit]:
    """The detections of all windows of a photo, the surest first, each defect once.

    What one window shows is left as its detector told it apart. Windows differ in scale and in what they cut, so by intersection
    over union their boxes of one defect may share little (arXiv 2202.06934 joins by the smaller box, too).
    """
    kept: list[_Hit] = []
    for hit in sorted(hits, key=lambda one: -one.score):
        others = (one for one in kept if one.category == hit.category and one.window is not hit.window)
        if not any(_shared(hit.box, one.box) > REPEAT_SHARE for one in others):
            kept.append(hit)
        if len(kept) == limits.max_detections:
            break
    return kept


def _shared(one: Box, other: Box) -> float:
    """The intersection of two boxes as a share of the smaller one."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(0.0, wide) * max(0.0, high) / smaller


def _detect(detector: Detector, network: nn.Module, picture: Picture, side_px: int, limits: Limits) -> Found:
    # Alone in its batch: bytes do not depend on grouping, nor memory on numbers.
    device = next(network.parameters()).device
    with torch.no_grad():
        return detector.decode(network, to_tensor([picture], side_px).to(device), limits)[0]


def detect(
    detector: Detector, network: nn.Module, picture: Picture, image_id: int, framing: Framing, limits: Limits
) -> list[dict[str, Any]]:
    """COCO results of one photo (H, W, 3) uint8, in its own pixels, the surest first.

    Where it is shown in windows as well (`Framing.tiling`), small defects are found in these, and such as may be whole in none
    of them in the whole photo as well; see `Window.finds`. What several windows show is kept once.
    """
    shown = windows((picture.shape[0], picture.shape[1]), framing)
    scaled = {window.shrink: window.shrink.shrink(picture) for window in shown}
    hits: list[_Hit] = []
    for window in shown:
        hits += _hits(_detect(detector, network, window.cut(scaled[window.shrink]), framing.side_px, limits), window)
    return [hit.result(image_id) for hit in (_joined(hits, limits) if len(shown) > 1 else hits)]


def predict(
    detector: Detector, network: nn.Module, data: DetectionData, framing: Framing, limits: Limits
) -> list[dict[str, Any]]:
    """Detections on every image of a data set, good ones included, by image and falling score."""
    network.eval()
    return [
        row
        for record in data.records
        for row in detect(detector, network, read_rgb(record.path), record.image_id, framing, limits)
    ]
