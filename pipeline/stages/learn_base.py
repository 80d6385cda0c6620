"""Stage learn_base: the inpainting pipeline that concepts are learned on, one folder a fold."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.diffusion.components import load_pipeline, small_pipeline
from pipeline.diffusion.pretrain import CropSource, reconstruction_psnr, save_pipeline, train_unet, train_vae
from pipeline.images import read_rgb
from pipeline.params import LearnBaseParams
from pipeline.records import fold_name, good_samples, read_card, read_manifest, write_json
from pipeline.runlog import resumable_output, unfinished
from pipeline.seeds import derive_seed
from pipeline.training import LoopPlan

logger = logging.getLogger(__name__)


class NoGoodImagesError(ValueError):
    """There is no defect-free photo to learn the surface from."""


def learn_base(params: LearnBaseParams, train: Path, out: Path) -> None:
    """Write `out/fold-<f>/`, a diffusers inpainting pipeline, for every fold of the train manifest.

    Raises:
        NoGoodImagesError: If a fold has no good train photo.
        pipeline.diffusion.components.BaseModelError: If `source` is no inpainting pipeline.
    """
    torch.set_num_threads(params.threads)
    folds = read_card(train).folds
    with resumable_output(out, params.model_dump(mode="json"), train) as work:
        for fold, folder in unfinished(work, folds):
            first = work / "out" / fold_name(folds[0])
            if params.source == "train":
                _train(params, train, fold, folder, work)
            elif fold == folds[0]:
                save_pipeline(load_pipeline(params.source), folder)
            else:
                # The same weights in every fold: linked, not copied, since a full-size base has gigabytes.
                shutil.copytree(first, folder, copy_function=os.link, dirs_exist_ok=True)


def good_photos(train: Path, fold: int, limit: int) -> list[np.ndarray]:
    """At most `limit` good train photos of a fold, drawn by a seed of the fold, in a fixed order.

    Raises:
        NoGoodImagesError: If there is none.
    """
    good = [s for s in good_samples(read_manifest(train, fold)) if s.split == "train"]
    if not good:
        raise NoGoodImagesError(f"fold {fold}: no good train photo; add defect-free photos to the data set")
    chosen = np.random.default_rng(derive_seed(fold, "good photos")).permutation(len(good))[:limit]
    return [read_rgb(train / good[i].image) for i in sorted(chosen)]


def _train(params: LearnBaseParams, train: Path, fold: int, folder: Path, work: Path) -> None:
    crops = CropSource(good_photos(train, fold, params.photos), params.crop_px, params.crop_side_px)
    pipe = small_pipeline(params.crop_px, derive_seed(fold, "base"))
    plan = LoopPlan(params.vae.steps, fold, "vae", warmup_steps=20, cosine=True, checkpoint=work / f"vae-{fold}.pt")
    vae = train_vae(pipe, crops, params.vae.batch, params.vae.lr, plan)
    psnr = reconstruction_psnr(pipe, crops, fold)
    logger.info("fold %d: VAE reconstructs good crops at %.1f dB", fold, psnr)
    plan = replace(plan, steps=params.unet.steps, label="unet", checkpoint=work / f"unet-{fold}.pt")
    unet = train_unet(pipe, crops, params.unet.batch, params.unet.lr, plan)
    save_pipeline(pipe, folder)
    facts = {
        "source": "train",
        "fold": fold,
        "vae_psnr_db": round(psnr, 2),
        "unet_loss_last_50": round(float(np.mean([row["loss"] for row in unet.losses[-50:]])), 5),
        "skipped_steps": vae.skipped + unet.skipped,
        "params": params.model_dump(mode="json"),
    }
    write_json(folder / "card.json", facts)
