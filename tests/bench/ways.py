"""`make bench-ways`: how synthetic data is best used, and which link breaks; on val parts. Writes reports/bench/ways.json.

Works in the copy that `make bench-proof` left of study `magnetic_tile`, with its recipe, RT-DETR. A way changes one thing against
the arm `defectfill`; an oracle replaces a link by the real thing, taken from train parts beyond the budget K, which a user with K
parts does not have. Test parts are not read. Each training is kept below .work/bench-ways, so a killed bench goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from detectors.arms import parse_arm
from detectors.datasets import from_labelled
from detectors.match_records import match_record
from detectors.metrics import coco_runs, scores_of_runs
from detectors.params import MixParams, Recipe, TrainParams
from detectors.predict import predict
from detectors.protocol import Limits
from detectors.training import FoldData, fit_fold, load_fold
from pipeline.labels.boxes import box_to_coco, mask_to_box
from pipeline.labels.coco import coco_dataset, decode_mask, encode_mask
from pipeline.matches import read_record, write_record
from pipeline.params import LabelParams, load_section
from pipeline.records import fold_name, read_card, read_manifest, write_json
from pipeline.reporting.differences import box_map50, difference, resampled
from pipeline.shards import read_fates
from tests.bench.bars import work_folder, write_bars

COMMAND = "make bench-ways"
WORK = work_folder("ways")
STUDY = work_folder("proof") / "magnetic_tile"
DETECTOR, GENERATOR = "rtdetr", "defectfill"
RESAMPLES, CONFIDENCE = 2000, 0.95
Document = dict[str, Any]
Change = Callable[[Document, Path, int], Document]


@dataclass(frozen=True)
class Way:
    """One way of using synthetic data.

    Attributes:
        arm: What is trained.
        mix: What it changes in section `mix`.
        steps: How many times the study's steps it trains.
        change: Of the labelled set of a fold: its COCO document, its folder and the fold.
    """

    arm: str = GENERATOR
    mix: Mapping[str, float] = field(default_factory=dict)
    steps: int = 1
    change: Change | None = None


def best_half(document: Document, folder: Path, fold: int) -> Document:
    """The images whose quality score is at or above the median of their type."""
    fates = [f for f in read_fates(STUDY / "data" / "selected" / GENERATOR / fold_name(fold)) if f.sample is not None]
    by_type: dict[str, list[float]] = {}
    for fate in fates:
        by_type.setdefault(fate.defect, []).append(fate.quality or 0.0)
    kept = {f.sample for f in fates if (f.quality or 0.0) >= float(np.median(by_type[f.defect]))}
    images = [image for image in document["images"] if Path(image["file_name"]).stem in kept]
    ids = {image["id"] for image in images}
    return document | {"images": images, "annotations": [a for a in document["annotations"] if a["image_id"] in ids]}


def wider(document: Document, folder: Path, fold: int) -> Document:
    """Masks one pixel wider all round, boxes with them."""
    rows = []
    for annotation in document["annotations"]:
        mask = cv2.dilate(decode_mask(annotation["segmentation"]).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        moved = {"segmentation": encode_mask(mask), "bbox": box_to_coco(mask_to_box(mask)), "area": float(mask.sum())}
        rows.append(annotation | moved)
    return document | {"annotations": rows}


def held_back(document: Document, folder: Path, fold: int) -> Document:
    """Oracle: real photos of train parts beyond K stand for the synthetic ones, picture, place and label."""
    train = STUDY / "data" / "prepared" / "train"
    samples = [s for s in read_manifest(train, fold) if s.split == "unused" and not s.is_good]
    found = coco_dataset(samples, train, read_card(train).classes, recipe().label)
    for image in found["images"]:
        image["file_name"] = os.path.relpath(train / image["file_name"], folder)
    return found


WAYS: dict[str, Way] = {
    "real": Way("real"),
    "default": Way(),
    "share 0.25": Way(mix={"share": 0.25}),
    "share 0.75": Way(mix={"share": 0.75}),
    "synthetic first, then real": Way(mix={"share": 1.0, "until": 0.5}),
    "half weight": Way(mix={"weight": 0.5}),
    "twice the steps": Way(steps=2),
    "real, twice the steps": Way("real", steps=2),
    "best half by quality": Way(change=best_half),
    "labels a pixel wider": Way(change=wider),
    "synthetic only": Way(f"{GENERATOR}_only"),
    "copy_paste": Way("copy_paste"),
    "oracle: more real parts": Way(change=held_back),
    "oracle, twice the steps": Way(change=held_back, steps=2),
}


def place(name: str, fold: int) -> Path:
    """Where the training of a way lies."""
    return WORK / re.sub(r"[^a-z0-9._]+", "-", name) / fold_name(fold)


def recipe(way: Way | None = None) -> Recipe:
    """The study's own, with the changes of a way."""
    way = way or Way()
    file = STUDY / "params.yaml"
    train, label = load_section("train", TrainParams, file), load_section("label", LabelParams, file)
    train = train.model_copy(update={"steps": train.steps * way.steps})
    return Recipe(train, load_section("mix", MixParams, file).model_copy(update=dict(way.mix)), label)


def fold_data(way: Way, used: Recipe, fold: int, work: Path) -> FoldData:
    """What a way trains on."""
    data, arm = STUDY / "data", parse_arm(way.arm)
    labelled = data / "labelled" / arm.generator if arm.generator is not None else None
    if way.change is None or labelled is None:
        return load_fold(used.label, arm, data / "prepared", labelled, fold)
    folder = work / "labelled"
    folder.mkdir(parents=True, exist_ok=True)  # paths through it are looked up below
    document = json.loads((labelled / fold_name(fold) / "annotations.json").read_text(encoding="utf-8"))
    found = way.change(document, folder, fold)
    if found["images"] and not (folder / found["images"][0]["file_name"]).exists():
        for image in found["images"]:
            image["file_name"] = os.path.relpath(labelled / fold_name(fold) / image["file_name"], folder)
    write_json(folder / "annotations.json", found)
    plain = load_fold(used.label, parse_arm("real"), data / "prepared", None, fold)
    return FoldData(plain.train, plain.val, from_labelled(folder, plain.train.classes, plain.train.drawn_boxes))


def train(name: str, fold: int) -> None:
    """Train and score one way on one fold, unless that is done."""
    way, work = WAYS[name], place(name, fold)
    if (work / "scores.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    used = recipe(way)
    torch.set_num_threads(used.train.threads)
    data = fold_data(way, used, fold, work)
    fitted = fit_fold(used, DETECTOR, parse_arm(way.arm), data, fold, work)
    session, params = fitted.session, used.train
    session.twin.load_state_dict(session.best.weights)
    limits = Limits(params.min_score, params.max_detections)
    results = predict(session.detector, session.twin, data.val, fitted.side_px, limits)
    runs = coco_runs(data.val.coco, results, params.max_detections, session.detector.has_masks)
    write_record(work / "matches.npz", match_record(data.val.coco, results, runs))
    write_json(work / "scores.json", scores_of_runs(data.val.coco, results, runs))


def summary(folds: Sequence[int]) -> dict[str, Any]:
    """Mean val box mAP50 of each way over the folds it has, its types, and its difference to the default with an interval."""
    found: dict[str, dict[int, Any]] = {}
    rows: dict[str, Any] = {}
    for name in WAYS:
        done = [fold for fold in folds if (place(name, fold) / "scores.json").exists()]
        if not done:
            rows[name] = "not run"
            continue
        found[name] = {fold: read_record(place(name, fold) / "matches.npz") for fold in done}
        scores = [json.loads((place(name, fold) / "scores.json").read_text(encoding="utf-8"))["box"] for fold in done]
        types = {kind: [s["per_class"][kind]["map50"] for s in scores] for kind in scores[0]["per_class"]}
        rows[name] = {
            "folds": done,
            "box_map50": round(float(np.mean([s["map50"] for s in scores])), 4),
            "per_class": {kind: round(float(np.mean([v for v in values if v is not None])), 4) for kind, values in types.items()},
        }
    for name in set(found) - {"default"}:
        for other in ("default", "real"):
            shared = sorted(set(found[name]) & set(found.get(other, {})))
            if name == other or len(shared) < 2:
                continue
            maps = {fold: resampled(box_map50, {a: found[a][fold] for a in (name, other)}, RESAMPLES, fold) for fold in shared}
            gap = difference({f: maps[f][name] for f in shared}, {f: maps[f][other] for f in shared}, CONFIDENCE)
            if gap is not None and gap.low is not None and gap.high is not None:
                rows[name][f"minus {other}"] = [round(v, 4) for v in (gap.mean, gap.low, gap.high)]
    return rows


def main() -> int:
    """Train what is missing, write what there is."""
    parser = argparse.ArgumentParser(description="Ways of using synthetic data, on val parts.")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS), help="what to train")
    parser.add_argument("--folds", nargs="*", type=int, default=[0, 1, 2], help="on which folds, one after the other")
    args = parser.parse_args()
    for fold in args.folds:
        for name in args.ways:
            train(name, fold)
    return write_bars("ways", [], ways=summary((0, 1, 2)))


if __name__ == "__main__":
    raise SystemExit(main())
