"""`make bench-questions`: two questions about detectors, asked of real magnetic tiles. Writes reports/bench/questions.json.

1. Does the background inside the box of a slanted or branched defect hurt a box detector? RT-DETR with one box a defect, RT-DETR
   trained with boxes cut along the defect until they are mostly defect, and a mask head.
2. Does training on known defect types lower the recall of a type that was held out? RT-DETR before (as pre-trained on drawn
   defects), after training on the other types, and after training on all.

Works in the copies that `make bench-proof` left of studies `magnetic_tile` and `magnetic_tile-yolo_seg`, with their recipe. Asked
on real train parts beyond the budget K, which no detector was trained on; neither test parts nor anything chosen on them is read.
Detections of any type count, above the score at which good val photos have `ALARMS` of them each. Trainings are kept below
.work/bench-questions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from scipy.stats import spearmanr

from detectors.arms import parse_arm
from detectors.datasets import DetectionData, Record, from_manifest
from detectors.model_files import CLASSES, load_model
from detectors.predict import predict
from detectors.pretrained import ROOT, load_pretrained
from detectors.protocol import COMPACT, DETECTORS, Detector
from detectors.session import fresh_network
from detectors.tiling import Framing, framing_of
from detectors.training import FoldData, fit_fold, load_fold
from pipeline.images import Mask
from pipeline.labels.boxes import box_to_coco, coco_to_box, mask_inside, mask_to_box
from pipeline.labels.coco import decode_mask, encode_mask
from pipeline.records import fold_name, read_manifest, write_json
from tests.bench.bars import work_folder, write_bars
from tests.bench.fills import part_interval
from tests.bench.ways import STUDIES as COPIES
from tests.bench.ways import data_key, recipe

WORK = work_folder("questions")
STUDY = COPIES["magnetic_tile"]
PREPARED = STUDY / "data" / "prepared"
STUDIES = {"rtdetr": STUDY, "yolo_seg": STUDY.with_name("magnetic_tile-yolo_seg")}
ALARMS = 0.5
"""False detections a good photo."""
FOUND_IOU = 0.5
FULL = 0.5
"""Share of a box that is defect, from which on it is not cut and counts as full."""
LEAST_PX = 8
"""Boxes whose longer side is below twice this are not cut."""
Annotations = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """Something that detects: of a model folder, of this bench, or as pre-trained."""

    detector: Detector
    network: torch.nn.Module
    framing: Framing


@dataclass(frozen=True)
class Seen:
    """What a network saw of one defect.

    Attributes:
        kind: Its type.
        part: The part it is on.
        fill: Share of its tight box that is defect.
        size_px: Root of its area.
        iou: Of the best detection's box with its box.
        covered: Share of its pixels inside detections.
        waste: Share of the pixels inside the detections that touch it that are not defect; None where none does.
    """

    kind: str
    part: str
    fill: float
    size_px: float
    iou: float
    covered: float
    waste: float | None


def cut(mask: Mask) -> list[Mask]:
    """Pieces of a mask: halved across its longer side until each fills half of its box, or is short."""
    x0, y0, x1, y1 = mask_to_box(mask)
    width, height = x1 - x0, y1 - y0
    if mask.sum() >= FULL * width * height or max(width, height) < 2 * LEAST_PX:
        return [mask]
    first, second = mask.copy(), mask.copy()
    if width >= height:
        first[:, (x0 + x1) // 2 :], second[:, : (x0 + x1) // 2] = False, False
    else:
        first[(y0 + y1) // 2 :], second[: (y0 + y1) // 2] = False, False
    return [piece for half in (first, second) if half.any() for piece in cut(half)]


def cut_annotations(record: Record) -> Annotations:
    """Each annotation in pieces, every piece with its own tight box."""
    pieces = [(annotation, piece) for annotation in record.annotations for piece in cut(decode_mask(annotation["segmentation"]))]
    return [
        annotation | {"segmentation": encode_mask(piece), "bbox": box_to_coco(mask_to_box(piece)), "area": float(piece.sum())}
        for annotation, piece in pieces
    ]


def relabelled(data: DetectionData, labels: Callable[[Record], Annotations | None]) -> DetectionData:
    """Training data with other annotations, without the photos that get None. The document, for scoring, is left as it is."""
    found = [(record, labels(record)) for record in data.records]
    return replace(data, records=tuple(replace(r, annotations=tuple(rows)) for r, rows in found if rows is not None))


def without(kind: str, data: DetectionData) -> DetectionData:
    """The photos that show no defect of a type."""
    number = data.classes.index(kind) + 1
    return relabelled(data, lambda r: None if any(a["category_id"] == number for a in r.annotations) else r.annotations)


def kept_in() -> Path:
    """Where trainings and answers lie, of these copies of the studies."""
    return WORK / "-".join(data_key(study) for study in STUDIES.values())


def trained(name: str, fold: int, change: Callable[[DetectionData], DetectionData]) -> Network:
    """RT-DETR, arm `real`, on changed training data; kept."""
    used, real = recipe(STUDY), parse_arm("real")
    torch.set_num_threads(used.train.threads)
    plain = load_fold(used.label, real, PREPARED, None, fold)
    kept = kept_in() / name / f"{fold_name(fold)}.weights.pt"
    detector = DETECTORS["rtdetr"]()
    network = fresh_network("rtdetr", COMPACT, len(plain.train.classes), fold)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fitted = fit_fold(used, "rtdetr", real, FoldData(change(plain.train), plain.val, None), fold, kept.parent)
        building = kept.with_suffix(".tmp")
        torch.save({"side_px": fitted.framing.side_px, "weights": fitted.session.best.weights}, building)
        building.replace(kept)
    found = torch.load(kept, weights_only=True)
    network.load_state_dict(found["weights"])
    return Network(detector, network.eval(), Framing(found["side_px"], used.train.tiling))


def stored(detector: str, fold: int) -> Network:
    """Arm `real` of the detector's study."""
    model = load_model(STUDIES[detector] / "data" / "models" / detector / "real" / fold_name(fold))
    return Network(model.detector, model.network, framing_of(model.card))


def untrained(framing: Framing) -> Network:
    """RT-DETR as pre-trained on drawn defects, with their types."""
    classes = json.loads((ROOT / "rtdetr" / CLASSES).read_text(encoding="utf-8"))
    network = fresh_network("rtdetr", COMPACT, len(classes), 0)
    network.load_state_dict(load_pretrained("rtdetr")[0])
    return Network(DETECTORS["rtdetr"](), network.eval(), framing)


def looks(network: Network, fold: int, *, masks: bool) -> Iterator[Seen]:
    """What a network sees of the defects nobody trained on.

    Args:
        network: It.
        fold: Of the study.
        masks: Whether a detection covers its mask, else its box.
    """
    label, params = recipe(STUDY).label, recipe(STUDY).train
    pool = from_manifest(PREPARED / "train", fold, "unused", label)
    good = from_manifest(PREPARED / "val", fold, "val", label).good
    false = predict(network.detector, network.network, replace(pool, records=good), network.framing, params.limits)
    alarms = sorted((row["score"] for row in false), reverse=True)
    allowed = int(ALARMS * len(good))
    bound = alarms[allowed] if len(alarms) > allowed else 0.0
    parts = {sample.image: sample.part_id for sample in read_manifest(PREPARED / "train", fold)}
    for record in pool.defective:
        rows = predict(network.detector, network.network, replace(pool, records=(record,)), network.framing, params.limits)
        rows = [row for row in rows if row["score"] > bound]
        areas = [area_of(row, record.size, masks=masks) for row in rows]
        every = np.logical_or.reduce([decode_mask(a["segmentation"]) for a in record.annotations])
        for annotation in record.annotations:
            mask, box = decode_mask(annotation["segmentation"]), coco_to_box(annotation["bbox"])
            touching = [area for area in areas if (area & mask).any()]
            union = np.logical_or.reduce(touching) if touching else None
            yield Seen(
                pool.classes[annotation["category_id"] - 1],
                parts[str(record.path.relative_to(PREPARED / "train"))],
                float(mask.sum()) / ((box[2] - box[0]) * (box[3] - box[1])),
                float(mask.sum()) ** 0.5,
                float(np.max(mask_api.iou([r["bbox"] for r in rows], [annotation["bbox"]], [0]))) if rows else 0.0,
                float(mask[union].sum() / mask.sum()) if union is not None else 0.0,
                1 - float((every & union).sum() / union.sum()) if union is not None else None,
            )


def area_of(row: Mapping[str, Any], size: tuple[int, int], *, masks: bool) -> Mask:
    """The pixels a detection claims."""
    if masks:
        return decode_mask(row["segmentation"])
    return mask_inside(np.ones(size, dtype=bool), coco_to_box(row["bbox"]))


def interval(values: NDArray[np.float64], parts: Sequence[str]) -> list[float]:
    """Mean and its 95 % interval, parts drawn anew with all their defects."""
    return [round(value, 3) for value in part_interval(values, tuple(parts), 0)]


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's."""
    return round(float(spearmanr(a, b)[0]), 3)  # pyright: ignore[reportArgumentType]


def background(folds: Sequence[int]) -> dict[str, Any]:
    """Question 1."""
    ways: dict[str, Callable[[int], tuple[Network, bool]]] = {
        "RT-DETR, one box a defect": lambda fold: (stored("rtdetr", fold), False),
        "RT-DETR, cut boxes": lambda fold: (trained("cut", fold, lambda data: relabelled(data, cut_annotations)), False),
        "YOLO-seg, its boxes": lambda fold: (stored("yolo_seg", fold), False),
        "YOLO-seg, its masks": lambda fold: (stored("yolo_seg", fold), True),
    }
    rows: dict[str, Any] = {}
    for name, of in ways.items():
        seen = [one for fold in folds for network, masks in [of(fold)] for one in looks(network, fold, masks=masks)]
        fills, found = np.array([s.fill for s in seen]), np.array([s.iou for s in seen])
        rows[name] = {
            "spearman of fill and IoU": correlation(fills, found),
            "spearman of size and IoU": correlation(np.array([s.size_px for s in seen]), found),
        }
        for group, chosen in (("slanted or branched", fills < FULL), ("full", fills >= FULL)):
            own = [s for s, one in zip(seen, chosen, strict=True) if one]
            waste = [s.waste for s in own if s.waste is not None]
            rows[name][group] = {
                "defects": len(own),
                "covered": interval(np.array([s.covered for s in own]), [s.part for s in own]),
                "found": interval(np.array([s.iou >= FOUND_IOU for s in own], float), [s.part for s in own]),
                "background inside": round(float(np.mean(waste)), 3) if waste else None,
            }
    return rows


def held_out(folds: Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
    """Question 2: recall of a type by networks that know nothing but drawn defects, all other types, or all."""
    every: dict[str, list[Seen]] = {"before": [], "all": []}
    for fold in folds:
        everything = stored("rtdetr", fold)
        for name, network in (("before", untrained(everything.framing)), ("all", everything)):
            every[name] += looks(network, fold, masks=False)
    rows: dict[str, Any] = {}
    for kind in kinds:
        parts = [one.part for one in every["all"] if one.kind == kind]
        if not parts:  # K took all parts of the type
            rows[kind] = {"defects": 0}
            continue
        others: list[Seen] = []
        for fold in folds:
            others += looks(trained(f"without-{kind}", fold, lambda data, kind=kind: without(kind, data)), fold, masks=False)
        seen = {"before": every["before"], "others": others, "all": every["all"]}
        found = {name: np.array([one.iou >= FOUND_IOU for one in many if one.kind == kind], float) for name, many in seen.items()}
        rows[kind] = {name: interval(values, parts) for name, values in found.items()}
        rows[kind] |= {"defects": len(parts), "others minus before": interval(found["others"] - found["before"], parts)}
    return rows


def main() -> int:
    """Ask what was not asked yet, write what is known."""
    parser = argparse.ArgumentParser(description="Questions about detectors, on real train parts beyond the budget.")
    parser.add_argument("--questions", nargs="*", choices=("background", "held_out"), default=["background", "held_out"])
    parser.add_argument("--folds", nargs="*", type=int, default=[0])
    parser.add_argument("--kinds", nargs="*", default=["Blowhole", "Break", "Crack", "Fray", "Uneven"], help="types to hold out")
    args = parser.parse_args()
    ask: dict[str, Callable[[], dict[str, Any]]] = {
        "background": lambda: background(args.folds),
        "held_out": lambda: held_out(args.folds, args.kinds),
    }
    for question in args.questions:
        write_json(kept_in() / f"{question}.json", {"folds": args.folds, "found": ask[question]()})
    files = {question: kept_in() / f"{question}.json" for question in ask}
    found = {q: json.loads(f.read_text(encoding="utf-8")) if f.exists() else "not run" for q, f in files.items()}
    return write_bars("questions", [], alarms_a_good_photo=ALARMS, questions=found)


if __name__ == "__main__":
    raise SystemExit(main())
