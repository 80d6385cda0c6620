"""The embedded start: weights pre-trained on drawn defects, checked by hash and taken over for a user's classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from detectors.model_files import ARCHITECTURE, WEIGHTS
from detectors.protocol import DETECTORS
from pipeline.weight_cards import WeightsError, verified_card

ROOT = Path(__file__).parent / "weights"


def _way_out(name: str) -> str:
    return f"run `python -m detectors pretrain --detector {name}`, or set `train.start: scratch` in params.yaml"


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Entries of two architectures that differ, as `backbone[3]: ... instead of ...`."""
    rows: list[str] = []
    for key in sorted(wanted.keys() | found.keys()):
        left, right = wanted.get(key), found.get(key)
        if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
            rows += [f"{key}[{i}]: {b} instead of {a}" for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b]
        elif left != right:
            rows.append(f"{key}: {right} instead of {left}")
    return rows


def _check_architecture(name: str, folder: Path) -> None:
    """Compare the pre-trained architecture with ours at its number of classes."""
    path = folder / ARCHITECTURE
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if rows := _differences(DETECTORS[name]().architecture(found["nc"]), found):
        raise WeightsError(
            f"{path} is not detectors/architectures/{name}.yaml ({'; '.join(rows[:3])}); the weights were pre-trained for "
            f"another network: {_way_out(name)}"
        )


def load_pretrained(name: str) -> tuple[dict[str, Tensor], str]:
    """Weights of a detector in float32, and the sha256 of their file.

    Raises:
        WeightsError: If they are missing, differ from their card, or were pre-trained for another architecture.
    """
    folder = ROOT / name
    if not folder.is_dir():
        raise WeightsError(f"{folder} is missing, expected the pre-trained weights of {name}; {_way_out(name)}")
    digest: str = verified_card(folder)["sha256"][WEIGHTS]
    _check_architecture(name, folder)
    weights = load_file(folder / WEIGHTS)
    return {key: value.float() if value.dtype.is_floating_point else value for key, value in weights.items()}, digest


@torch.no_grad()
def embed(name: str, network: nn.Module) -> dict[str, Any]:
    """Take over every pre-trained tensor that means the same for other classes; class heads keep their fresh weights.

    Args:
        name: A name of `DETECTORS`.
        network: Built for the user's classes, with fresh weights; changed in place.

    Returns:
        Facts for the card: the file's hash and how many tensors are pre-trained and fresh.

    Raises:
        WeightsError: See `load_pretrained`.
    """
    detector, (weights, digest) = DETECTORS[name](), load_pretrained(name)
    own = network.state_dict()
    # The inner width of YOLO's class branch grows with the classes once there are more of them than channels.
    taken = [key for key, value in own.items() if not detector.is_class_tensor(key) and weights[key].shape == value.shape]
    for key in taken:
        own[key].copy_(weights[key])
    return {"kind": "embedded", "sha256": digest, "tensors": len(taken), "fresh_tensors": len(own) - len(taken)}
