"""`make bench-ways`: how synthetic data is best used, and which link breaks. Writes reports/bench/ways.json.

Works in the copy that `make bench-proof` left of a study, with its recipe, RT-DETR unless another detector is named. A way
changes one thing against an arm of the study; an oracle replaces a link by the real thing, taken from train parts beyond the
budget K, which a user with K parts does not have. Scored on val parts, which are few, and on those beyond K, unless the way
trained on them; test parts are not read. Each training is kept below .work/bench-ways, so a killed bench goes on; results of
other studies stay in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from detectors.arms import parse_arm
from detectors.datasets import DetectionData, from_labelled, from_manifest
from detectors.match_records import match_record
from detectors.metrics import coco_runs, scores_of_runs
from detectors.params import MixParams, Recipe, TrainParams
from detectors.predict import predict
from detectors.protocol import DETECTORS
from detectors.training import Fitted, FoldData, fit_fold, load_fold
from pipeline.labels.boxes import box_to_coco, mask_to_box
from pipeline.labels.coco import coco_dataset, decode_mask, encode_mask
from pipeline.matches import read_record, write_record
from pipeline.params import LabelParams, load_section
from pipeline.records import fold_name, read_card, read_manifest, write_json
from pipeline.reporting.comparison import mean_of
from pipeline.runlog import digest
from pipeline.shards import read_fates
from tests.bench.bars import FOLDER, work_folder, write_bars
from tests.bench.gaps import gap
from tests.bench.proof import commit_of

COMMAND = "make bench-ways"
WORK = work_folder("ways")
STUDIES = {name: work_folder("proof") / name for name in ("magnetic_tile", "deep_pcb")}
USUAL, GENERATOR = "rtdetr", "defectfill"
Document = dict[str, Any]
SIDES = ("val", "beyond")
"""What a way is scored on: val parts, and the real train parts beyond K."""


@dataclass(frozen=True)
class Labelled:
    """Where a labelled set comes from: copy of the study, generator, and fold."""

    study: Path
    generator: str
    fold: int

    @property
    def folder(self) -> Path:
        """Of its COCO file."""
        return self.study / "data" / "labelled" / self.generator / fold_name(self.fold)


Change = Callable[[Document, Labelled, Path], Document]


@dataclass(frozen=True)
class Way:
    """One way of using synthetic data.

    Attributes:
        arm: What is trained.
        mix: What it changes in section `mix`.
        steps: How many times the study's steps it trains.
        change: From the labelled set of a fold, its COCO document and where it comes from, to another document; paths in it are
            relative to the folder given, or the labelled set's own.
        beyond: Whether it is trained on real parts beyond K, and so not scored on them.
    """

    arm: str = GENERATOR
    mix: Mapping[str, float] = field(default_factory=dict)
    steps: float = 1
    change: Change | None = None
    beyond: bool = False


def _only(document: Document, images: Sequence[Document]) -> Document:
    ids = {image["id"] for image in images}
    return document | {"images": images, "annotations": [a for a in document["annotations"] if a["image_id"] in ids]}


def best_half(document: Document, source: Labelled, folder: Path) -> Document:
    """The images whose quality score is at or above the median of their type."""
    selected = source.study / "data" / "selected" / source.generator / fold_name(source.fold)
    fates = [f for f in read_fates(selected) if f.sample is not None]
    by_type: dict[str, list[float]] = {}
    for fate in fates:
        by_type.setdefault(fate.defect, []).append(fate.quality or 0.0)
    kept = {f.sample for f in fates if (f.quality or 0.0) >= float(np.median(by_type[f.defect]))}
    return _only(document, [image for image in document["images"] if Path(image["file_name"]).stem in kept])


def a_sixth(document: Document, source: Labelled, folder: Path) -> Document:
    """Every sixth image."""
    return _only(document, document["images"][::6])


def wider(document: Document, source: Labelled, folder: Path) -> Document:
    """Masks one pixel wider all round, boxes with them."""
    rows = []
    for annotation in document["annotations"]:
        mask = cv2.dilate(decode_mask(annotation["segmentation"]).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        moved = {"segmentation": encode_mask(mask), "bbox": box_to_coco(mask_to_box(mask)), "area": float(mask.sum())}
        rows.append(annotation | moved)
    return document | {"annotations": rows}


def held_back(document: Document, source: Labelled, folder: Path) -> Document:
    """Oracle: real photos of train parts beyond K stand for the synthetic ones, picture, place and label."""
    train = source.study / "data" / "prepared" / "train"
    samples = [s for s in read_manifest(train, source.fold) if s.split == "unused" and not s.is_good]
    found = coco_dataset(samples, train, read_card(train).classes, recipe(source.study).label)
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
    # For detectors that take longer a step than the study's own.
    "real, half the steps": Way("real", steps=0.5),
    "half the steps": Way(steps=0.5),
    "best half by quality": Way(change=best_half),
    "labels a pixel wider": Way(change=wider),
    "synthetic only": Way(f"{GENERATOR}_only"),
    "a sixth of the synthetic photos": Way(change=a_sixth),
    "copy_paste": Way("copy_paste"),
    "copy_paste, share 0.33": Way("copy_paste", mix={"share": 0.33}),
    "copy_paste, share 0.75": Way("copy_paste", mix={"share": 0.75}),
    "copy_paste, twice the steps": Way("copy_paste", steps=2),
    "copy_paste, a sixth of the photos": Way("copy_paste", change=a_sixth),
    "classical": Way("classical"),
    "classical, twice the steps": Way("classical", steps=2),
    "with strong augmentation": Way(f"{GENERATOR}_classical"),
    "with strong augmentation, twice the steps": Way(f"{GENERATOR}_classical", steps=2),
    "oracle: more real parts": Way(change=held_back, beyond=True),
    "oracle, twice the steps": Way(change=held_back, steps=2, beyond=True),
}


@dataclass(frozen=True)
class Runs:
    """Trainings on a study, with one detector."""

    study: str
    detector: str = USUAL

    @property
    def title(self) -> str:
        """Their name in the results."""
        return self.study if self.detector == USUAL else f"{self.study}-{self.detector}"


@cache
def data_key(study: Path) -> str:
    """Digest of what trainings on a study's copy rest on, so that those of a copy made anew are not taken for its own."""
    data = study / "data"
    return digest(data / "prepared" / "train", data / "prepared" / "val", data / "labelled", study / "params.yaml")


def place(runs: Runs, name: str, fold: int) -> Path:
    """Where the training of a way lies."""
    return WORK / runs.title / data_key(STUDIES[runs.study]) / re.sub(r"[^a-z0-9._]+", "-", name) / fold_name(fold)


def recipe(study: Path, way: Way | None = None) -> Recipe:
    """A study's own, with the changes of a way."""
    way, file = way or Way(), study / "params.yaml"
    train, label = load_section("train", TrainParams, file), load_section("label", LabelParams, file)
    train = train.model_copy(update={"steps": round(train.steps * way.steps)})
    return Recipe(train, load_section("mix", MixParams, file).model_copy(update=dict(way.mix)), label)


def fold_data(study: Path, way: Way, used: Recipe, fold: int, work: Path) -> FoldData:
    """What a way trains on."""
    data, arm = study / "data", parse_arm(way.arm)
    if way.change is None or arm.generator is None:
        labelled = data / "labelled" / arm.generator if arm.generator is not None else None
        return load_fold(used.label, arm, data / "prepared", labelled, fold)
    source, folder = Labelled(study, arm.generator, fold), work / "labelled"
    folder.mkdir(parents=True, exist_ok=True)  # paths through it are looked up below
    document = json.loads((source.folder / "annotations.json").read_text(encoding="utf-8"))
    found = way.change(document, source, folder)
    if found["images"] and not (folder / found["images"][0]["file_name"]).exists():
        for image in found["images"]:
            image["file_name"] = os.path.relpath(source.folder / image["file_name"], folder)
    write_json(folder / "annotations.json", found)
    plain = load_fold(used.label, parse_arm("real"), data / "prepared", None, fold)
    return FoldData(plain.train, plain.val, from_labelled(folder, plain.train.classes, plain.train.drawn_boxes))


def train(runs: Runs, name: str, fold: int) -> None:
    """Train and score one way on one fold, unless that is done."""
    way, work, study = WAYS[name], place(runs, name, fold), STUDIES[runs.study]
    if (work / "scores.json").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    used = recipe(study, way)
    torch.set_num_threads(used.train.threads)
    data = fold_data(study, way, used, fold, work)
    fitted = fit_fold(used, runs.detector, parse_arm(way.arm), data, fold, work)
    fitted.session.twin.load_state_dict(fitted.session.best.weights)
    scores = {"val": score(fitted, used.train, data.val, work / "val.npz")}
    if not way.beyond:
        pool = from_manifest(study / "data" / "prepared" / "train", fold, "unused", used.label)
        scores["beyond"] = score(fitted, used.train, pool, work / "beyond.npz")
    write_json(work / "scores.json", scores)


def score(fitted: Fitted, params: TrainParams, data: DetectionData, record: Path) -> Any:
    """Scores of the network in `session.twin`; its matches are kept."""
    session = fitted.session
    results = predict(session.detector, session.twin, data, fitted.framing, params.limits)
    runs = coco_runs(data.coco, results, params.max_detections, session.detector.has_masks)
    write_record(record, match_record(data.coco, results, runs))
    return scores_of_runs(data.coco, results, runs)


def summary(runs: Runs, folds: Sequence[int]) -> dict[str, Any]:
    """Of each way, by side: mean box mAP50 over the folds it has, its types, and differences with their intervals."""
    done = {name: [f for f in folds if (place(runs, name, f) / "scores.json").exists()] for name in WAYS}
    return {
        name: {"folds": own, **{side: _side(runs, name, side, done) for side in SIDES if side == "val" or not WAYS[name].beyond}}
        if own
        else "not run"
        for name, own in done.items()
    }


def _side(runs: Runs, name: str, side: str, done: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    files = [place(runs, name, fold) / "scores.json" for fold in done[name]]
    boxes = [json.loads(file.read_text(encoding="utf-8"))[side]["box"] for file in files]
    types = {kind: [one["per_class"][kind]["map50"] for one in boxes] for kind in boxes[0]["per_class"]}
    row: dict[str, Any] = {
        "box_map50": mean_of(one["map50"] for one in boxes),
        "per_class": {kind: mean_of(values) for kind, values in types.items()},
    }
    for other in ("default", "real"):
        shared = set(done[name]) & set(done[other])
        if name == other or not shared:
            continue
        records = [{fold: read_record(place(runs, way, fold) / f"{side}.npz") for fold in shared} for way in (name, other)]
        if (difference := gap(*records)) is not None:
            row[f"minus {other}"] = difference
    return row


def past() -> dict[str, Any]:
    """Results that the file holds, by study."""
    file = FOLDER / "ways.json"
    return json.loads(file.read_text(encoding="utf-8"))["ways"] if file.exists() else {}


def main() -> int:
    """Train what is missing, write what there is."""
    parser = argparse.ArgumentParser(description="Ways of using synthetic data.")
    parser.add_argument("--study", choices=list(STUDIES), default="magnetic_tile", help="of bench-proof, whose copy is used")
    parser.add_argument("--detector", choices=list(DETECTORS), default=USUAL)
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS), help="what to train")
    parser.add_argument("--folds", nargs="*", type=int, default=[0, 1, 2], help="on which folds, one after the other")
    args = parser.parse_args()
    runs = Runs(args.study, args.detector)
    for fold in args.folds:
        for name in args.ways:
            train(runs, name, fold)
    found = {"commit": commit_of(STUDIES[args.study]), **summary(runs, (0, 1, 2))}
    return write_bars("ways", [], ways={**past(), runs.title: found})


if __name__ == "__main__":
    raise SystemExit(main())
