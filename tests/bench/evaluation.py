"""`make bench-evaluation`: what scoring costs beside pycocotools itself, and a resample of the test parts.

Writes reports/bench/evaluation.json. Everything is drawn; no data set is needed.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.match_records import match_record, region_f_measure
from detectors.metrics import coco_runs, scores_of_runs
from pipeline.matches import MatchRecord
from pipeline.reporting.differences import box_map50, resampled
from tests.bench.bars import bar, write_bars
from tests.study_toy import World, draw_study

COMMAND = "make bench-evaluation"
IMAGES, PREDICTIONS, TRUTHS, CLASSES = 10_000, 100_000, 20_000, 5
SIDE = 640
RESAMPLES = 1000
REPEATS = 3
F_SCORE = 0.3


def _boxes(rng: np.random.Generator, count: int) -> list[list[float]]:
    sides = rng.uniform(8, 200, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * (SIDE - sides)
    return np.round(np.concatenate([corners, sides], axis=1), 3).tolist()


def draw(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and results; a third of the results are shaken truths, the others false alarms."""
    rng = np.random.default_rng(seed)
    image, category = rng.integers(1, IMAGES + 1, TRUTHS).tolist(), rng.integers(1, CLASSES + 1, TRUTHS).tolist()
    boxes = _boxes(rng, TRUTHS)
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for n, (i, c, b) in enumerate(zip(image, category, boxes, strict=True), 1)
    ]
    near = rng.integers(0, TRUTHS, PREDICTIONS // 3)
    shaken = [(image[n], category[n], (np.array(boxes[n]) + rng.uniform(-4, 4, 4)).round(3).tolist()) for n in near]
    rest = PREDICTIONS - len(shaken)
    alarms = zip(
        rng.integers(1, IMAGES + 1, rest).tolist(), rng.integers(1, CLASSES + 1, rest).tolist(), _boxes(rng, rest), strict=True
    )
    scores = rng.random(PREDICTIONS).round(6).tolist()
    results = [
        {"image_id": i, "category_id": c, "bbox": b, "score": s} for (i, c, b), s in zip([*shaken, *alarms], scores, strict=True)
    ]
    images = [
        {"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE, "part_id": f"p{n // 5}"} for n in range(1, IMAGES + 1)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c, "name": f"c{c}"} for c in range(1, CLASSES + 1)],
    }, results


def plain(truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """pycocotools as its own example calls it."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference: Any = COCO()
        reference.dataset = truth
        reference.createIndex()
        run = COCOeval(reference, reference.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()


def ours(truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """What `evaluate` does with the boxes of one model: all numbers and the record of its matches."""
    runs = coco_runs(truth, results, 100, with_masks=False)
    scores_of_runs(truth, results, runs)
    region_f_measure(match_record(truth, results, runs), F_SCORE)


def seconds(work: Callable[[], object]) -> float:
    """Of one run, on the processor: other programs on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def evaluation_seconds() -> dict[str, list[float]]:
    """Both ways on the same data, in turn; each on fresh copies, since pycocotools writes into what it gets."""
    found: dict[str, list[float]] = {"pycocotools": [], "ours": []}
    for _ in range(REPEATS):
        for name, way in (("pycocotools", plain), ("ours", ours)):
            truth, results = draw(0)
            found[name].append(round(seconds(lambda way=way, t=truth, r=results: way(t, r)), 3))
    return found


def resample_milliseconds() -> dict[str, Any]:
    """One resample of two arms on three folds of magnetic-tile's size, preparation of the matches included."""
    # Sixty false alarms a photo: what a detector leaves with `min_score` 0.001.
    study = draw_study(World({"real": 0.0, "learned": 0.5}, seed_sd=0.2, alarms=47.0), 0)
    records: list[MatchRecord] = [record for of_fold in study.values() for record in of_fold.values()]
    spent = [seconds(lambda: [resampled(box_map50, one, RESAMPLES, fold) for fold, one in study.items()]) for _ in range(REPEATS)]
    return {
        "milliseconds": round(1000 * statistics.median(spent) / RESAMPLES, 4),
        "resamples": RESAMPLES,
        "images": sum(len(record.part) for record in records) // 2,
        "detections": sum(len(record.box.score) for record in records),
    }


def main() -> int:
    """Measure, print, write; 0 if every bar holds."""
    spent = evaluation_seconds()
    ratio = round(statistics.median(spent["ours"]) / statistics.median(spent["pycocotools"]), 3)
    resample = resample_milliseconds()
    bars = [
        bar(
            "evaluation of 10,000 images and 100,000 predictions, times pycocotools", ratio, 1.5, "lower", "pycocotools", COMMAND
        ),
        bar("milliseconds a resample, two arms on three folds", resample["milliseconds"], 0.3, "lower", "0.3 ms", COMMAND),
    ]
    return write_bars("evaluation", bars, processor_seconds=spent, resample=resample)


if __name__ == "__main__":
    raise SystemExit(main())
