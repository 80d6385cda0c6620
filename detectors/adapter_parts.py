"""What adapters of different libraries share: our architecture files, and boxes as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from detectors.datasets import Target


def read_architecture(name: str, class_count: int) -> dict[str, Any]:
    """Our YAML file `architectures/<name>.yaml` with the number of classes filled in."""
    path = Path(__file__).parent / "architectures" / f"{name}.yaml"
    return {"nc": class_count, **yaml.safe_load(path.read_text(encoding="utf-8"))}


def centre_boxes(targets: Sequence[Target], side_px: int) -> Tensor:
    """(N, 4) float32 centre x, centre y, width and height of each box, as shares of the square's side."""
    corners = torch.tensor([t.box for t in targets], dtype=torch.float32).reshape(-1, 4)
    return torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1) / side_px
