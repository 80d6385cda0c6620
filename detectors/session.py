"""One training under way, of a user's detector or of the one others start from: network, average, best so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from detectors.best import Best
from detectors.protocol import DETECTORS, Detector
from pipeline.averaging import Ema
from pipeline.seeds import derive_seed


@dataclass
class Session:
    """A network that learns, and the twin its averaged weights are scored in."""

    detector: Detector
    architecture: dict[str, Any]
    network: nn.Module
    twin: nn.Module
    ema: Ema
    best: Best


def fresh_network(name: str, variant: str, class_count: int, seed: int) -> nn.Module:
    """A network with random weights; they depend on detector, variant, classes and seed only, so every arm starts alike."""
    detector = DETECTORS[name]()
    torch.manual_seed(derive_seed(seed, "initial weights", name))
    return detector.build(detector.architecture(class_count, variant))


def open_session(name: str, variant: str, class_count: int, network: nn.Module, ema_decay: float) -> Session:
    """Start from the network's present weights, on its device.

    Kernels are laid out channels-last, as `to_tensor` lays out pictures: a step of the compact RT-DETR takes five sixths of the
    time.
    """
    detector = DETECTORS[name]()
    architecture = detector.architecture(class_count, variant)
    twin = detector.build(architecture).to(next(network.parameters()).device)
    for one in (network, twin):
        one.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Session(detector, architecture, network, twin, Ema(network, ema_decay), Best())


def weight_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels, none on biases and norms."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def validation_row(step: int, scores: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one validation that are kept, from `metrics.all_scores`."""
    row = {"step": step, "image_auroc": scores["image_auroc"]}
    for kind in ("box", "mask"):
        found = scores[kind] or {}
        row |= {f"{kind}_map50": found.get("map50"), f"{kind}_map": found.get("map")}
    return row
