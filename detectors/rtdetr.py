"""Adapter: a compact RT-DETR (arXiv 2304.08069) from ultralytics' model class, loss and decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.init import constant_

from detectors.datasets import Target
from detectors.protocol import Found, Limits
from detectors.ultralytics_models import RTDETRDetectionModel, build_model, read_architecture, to_batch, xywh2xyxy

PRIOR = 0.02


class RtDetr:
    """Boxes only."""

    has_masks = False

    def architecture(self, class_count: int) -> dict[str, Any]:  # noqa: D102
        return read_architecture("rtdetr", class_count)

    def build(self, architecture: dict[str, Any]) -> nn.Module:  # noqa: D102
        network: Any = build_model(RTDETRDetectionModel, architecture)
        network.nc = architecture["nc"]  # the loss reads it; the library's own trainer would set it
        decoder: Any = network.model[-1]
        # The library scales the prior's logit by classes / 80, which for five classes starts every query at 43 % instead of
        # 1 %: hundreds of steps would go into unlearning that.
        logit = -math.log((1 - PRIOR) / PRIOR)
        for head in [decoder.enc_score_head, *decoder.dec_score_head]:
            constant_(head.bias, logit)
        return network

    def is_class_tensor(self, name: str) -> bool:  # noqa: D102
        return "score_head" in name or "denoising_class_embed" in name

    def losses(self, network: nn.Module, pictures: Tensor, targets: Sequence[Sequence[Target]]) -> dict[str, Tensor]:  # noqa: D102
        batch = to_batch(pictures, targets, mask_px=None)
        total, named = network.loss(batch)  # pyright: ignore[reportCallIssue]
        return {"loss": total.sum(), **named}

    def decode(self, network: nn.Module, pictures: Tensor, limits: Limits) -> list[Found]:  # noqa: D102
        rows: Tensor = network(pictures)[0].cpu()
        side = pictures.shape[-1]
        found: list[Found] = []
        for row in rows:
            row = row[row[:, 4].argsort(descending=True, stable=True)]
            row = row[row[:, 4] >= limits.min_score][: limits.max_detections]
            boxes = (xywh2xyxy(row[:, :4]) * side).double().numpy()
            found.append(Found(boxes, row[:, 4].double().numpy(), row[:, 5].numpy().astype(np.int64), None))
        return found
