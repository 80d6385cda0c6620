"""`python -m detectors pretrain`: the weights every embedded detector starts from, learned on drawn defects alone."""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from detectors.datasets import Example
from detectors.drawn import CLASSES, Supply, coco_truth, side_at, validation_jobs
from detectors.metrics import all_scores
from detectors.model_files import HISTORY, WEIGHTS, history_csv, save_network, to_half
from detectors.params import PretrainDetectorParams
from detectors.predict import detect, to_tensor
from detectors.protocol import COMPACT, DETECTORS
from detectors.session import Session, fresh_network, open_session, validation_row, weight_groups
from detectors.tiling import Framing
from pipeline.records import write_json, write_text
from pipeline.runlog import claim_folder, whole_folder
from pipeline.training import History, LoopPlan, run_loop
from pipeline.weight_cards import write_weight_card

logger = logging.getLogger(__name__)

CURVE_ROWS = 1000
LOG_EVERY = 100
CHECKPOINT = "checkpoint.pt"


class PretrainError(ValueError):
    """Pre-training cannot start or resume as asked."""


@dataclass(frozen=True)
class Held:
    """Drawn pictures that no step trains on, each with the side of its network square, and their truth."""

    examples: tuple[Example, ...]
    sides_px: tuple[int, ...]
    truth: dict[str, Any]


def pick_device(name: str) -> torch.device:
    """The device called `cpu` or `cuda`.

    Raises:
        PretrainError: If this machine has none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise PretrainError("device 'cuda' was asked for and torch finds none here; install a driver, or use --device cpu")
    return torch.device(name)


def recipe_of(params: PretrainDetectorParams, name: str) -> dict[str, Any]:
    """What decides the bytes of one detector: not the number of workers, and nothing of other detectors."""
    values = params.model_dump(mode="json", exclude={"workers", *DETECTORS})
    return {**values, name: params.tuning(name).model_dump(mode="json")}


def _validate(params: PretrainDetectorParams, session: Session, held: Held) -> dict[str, Any]:
    """Scores of the twin's present weights on the held pictures."""
    session.twin.eval()
    results: list[dict[str, Any]] = []
    for image_id, (example, side) in enumerate(zip(held.examples, held.sides_px, strict=True), 1):
        results += detect(session.detector, session.twin, example.picture, image_id, Framing(side, None), params.limits)
    return all_scores(held.truth, results, params.max_detections, session.detector.has_masks)


def _losses_at(
    params: PretrainDetectorParams, session: Session, supply: Supply, device: torch.device
) -> Callable[[int], dict[str, Tensor]]:
    def losses_at(step: int) -> dict[str, Tensor]:
        examples = supply.batch(step)
        pictures = to_tensor([e.picture for e in examples], side_at(params.drawing, params.seed, step)).to(device)
        session.network.train()
        losses = session.detector.losses(session.network, pictures, [e.targets for e in examples])
        if step % LOG_EVERY == 0:
            logger.info("step %d: loss %.3f", step, float(losses["loss"].detach()))
        return losses

    return losses_at


def _after_step(params: PretrainDetectorParams, steps: int, session: Session, held: Held, work: Path) -> Callable[[int], None]:
    def after_step(done: int) -> None:
        session.ema.update(session.network)
        if done % params.validate_every and done != steps:
            return
        session.twin.load_state_dict(session.ema.average)
        row = validation_row(done, _validate(params, session, held))
        session.best.offer(row, session.ema.average)
        write_json(work / "validations.json", session.best.rows)
        logger.info("step %d: held-out box mAP50 %s, mask mAP50 %s", done, row["box_map50"], row["mask_map50"])

    return after_step


def _learn(params: PretrainDetectorParams, name: str, session: Session, supply: Supply, held: Held, work: Path) -> History:
    tuning = params.tuning(name)
    optimizer = torch.optim.AdamW(weight_groups(session.network, params.weight_decay), lr=params.lr * tuning.lr_scale)
    plan = LoopPlan(
        steps=tuning.steps,
        seed=params.seed,
        label=f"pretrain {name}",
        warmup_steps=params.warmup_steps,
        cosine=True,
        checkpoint=work / CHECKPOINT,
        checkpoint_every_s=60.0,
    )
    state = {"network": session.network, "ema": session.ema, "best": session.best}
    device = next(session.network.parameters()).device
    losses_at = _losses_at(params, session, supply, device)
    return run_loop(plan, losses_at, optimizer, state, _after_step(params, tuning.steps, session, held, work))


def _facts(
    params: PretrainDetectorParams, name: str, session: Session, history: History, scores: dict[str, Any]
) -> dict[str, Any]:
    """The card: data, recipe, machine and numbers; no clock, so that equal runs give equal cards."""
    device = next(session.network.parameters()).device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "detector": name,
        "data": "pictures and exact masks drawn by pipeline/procedural, each used once; no photo",
        "licence": "as the project; architecture, loss and decoding are ultralytics' (AGPL-3.0)",
        "params": recipe_of(params, name),
        "steps": len(history.losses),
        "skipped_steps": history.skipped,
        "seed": params.seed,
        "machine": f"{where}, {params.threads} threads, torch {torch.__version__}",
        "parameters": sum(p.numel() for p in session.network.parameters()),
        "validations": session.best.rows,
        "best_step": session.best.step,
        # Measured with the file as it lies here, float16 and all.
        "held_out": scores,
    }


def _save(params: PretrainDetectorParams, name: str, session: Session, history: History, held: Held, out: Path) -> dict[str, Any]:
    with whole_folder(out) as building:
        save_network(building, to_half(session.best.weights), session.architecture, CLASSES)
        session.twin.load_state_dict(load_file(building / WEIGHTS))
        scores = _validate(params, session, held)
        write_text(building / HISTORY, history_csv(history.losses, CURVE_ROWS))
        write_weight_card(building, _facts(params, name, session, history, scores))
    return scores


def pretrain(params: PretrainDetectorParams, name: str, out: Path, work: Path, device: str) -> dict[str, Any]:
    """Pre-train one detector; a killed run goes on from its last checkpoint.

    Args:
        params: Section `pretrain_detector`.
        name: A name of `EMBEDDED`.
        out: Gets weights.safetensors (float16), architecture.yaml, classes.json, history.csv and card.json.
        work: Holds the checkpoint and the validations so far; deleted at the end.
        device: `cpu` or `cuda`.

    Returns:
        Scores of the saved file on held-out drawn pictures, see `metrics.all_scores`.

    Raises:
        PretrainError: If the device is missing.
        pipeline.runlog.ClaimError: If `work` holds a run with other settings.
    """
    place = pick_device(device)
    torch.set_num_threads(params.threads)
    network = fresh_network(name, COMPACT, len(CLASSES), params.seed).to(place)
    session = open_session(name, COMPACT, len(CLASSES), network, params.ema_decay)
    claim_folder(work, {**recipe_of(params, name), "architecture": session.architecture, "classes": list(CLASSES)})
    with Supply(params.drawing, params.seed, params.tuning(name).steps, params.workers) as supply:
        jobs = validation_jobs(params.drawing, params.seed, params.validation_pictures)
        examples = tuple(supply.draw(jobs))
        held = Held(examples, tuple(job.side_px for job in jobs), coco_truth(examples))
        history = _learn(params, name, session, supply, held, work)
    scores = _save(params, name, session, history, held, out)
    shutil.rmtree(work)
    return scores
