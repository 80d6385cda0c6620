"""A trained detector on disk: safetensors, a YAML architecture, the class list and what was measured; no pickles."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detectors.protocol import DETECTORS, Detector
from pipeline.records import write_json, write_text

WEIGHTS, ARCHITECTURE, CLASSES = "weights.safetensors", "architecture.yaml", "classes.json"
HISTORY, CARD = "history.csv", "card.json"


class ModelFileError(ValueError):
    """A model folder is incomplete or does not fit the data."""


@dataclass(frozen=True)
class Trained:
    """A loaded detector."""

    detector: Detector
    network: nn.Module
    classes: tuple[str, ...]
    card: dict[str, Any]


def history_csv(losses: Sequence[dict[str, float]], rows_at_most: int | None = None) -> str:
    """One row a step; if that would be more than `rows_at_most`, the means of blocks of steps, named by the last of them."""
    block = 1 if rows_at_most is None else max(1, math.ceil(len(losses) / rows_at_most))
    names = list(losses[0])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["step", *names])
    for first in range(0, len(losses), block):
        rows = losses[first : first + block]
        means = (statistics.fmean(row.get(name, math.nan) for row in rows) for name in names)
        table.writerow([first + len(rows), *(f"{mean:.6g}" for mean in means)])
    return text.getvalue()


def to_half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float16; counters keep their type.

    Raises:
        ModelFileError: If a number is too large for float16.
    """
    halves = {name: value.half() if value.dtype.is_floating_point else value for name, value in weights.items()}
    if lost := [name for name, value in halves.items() if not bool(torch.isfinite(value).all())]:
        raise ModelFileError(f"{', '.join(lost)}: not finite in float16 (largest 65504); train with a lower rate")
    return halves


def save_network(out: Path, weights: dict[str, Tensor], architecture: dict[str, Any], classes: Sequence[str]) -> None:
    """Write weights, architecture and class list."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.cpu().contiguous() for name, value in sorted(weights.items())}, out / WEIGHTS)
    write_text(out / ARCHITECTURE, yaml.safe_dump(architecture, sort_keys=False))
    write_json(out / CLASSES, list(classes))


def save_model(
    out: Path, weights: dict[str, Tensor], architecture: dict[str, Any], losses: Sequence[dict[str, float]], card: dict[str, Any]
) -> None:
    """Write one model folder; `card` holds "classes" besides the facts of the training."""
    save_network(out, weights, architecture, card["classes"])
    write_text(out / HISTORY, history_csv(losses))
    write_json(out / CARD, card)


def load_model(folder: Path) -> Trained:
    """Load one model folder for prediction.

    Raises:
        ModelFileError: If a file is missing or the detector is unknown.
    """
    missing = [name for name in (WEIGHTS, ARCHITECTURE, CLASSES, CARD) if not (folder / name).exists()]
    if missing:
        raise ModelFileError(f"{folder}: {', '.join(missing)} missing; expected a finished `train` output, run it again")
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    if card["detector"] not in DETECTORS:
        raise ModelFileError(f"{folder}: detector {card['detector']!r} is none of {sorted(DETECTORS)}; train it again")
    detector = DETECTORS[card["detector"]]()
    network = detector.build(yaml.safe_load((folder / ARCHITECTURE).read_text(encoding="utf-8")))
    network.load_state_dict(load_file(folder / WEIGHTS))
    network.eval()
    classes = json.loads((folder / CLASSES).read_text(encoding="utf-8"))
    return Trained(detector, network, tuple(classes), card)
