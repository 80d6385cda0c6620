"""Stage `evaluate`: every trained detector on the test parts of its fold; the only code that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detectors.datasets import DetectionData, from_manifest
from detectors.gallery import gallery
from detectors.match_records import match_record, region_f_measure
from detectors.metrics import coco_runs, image_scores, scores_of_runs
from detectors.model_files import ModelFileError, load_model
from detectors.params import EvaluateParams
from detectors.pixels import count_pixels, pixel_scores
from detectors.predict import predict
from detectors.protocol import Limits
from pipeline.images import write_png
from pipeline.matches import MATCHES, MatchRecord, record_name, write_record
from pipeline.params import LabelParams
from pipeline.records import fold_name, read_manifest, write_json
from pipeline.runlog import whole_folder


@dataclass(frozen=True)
class ModelFolder:
    """One trained model: `<models>/<detector>/<arm>/fold-<f>`."""

    detector: str
    arm: str
    fold: int
    path: Path


def find_models(models: Path) -> list[ModelFolder]:
    """Every model folder below `models`, by fold, detector and arm (`real` and `classical` first).

    Raises:
        ModelFileError: If there is none.
    """
    found = [
        ModelFolder(path.parents[1].name, path.parent.name, int(path.name.removeprefix("fold-")), path)
        for path in models.glob("*/*/fold-*")
        if path.is_dir() and path.name.removeprefix("fold-").isdigit()
    ]
    if not found:
        raise ModelFileError(f"{models}: no model <detector>/<arm>/fold-<f>; run `train` first")
    first = {"real": 0, "classical": 1}
    return sorted(found, key=lambda m: (m.fold, m.detector, first.get(m.arm, 2), m.arm))


def _facts(test: Path, fold: int, data: DetectionData) -> dict[str, Any]:
    """What the scores of a fold rest on."""
    samples = [s for s in read_manifest(test, fold) if s.split == "test"]
    parts = {name: len({s.part_id for s in samples if s.defect == name}) for name in data.classes}
    defects = {name: sum(a["category_id"] == i for a in data.coco["annotations"]) for i, name in enumerate(data.classes, 1)}
    return {
        "images": len(data.records),
        "good_images": len(data.good),
        "defects": len(data.coco["annotations"]),
        "defects_per_type": defects,
        "parts_per_type": parts,
        "good_parts": len({s.part_id for s in samples if s.is_good}),
    }


@dataclass(frozen=True)
class Scored:
    """One model on test: its numbers, its detections and which of them are right."""

    scores: dict[str, Any]
    results: list[dict[str, Any]]
    record: MatchRecord


def _score(params: EvaluateParams, model: ModelFolder, data: DetectionData) -> Scored:
    trained = load_model(model.path)
    if trained.classes != data.classes:
        raise ModelFileError(f"{model.path}: trained on classes {trained.classes}, test has {data.classes}; train it again")
    limits = Limits(params.min_score, params.max_detections)
    results = predict(trained.detector, trained.network, data, trained.card["side_px"], limits)
    runs = coco_runs(data.coco, results, params.max_detections, trained.detector.has_masks)
    record = match_record(data.coco, results, runs)
    masks = trained.detector.has_masks
    row = {
        **scores_of_runs(data.coco, results, runs),
        "region_f_measure": region_f_measure(record, params.f_measure_score),
        "pixel": pixel_scores(count_pixels(data.coco, results), params.f_measure_score) if masks else None,
        "best_step": trained.card["best_step"],
        "val_box_map50": trained.card["val"]["box_map50"],
        "train_images": trained.card["images"],
    }
    return Scored(row, results, record)


def _evaluate_fold(
    params: EvaluateParams, models: list[ModelFolder], data: DetectionData, facts: dict[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Score the models of one fold, write their predictions, matches and the galleries."""
    rows: list[dict[str, Any]] = []
    shown: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for model in models:
        scored = _score(params, model, data)
        per_image = {str(i): s for i, s in image_scores(data.coco, scored.results).items()}
        names = {"detector": model.detector, "arm": model.arm, "fold": model.fold}
        rows.append({**names, **facts, **scored.scores, "image_scores": per_image})
        write_json(out / "predictions" / f"{model.detector}-{model.arm}-{fold_name(model.fold)}.json", scored.results)
        write_record(out / MATCHES / record_name(**names), scored.record)
        shown.setdefault(model.detector, {})[model.arm] = scored.results
    write_json(out / f"ground_truth-{fold_name(models[0].fold)}.json", data.coco)
    for detector, by_arm in shown.items():
        picture = gallery(data, by_arm, params.gallery_images, params.gallery_score)
        write_png(out / f"detections-{detector}-{fold_name(models[0].fold)}.png", picture)
    return rows


def evaluate(params: EvaluateParams, label_params: LabelParams, models: Path, test: Path, out: Path) -> None:
    """Score every model on the real test images of its fold.

    Args:
        params: Section `evaluate`.
        label_params: Section `label`: what counts as one defect.
        models: `data/models`.
        test: `data/prepared/test`.
        out: Gets metrics.json, ground_truth-fold-<f>.json, predictions/ (COCO results), matches/ (which detections
            are right, see `pipeline.matches`) and detections-*.png.
    """
    torch.set_num_threads(params.threads)
    found = find_models(models)
    rows: list[dict[str, Any]] = []
    with whole_folder(out) as temporary:
        for fold in sorted({m.fold for m in found}):
            data = from_manifest(test, fold, "test", label_params)
            of_fold = [m for m in found if m.fold == fold]
            rows += _evaluate_fold(params, of_fold, data, _facts(test, fold, data), temporary)
        write_json(temporary / "metrics.json", {"rows": rows, "evaluate": params.model_dump(mode="json")})
