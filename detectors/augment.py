"""Augmentation recipes; the only module that knows albumentations (2.0.8, the last MIT release)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Literal

# Without it the import asks the package index for a newer version, with a time-out.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from detectors.datasets import Example, Target
from detectors.letterbox import PAD_GREY
from pipeline.labels.boxes import mask_to_box

Recipe = Literal["base", "classical"]
MIN_VISIBLE = 0.2


def _base() -> list[Any]:
    """Flips, scale, shift, brightness: what every arm gets."""
    return [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        _affine(scale=(0.85, 1.2), shift=0.08, rotate=0.0, shear=0.0),
        A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.15, p=0.7),
    ]


def _affine(scale: tuple[float, float], shift: float, rotate: float, shear: float) -> Any:
    # A mirrored border would mirror defects into it, and albumentations would double their boxes.
    return A.Affine(
        scale=scale,
        translate_percent=(-shift, shift),
        rotate=(-rotate, rotate),
        shear=(-shear, shear),
        border_mode=cv2.BORDER_CONSTANT,
        fill=PAD_GREY,
        fill_mask=0,
        p=0.8,
    )


def _classical() -> list[Any]:
    """What an engineer without a generator would try: strong geometry, noise, blur and tone."""
    return [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.RandomRotate90(p=0.5),
        _affine(scale=(0.7, 1.4), shift=0.15, rotate=30.0, shear=6.0),
        A.OneOf(
            [
                A.ElasticTransform(alpha=20.0, sigma=6.0, border_mode=cv2.BORDER_CONSTANT, fill=PAD_GREY),
                A.Perspective(scale=(0.02, 0.08), border_mode=cv2.BORDER_CONSTANT, fill=PAD_GREY),
            ],
            p=0.4,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.25, contrast_limit=0.25, p=0.7),
        A.OneOf([A.CLAHE(clip_limit=2.0), A.RandomGamma(gamma_limit=(70, 140))], p=0.4),
        A.OneOf([A.GaussNoise(std_range=(0.01, 0.05)), A.GaussianBlur(blur_limit=(3, 5)), A.Sharpen()], p=0.4),
    ]


def compose(recipe: Recipe) -> Any:
    """The albumentations pipeline of a recipe.

    Raises:
        UserWarning: If the library does not know an argument; it would only warn and ignore it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        steps = _base() if recipe == "base" else _classical()
        boxes = A.BboxParams(
            format="albumentations", label_fields=["index"], clip=True, filter_invalid_bboxes=True, min_visibility=MIN_VISIBLE
        )
        return A.Compose(steps, bbox_params=boxes)


def _relative(box: tuple[float, ...], height: int, width: int) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0 / width, y0 / height, x1 / width, y1 / height]


def _moved(target: Target, mask: Any, box: Any, shape: tuple[int, int], drawn_boxes: bool) -> Target | None:
    """The target after the transform; None if nothing of its mask is left."""
    kept = np.asarray(mask) > 0
    if not kept.any():
        return None
    height, width = shape
    x0, y0, x1, y1 = (float(v) for v in box[:4])
    moved = (x0 * width, y0 * height, x1 * width, y1 * height) if drawn_boxes else mask_to_box(kept)
    return Target(target.category, moved, kept)


def augmenter(recipe: Recipe, drawn_boxes: bool) -> Callable[[Example, int], Example]:
    """A function from an example and a seed to its augmented twin.

    A target is dropped when less than a fifth of its box stays in the picture. Where boxes are tight around masks they are
    taken anew from the moved masks; where annotators drew them with a margin, the drawn box is moved.
    """
    pipeline = compose(recipe)

    def apply(example: Example, seed: int) -> Example:
        height, width = example.picture.shape[:2]
        pipeline.set_random_seed(seed % 2**32)
        moved = pipeline(
            image=example.picture,
            masks=[t.mask.astype(np.uint8) for t in example.targets] or [np.zeros((height, width), np.uint8)],
            bboxes=np.array([_relative(t.box, height, width) for t in example.targets]).reshape(-1, 4),
            index=list(range(len(example.targets))),
        )
        shape = moved["image"].shape[:2]
        targets: list[Target] = []
        for box, index in zip(moved["bboxes"], moved["index"], strict=True):
            target = _moved(example.targets[int(index)], moved["masks"][int(index)], box, shape, drawn_boxes)
            targets += [target] if target is not None else []
        return Example(moved["image"], tuple(targets), example.fit)

    return apply
