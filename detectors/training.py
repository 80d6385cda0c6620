"""Stage `train`: one arm of one detector, every fold; the same steps, batches and real images in every arm."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors.arms import Arm, parse_arm
from detectors.augment import augmenter
from detectors.batches import Batches, Counts, Pools, open_batches
from detectors.datasets import DataError, DetectionData, Example, from_labelled, from_manifest
from detectors.letterbox import fit, network_side
from detectors.metrics import MATCH_IOU, all_scores, matched_scores
from detectors.model_files import save_model
from detectors.params import Recipe, TrainParams
from detectors.predict import predict, to_tensor
from detectors.pretrained import first_weights
from detectors.session import Session, fresh_network, open_session, validation_row, weight_groups
from detectors.tiling import Framing, load_view, view
from pipeline.folds import each_fold
from pipeline.params import LabelParams
from pipeline.records import fold_name, read_card, write_json
from pipeline.runlog import digest, resumable_output
from pipeline.training import History, LoopPlan, run_loop, torch_device
from pipeline.val_matches import VAL_MATCHES

logger = logging.getLogger(__name__)

SMALL_SCALE = 0.5


@dataclass(frozen=True)
class FoldData:
    """What one training sees."""

    train: DetectionData
    val: DetectionData
    synthetic: DetectionData | None


def load_fold(label_params: LabelParams, arm: Arm, prepared: Path, labelled: Path | None, fold: int) -> FoldData:
    """Read the data of one arm and fold.

    Raises:
        DataError: If the arm needs synthetic images and has no folder of them.
    """
    train = from_manifest(prepared / "train", fold, "train", label_params)
    val = from_manifest(prepared / "val", fold, "val", label_params)
    if arm.generator is None:
        return FoldData(train, val, None)
    if labelled is None:
        raise DataError(f"arm {arm.name!r} needs synthetic images; pass --labelled data/labelled/{arm.generator}")
    return FoldData(train, val, from_labelled(labelled / fold_name(fold), train.classes, train.drawn_boxes))


def load_pools(data: FoldData, arm: Arm, framing: Framing, work: Path) -> Pools:
    """Every training image of an arm at every scale it is shown at: in memory, but for what windows are cut from, in `work`."""
    synthetic = data.synthetic.defective if data.synthetic is not None else ()
    return Pools(
        tuple(load_view(r, framing, work / "real") for r in data.train.defective if arm.real),
        tuple(load_view(r, framing, work / "good") for r in data.train.good),
        tuple(load_view(r, framing, work / "synthetic") for r in synthetic),
    )


def framing_for(data: DetectionData, params: TrainParams) -> Framing:
    """How photos are shown, the side of the network's square from the train photos."""
    return Framing(network_side((r.size for r in data.records), params.image_px), params.tiling)


def smallest_scale(data: DetectionData, framing: Framing) -> float:
    """How far the largest photo is shrunk where it is shown largest. Below a half, a warning says what that does."""
    scale = round(min(min(fit(r.size, framing.largest_px).scale) for r in data.records), 4)
    if scale < SMALL_SCALE:
        windows = "set train.tiling, so that they are also shown in windows at a larger scale (docs/detectors.md)"
        logger.warning(
            "photos are shrunk to %.2f of their size, so that a defect of 15 px has %.0f px left; %s",
            scale,
            15 * scale,
            f"{windows}, or raise train.image_px" if framing.tiling is None else "raise train.tiling.photo_px",
        )
    return scale


@dataclass(frozen=True)
class Fitted:
    """One finished training."""

    session: Session
    history: History
    counts: Counts
    framing: Framing
    smallest_scale: float
    start: dict[str, Any]


def start_session(params: TrainParams, name: str, classes: Sequence[str], seed: int) -> tuple[Session, dict[str, Any]]:
    """The same start in every arm, pre-trained or random, with the facts of it for the card."""
    variant = params.tuning(name).architecture
    network = fresh_network(name, variant, len(classes), seed)
    start = first_weights(params, name, network, classes)
    network.to(torch_device(params.device))
    return open_session(name, variant, len(classes), network, params.ema_decay), start


def losses_at(recipe: Recipe, session: Session, side_px: int, batches: Batches) -> Callable[[int], dict[str, Tensor]]:
    """A function from a step to its named losses; see `run_loop`."""
    device = torch_device(recipe.train.device)

    def losses_of(examples: Sequence[Example]) -> dict[str, Tensor]:
        pictures = to_tensor([e.picture for e in examples], side_px).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.train.autocast == "bf16"):
            return session.detector.losses(session.network, pictures, [e.targets for e in examples])

    def at(step: int) -> dict[str, Tensor]:
        session.network.train()
        kinds = batches.at(step)
        if recipe.mix.weight == 1.0 or not all(kinds.values()):
            return losses_of([*kinds[False], *kinds[True]])
        # Each kind passes by itself, so that its loss, a mean over images, can be weighted.
        shares = {kind: len(examples) * (recipe.mix.weight if kind else 1.0) for kind, examples in kinds.items()}
        found = {kind: losses_of(examples) for kind, examples in kinds.items()}
        total = sum(shares.values())
        return {name: (shares[False] * real + shares[True] * found[True][name]) / total for name, real in found[False].items()}

    return at


def _after_step(params: TrainParams, session: Session, val: DetectionData, framing: Framing) -> Callable[[int], None]:
    def after_step(done: int) -> None:
        session.ema.update(session.network)
        if done % params.validate_every and done != params.steps:
            return
        session.twin.load_state_dict(session.ema.average)
        results = predict(session.detector, session.twin, val, framing, params.limits)
        scores = all_scores(val.coco, results, params.max_detections, session.detector.has_masks)
        row = validation_row(done, scores)
        session.best.offer(row, session.ema.average)
        logger.info("step %d: val box mAP50 %s", done, row["box_map50"])

    return after_step


def fit_fold(recipe: Recipe, name: str, arm: Arm, data: FoldData, seed: int, work: Path) -> Fitted:
    """Train one network; resumes from the checkpoint in `work`."""
    params = recipe.train
    framing = framing_for(data.train, params)
    scale = smallest_scale(data.train, framing)
    photos = work / f"{fold_name(seed)}-photos"
    pools = load_pools(data, arm, framing, photos)
    augment = augmenter(arm.recipe, data.train.drawn_boxes)
    batches = open_batches(params, recipe.mix, pools, lambda one, own_seed: augment(view(one, own_seed), own_seed), seed)
    session, start = start_session(params, name, data.train.classes, seed)
    optimizer = torch.optim.AdamW(
        weight_groups(session.network, params.weight_decay), lr=params.lr * params.tuning(name).lr_scale
    )
    plan = LoopPlan(
        steps=params.steps,
        seed=seed,
        label=f"train {name} {arm.name} {fold_name(seed)}",
        warmup_steps=params.warmup_steps,
        cosine=True,
        checkpoint=work / f"{fold_name(seed)}.pt",
    )
    history = run_loop(
        plan,
        losses_at(recipe, session, framing.side_px, batches),
        optimizer,
        {"network": session.network, "ema": session.ema, "best": session.best},
        _after_step(params, session, data.val, framing),
    )
    shutil.rmtree(photos, ignore_errors=True)
    return Fitted(session, history, batches.counts, framing, scale, start)


def image_counts(data: FoldData) -> dict[str, int]:
    """Images of each kind an arm trains and validates on."""
    return {
        "real": len(data.train.defective),
        "good": len(data.train.good),
        "synthetic": len(data.synthetic.defective) if data.synthetic is not None else 0,
        "val_defective": len(data.val.defective),
        "val_good": len(data.val.good),
    }


def settings(recipe: Recipe, arm: Arm) -> dict[str, Any]:
    """The parameters a training of this arm depends on: `mix` only where there is something to mix."""
    mix = {"mix": recipe.mix.model_dump(mode="json")} if arm.generator is not None else {}
    return {**recipe.train.model_dump(mode="json"), **mix}


def _card(recipe: Recipe, name: str, arm: Arm, data: FoldData, fitted: Fitted) -> dict[str, Any]:
    session = fitted.session
    return {
        "detector": name,
        "arm": asdict(arm),
        "classes": list(data.train.classes),
        "params": settings(recipe, arm),
        "start": fitted.start,
        "side_px": fitted.framing.side_px,
        "tiling": None if fitted.framing.tiling is None else fitted.framing.tiling.model_dump(),
        "smallest_scale": fitted.smallest_scale,
        "parameters": sum(p.numel() for p in session.network.parameters()),
        "images": image_counts(data),
        "batch": asdict(fitted.counts),
        "steps": len(fitted.history.losses),
        "skipped_steps": fitted.history.skipped,
        "best_step": session.best.step,
        "val": session.best.row,
        "validations": session.best.rows,
    }


def val_instances(params: TrainParams, data: FoldData, fitted: Fitted) -> list[dict[str, Any]]:
    """Every real defect of the val photos with the score of the kept weights' detection that finds it; None for a missed one."""
    session, coco = fitted.session, data.val.coco
    session.twin.load_state_dict(session.best.weights)
    defective = replace(data.val, records=data.val.defective)
    results = predict(session.detector, session.twin, defective, fitted.framing, params.limits)
    scores, photos = matched_scores(coco, results, params.max_detections), {i["id"]: i["file_name"] for i in coco["images"]}
    return [
        {
            "image": photos[a["image_id"]],
            "defect": data.val.classes[a["category_id"] - 1],
            "area_px": a["area"],
            "score": scores[a["id"]],
        }
        for a in coco["annotations"]
    ]


def _check_folders(arm: Arm, prepared: Path, labelled: Path | None) -> None:
    for split in ("train", "val"):
        if not (prepared / split).is_dir():
            raise DataError(f"{prepared / split} is missing; run `prepare` first")
    if arm.generator is not None and (labelled is None or not labelled.is_dir()):
        raise DataError(
            f"arm {arm.name!r} needs the folder data/labelled/{arm.generator}, found none at {labelled}; run `label` first"
        )


@dataclass(frozen=True)
class TrainJob:
    """One arm of one detector, for any fold and in any process.

    Attributes:
        recipe: The parameters.
        detector: A name of `DETECTORS`.
        arm: What is trained on.
        prepared: `data/prepared`.
        labelled: Synthetic images; None in arms without.
        work: Holds the checkpoints.
        read: Digests of what is read, by name.
    """

    recipe: Recipe
    detector: str
    arm: Arm
    prepared: Path
    labelled: Path | None
    work: Path
    read: dict[str, str]

    def build(self, fold: int, folder: Path) -> None:
        """Train the network of a fold and write its model folder."""
        torch.set_num_threads(self.recipe.train.threads)
        data = load_fold(self.recipe.label, self.arm, self.prepared, self.labelled, fold)
        fitted = fit_fold(self.recipe, self.detector, self.arm, data, fold, self.work)
        card = {"fold": fold, "seed": fold, **_card(self.recipe, self.detector, self.arm, data, fitted)}
        session = fitted.session
        save_model(folder, session.best.weights, session.architecture, fitted.history.losses, card)
        # What it rests on stands in it, so that results of other data or labels are not taken for present ones.
        label = self.recipe.label.model_dump(mode="json")
        about = {"split": "val", "fold": fold, "iou": MATCH_IOU, "label": label, "read": self.read}
        write_json(folder / VAL_MATCHES, {**about, "instances": val_instances(self.recipe.train, data, fitted)})


def train_arm(recipe: Recipe, detector: str, arm_name: str, prepared: Path, labelled: Path | None, out: Path) -> None:
    """Train one detector in one arm on every fold of the data set; the fold is the seed.

    Args:
        recipe: The parameters.
        detector: A name of `DETECTORS`.
        arm_name: `real`, `classical`, `<generator>` or `<generator>_classical`.
        prepared: `data/prepared`; only its `train` and `val` are read.
        labelled: `data/labelled/<generator>` for arms with synthetic images.
        out: Gets one folder a fold; see `model_files`. A killed run resumes. Where the folds are trained (`BLEMISH_EXECUTOR`)
            changes no byte.

    Raises:
        DataError: If a folder is missing.
        WorkError: Names the fold that failed, and why.
    """
    arm = parse_arm(arm_name)
    _check_folders(arm, prepared, labelled)
    inputs = [Path(__file__).parent, prepared / "train", prepared / "val", *([labelled] if arm.generator and labelled else [])]
    label_section = recipe.label.model_dump(mode="json")
    weights = recipe.train.tuning(detector).weights
    own_start = [Path(weights)] if weights is not None else []
    key = (settings(recipe, arm), label_section, detector, arm_name, *inputs, *own_start)
    read = {name: digest(folder) for name, folder in zip(("train", "val", "labelled"), inputs[1:], strict=False)}
    with resumable_output(out, *key) as work:
        labelled = labelled.resolve() if labelled is not None else None
        job = TrainJob(recipe, detector, arm, prepared.resolve(), labelled, work.resolve(), read)
        each_fold(job.build, work, read_card(prepared / "train").folds)
