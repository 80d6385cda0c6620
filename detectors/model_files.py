"""A trained detector on disk: safetensors, a YAML architecture, the class list and what was measured; no pickles."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detectors.protocol import DETECTORS, Detector
from pipeline.records import write_json, write_text

WEIGHTS = "weights.safetensors"


class ModelFileError(ValueError):
    """A model folder is incomplete or does not fit the data."""


@dataclass(frozen=True)
class Trained:
    """A loaded detector."""

    detector: Detector
    network: nn.Module
    classes: tuple[str, ...]
    card: dict[str, Any]


def _history_csv(losses: Sequence[dict[str, float]]) -> str:
    names = list(losses[0])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["step", *names])
    for step, row in enumerate(losses, 1):
        table.writerow([step, *(f"{row.get(name, float('nan')):.6g}" for name in names)])
    return text.getvalue()


def save_model(
    out: Path, weights: dict[str, Tensor], architecture: dict[str, Any], losses: Sequence[dict[str, float]], card: dict[str, Any]
) -> None:
    """Write one model folder; `card` holds "classes" besides the facts of the training."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in sorted(weights.items())}, out / WEIGHTS)
    write_text(out / "architecture.yaml", yaml.safe_dump(architecture, sort_keys=False))
    write_json(out / "classes.json", card["classes"])
    write_text(out / "history.csv", _history_csv(losses))
    write_json(out / "card.json", card)


def load_model(folder: Path) -> Trained:
    """Load one model folder for prediction.

    Raises:
        ModelFileError: If a file is missing or the detector is unknown.
    """
    missing = [name for name in (WEIGHTS, "architecture.yaml", "classes.json", "card.json") if not (folder / name).exists()]
    if missing:
        raise ModelFileError(f"{folder}: {', '.join(missing)} missing; expected a finished `train` output, run it again")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    if card["detector"] not in DETECTORS:
        raise ModelFileError(f"{folder}: detector {card['detector']!r} is none of {sorted(DETECTORS)}; train it again")
    detector = DETECTORS[card["detector"]]()
    network = detector.build(yaml.safe_load((folder / "architecture.yaml").read_text(encoding="utf-8")))
    network.load_state_dict(load_file(folder / WEIGHTS))
    network.eval()
    classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    return Trained(detector, network, tuple(classes), card)
