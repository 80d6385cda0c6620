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
from pipeline.images import Mask
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


def _absolute(box: Any, height: int, width: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(v) for v in box[:4])
    return x0 * width, y0 * height, x1 * width, y1 * height


def _outline(target: Target) -> Mask:
    """The mask, widened by the margins that its drawn box leaves around it; its own box is the drawn one, to the pixel."""
    x0, y0, x1, y1 = mask_to_box(target.mask)
    left, top = max(0, round(x0 - target.box[0])), max(0, round(y0 - target.box[1]))
    right, bottom = max(0, round(target.box[2] - x1)), max(0, round(target.box[3] - y1))
    ys, xs = np.mgrid[-top : bottom + 1, -left : right + 1]
    # A quarter of an ellipse to each side, so that the mask's own pixels stay whatever the margins are.
    wide, high = xs / np.where(xs < 0, max(left, 1), max(right, 1)), ys / np.where(ys < 0, max(top, 1), max(bottom, 1))
    reach = (wide**2 + high**2 <= 1).astype(np.uint8)
    # A pixel spreads to where the kernel, mirrored, lies over it.
    return cv2.dilate(target.mask.astype(np.uint8), reach[::-1, ::-1], anchor=(right, bottom)) > 0


def augmenter(recipe: Recipe, drawn_boxes: bool) -> Callable[[Example, int], Example]:
    """A function from an example and a seed to its augmented twin.

    A target is dropped when less than a fifth of its box stays in the picture, or nothing of its mask. Boxes that are tight
    around masks are taken anew from the moved masks. Boxes that annotators drew with a margin are moved by `base`, which turns
    nothing; `classical` takes them around the moved mask and margin. The box around the corners of one turned by 30 degrees would
    have 1.9 times its area, and a detector that learns such boxes draws them. A grey picture stays grey: what is drawn for each
    channel, as noise is, is drawn once.
    """
    pipeline = compose(recipe)
    outlined = drawn_boxes and recipe == "classical"

    def apply(example: Example, seed: int) -> Example:
        height, width = example.picture.shape[:2]
        grey = bool((example.picture == example.picture[..., :1]).all())
        pipeline.set_random_seed(seed % 2**32)
        masks = [t.mask for t in example.targets]
        outlines = [_outline(t) for t in example.targets] if outlined else []
        moved = pipeline(
            image=example.picture[..., 0] if grey else example.picture,
            masks=[mask.astype(np.uint8) for mask in (*masks, *outlines)] or [np.zeros((height, width), np.uint8)],
            bboxes=np.array([_relative(t.box, height, width) for t in example.targets]).reshape(-1, 4),
            index=list(range(len(example.targets))),
        )
        shape, kept = moved["image"].shape[:2], [np.asarray(mask) > 0 for mask in moved["masks"]]
        targets: list[Target] = []
        for box, index in zip(moved["bboxes"], map(int, moved["index"]), strict=True):
            if not kept[index].any():
                continue
            around = kept[len(masks) + index] if outlined else kept[index]
            own = _absolute(box, *shape) if drawn_boxes and not outlined else mask_to_box(around)
            targets.append(Target(example.targets[index].category, own, kept[index]))
        picture = np.repeat(moved["image"][..., None], 3, axis=2) if grey else moved["image"]
        return Example(picture, tuple(targets), example.fit)

    return apply
