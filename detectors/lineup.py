"""Which trained models there are, and whether they may stand beside each other: same data, same recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.model_files import ModelFileError
from pipeline.params import LabelParams
from pipeline.val_matches import VAL_MATCHES

_SHOWN = 5


@dataclass(frozen=True)
class ModelFolder:
    """One trained model: `<models>/<detector>/<arm>/fold-<f>`."""

    detector: str
    arm: str
    fold: int
    path: Path


def find_models(models: Path) -> list[ModelFolder]:
    """Every model folder below `models`, by fold, detector and arm (`real` and `classical` first).

    Raises:
        ModelFileError: If there is none.
    """
    found = [
        ModelFolder(path.parents[1].name, path.parent.name, int(path.name.removeprefix("fold-")), path)
        for path in models.glob("*/*/fold-*")
        if path.is_dir() and path.name.removeprefix("fold-").isdigit()
    ]
    if not found:
        raise ModelFileError(f"{models}: no model <detector>/<arm>/fold-<f>; run `train` first")
    first = {"real": 0, "classical": 1}
    return sorted(found, key=lambda m: (m.fold, m.detector, first.get(m.arm, 2), m.arm))


def learned_from(models: Sequence[ModelFolder], label: LabelParams) -> dict[str, str]:
    """Digests of what all models were trained on: `train`, `val`, and `labelled/<generator>` of each generator among the arms.

    DVC leaves the folder of an arm that was trained by hand, or that left `dvc.yaml`, as it is. Such a model may have learned
    from parts that are tested now, or by another recipe than the arms it would be compared with.

    Raises:
        ModelFileError: Naming the folders that do not fit the others, or this section `label`, and in what.
    """
    read: dict[str, str] = {}
    recipes: dict[str, dict[str, Any]] = {}
    strange: list[str] = []
    for model in models:
        facts = _facts(model)
        others = [] if facts.label == label.model_dump(mode="json") else ["label"]
        others += _unlike(read, facts.read) + _unlike(recipes.setdefault(model.detector, {}), facts.recipe)
        if others:
            strange.append(f"{model.path} ({', '.join(others)})")
    if strange:
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise ModelFileError(
            f"models that were not trained on the same data by the same recipe as {models[0].path} cannot be compared with it: "
            f"{'; '.join(strange[:_SHOWN])}{more}; train the older ones again (`dvc repro` trains those of dvc.yaml), or delete "
            "their folders"
        )
    return read


def _unlike(known: dict[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Names under which `own` has another value than `known`, which learns those it has not seen."""
    return [name for name, value in own.items() if known.setdefault(name, value) != value]


@dataclass(frozen=True)
class _Facts:
    """What a model rests on: digests of data, its section `label`, and of its recipe what has to be the same in every arm."""

    read: Mapping[str, str]
    label: Mapping[str, Any]
    recipe: Mapping[str, Any]


def _facts(model: ModelFolder) -> _Facts:
    files = [model.path / name for name in ("card.json", VAL_MATCHES)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelFileError(f"{model.path}: {', '.join(missing)} missing; train this arm again, or delete the folder")
    card, val = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    generator = card["arm"]["generator"]
    read = {f"labelled/{generator}" if name == "labelled" else name: value for name, value in val["read"].items()}
    return _Facts(read, val["label"], card["params"])
