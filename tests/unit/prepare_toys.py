"""Miniature raw sets on disk, and the way to the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.params import PrepareParams

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def real(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"the real set {name} is not at {REAL}")
    return REAL / name


def params(**changes: Any) -> PrepareParams:
    values: dict[str, Any] = {
        "source": "unused",
        "layout": "folder",
        "k": 2,
        "folds": (0,),
        "fold_count": 3,
        "val_parts": 1,
        "val_good_fraction": 0.2,
        "skip_invalid": False,
        "part_regex": None,
        "near_duplicate_min_correlation": 0.75,
        "sample": {"seed": 0, "size_px": 64, "parts_per_type": 6, "good_parts": 6},
    }
    return PrepareParams.model_validate(values | changes)


def texture(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """Grain of the size real surfaces have, as a share of the picture."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((height, width)), (0, 0), width / 18)
    return np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)


def spot(height: int = 40, width: int = 48) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[10:16, 20:30] = 255
    return mask


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def folder_set(root: Path, types: tuple[str, ...] = ("dent",), parts: int = 6, good: int = 6) -> Path:
    """A set of layout `folder`; every photo is another texture."""
    seed = 0
    for kind in types:
        for index in range(parts):
            seed += 1
            save(root / "images" / kind / f"{index:02d}.png", texture(seed))
            save(root / "masks" / kind / f"{index:02d}.png", spot())
    for index in range(good):
        seed += 1
        save(root / "images" / "good" / f"{index:02d}.png", texture(seed))
    return root
