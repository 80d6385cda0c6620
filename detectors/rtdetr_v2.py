"""Adapter: a compact RT-DETRv2 (arXiv 2407.17140) from transformers (Apache-2.0): its model class, loss and decoding rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_rt_detr import RTDetrLoss

from detectors.adapter_parts import centre_boxes, read_architecture, without_repeats
from detectors.datasets import Target
from detectors.protocol import Found, Limits

TERMS = ("loss_vfl", "loss_bbox", "loss_giou")
# Layers that the library starts as the paper does: offsets in a star, class heads at the prior, last box layers at zero.
STARTED_WELL = re.compile(r"sampling_offsets|attention_weights|class_embed|score_head|\.layers\.2$")


def _restart(network: nn.Module) -> None:
    """Give the layers outside the backbone torch's own initial weights.

    The library draws them, and the factors of its batch norms too, with a deviation of 0.01, since it expects finished weights
    to be loaded over them: every normalised map would be scaled to a hundredth.
    """
    for name, module in network.named_modules():
        if name.startswith("model.backbone") or STARTED_WELL.search(name):
            continue
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()


def _labels(targets: Sequence[Sequence[Target]], side_px: int, device: torch.device) -> list[dict[str, Tensor]]:
    """The library's targets: class indices and centre-size boxes as shares of the square, for each picture."""
    return [
        {
            "class_labels": torch.tensor([t.category for t in found], dtype=torch.int64, device=device),
            "boxes": centre_boxes(found, side_px).to(device),
        }
        for found in targets
    ]


def _losses_without_defects(network: Any, pictures: Tensor, labels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The class terms of all layers for a batch of good pictures alone, which the library's matcher cannot reshape."""
    out, criterion = network(pictures), RTDetrLoss(network.config)
    nobody = [(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))] * len(pictures)
    terms = [
        criterion.loss_labels_vfl({"logits": logits, "pred_boxes": out.pred_boxes}, labels, nobody, num_boxes=1)["loss_vfl"]
        for logits in [*out.intermediate_logits.unbind(1), out.enc_topk_logits]
    ]
    weight = criterion.weight_dict["loss_vfl"]
    nothing = torch.zeros((), device=pictures.device)
    named = dict.fromkeys(TERMS, nothing) | {"loss_vfl": weight * terms[-2]}
    return {"loss": weight * torch.stack(terms).sum(), **named}


class RtDetrV2:
    """Boxes only."""

    has_masks = False
    file_prefixes = (("", ""),)

    def architecture(self, class_count: int, variant: str) -> dict[str, Any]:  # noqa: D102
        return read_architecture("rtdetr_v2", class_count)

    def build(self, architecture: dict[str, Any]) -> nn.Module:  # noqa: D102
        settings: dict[str, Any] = {"num_labels": architecture["nc"], **architecture}
        del settings["nc"]
        network = RTDetrV2ForObjectDetection(RTDetrV2Config(**settings))
        _restart(network)
        return network

    def is_class_tensor(self, name: str) -> bool:  # noqa: D102
        return "class_embed" in name or "enc_score_head" in name

    def losses(self, network: nn.Module, pictures: Tensor, targets: Sequence[Sequence[Target]]) -> dict[str, Tensor]:  # noqa: D102
        labels = _labels(targets, pictures.shape[-1], pictures.device)
        if not any(targets):
            return _losses_without_defects(network, pictures, labels)
        out = network(pictures, labels=labels)
        return {"loss": out.loss, **{term: out.loss_dict[term] for term in TERMS}}

    def decode(self, network: nn.Module, pictures: Tensor, limits: Limits) -> list[Found]:  # noqa: D102
        out = network(pictures)
        corner_boxes: Any = center_to_corners_format(out.pred_boxes)
        scores, boxes = out.logits.sigmoid().cpu(), corner_boxes.cpu() * pictures.shape[-1]
        queries, classes = scores.shape[1:]
        found: list[Found] = []
        for flat, corners in zip(scores.flatten(1), boxes, strict=True):
            # As the library's image processor: as many (query, class) pairs as there are queries. It takes them by `topk`,
            # which orders equal scores as it likes.
            order = flat.argsort(descending=True, stable=True)[:queries]
            order = order[flat[order] >= limits.min_score]
            kept = without_repeats(corners[order // classes], flat[order], order % classes, limits.nms_iou)
            order = order[kept[: limits.max_detections]]
            rows = corners[order // classes].double().numpy()
            found.append(Found(rows, flat[order].double().numpy(), (order % classes).numpy().astype(np.int64), None))
        return found
