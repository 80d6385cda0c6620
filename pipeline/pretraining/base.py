"""The embedded base: an inpainting pipeline pre-trained on procedural drawings, small enough to live in the repository."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import csv
import logging
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline

from pipeline.diffusion.components import small_pipeline
from pipeline.diffusion.pretrain import UnetFit, inpainting_losses, reconstruction_psnr, save_pipeline, train_unet, train_vae
from pipeline.params import PretrainBaseParams
from pipeline.pretraining.drawings import DrawnCrops
from pipeline.procedural.defects import DEFECT_TYPES
from pipeline.procedural.surfaces import SURFACES
from pipeline.runlog import claim_folder, whole_folder
from pipeline.training import History, LoopPlan
from pipeline.weight_cards import write_weight_card

logger = logging.getLogger(__name__)

CURVE_ROWS = 500
HELD_OUT_BATCHES = 4


def pretrain_base(params: PretrainBaseParams, device: str, out: Path, work: Path) -> None:
    """Train VAE, then UNet and text encoder, on fresh drawings, and write the pipeline in half precision with its card.

    A killed run resumes from its checkpoints in `work`, which is deleted at the end. The same code runs on CPU and GPU; only on
    one machine type are the bytes equal.

    Raises:
        pipeline.runlog.ClaimError: If `work` holds a run with other settings.
    """
    torch.set_num_threads(params.threads)
    claim_folder(work, {**params.model_dump(mode="json"), "device": device})
    with whole_folder(out) as building:
        source = DrawnCrops(params.crop_px, params.large_share)
        pipe = small_pipeline(params.crop_px[0], params.seed).to(device)
        plan = LoopPlan(params.vae.steps, params.seed, "pretrain vae", warmup_steps=100, cosine=True, checkpoint=work / "vae.pt")
        vae = train_vae(pipe, source, params.vae, plan)
        logger.info("VAE reconstructs held-out drawings at %s dB", _held_out_psnr(pipe, params))
        plan = replace(plan, steps=params.unet.steps, label="pretrain unet", checkpoint=work / "unet.pt")
        unet = train_unet(pipe, source, UnetFit(params.unet, words=True, ema_decay=params.ema_decay), plan)
        facts = _facts(pipe, params, device) | {"skipped_steps": vae.skipped + unet.skipped}
        for part in (pipe.vae, pipe.unet, pipe.text_encoder):
            # The plain cast: diffusers' own warns that it keeps no layer in single precision, which is what is wanted.
            torch.nn.Module.to(part, device="cpu", dtype=torch.float16)
        save_pipeline(pipe, building)
        for name, history in (("vae", vae), ("unet", unet)):
            write_curve(history, building / f"{name}_curve.csv")
        write_weight_card(building, facts)
    shutil.rmtree(work)


def write_curve(history: History, path: Path) -> None:
    """Losses as CSV, means over equal stretches of steps so that at most `CURVE_ROWS` rows remain."""
    stretch = max(1, -(-len(history.losses) // CURVE_ROWS))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        names = list(history.losses[0])
        table.writerow(["step", *names])
        for start in range(0, len(history.losses), stretch):
            rows = history.losses[start : start + stretch]
            table.writerow([start + len(rows), *(f"{np.mean([row[name] for row in rows]):.6g}" for name in names)])


def _held_out_psnr(pipe: StableDiffusionInpaintPipeline, params: PretrainBaseParams) -> dict[str, float]:
    """Reconstruction in dB by side, on drawings whose seeds no training step uses."""
    found: dict[str, float] = {}
    for side in params.crop_px:
        images = DrawnCrops((side,), 0.0).images(32, np.random.default_rng([params.seed, 1]))
        found[f"{side}px"] = round(reconstruction_psnr(pipe, images), 2)
    return found


def _held_out_loss(pipe: StableDiffusionInpaintPipeline, params: PretrainBaseParams) -> float:
    """Mean error inside the hole of `HELD_OUT_BATCHES` batches of unseen drawings."""
    rng, source = np.random.default_rng([params.seed, 2]), DrawnCrops(params.crop_px[:1], 0.0)
    torch.manual_seed(params.seed)
    with torch.inference_mode():
        losses = [inpainting_losses(pipe, source.inpainting(16, rng), rng, words=False) for _ in range(HELD_OUT_BATCHES)]
    return round(float(np.mean([float(row["hole"]) for row in losses])), 5)


def _facts(pipe: StableDiffusionInpaintPipeline, params: PretrainBaseParams, device: str) -> dict[str, Any]:
    parts = {"vae": pipe.vae, "unet": pipe.unet, "text_encoder": pipe.text_encoder}
    return {
        "what": "inpainting base: VAE, 9-channel UNet, CLIP text encoder and tokenizer; float16",
        "data": "drawings of pipeline/procedural, drawn afresh at every step; no photo, nobody's rights",
        "surfaces": sorted(SURFACES),
        "defects": list(DEFECT_TYPES),
        "licence": "Apache-2.0, as the code",
        "command": "python -m pipeline pretrain base",
        "params": params.model_dump(mode="json"),
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "machine": f"{platform.machine()}, {params.threads} threads, {device}, torch {torch.__version__}",
        "held_out": {"vae_psnr_db": _held_out_psnr(pipe, params), "unet_loss_in_hole": _held_out_loss(pipe, params)},
    }
