"""Stage `evaluate`: every trained detector on the test parts of its fold; the only code that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detectors.confusion import confusion
from detectors.datasets import DetectionData, from_manifest
from detectors.gallery import BEFORE, Case, best_learned, cases, write_gallery
from detectors.lineup import ModelFolder, find_models, learned_from
from detectors.match_records import match_record, region_f_measure
from detectors.metrics import coco_runs, image_scores, scores_of_runs
from detectors.model_files import ModelFileError, load_model
from detectors.params import EvaluateParams
from detectors.pixels import count_pixels, pixel_scores
from detectors.predict import predict
from detectors.tiling import framing_of
from pipeline.fan_out import open_crew
from pipeline.matches import GALLERY, MATCHES, MatchRecord, record_name, write_record
from pipeline.params import LabelParams
from pipeline.records import fold_name, read_manifest, write_json
from pipeline.runlog import whole_folder


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
    results = predict(trained.detector, trained.network, data, framing_of(trained.card), params.limits)
    runs = coco_runs(data.coco, results, params.max_detections, trained.detector.has_masks)
    record = match_record(data.coco, results, runs)
    masks = trained.detector.has_masks
    row = {
        **scores_of_runs(data.coco, results, runs),
        "region_f_measure": region_f_measure(record, params.f_measure_score),
        "confusion": confusion(data.coco, results, params.f_measure_score),
        "pixel": pixel_scores(count_pixels(data.coco, results), params.f_measure_score) if masks else None,
        "best_step": trained.card["best_step"],
        "val_box_map50": trained.card["val"]["box_map50"],
        "train_images": trained.card["images"],
    }
    return Scored(row, results, record)


@dataclass(frozen=True)
class Evaluation:
    """All models to be scored, for any process.

    Attributes:
        params: Section `evaluate`.
        models: Their folders.
        data: Test photos by fold.
        out: Folder to fill.
    """

    params: EvaluateParams
    models: Sequence[ModelFolder]
    data: Mapping[int, DetectionData]
    out: Path

    def score(self, number: int) -> dict[str, Any]:
        """Write predictions and matches of one model, and return its scores."""
        torch.set_num_threads(self.params.threads)
        model = self.models[number]
        data = self.data[model.fold]
        scored = _score(self.params, model, data)
        per_image = {str(i): s for i, s in image_scores(data.coco, scored.results).items()}
        names = {"detector": model.detector, "arm": model.arm, "fold": model.fold}
        write_json(_predictions(self.out, model.detector, model.arm, model.fold), scored.results)
        write_record(self.out / MATCHES / record_name(**names), scored.record)
        return {**scored.scores, "image_scores": per_image}

    def score_all(self) -> list[dict[str, Any]]:
        """Scores of every model, in their order, made where `BLEMISH_EXECUTOR` says."""
        with open_crew(ahead=1) as crew:
            found = dict(crew.each(self.score, range(len(self.models)), "model"))
        return [found[number] for number in range(len(self.models))]


def _predictions(out: Path, detector: str, arm: str, fold: int) -> Path:
    return out / "predictions" / f"{detector}-{arm}-{fold_name(fold)}.json"


def _write_galleries(
    params: EvaluateParams, rows: Sequence[Mapping[str, Any]], data: Mapping[int, DetectionData], out: Path
) -> None:
    """Show each detector's best learned arm beside `real`, on every fold that has both."""
    described: dict[str, dict[str, Any]] = {}
    for detector in sorted({row["detector"] for row in rows}):
        val: dict[str, list[float | None]] = {}
        for row in rows:
            if row["detector"] == detector:
                val.setdefault(row["arm"], []).append(row["val_box_map50"])
        after = best_learned(val)
        if after is None or BEFORE not in val:
            continue
        found: list[Case] = []
        for fold, own in data.items():
            files = [_predictions(out, detector, arm, fold) for arm in (BEFORE, after)]
            if all(file.exists() for file in files):
                results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
                found += cases(fold, own, results[0], results[1], params.gallery_score)
        classes = next(iter(data.values())).classes
        shown = params.gallery_images, params.gallery_score
        described[detector] = write_gallery(out / GALLERY / detector, after, found, classes, *shown)
    write_json(out / GALLERY / "gallery.json", described)


def evaluate(params: EvaluateParams, label_params: LabelParams, models: Path, test: Path, out: Path) -> None:
    """Score every model on the real test images of its fold.

    Args:
        params: Section `evaluate`.
        label_params: Section `label`: what counts as one defect.
        models: `data/models`.
        test: `data/prepared/test`.
        out: Gets metrics.json (which also says what the models learned from), ground_truth-fold-<f>.json, predictions/ (COCO
            results), matches/ (which detections are right, see `pipeline.matches`) and gallery/ (pictures before and after, see
            `detectors.gallery`). Where the models are scored (`BLEMISH_EXECUTOR`) changes no byte.

    Raises:
        ModelFileError: If there is no model, or models did not learn from the same data by the same recipe.
        WorkError: Says why a model cannot be scored.
    """
    found = find_models(models.resolve())
    read = learned_from(found, label_params)
    data = {fold: from_manifest(test.resolve(), fold, "test", label_params) for fold in sorted({m.fold for m in found})}
    facts = {fold: _facts(test, fold, own) for fold, own in data.items()}
    with whole_folder(out) as temporary:
        scores = Evaluation(params, found, data, temporary.resolve()).score_all()
        about = [{"detector": m.detector, "arm": m.arm, "fold": m.fold, **facts[m.fold]} for m in found]
        rows = [{**first, **rest} for first, rest in zip(about, scores, strict=True)]
        for fold, own in data.items():
            write_json(temporary / f"ground_truth-{fold_name(fold)}.json", own.coco)
        _write_galleries(params, rows, data, temporary)
        write_json(temporary / "metrics.json", {"rows": rows, "read": read, "evaluate": params.model_dump(mode="json")})
