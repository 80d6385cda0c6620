"""What was taken for what: each defect with the detection that found it, of its own type or of another, and the false alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

FOUND_IOU = 0.5
"""Least IoU of a detection's box with a defect's box."""


@dataclass(frozen=True)
class Pairing:
    """The defects of one photo and their detections.

    Attributes:
        found: Place of the detection that found each defect; None for a missed one.
        alarms: Places of the detections that found no defect.
    """

    found: tuple[int | None, ...]
    alarms: tuple[int, ...]


def above(results: Sequence[dict[str, Any]], score: float) -> dict[int, list[dict[str, Any]]]:
    """Detections from `score` on by image id, the surest first."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in sorted((one for one in results if one["score"] >= score), key=lambda one: -one["score"]):
        found.setdefault(row["image_id"], []).append(row)
    return found


def pair(truths: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]) -> Pairing:
    """Give each defect at most one detection, and each detection at most one defect.

    Detections of the right type choose first, as in COCOeval: in the order of their scores, each the free defect it overlaps
    most. Those left over then take the defects left over, whatever their type.

    Args:
        truths: COCO annotations of one photo.
        detections: COCO results on it, the surest first.
    """
    found: list[int | None] = [None] * len(truths)
    overlap = _overlap(truths, detections)
    for right_type in (True, False):
        for place, row in enumerate(detections):
            free = [
                one
                for one, truth in enumerate(truths)
                if found[one] is None
                and overlap[place, one] >= FOUND_IOU
                and (truth["category_id"] == row["category_id"]) == right_type
            ]
            if free and place not in found:
                found[max(free, key=lambda one: overlap[place, one])] = place
    return Pairing(tuple(found), tuple(place for place in range(len(detections)) if place not in found))


def _overlap(truths: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(D, G) IoU of boxes."""
    if not truths or not detections:
        return np.zeros((len(detections), len(truths)))
    return np.asarray(mask_api.iou([d["bbox"] for d in detections], [t["bbox"] for t in truths], [0] * len(truths)))


def confusion(truth: Mapping[str, Any], results: Sequence[dict[str, Any]], score: float) -> dict[str, Any]:
    """Counts over all photos of a COCO document, of the detections from `score` on.

    Returns:
        `types`; `found`, a row a true type and a column a detected one; `missed` defects a type; false alarms a detected type, on
        photos with defects (`alarms`) and on good ones (`alarms_good`); `good_photos`, and how many of them raised an alarm
        (`good_photos_alarmed`); `score` and `iou`.
    """
    count = len(truth["categories"])
    types = [category["name"] for category in sorted(truth["categories"], key=lambda one: one["id"])]
    found, missed, alarms = np.zeros((count, count), int), np.zeros(count, int), np.zeros((2, count), int)
    truths: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        truths[annotation["image_id"]].append(annotation)
    by_image = above(results, score)
    for image, defects in truths.items():
        own = by_image.get(image, [])
        pairing = pair(defects, own)
        for defect, place in zip(defects, pairing.found, strict=True):
            if place is None:
                missed[defect["category_id"] - 1] += 1
            else:
                found[defect["category_id"] - 1, own[place]["category_id"] - 1] += 1
        for place in pairing.alarms:
            alarms[int(not defects), own[place]["category_id"] - 1] += 1
    good = [image for image, defects in truths.items() if not defects]
    return {
        "types": types,
        "found": found.tolist(),
        "missed": missed.tolist(),
        "alarms": alarms[0].tolist(),
        "alarms_good": alarms[1].tolist(),
        "good_photos": len(good),
        "good_photos_alarmed": sum(image in by_image for image in good),
        "score": score,
        "iou": FOUND_IOU,
    }
