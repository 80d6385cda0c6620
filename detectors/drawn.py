"""Pictures for pre-training, each drawn anew from its own seed; the only door to the procedural factory. Needs no torch."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from detectors.datasets import Example, Target
from detectors.letterbox import Fit, resize
from detectors.params import DrawingParams
from pipeline.images import Mask, Picture
from pipeline.labels.boxes import box_to_coco, mask_to_box
from pipeline.labels.coco import encode_mask
from pipeline.procedural.factory import DEFECT_TYPES, draw
from pipeline.seeds import derive_seed

CLASSES = DEFECT_TYPES
SMALLEST_PX = 8
"""A target needs as many mask pixels; what a resize or cut leaves of smaller ones is not labelled."""
SMALLEST_DRAWING_PX = 32
STEPS_AHEAD = 3

Marked = tuple[Picture, list[tuple[str, Mask]]]
"""A picture and its defects: type and mask."""


@dataclass(frozen=True)
class Job:
    """One picture to draw: everything in it comes from the seed."""

    seed: int
    side_px: int


def _one(rng: np.random.Generator, side_px: int, zoom: tuple[float, float]) -> Marked:
    """A drawing of another size brought to `side_px`, so that textures and defects of a type come in many scales."""
    factor = math.exp(rng.uniform(math.log(zoom[0]), math.log(zoom[1])))
    drawn_px = max(SMALLEST_DRAWING_PX, round(side_px / factor))
    drawing = draw(rng, drawn_px)
    size = (side_px, side_px)
    smaller = drawn_px > side_px
    picture = resize(drawing.picture, size, cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    marks = [(name, _to_size(mask, size, smaller)) for name, mask in drawing.instances]
    return picture, [(name, mask) for name, mask in marks if mask.sum() >= SMALLEST_PX]


def _to_size(mask: Mask, size: tuple[int, int], smaller: bool) -> Mask:
    if smaller:
        return Fit((mask.shape[0], mask.shape[1]), size).shrink_mask(mask)
    return resize(mask.astype(np.float32), size, cv2.INTER_LINEAR) >= 0.5


def _mosaic(rng: np.random.Generator, side_px: int, zoom: tuple[float, float]) -> Marked:
    """Four drawings side by side: small defects, many of them, on several surfaces at once."""
    half = side_px // 2
    picture, marks = np.empty((side_px, side_px, 3), np.uint8), list[tuple[str, Mask]]()
    for top, left in ((0, 0), (0, half), (half, 0), (half, half)):
        part, found = _one(rng, half, zoom)
        window = (slice(top, top + half), slice(left, left + half))
        picture[window] = part
        for name, mask in found:
            whole = np.zeros((side_px, side_px), np.bool_)
            whole[window] = mask
            marks.append((name, whole))
    return picture, marks


def _narrow(rng: np.random.Generator, marked: Marked) -> Marked:
    """A strip of the picture, half to all of it: the network pads it, as it pads photos that are not square."""
    picture, marks = marked
    side = picture.shape[0]
    length = int(rng.integers(side // 2, side + 1))
    start = int(rng.integers(0, side - length + 1))
    window = (slice(start, start + length), slice(None)) if rng.random() < 0.5 else (slice(None), slice(start, start + length))
    cut = [(name, np.ascontiguousarray(mask[window])) for name, mask in marks]
    return np.ascontiguousarray(picture[window]), [(name, mask) for name, mask in cut if mask.sum() >= SMALLEST_PX]


def draw_example(job: Job, drawing: DrawingParams) -> Example:
    """The picture of a job with its targets, at most `job.side_px` long and wide."""
    rng = np.random.default_rng(job.seed)
    make = _mosaic if rng.random() < drawing.mosaic_share else _one
    marked = make(rng, job.side_px, drawing.zoom)
    picture, marks = _narrow(rng, marked) if rng.random() < drawing.narrow_share else marked
    size = (picture.shape[0], picture.shape[1])
    targets = tuple(Target(CLASSES.index(name), mask_to_box(mask), mask) for name, mask in marks)
    return Example(picture, targets, Fit(size, size))


def side_at(drawing: DrawingParams, seed: int, step: int) -> int:
    """Side of the network's square at a step."""
    rng = np.random.default_rng(derive_seed(seed, "side", step))
    return int(rng.choice(drawing.sides_px))


def jobs_at(drawing: DrawingParams, seed: int, step: int) -> list[Job]:
    """The pictures of a step: fewer the larger they are, so that every step costs about the same, and at least two."""
    side = side_at(drawing, seed, step)
    count = max(2, drawing.pixels_per_step // side**2)
    return [Job(derive_seed(seed, "drawn", step, place), side) for place in range(count)]


def validation_jobs(drawing: DrawingParams, seed: int, count: int) -> list[Job]:
    """Pictures no step draws, of every side in turn."""
    sides = drawing.sides_px
    return [Job(derive_seed(seed, "drawn validation", place), sides[place % len(sides)]) for place in range(count)]


def coco_truth(examples: Sequence[Example]) -> dict[str, Any]:
    """COCO document of examples in memory; image id = place from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, example in enumerate(examples, 1):
        images.append({"id": image_id, "height": example.fit.size[0], "width": example.fit.size[1]})
        for target in example.targets:
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": target.category + 1, "iscrowd": 0}
            area = float(target.mask.sum())
            annotations.append({**row, "bbox": box_to_coco(target.box), "segmentation": encode_mask(target.mask), "area": area})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _one_thread() -> None:
    """A drawing process is one of several; more threads in each would only fight for the cores."""
    cv2.setNumThreads(1)


class Supply:
    """The examples of each step, drawn some steps ahead by worker processes, or here if there are none.

    Every picture has its own seed, so the number of workers changes nothing but the time.
    """

    def __init__(self, drawing: DrawingParams, seed: int, steps: int, workers: int) -> None:
        self.drawing, self.seed, self.steps = drawing, seed, steps
        self._waiting: dict[int, list[Future[Example]]] = {}
        # Not forked: a fork of a process with torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, _one_thread) if workers else None

    def __enter__(self) -> Supply:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def draw(self, jobs: Sequence[Job]) -> list[Example]:
        """Draw some pictures now."""
        if self._pool is None:
            return [draw_example(job, self.drawing) for job in jobs]
        return list(self._pool.map(draw_example, jobs, [self.drawing] * len(jobs)))

    def batch(self, step: int) -> list[Example]:
        """The pictures of a step."""
        if self._pool is None:
            return self.draw(jobs_at(self.drawing, self.seed, step))
        for ahead in range(step, min(step + STEPS_AHEAD + 1, self.steps)):
            if ahead not in self._waiting:
                jobs = jobs_at(self.drawing, self.seed, ahead)
                self._waiting[ahead] = [self._pool.submit(draw_example, job, self.drawing) for job in jobs]
        return [future.result() for future in self._waiting.pop(step)]
