"""From a run of COCOeval to the record of its matches: the same run that gives the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from detectors.metrics import Kind, image_scores, rounded
from pipeline.matches import Ints, Matches, MatchRecord

IOU = np.linspace(0.5, 0.95, 10)


def _truths(truth: dict[str, Any]) -> Ints:
    """(N, C) defects of each class on each image, both by rising id."""
    rows = {image: place for place, image in enumerate(sorted(i["id"] for i in truth["images"]))}
    columns = {category: place for place, category in enumerate(sorted(c["id"] for c in truth["categories"]))}
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    for annotation in truth["annotations"]:
        counts[rows[annotation["image_id"]], columns[annotation["category_id"]]] += 1
    return counts


def matches_of_run(truth: dict[str, Any], run: COCOeval | None) -> Matches:
    """Every detection that counts with its matches, in the order of its image and class, then as COCOeval sorts it.

    Args:
        truth: The COCO document of the run.
        run: None stands for no detection at all.

    Raises:
        ValueError: If COCOeval ignored a detection: our truth has no crowds, and no defect outside every size.
    """
    truths = _truths(truth)
    if run is None:
        nothing = np.zeros(0, dtype=np.int64)
        return Matches(nothing, nothing, np.zeros(0), np.zeros((0, len(IOU)), dtype=bool), truths)
    evaluation: Any = run
    images, categories = len(evaluation.params.imgIds), len(evaluation.params.catIds)
    # evalImgs: class, size, image; the first size is "all".
    table = [
        (image, category, evaluation.evalImgs[category * len(evaluation.params.areaRng) * images + image])
        for image in range(images)
        for category in range(categories)
    ]
    found = [(image, category, entry) for image, category, entry in table if entry is not None and entry["dtScores"]]
    if any(entry["dtIgnore"].any() for _, _, entry in found):
        raise ValueError("the truth has crowds or defects of no area, whose detections COCOeval ignores; `label` writes none")
    counts = [len(entry["dtScores"]) for _, _, entry in found]
    return Matches(
        image=np.repeat(np.array([image for image, _, _ in found], dtype=np.int64), counts),
        category=np.repeat(np.array([category for _, category, _ in found], dtype=np.int64), counts),
        score=np.concatenate([entry["dtScores"] for _, _, entry in found]).astype(np.float64),
        matched=np.concatenate([entry["dtMatches"].T > 0 for _, _, entry in found]),
        truths=truths,
    )


def match_record(truth: dict[str, Any], results: Sequence[dict[str, Any]], runs: Mapping[Kind, COCOeval | None]) -> MatchRecord:
    """What is kept of one model: every image with its part and score, and the matches of each run."""
    images = sorted(truth["images"], key=lambda image: image["id"])
    scores = image_scores(truth, results)
    return MatchRecord(
        classes=tuple(c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])),
        iou=IOU,
        image_id=np.array([image["id"] for image in images], dtype=np.int64),
        part=np.array([image["part_id"] for image in images], dtype=np.str_),
        image_score=np.array([scores[image["id"]] for image in images], dtype=np.float64),
        box=matches_of_run(truth, runs["bbox"]),
        mask=matches_of_run(truth, runs["segm"]) if "segm" in runs else None,
    )


def region_f_measure(record: MatchRecord, score: float) -> dict[str, Any]:
    """2PR / (P + R) of the boxes from `score` on, matched at IoU 0.5, over all types and for each; None without defects.

    Matches are made in the order of scores, so those above any score are what the detections above it would match by themselves.
    """
    matches = record.box
    called = matches.score >= score
    right = np.bincount(matches.category[called & matches.matched[:, 0]], minlength=len(record.classes))
    boxes = np.bincount(matches.category[called], minlength=len(record.classes))
    truths = matches.truths.sum(axis=0)
    per_class = {
        name: rounded(float(2 * right[place] / (boxes[place] + truths[place]))) if truths[place] else None
        for place, name in enumerate(record.classes)
    }
    whole = rounded(float(2 * right.sum() / (boxes.sum() + truths.sum()))) if truths.any() else None
    return {"all": whole, "per_class": per_class}
