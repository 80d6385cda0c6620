"""Stage `label`: what really changed on a synthetic image becomes instances, in COCO and YOLO form."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipeline.labels.boxes import Margin
from pipeline.labels.coco import LabelError, coco_dataset, train_margin
from pipeline.labels.yolo import round_trip_iou, yolo_labels
from pipeline.params import LabelParams
from pipeline.records import Sample, read_card, read_manifest, write_json, write_text
from pipeline.runlog import whole_folder


def _copy_images(samples: list[Sample], source: Path, out: Path) -> None:
    for name in sorted({s.image for s in samples}):
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)


def _write_yolo(out: Path, coco: dict[str, Any], classes: tuple[str, ...]) -> float | None:
    det, seg = yolo_labels(coco)
    for folder, texts in (("labels_det", det), ("labels_seg", seg)):
        for name, text in texts.items():
            write_text(out / folder / (PurePosixPath(name).stem + ".txt"), text)
    names = dict(enumerate(classes))
    # Readers look for labels in `labels/` beside `images/`: copy or link labels_det or labels_seg there.
    write_text(
        out / "data.yaml", yaml.safe_dump({"path": ".", "train": "images", "val": "images", "names": names}, sort_keys=False)
    )
    return round_trip_iou(coco, seg)


def _check_stems(samples: list[Sample], fold: Path) -> None:
    stems = Counter(PurePosixPath(name).stem for name in {s.image for s in samples})
    twice = sorted(stem for stem, count in stems.items() if count > 1)
    if twice:
        raise LabelError(f"{fold}: images share the file names {twice[:5]}, so their YOLO labels would overwrite each other")


def _label_fold(params: LabelParams, fold: Path, out: Path, classes: tuple[str, ...], margin: Margin | None) -> None:
    samples = read_manifest(fold)
    _check_stems(samples, fold)
    coco = coco_dataset(samples, fold, classes, params, margin)
    _copy_images(samples, fold, out)
    write_json(out / "annotations.json", coco)
    iou = _write_yolo(out, coco, classes)
    per_type = Counter(a["category_id"] for a in coco["annotations"])
    card = {
        "images": len(coco["images"]),
        "instances": {name: per_type[number] for number, name in enumerate(classes, 1)},
        "margin_px": None if margin is None else [round(v, 3) for v in margin],
        "polygon_round_trip_iou": None if iou is None else round(iou, 6),
        "label": params.model_dump(mode="json"),
    }
    write_json(out / "card.json", card)


def label(params: LabelParams, selected: Path, prepared_train: Path, out: Path) -> None:
    """Label every fold of one generator's selected images.

    Args:
        params: Section `label`.
        selected: `data/selected/<generator>`, with `fold-<f>/manifest.jsonl`.
        prepared_train: `data/prepared/train`: the class list, and the references the annotators' margin is measured on.
        out: Gets `fold-<f>/` with images/ (byte for byte), annotations.json, labels_det/, labels_seg/, data.yaml, card.json.

    Raises:
        LabelError: If there is no fold, or a sample cannot be labelled.
    """
    card = read_card(prepared_train)
    folds = sorted(p for p in selected.glob("fold-*") if p.is_dir())
    if not folds:
        raise LabelError(f"{selected}: no folder fold-<f>; run `select` first")
    with whole_folder(out) as temporary:
        for fold in folds:
            number = int(fold.name.removeprefix("fold-"))
            margin = (
                train_margin(read_manifest(prepared_train, number), prepared_train) if card.box_truth == "annotation" else None
            )
            _label_fold(params, fold, temporary / fold.name, card.classes, margin)
