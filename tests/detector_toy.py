"""A small procedural factory for the tests of labels and detectors: textures with blobs, scratches and rings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.images import Mask, Picture, write_png
from pipeline.records import DatasetCard, Sample, Split, write_card, write_manifest

CLASSES = ("blob", "ring", "scratch")


def _surface(rng: np.random.Generator, size_px: int) -> np.ndarray:
    grain = gaussian_filter(rng.normal(size=(size_px, size_px)), (1.0, 4.0))
    shade = gaussian_filter(rng.normal(size=(size_px, size_px)), size_px / 4)
    return 130 + 12 * grain / grain.std() + 10 * shade / shade.std()


def _defect(kind: str, rng: np.random.Generator, size_px: int) -> Mask:
    canvas = np.zeros((size_px, size_px), np.uint8)
    x, y = (int(v) for v in rng.uniform(0.25, 0.75, 2) * size_px)
    radius = int(rng.uniform(0.06, 0.13) * size_px)
    if kind == "scratch":
        dx, dy = (int(v) for v in rng.uniform(-0.25, 0.25, 2) * size_px)
        cv2.line(canvas, (x - dx, y - dy), (x + dx, y + dy + 3), 1, 2)
    else:
        axes = (radius, int(radius * rng.uniform(0.6, 1.0)))
        cv2.ellipse(canvas, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1 if kind == "blob" else 3)
    return canvas > 0


def _paint(surface: np.ndarray, kind: str, mask: Mask, rng: np.random.Generator) -> Picture:
    strength = {"blob": -45, "ring": 40, "scratch": 55}[kind] * rng.uniform(0.8, 1.2)
    grey = surface + strength * gaussian_filter(mask.astype(float), 0.7)
    return np.clip(grey, 0, 255).astype(np.uint8)


def _write(folder: Path, names: list[tuple[str, str | None]], split: Split, size_px: int, fold: int) -> list[Sample]:
    samples: list[Sample] = []
    for name, kind in names:
        rng = np.random.default_rng(list(f"{split}{name}".encode()))
        surface, mask_path = _surface(rng, size_px), None
        if kind is not None:
            mask = _defect(kind, rng, size_px)
            surface, mask_path = _paint(surface, kind, mask, rng), f"masks/{name}.png"
            write_png(folder / mask_path, mask)
        write_png(folder / "images" / f"{name}.png", np.clip(surface, 0, 255).astype(np.uint8))
        samples.append(Sample(name, f"images/{name}.png", mask_path, kind, f"{split}-{name}", split, fold))
    return samples


def write_split(folder: Path, split: Split, size_px: int, per_type: int, good: int, folds: tuple[int, ...] = (0,)) -> None:
    """One of `train`, `val`, `test` in the form `prepare` writes."""
    samples: list[Sample] = []
    for fold in folds:
        names: list[tuple[str, str | None]] = [(f"f{fold}-{kind}-{i}", kind) for kind in CLASSES for i in range(per_type)]
        samples += _write(folder, names + [(f"f{fold}-good-{i}", None) for i in range(good)], split, size_px, fold)
    write_manifest(folder, samples)
    write_card(folder, DatasetCard("toy", "sample", CLASSES, per_type, {}, folds, "mask"))


def write_prepared(root: Path, size_px: int, per_type: int = 2, good: int = 4, folds: tuple[int, ...] = (0,)) -> Path:
    """`prepared/` with all three splits."""
    splits: tuple[Split, ...] = ("train", "val", "test")
    for split in splits:
        write_split(root / "prepared" / split, split, size_px, per_type, good, folds)
    return root / "prepared"


def write_selected(root: Path, size_px: int, per_type: int = 3, fold: int = 0) -> Path:
    """`selected/copy_paste/` as the stage `select` writes it."""
    folder = root / "selected" / "copy_paste" / f"fold-{fold}"
    names: list[tuple[str, str | None]] = [(f"syn-{kind}-{i}", kind) for kind in CLASSES for i in range(per_type)]
    samples = _write(folder, names, "train", size_px, fold)
    made = [Sample(s.id, s.image, s.mask, s.defect, s.part_id, "train", fold, "synthetic") for s in samples]
    write_manifest(folder, made)
    return folder.parent
