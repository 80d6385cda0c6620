"""The three losses of DefectFill as functions of tensors; their weights stay with the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "area"]
AttentionNorm = Literal["none", "max"]


def weighted_squared_error(predicted: Tensor, target: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    """||W .* (target - predicted)||^2, averaged over the batch.

    The weight is inside the norm, so a weight of 0.3 counts 0.09, as the paper's formula says.

    Args:
        predicted: (B, C, h, w).
        target: (B, C, h, w).
        weight: (B, 1, h, w) in [0, 1].
        reduction: "mean" divides by all C*h*w elements; "area" by C times the sum of the squared weight of that sample, so
            that a small defect weighs as much as a large one.
    """
    squared = (weight * (target - predicted)).square().sum(dim=(1, 2, 3))
    channels = predicted.shape[1]
    if reduction == "mean":
        return (squared / (channels * predicted.shape[2] * predicted.shape[3])).mean()
    # A mask that vanishes at latent size contributes 0 instead of 0/0.
    return (squared / (channels * weight.square().sum(dim=(1, 2, 3))).clamp(min=1.0)).mean()


def defect_loss(predicted: Tensor, target: Tensor, mask: Tensor, reduction: Reduction) -> Tensor:
    """L_def: only the defect's own pixels, seen with the true mask. `mask` is (B, 1, h, w) of 0 and 1."""
    return weighted_squared_error(predicted, target, mask, reduction)


def object_loss(predicted: Tensor, target: Tensor, mask: Tensor, background_weight: float, reduction: Reduction) -> Tensor:
    """L_obj: the whole crop, seen with random boxes, weighted by M' = M + alpha (1 - M) of the TRUE mask M (B, 1, h, w)."""
    return weighted_squared_error(predicted, target, mask + background_weight * (1.0 - mask), reduction)


def averaged_map(maps: Sequence[Tensor], size: tuple[int, int], norm: AttentionNorm) -> Tensor:
    """A: the token's attention averaged over the decoder's cross-attention layers, (B, 1, h, w).

    Args:
        maps: One (B, h_i, w_i) map a layer, heads already averaged, probabilities.
        size: (h, w); the maps are resized to it bilinearly.
        norm: "max" divides each averaged map by its own maximum.

    Raises:
        ValueError: If there is no map: the loss would silently train nothing.
    """
    if not maps:
        raise ValueError("no attention map was recorded; the recording processors are not installed on the up blocks")
    resized = [F.interpolate(m[:, None].float(), size=size, mode="bilinear", align_corners=False) for m in maps]
    average = torch.stack(resized).mean(dim=0)
    if norm == "max":
        average = average / average.amax(dim=(2, 3), keepdim=True).clamp(min=1e-8)
    return average


def attention_loss(maps: Sequence[Tensor], mask: Tensor, norm: AttentionNorm, counted: Tensor | None = None) -> Tensor:
    """L_attn = mean (A - M)^2, with A of `averaged_map` at the size of the mask.

    Args:
        maps: See `averaged_map`.
        mask: (B, 1, h, w) of 0 and 1.
        norm: See `averaged_map`.
        counted: (B,) of 0 and 1; a row with 0, whose prompt lacks the token, adds nothing. None counts all.
    """
    height, width = mask.shape[-2:]
    squared = (averaged_map(maps, (height, width), norm) - mask).square()
    return squared.mean() if counted is None else (squared * counted.view(-1, 1, 1, 1)).mean()
