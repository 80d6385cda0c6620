"""Inputs of the stage `report` without any network: a training side, and evaluations of one fold or of a drawn study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.images import write_png
from pipeline.masks.crops import Window
from pipeline.matches import Matches, MatchRecord, record_name, write_record
from pipeline.params import ReportParams
from pipeline.records import DatasetCard, Sample, write_card, write_json, write_manifest
from pipeline.reporting.reweighting import reweighted_map
from pipeline.runlog import digest
from pipeline.shards import CandidateFate, Candidates, PartRecord, RequestRecord, write_fates, write_shard
from pipeline.stages.report import report
from tests.study_toy import World, draw_study

CLASSES = ("hole", "scratch")


def eval_row(detector: str, arm: str, fold: int, box: float, *, masks: bool = False) -> dict:
    scores = {
        "map50": box,
        "map": round(box / 2, 6),
        "per_class": {"hole": {"map50": box, "map": 0.1}, "scratch": {"map50": None, "map": None}},
        "per_size": {"small": {"map50": box, "map": 0.1}, **{size: {"map50": None, "map": None} for size in ("medium", "large")}},
    }
    facts = {
        "images": 9,
        "good_images": 4,
        "good_parts": 4,
        "parts_per_type": {"hole": 5, "scratch": 0},
        "defects_per_type": {"hole": 6, "scratch": 0},
    }
    return {
        "detector": detector,
        "arm": arm,
        "fold": fold,
        **facts,
        "box": scores,
        "mask": scores if masks else None,
        "image_auroc": 0.75,
        "image_ap": 0.875,
        "region_f_measure": {"all": 0.5, "per_class": {"hole": 0.5, "scratch": None}},
        "pixel": {"auroc": 0.9, "ap": 0.4, "f1_max": 0.45, "pro": 0.6, "f_measure": 0.3} if masks else None,
        "val_box_map50": box,
        "confusion": {
            "types": list(CLASSES),
            "found": [[3, 1], [0, 0]],
            "missed": [2, 0],
            "alarms": [1, 0],
            "alarms_good": [0, 2],
            "good_photos": 4,
            "good_photos_alarmed": 2,
            "score": 0.3,
            "iou": 0.5,
        },
    }


def rows_of(values: dict[str, list[float]], detector: str = "rtdetr") -> list[dict]:
    return [eval_row(detector, arm, fold, value) for arm, many in values.items() for fold, value in enumerate(many)]


def record(found: int, parts: int = 4) -> MatchRecord:
    """Holes on as many parts, one a photo; the first ones are found, the others missed. No false alarm."""
    rows = np.arange(found)
    truths = np.stack([np.ones(parts, int), np.zeros(parts, int)], axis=1)
    matches = Matches(rows, np.zeros(found, int), np.full(found, 0.9), np.ones((found, 1), bool), truths)
    names = np.array([f"t{i}" for i in range(parts)])
    return MatchRecord(CLASSES, np.array([0.5]), np.arange(1, parts + 1), names, np.zeros(parts), matches, None)


def records_of(found: dict[str, list[int]], detector: str = "rtdetr") -> dict[tuple[str, str, int], MatchRecord]:
    return {(detector, arm, fold): record(count) for arm, many in found.items() for fold, count in enumerate(many)}


def sample(name: str, defect: str | None, part: str, split: str = "train", fold: int = 0) -> Sample:
    return Sample(name, f"images/{name}.png", None if defect is None else f"masks/{name}.png", defect, part, split, fold)  # type: ignore[arg-type]


def write_training(root: Path, folds: tuple[int, ...]) -> None:
    """Two clean photos, a reference and one synthetic hole at (20..29, 30..33) in each fold."""
    train = root / "data" / "prepared" / "train"
    clean = np.full((64, 64, 3), 100, np.uint8)
    for name in ("g1", "g2", "ref"):
        write_png(train / "images" / f"{name}.png", clean)
    mask = np.zeros((64, 64), bool)
    mask[30:34, 20:30] = True
    write_png(train / "masks" / "ref.png", mask)
    photos = [("g1", None, "p1"), ("g2", None, "p2"), ("ref", "hole", "p3")]
    write_manifest(train, [sample(*photo, fold=fold) for fold in folds for photo in photos])
    facts = ({"hole": 1}, folds, "mask", ("x.png: mask is empty",), ("3 images were grey",))
    write_card(train, DatasetCard("plates <&>", "folder", CLASSES, 5, *facts))
    result = clean.copy()
    result[mask] = 130
    for fold in folds:
        write_synthetic(root / "data", fold, clean, result, mask)


def write_synthetic(data: Path, fold: int, clean: np.ndarray, result: np.ndarray, mask: np.ndarray) -> None:
    selected = data / "selected" / "defectfill" / f"fold-{fold}"
    write_png(selected / "images" / "s1.png", result)
    write_png(selected / "masks" / "s1.png", mask)
    write_manifest(
        selected, [Sample("s1", "images/s1.png", "masks/s1.png", "hole", "p1", "train", fold, "synthetic", ("g1", "ref"))]
    )
    write_json(selected / "card.json", {"perceptual": "base", "kept": 1})
    crops = (picture[24:40, 16:32] for picture in (clean, result, mask))
    write_candidates(data / "candidates" / "defectfill" / f"fold-{fold}", selected, *crops)
    coco = {
        "images": [{"id": 1, "file_name": "images/s1.png"}],
        "annotations": [{"image_id": 1, "bbox": [20, 30, 10, 4]}],
        "categories": [],
    }
    labelled = data / "labelled" / "defectfill" / f"fold-{fold}"
    write_json(labelled / "annotations.json", coco)
    write_png(labelled / "images" / "s1.png", result)


def write_candidates(folder: Path, selected: Path, clean: np.ndarray, kept: np.ndarray, mask: np.ndarray) -> None:
    """A request with two candidates, the second kept."""
    request = RequestRecord(
        "fold-0-00000-0-hole",
        0,
        "g1",
        Window(16, 24, 16),
        (PartRecord("hole", "affine", "ref#0", ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))),),
    )
    folder.mkdir(parents=True)
    write_shard(folder / "shard-0000.tar", [Candidates(request, (mask,), (clean + 1, kept), (mask, mask), True)])
    shared = {"request": request.id, "shard": "shard-0000.tar", "defect": "hole", "clean": "g1", "references": ("ref#0",)}
    scores = {"score": 1.5, "changed_share": 0.75, "label_iou": 0.5, "nearest_reference": "ref#0", "reference_distance": 0.625}
    fates = [("changed too little of the mask", None), ("kept", "s1")]
    with write_fates(selected) as note:
        note(
            CandidateFate(**shared, **scores, number=number, quality=0.25, fate=fate, sample=name)
            for number, (fate, name) in enumerate(fates)
        )


def write_evaluation(folder: Path, rows: list[dict], records: dict[tuple[str, str, int], MatchRecord]) -> None:
    data = folder.parents[1] / "data"
    read = {"train": digest(data / "prepared" / "train"), "labelled/defectfill": digest(data / "labelled" / "defectfill")}
    write_json(folder / "metrics.json", {"rows": rows, "read": read})
    for (detector, arm, fold), one in records.items():
        write_record(folder / "matches" / record_name(detector, arm, fold), one)


def write_before_after(folder: Path, *detectors: str) -> None:
    """One defect found by the learned arm alone, one missed by both."""
    described = {}
    for detector in detectors:
        pictures = {name: f"gained-00-{name}.jpg" for name in ("truth", "before", "after")}
        (folder / detector).mkdir(parents=True)
        for file in pictures.values():
            Image.new("RGB", (48, 48), (90, 100, 110)).save(folder / detector / file)
        line = {"type": "hole", "photo": "a<b>.png", "fold": 0, "pictures": pictures, "before": "missed", "after": "found (0.90)"}
        described[detector] = {
            "before": "real",
            "after": "defectfill",
            "score": 0.3,
            "iou": 0.5,
            "defects": 6,
            "counts": {"gained": 1, "lost": 0, "missed": 1, "kept": 4},
            "shown": {"gained": [line], "lost": [], "missed": [line | {"after": "missed"}]},
        }
    write_json(folder / "gallery.json", described)


def write_quick_look(root: Path) -> None:
    """Two arms of one detector and one of another on fold 0."""
    write_training(root, (0,))
    rows = [*rows_of({"real": [0.25], "defectfill": [0.5]}), eval_row("yolo_seg", "real", 0, 0.125, masks=True)]
    records = records_of({"real": [1], "defectfill": [2]}) | records_of({"real": [1]}, "yolo_seg")
    write_evaluation(root / "reports" / "eval", rows, records)
    write_before_after(root / "reports" / "eval" / "gallery", "rtdetr")


STUDY_ARMS = {"real": -0.5, "classical": -0.4, "copy_paste": 0.0, "defectfill": 0.5, "defectfill_classical": 0.7}


def write_study(root: Path) -> None:
    """Three folds: with one detector the generator helps, with the other it adds nothing. No parts are shared with training.

    The report is written, and beside it both known sweeps.
    """
    write_training(root, (0, 1, 2))
    rows: list[dict] = []
    records: dict[tuple[str, str, int], MatchRecord] = {}
    for detector, skills in (("rtdetr", STUDY_ARMS), ("yolo_seg", dict.fromkeys(STUDY_ARMS, -0.5))):
        for fold, many in draw_study(World(skills, 0.1), 0).items():
            records |= {(detector, arm, fold): one for arm, one in many.items()}
    for (detector, arm, fold), one in records.items():
        images = len(one.image_id)
        score = float(reweighted_map(one.box, [0], np.arange(images), np.ones((1, images)))[0])
        rows.append(eval_row(detector, arm, fold, round(score, 6), masks=detector == "yolo_seg"))
    write_evaluation(root / "reports" / "eval", rows, records)
    write_before_after(root / "reports" / "eval" / "gallery", "rtdetr", "yolo_seg")
    run_report(root)
    _write_sweeps(root)


def run_report(root: Path) -> dict[str, str]:
    """The report's three forms."""
    params = ReportParams(gallery_rows=4, candidate_rows=2, resamples=100, confidence=0.95)
    report(params, root / "data", root / "reports")
    return {kind: (root / "reports" / f"comparison.{kind}").read_text(encoding="utf-8") for kind in ("json", "md", "html")}


def _write_sweeps(root: Path) -> None:
    """Both known sweeps at three values, each the report's own comparison."""
    comparison = json.loads((root / "reports" / "comparison.json").read_text(encoding="utf-8"))
    points = [{"value": value, **comparison} for value in (2, 5, 10)]
    write_json(root / "reports" / "sweeps" / "prepare.k.json", {"parameter": "prepare.k", "points": points})
    points = [{"value": value, **comparison} for value in (0.25, 0.5, 0.75)]
    write_json(root / "reports" / "sweeps" / "mix.share.json", {"parameter": "mix.share", "points": points})
