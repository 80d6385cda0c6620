"""The only door to ultralytics (AGPL-3.0): model classes, losses and decoding; its trainer is not used.

Its trainer would add hidden augmentation, experiment trackers, network look-ups and cache files beside the data, and could
not promise equal step counts. The switches below are read while the library is imported.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

_ROOT = Path(__file__).resolve().parents[1]
os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
os.environ.setdefault("YOLO_CONFIG_DIR", str(_ROOT / ".ultralytics"))

# The library replaces both for the whole process; ours should read and write as everywhere else.
_OPEN, _SAVE = Image.open, torch.save

import torchvision  # noqa: E402, F401  (its exact NMS is used only if it is imported before)
import ultralytics  # noqa: E402
from ultralytics.nn.tasks import RTDETRDetectionModel, SegmentationModel, guess_model_scale  # noqa: E402
from ultralytics.utils.nms import non_max_suppression  # noqa: E402
from ultralytics.utils.ops import process_mask, xywh2xyxy  # noqa: E402

Image.open, torch.save = _OPEN, _SAVE

from detectors.adapter_parts import centre_boxes  # noqa: E402
from detectors.datasets import Target  # noqa: E402
from detectors.letterbox import resize  # noqa: E402

__all__ = ["RTDETRDetectionModel", "SegmentationModel", "non_max_suppression", "process_mask", "xywh2xyxy"]


def library_architecture(variant: str, class_count: int) -> dict[str, Any]:
    """The library's own YAML of, say, `rtdetr-l` or `yolo11s-seg`, with its scale and the number of classes filled in."""
    sizes = re.sub(r"^(yolo\d+)[nsmlx]", r"\1", variant)  # one file holds all sizes of a YOLO
    path = next((Path(ultralytics.__file__).parent / "cfg" / "models").rglob(f"{sizes}.yaml"))
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {**found, "nc": class_count, "scale": guess_model_scale(variant) or next(iter(found["scales"]))}


def build_model(kind: Any, architecture: dict[str, Any]) -> nn.Module:
    """Build a model class from an architecture (copied, since the library fills it in)."""
    return kind(copy.deepcopy(architecture), ch=3, nc=architecture["nc"], verbose=False)


def to_batch(pictures: Tensor, targets: Sequence[Sequence[Target]], mask_px: int | None) -> dict[str, Tensor]:
    """The library's batch: class, centre-size boxes as shares of the square and, if `mask_px` is given, masks of that side."""
    side = pictures.shape[-1]
    owner = [i for i, found in enumerate(targets) for _ in found]
    flat = [t for found in targets for t in found]
    batch = {
        "batch_idx": torch.tensor(owner, dtype=torch.float32),
        "cls": torch.tensor([t.category for t in flat], dtype=torch.float32).reshape(-1, 1),
        "bboxes": centre_boxes(flat, side),
    }
    if mask_px is not None:
        batch["masks"] = torch.from_numpy(_masks(flat, side, mask_px))
    return {"img": pictures, **{name: value.to(pictures.device) for name, value in batch.items()}}


def _masks(flat: Sequence[Target], side: int, mask_px: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, mask_px, mask_px) share of each cell that is defect, above half."""
    stack = np.zeros((len(flat), mask_px, mask_px), dtype=np.float32)
    for place, target in enumerate(flat):
        square = np.zeros((side, side), dtype=np.float32)
        square[: target.mask.shape[0], : target.mask.shape[1]] = target.mask
        share = resize(square, (mask_px, mask_px), cv2.INTER_AREA)
        stack[place] = share >= min(0.5, float(share.max()) * 0.5)
    return stack
