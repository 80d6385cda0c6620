"""Adapter: YOLO11-seg, narrow or as published, from ultralytics' model class, loss, NMS and mask assembly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

from detectors.adapter_parts import read_architecture
from detectors.datasets import Target
from detectors.protocol import COMPACT, Found, Limits
from detectors.ultralytics_models import (
    SegmentationModel,
    build_model,
    library_architecture,
    non_max_suppression,
    process_mask,
    to_batch,
)

# The library's gains (its defaults), and one mask an instance: overlapping defects of two types must not hide each other.
GAINS = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=False)


class YoloSeg:
    """Boxes and masks."""

    has_masks = True
    file_prefixes = (("", ""),)

    def architecture(self, class_count: int, variant: str) -> dict[str, Any]:  # noqa: D102
        return read_architecture("yolo_seg", class_count) if variant == COMPACT else library_architecture(variant, class_count)

    def build(self, architecture: dict[str, Any]) -> nn.Module:  # noqa: D102
        network: Any = build_model(SegmentationModel, architecture)
        network.args = GAINS
        return network

    def is_class_tensor(self, name: str) -> bool:  # noqa: D102
        return re.search(r"\.cv3\.\d+\.2\.", name) is not None

    def losses(self, network: nn.Module, pictures: Tensor, targets: Sequence[Sequence[Target]]) -> dict[str, Tensor]:  # noqa: D102
        # Prototypes are drawn at twice the resolution of the finest map.
        proto_stride = int(network.model[-1].stride[0]) // 2  # pyright: ignore
        batch = to_batch(pictures, targets, mask_px=pictures.shape[-1] // proto_stride)
        parts, named = network.loss(batch)  # pyright: ignore[reportCallIssue]
        return {"loss": parts.sum() / len(pictures), **{k: v for k, v in named.items() if k != "sem_loss"}}

    def decode(self, network: nn.Module, pictures: Tensor, limits: Limits) -> list[Found]:  # noqa: D102
        (rows, prototypes), _ = network(pictures)
        classes: int = network.model[-1].nc  # pyright: ignore
        kept: Any = non_max_suppression(
            rows,
            conf_thres=limits.min_score,
            iou_thres=limits.nms_iou,
            max_det=limits.max_detections,
            nc=classes,
            max_time_img=3600.0,  # the library drops images when it is slow, and results would depend on the clock
        )
        side = pictures.shape[-1]
        found: list[Found] = []
        for row, prototype in zip(kept, prototypes, strict=True):
            masks = process_mask(prototype, row[:, 6:], row[:, :4], (side, side), upsample=True)
            row = row.double().cpu().numpy()
            found.append(Found(row[:, :4], row[:, 4], row[:, 5].astype(np.int64), masks.cpu().numpy().astype(np.float32)))
        return found
