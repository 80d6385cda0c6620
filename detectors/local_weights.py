"""A start from a weight file of the user's: read without running anything in it, and taken over as far as it fits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from detectors.protocol import Detector
from pipeline.weight_cards import WeightsError, sha256_of

LEAST_SHARE = 0.5
"""Of the network's tensors that a file has to hold. A backbone alone holds more; another architecture next to nothing."""

_UNREADABLE = (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, as float32 where they are floating point.

    Args:
        path: `.safetensors`, or a torch file that holds a plain state dict.

    Raises:
        WeightsError: If the file is missing, damaged, or holds pickled objects, which would run code when loaded.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path} is missing, expected a weight file to start from; put it there, or name another in params.yaml"
        )
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise WeightsError(
            f"{path} is neither safetensors nor a torch file of tensors alone; a pickled model is not opened, since that would "
            "run code from it. docs/detectors.md has the line that converts one you trust"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{path} holds no plain state dict (name -> tensor); docs/detectors.md has the line that makes one")
    return {name: value.float() if value.dtype.is_floating_point else value for name, value in found.items()}


def _renamed(stored: dict[str, Tensor], detector: Detector, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the network's names, by whichever of the detector's prefixes makes most of them fit."""
    readings = (
        {new + name.removeprefix(old): value for name, value in stored.items() if name.startswith(old)}
        for old, new in detector.file_prefixes
    )
    return max(readings, key=lambda named: len(named.keys() & own.keys()))


@torch.no_grad()
def adopt(name: str, detector: Detector, network: nn.Module, path: Path) -> dict[str, Any]:
    """Take over every tensor of a file that fits; those of single classes stay fresh, since the file's classes are others.

    Args:
        name: The detector's, for messages.
        detector: Knows which tensors belong to single classes.
        network: With fresh weights; changed in place.
        path: See `read_weights`.

    Returns:
        Facts for the card: the file, its hash, how many tensors come from it and how many are fresh.

    Raises:
        WeightsError: If the file cannot be read, or belongs to another architecture.
    """
    own = network.state_dict()
    stored = _renamed(read_weights(path), detector, own)
    taken = [
        key
        for key, value in own.items()
        if not detector.is_class_tensor(key) and key in stored and stored[key].shape == value.shape
    ]
    if len(taken) < LEAST_SHARE * len(own):
        raise WeightsError(
            f"{path}: only {len(taken)} of the network's {len(own)} tensors are in it with the same name and shape; "
            f"it is of another architecture than train.{name}.architecture in params.yaml"
        )
    for key in taken:
        own[key].copy_(stored[key])
    facts = {"file": path.as_posix(), "sha256": sha256_of(path)}
    return {"kind": "file", **facts, "tensors": len(taken), "fresh_tensors": len(own) - len(taken)}
