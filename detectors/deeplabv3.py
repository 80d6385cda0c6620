"""Adapter: DeepLabV3 (arXiv 1706.05587) from torchvision, a segmentation network whose map is cut into instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import get_model

from detectors.adapter_parts import read_architecture
from detectors.datasets import Target
from detectors.protocol import Found, Limits
from pipeline.images import Mask
from pipeline.labels.boxes import mask_to_box
from pipeline.labels.instances import instances

# Of ImageNet: torchvision's weight files were trained on pictures brought to them.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DICE_SMOOTH = 1.0
"""Pixels added to both sides of the Dice ratio, so that a class of two pixels does not jump between 0 and 1."""


class BatchSizeError(ValueError):
    """A batch is too small for the network's batch norms."""


def normalise(pictures: Tensor) -> Tensor:
    """(B, 3, S, S) pictures in [0, 1], as torchvision's weight files expect them."""
    mean, deviation = (pictures.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (pictures - mean) / deviation


def class_map(targets: Sequence[Target], side_px: int) -> Tensor:
    """(S, S) int64: 0 is background, class + 1 a defect. Where defects overlap the smaller is on top, or it could vanish."""
    canvas = np.zeros((side_px, side_px), np.int64)
    for target in sorted(targets, key=lambda t: -int(t.mask.sum())):
        height, width = target.mask.shape
        canvas[:height, :width][target.mask] = target.category + 1
    return torch.from_numpy(canvas)


def dice_loss(shares: Tensor, truth: Tensor) -> Tensor:
    """1 - soft Dice over the batch's pixels, mean over the defect classes present; 0 if there is none.

    nnU-Net (arXiv 1809.10486), section 2.2, adds it to the cross-entropy: defects are about a hundredth of the pixels, and
    cross-entropy alone is content with background. We leave out absent classes, whose Dice is 0 however right the map is.

    Args:
        shares: (B, C + 1, S, S) probabilities, background first.
        truth: (B, S, S) as from `class_map`.
    """
    wanted = F.one_hot(truth, shares.shape[1]).movedim(-1, 1)[:, 1:].to(shares.dtype)
    over = (0, 2, 3)
    present = wanted.sum(over)
    ratio = (2 * (shares[:, 1:] * wanted).sum(over) + DICE_SMOOTH) / (shares[:, 1:].sum(over) + present + DICE_SMOOTH)
    return ((1 - ratio) * (present > 0)).sum() / (present > 0).sum().clamp(min=1)


def cut(shares: NDArray[np.float32], close_px: int, min_area_px: int) -> list[tuple[float, int, Mask]]:
    """Score, class and (S, S) mask of every instance in a (C + 1, S, S) map of probabilities, best first.

    A pixel belongs to its most probable class; a class's pixels are split as real masks are. The score is the mean probability
    of the class over the instance.
    """
    winner, found = shares.argmax(axis=0), list[tuple[float, int, Mask]]()
    for category in range(len(shares) - 1):
        pieces = instances(winner == category + 1, close_px, min_area_px)
        # `instances` never empties a photo known to be defective; of a prediction nothing is known.
        large = [piece for piece in pieces if piece.sum() >= min_area_px]
        found += [(float(shares[category + 1][piece].mean(dtype=np.float64)), category, piece) for piece in large]
    return sorted(found, key=lambda row: -row[0])


class DeepLabV3:
    """Masks, and the boxes around them; the variant is its backbone."""

    has_masks = True
    # A whole DeepLabV3, a ResNet or a MobileNetV3 as torchvision saves them.
    file_prefixes = (("", ""), ("", "backbone."), ("features.", "backbone."))

    def architecture(self, class_count: int, variant: str) -> dict[str, Any]:  # noqa: D102
        return {**read_architecture("deeplabv3", class_count), "backbone": variant}

    def build(self, architecture: dict[str, Any]) -> nn.Module:  # noqa: D102
        network: Any = get_model(
            f"deeplabv3_{architecture['backbone']}", weights=None, weights_backbone=None, num_classes=architecture["nc"] + 1
        )
        network.rule = {key: architecture[key] for key in ("close_px", "min_area_px")}
        return network

    def is_class_tensor(self, name: str) -> bool:  # noqa: D102
        return name.startswith("classifier.4.")

    def losses(self, network: nn.Module, pictures: Tensor, targets: Sequence[Sequence[Target]]) -> dict[str, Tensor]:  # noqa: D102
        if len(pictures) < 2:
            # Its image pooling brings a picture to one pixel, which alone has no deviation to normalise by.
            raise BatchSizeError(f"DeepLabV3 trains on batches of 2 pictures or more, got {len(pictures)}; raise train.batch")
        truth = torch.stack([class_map(found, pictures.shape[-1]) for found in targets]).to(pictures.device)
        logits: Tensor = network(normalise(pictures))["out"]
        entropy, dice = F.cross_entropy(logits, truth), dice_loss(logits.softmax(dim=1), truth)
        return {"loss": entropy + dice, "cross_entropy": entropy, "dice": dice}

    def decode(self, network: nn.Module, pictures: Tensor, limits: Limits) -> list[Found]:  # noqa: D102
        maps = network(normalise(pictures))["out"].softmax(dim=1).cpu().numpy()
        rule: Any = network.rule
        return [_found(cut(shares, **rule), limits, pictures.shape[-1]) for shares in maps]


def _found(rows: list[tuple[float, int, Mask]], limits: Limits, side_px: int) -> Found:
    kept = [row for row in rows if row[0] >= limits.min_score][: limits.max_detections]
    boxes = np.array([mask_to_box(mask) for _, _, mask in kept], np.float64).reshape(-1, 4)
    masks = np.array([mask for _, _, mask in kept], np.float32).reshape(-1, side_px, side_px)
    return Found(boxes, np.array([row[0] for row in kept]), np.array([row[1] for row in kept], np.int64), masks)
