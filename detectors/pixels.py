"""Pixel scores of a detector with masks, as MVTec AD measures them: AUROC, AP, greatest F1 and per-region overlap (PRO).

A pixel's score is that of the surest instance on it, else 0. So there are no more distinct scores than detections, and counting
pixels by score is exact whatever the number of photos; no map is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.metrics import rounded
from detectors.rankings import Floats, Ranking, area_under_roc, area_up_to, average_precision, f1_max, f_measure_at, merge
from pipeline.labels.coco import decode_mask

PRO_LIMIT = (
    0.3  # false-positive rate up to which overlap counts (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021)
)


@dataclass(frozen=True)
class PixelCounts:
    """Pixels by score.

    Attributes:
        ranking: Defect and good pixels.
        overlap: (V,) mean over the defects of the share of each that has that score.
    """

    ranking: Ranking
    overlap: Floats


def _count_photo(
    size: tuple[int, int], truth: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Scores, defect pixels, good pixels and summed shares of regions, of one photo."""
    rising = sorted(results, key=lambda row: row["score"])
    place = np.zeros(size, dtype=np.int32)
    for number, row in enumerate(rising, 1):
        place[decode_mask(row["segmentation"])] = number
    count = len(rising) + 1
    regions = [decode_mask(a["segmentation"]) for a in truth]
    defective = np.logical_or.reduce(regions) if regions else np.zeros(size, dtype=bool)
    shares = np.zeros(count)
    for region in regions:
        shares += np.bincount(place[region], minlength=count) / region.sum()
    scores = np.array([0.0, *(row["score"] for row in rising)])
    defect_pixels = np.bincount(place[defective], minlength=count).astype(float)
    return scores, defect_pixels, np.bincount(place[~defective], minlength=count).astype(float), shares


def count_pixels(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> PixelCounts:
    """Every pixel of every photo, good photos included."""
    annotations: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for rows, by_image in ((truth["annotations"], annotations), (results, found)):
        for row in rows:
            by_image[row["image_id"]].append(row)
    photos = [
        _count_photo((image["height"], image["width"]), annotations[image["id"]], found[image["id"]]) for image in truth["images"]
    ]
    score, positive, negative, shares = merge(*(np.concatenate(column) for column in zip(*photos, strict=True)))
    return PixelCounts(Ranking(score, positive, negative), shares / max(1, len(truth["annotations"])))


def per_region_overlap(counts: PixelCounts) -> float | None:
    """Mean overlap of the defects over the false-positive rates up to `PRO_LIMIT`; None without defect or good pixels."""
    wrong = np.cumsum(counts.ranking.negative)
    if not counts.ranking.positive.any() or not wrong[-1]:
        return None
    return area_up_to(np.append(0.0, wrong / wrong[-1]), np.append(0.0, np.cumsum(counts.overlap)), PRO_LIMIT)


def pixel_scores(counts: PixelCounts, score: float) -> dict[str, float | None]:
    """AUROC, AP, greatest F1, PRO, and the F-measure of the pixels from `score` on."""
    return {
        "auroc": rounded(area_under_roc(counts.ranking)),
        "ap": rounded(average_precision(counts.ranking)),
        "f1_max": rounded(f1_max(counts.ranking)),
        "pro": rounded(per_region_overlap(counts)),
        "f_measure": rounded(f_measure_at(counts.ranking, score)),
    }
