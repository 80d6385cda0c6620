"""The card beside weights that lie in the repository: what they are, how they were made, and the hash they must have."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.records import write_json

CARD = "card.json"
_HASHES, _SIZES = "sha256", "bytes"


class WeightsError(ValueError):
    """Weights are missing, or are not those their card describes."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weight_files(folder: Path) -> dict[str, Path]:
    """Every safetensors file below `folder` by its relative POSIX path."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.safetensors"))}


def write_weight_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write `folder/card.json`: the facts (data, steps, seed, machine, numbers), and hash and size of every weight file.

    Raises:
        WeightsError: If there is no weight file, or a fact has the name of an entry that is written here.
    """
    files = _weight_files(folder)
    if not files:
        raise WeightsError(f"{folder}: no .safetensors file to describe; save the weights before their card")
    if taken := sorted(facts.keys() & {_HASHES, _SIZES}):
        raise WeightsError(f"{folder}: facts hold {taken}, which the card fills in itself; rename them")
    hashes = {name: sha256_of(path) for name, path in files.items()}
    write_json(folder / CARD, {**facts, _HASHES: hashes, _SIZES: {name: path.stat().st_size for name, path in files.items()}})


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        raise WeightsError(f"{path} is missing; expected it beside the weights, check the folder out of the repository again")
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(card.get(_HASHES), dict):
        raise WeightsError(f"{path} has no entry {_HASHES!r} (file -> hash); check it out of the repository again")
    return card


def verified_card(folder: Path) -> dict[str, Any]:
    """The card of weights whose every file is there and has the hash the card says.

    Raises:
        WeightsError: If the card or a file is missing, a file has another hash, or a weight file is not on the card.
    """
    card = _read_card(folder)
    expected, files = card[_HASHES], _weight_files(folder)
    for name, wanted in expected.items():
        if name not in files:
            raise WeightsError(
                f"{folder / name} is missing, its card expects sha256 {wanted}; check it out of the repository again"
            )
        found = sha256_of(files[name])
        if found != wanted:
            raise WeightsError(
                f"{folder / name} has sha256 {found}, its card expects {wanted}; "
                "check both out of the repository again, or pre-train again"
            )
    if strangers := sorted(files.keys() - expected.keys()):
        raise WeightsError(f"{folder / strangers[0]} is not on the card {folder / CARD}; remove the file, or pre-train again")
    return card
