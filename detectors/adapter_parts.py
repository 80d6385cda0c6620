"""What adapters of different libraries share: our architecture files, boxes as tensors, and which of them repeat each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torchvision.ops import batched_nms

from detectors.datasets import Target


def read_architecture(name: str, class_count: int) -> dict[str, Any]:
    """Our YAML file `architectures/<name>.yaml` with the number of classes filled in."""
    path = Path(__file__).parent / "architectures" / f"{name}.yaml"
    return {"nc": class_count, **yaml.safe_load(path.read_text(encoding="utf-8"))}


def centre_boxes(targets: Sequence[Target], side_px: int) -> Tensor:
    """(N, 4) float32 centre x, centre y, width and height of each box, as shares of the square's side."""
    corners = torch.tensor([t.box for t in targets], dtype=torch.float32).reshape(-1, 4)
    return torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1) / side_px


def without_repeats(corners: Tensor, scores: Tensor, categories: Tensor, iou: float) -> Tensor:
    """(K,) places of the boxes left by non-maximum suppression within each class, in rising order.

    RT-DETR is published without it: its queries learn to keep apart. After a few thousand steps on few photos they do not, and
    a quarter to a half of the false alarms are second boxes on a defect already found (docs/detectors.md).

    Args:
        corners: (N, 4), best first.
        scores: (N,), falling.
        categories: (N,) class index.
        iou: See `Limits.nms_iou`.
    """
    return batched_nms(corners, scores, categories, iou).sort().values
