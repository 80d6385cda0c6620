"""Adapter: RT-DETR (arXiv 2304.08069), compact or as published, from ultralytics' model class, loss and decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.init import constant_

from detectors.adapter_parts import read_architecture, without_repeats
from detectors.datasets import Target
from detectors.letterbox import STRIDE_PX
from detectors.protocol import COMPACT, Found, Limits
from detectors.ultralytics_models import RTDETRDetectionModel, build_model, library_architecture, to_batch, xywh2xyxy

PRIOR = 0.02
LIBRARY_LEAST_PX = 128
"""Side from which on the published networks have the 300 cells, at strides 8 to 32, that their queries are chosen from."""


class SideError(ValueError):
    """The network's square has fewer cells than the network has queries."""


class RtDetr:
    """Boxes only."""

    has_masks = False
    file_prefixes = (("", ""),)

    def architecture(self, class_count: int, variant: str) -> dict[str, Any]:  # noqa: D102
        return read_architecture("rtdetr", class_count) if variant == COMPACT else library_architecture(variant, class_count)

    def build(self, architecture: dict[str, Any]) -> nn.Module:  # noqa: D102
        network: Any = build_model(RTDETRDetectionModel, architecture)
        network.nc = architecture["nc"]  # the loss reads it; the library's own trainer would set it
        decoder: Any = network.model[-1]
        # The library scales the prior's logit by classes / 80, which for five classes starts every query at 43 % instead of
        # 1 %: hundreds of steps would go into unlearning that.
        logit = -math.log((1 - PRIOR) / PRIOR)
        for head in [decoder.enc_score_head, *decoder.dec_score_head]:
            constant_(head.bias, logit)
        network.least_side_px = LIBRARY_LEAST_PX if "scale" in architecture else STRIDE_PX
        return network

    def is_class_tensor(self, name: str) -> bool:  # noqa: D102
        return "score_head" in name or "denoising_class_embed" in name

    def losses(self, network: nn.Module, pictures: Tensor, targets: Sequence[Sequence[Target]]) -> dict[str, Tensor]:  # noqa: D102
        least_px: Any = network.least_side_px
        if pictures.shape[-1] < least_px:
            raise SideError(
                f"photos of {pictures.shape[-1]} px are too small for this RT-DETR, which needs {least_px}; set "
                "train.rtdetr.architecture to compact"
            )
        batch = to_batch(pictures, targets, mask_px=None)
        total, named = network.loss(batch)  # pyright: ignore[reportCallIssue]
        return {"loss": total.sum(), **named}

    def decode(self, network: nn.Module, pictures: Tensor, limits: Limits) -> list[Found]:  # noqa: D102
        rows: Tensor = network(pictures)[0].cpu()
        side = pictures.shape[-1]
        found: list[Found] = []
        for row in rows:
            row = row[row[:, 4].argsort(descending=True, stable=True)]
            row = row[row[:, 4] >= limits.min_score]
            boxes = xywh2xyxy(row[:, :4]) * side
            kept = without_repeats(boxes, row[:, 4], row[:, 5], limits.nms_iou)[: limits.max_detections]
            row, corners = row[kept], boxes[kept].double().numpy()
            found.append(Found(corners, row[:, 4].double().numpy(), row[:, 5].numpy().astype(np.int64), None))
        return found
