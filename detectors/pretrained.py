"""What a training starts from: weights pre-trained on drawn defects, a local file, or chance.

The pre-trained ones are checked by hash and fitted to a user's classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from detectors.local_weights import adopt
from detectors.model_files import ARCHITECTURE, CLASSES, WEIGHTS
from detectors.params import TrainParams
from detectors.protocol import COMPACT, DETECTORS, EMBEDDED
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
    if rows := _differences(DETECTORS[name]().architecture(found["nc"], COMPACT), found):
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


def related_types(name: str, drawn: Sequence[str]) -> list[str]:
    """The drawn types that share a word with a user's type; all of them if none does.

    >>> related_types("Break", ["crack", "edge_break"]), related_types("pinhole", ["crack", "hole"])
    (['edge_break'], ['crack', 'hole'])
    """
    words = set(re.findall(r"[a-z]+", name.lower()))
    return [kind for kind in drawn if words & set(kind.split("_"))] or list(drawn)


@torch.no_grad()
def embed(name: str, network: nn.Module, classes: Sequence[str]) -> dict[str, Any]:
    """Take over every pre-trained tensor that fits; what belongs to single classes starts from the mean of related drawn types.

    A class head of fresh weights would have to learn from a few photos what a defect is at all.

    Args:
        name: A name of `EMBEDDED`.
        network: Built for the user's classes, with fresh weights; changed in place.
        classes: Names of the user's defect types, in the order of the network's classes.

    Returns:
        Facts for the card: the file's hash, how many tensors are pre-trained and fresh, and what each class starts from.

    Raises:
        WeightsError: See `load_pretrained`.
    """
    detector, (weights, digest) = DETECTORS[name](), load_pretrained(name)
    drawn: list[str] = json.loads((ROOT / name / CLASSES).read_text(encoding="utf-8"))
    starts = {kind: related_types(kind, drawn) for kind in classes}
    rows = [[drawn.index(related) for related in starts[kind]] for kind in classes]
    own, fresh = network.state_dict(), 0
    for key, value in own.items():
        stored = weights[key]
        if detector.is_class_tensor(key):
            stored = torch.stack([stored[chosen].mean(dim=0) for chosen in rows])
        if stored.shape == value.shape:
            value.copy_(stored)
        else:
            # The inner width of YOLO's class branch grows with the classes once there are more of them than channels.
            fresh += 1
    return {"kind": "embedded", "sha256": digest, "tensors": len(own) - fresh, "fresh_tensors": fresh, "class_starts": starts}


def first_weights(params: TrainParams, name: str, network: nn.Module, classes: Sequence[str]) -> dict[str, Any]:
    """Give a fresh network the weights its parameters name: a local file, the embedded ones, or those it has.

    Args:
        params: Section `train`.
        name: A name of `DETECTORS`.
        network: Built for the user's classes, with fresh weights; changed in place.
        classes: As in `embed`.

    Returns:
        Facts for the card; `kind` is `file`, `embedded` or `scratch`, the last with its reason.

    Raises:
        WeightsError: If the file or the embedded weights do not fit, see `adopt` and `embed`.
    """
    tuning = params.tuning(name)
    if tuning.weights is not None:
        return adopt(name, DETECTORS[name](), network, Path(tuning.weights))
    if name not in EMBEDDED:
        return {"kind": "scratch", "reason": f"train.{name}.start is scratch; {name} has no weights in the repository"}
    if params.start == "scratch":
        return {"kind": "scratch", "reason": "train.start is scratch"}
    if tuning.architecture != COMPACT:
        raise WeightsError(
            f"the embedded weights of {name} are of architecture {COMPACT}, train.{name}.architecture is {tuning.architecture}: "
            f"give a local file as train.{name}.weights, or set `train.start: scratch` in params.yaml"
        )
    return embed(name, network, classes)
