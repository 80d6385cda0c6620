"""COCO scores by pycocotools and image-level AUROC and AP, for every detector from one prediction format."""

from __future__ import annotations

import contextlib
import copy
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.rankings import Ranking, area_under_roc, average_precision, rank

Kind = Literal["bbox", "segm"]
SIZES = ("small", "medium", "large")  # COCO's areas: below 32 x 32 px, below 96 x 96 px, above; in the original photo
MATCH_IOU = 0.5


def rounded(value: float | None) -> float | None:
    """As numbers are written; None stays."""
    return None if value is None else round(value, 6)


def coco_run(truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: Kind, max_detections: int) -> COCOeval | None:
    """A run of COCOeval, from which scores and matches are read; None without results, which the library cannot load.

    Args:
        truth: COCO document; good images are in it and their false alarms count.
        results: COCO results in the original pixels.
        kind: "bbox" or "segm".
        max_detections: Detections an image and class that count.
    """
    if not results:
        return None
    # Results with a box take their area from it even when masks are compared, so for masks the box is left out.
    drop = {"segmentation"} if kind == "bbox" else {"bbox"}
    rows = [{k: v for k, v in row.items() if k not in drop} for row in results]
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its progress
        reference: Any = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        run = COCOeval(reference, reference.loadRes(rows), kind)
        run.params.maxDets = [max_detections]
        run.evaluate()
        run.accumulate()
    return run


def _mean(precision: np.ndarray[Any, Any]) -> float | None:
    """Mean over the entries that exist; None if no ground truth of that kind exists."""
    known = precision[precision > -1]
    return rounded(float(known.mean())) if known.size else None


def coco_scores(truth: dict[str, Any], run: COCOeval | None) -> dict[str, Any]:
    """COCO average precision of boxes or masks, from a run on this truth.

    Returns:
        `map` (IoU 0.50 to 0.95), `map50`, `per_class` and `per_size` with the same two; None where there is no truth.
    """
    names = {c["id"]: c["name"] for c in truth["categories"]}
    counted = {a["category_id"] for a in truth["annotations"]}
    if run is None:
        # Sizes without truth are told apart from sizes with nothing found.
        none = {"map": 0.0 if counted else None, "map50": 0.0 if counted else None}
        per_class = {name: {k: 0.0 if i in counted else None for k in ("map", "map50")} for i, name in names.items()}
        return {**none, "per_class": per_class, "per_size": _empty_sizes(truth)}
    # precision: (IoU thresholds, recall thresholds, classes, areas, max detections)
    precision = run.eval["precision"][..., -1]
    per_class = {
        name: {"map": _mean(precision[:, :, place, 0]), "map50": _mean(precision[0, :, place, 0])}
        for place, (_, name) in enumerate(sorted(names.items()))
    }
    per_size = {
        size: {"map": _mean(precision[:, :, :, place]), "map50": _mean(precision[0, :, :, place])}
        for place, size in enumerate(SIZES, 1)
    }
    whole = precision[:, :, :, 0]
    return {"map": _mean(whole), "map50": _mean(whole[0]), "per_class": per_class, "per_size": per_size}


def _empty_sizes(truth: dict[str, Any]) -> dict[str, Any]:
    limits = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
    areas = [a["area"] for a in truth["annotations"]]
    known = {size: any(low <= area <= high for area in areas) for size, (low, high) in limits.items()}
    return {size: {k: 0.0 if known[size] else None for k in ("map", "map50")} for size in SIZES}


def matched_scores(truth: dict[str, Any], results: Sequence[dict[str, Any]], max_detections: int) -> dict[int, float | None]:
    """Score of the detection that finds each annotated box at IoU `MATCH_IOU`, by annotation id; None for a missed one.

    As COCOeval matches: detections choose in the order of their scores, so the matches above any score are those that the
    detections above it would make by themselves.
    """
    found: dict[int, float | None] = {a["id"]: None for a in truth["annotations"]}
    run: Any = coco_run(truth, results, "bbox", max_detections)
    if run is None:
        return found
    place, all_areas = list(run.params.iouThrs).index(MATCH_IOU), run.params.areaRng[0]
    for image in run.evalImgs:
        if image is not None and image["aRng"] == all_areas:
            scores = dict(zip(image["dtIds"], image["dtScores"], strict=True))
            matches = zip(image["gtIds"], image["gtMatches"][place], strict=True)
            found |= {annotation: scores[int(match)] for annotation, match in matches if match}
    return found


def image_scores(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Highest confidence on each image, 0 where nothing was found."""
    best: defaultdict[int, float] = defaultdict(float)
    for row in results:
        best[row["image_id"]] = max(best[row["image_id"]], float(row["score"]))
    return {image["id"]: best[image["id"]] for image in truth["images"]}


def image_ranking(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> Ranking:
    """Defective and good images by their score."""
    defective = {a["image_id"] for a in truth["annotations"]}
    scores = image_scores(truth, results)
    return rank([s for i, s in scores.items() if i in defective], [s for i, s in scores.items() if i not in defective])


def scores_of_runs(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], runs: Mapping[Kind, COCOeval | None]
) -> dict[str, Any]:
    """Box scores, mask scores (None without a run on masks), and how well the image score tells defective from good images."""
    images = image_ranking(truth, results)
    return {
        "box": coco_scores(truth, runs["bbox"]),
        "mask": coco_scores(truth, runs["segm"]) if "segm" in runs else None,
        "image_auroc": rounded(area_under_roc(images)),
        "image_ap": rounded(average_precision(images)),
    }


def coco_runs(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], max_detections: int, with_masks: bool
) -> dict[Kind, COCOeval | None]:
    """A run on boxes and, for a detector with masks, one on masks."""
    kinds: tuple[Kind, ...] = ("bbox", "segm") if with_masks else ("bbox",)
    return {kind: coco_run(truth, results, kind, max_detections) for kind in kinds}


def all_scores(truth: dict[str, Any], results: Sequence[dict[str, Any]], max_detections: int, with_masks: bool) -> dict[str, Any]:
    """Box scores, mask scores (None for a detector without masks), image AUROC and AP."""
    return scores_of_runs(truth, results, coco_runs(truth, results, max_detections, with_masks))
