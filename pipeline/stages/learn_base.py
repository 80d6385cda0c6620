"""Stage learn_base: the inpainting pipeline that concepts are learned on, one folder a fold."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline

from pipeline.diffusion.components import EMBEDDED, BaseModelError, load_pipeline, small_pipeline
from pipeline.diffusion.pretrain import UnetFit, reconstruction_psnr, save_pipeline, train_unet, train_vae
from pipeline.diffusion.sources import GoodCrops
from pipeline.folds import each_fold
from pipeline.images import read_rgb
from pipeline.params import FitParams, LearnBaseParams
from pipeline.records import fold_name, good_samples, read_card, read_manifest, write_json
from pipeline.runlog import resumable_output, whole_folder
from pipeline.seeds import derive_seed
from pipeline.training import History, LoopPlan

logger = logging.getLogger(__name__)


class NoGoodImagesError(ValueError):
    """There is no defect-free photo to learn the surface from."""


def learn_base(params: LearnBaseParams, train: Path, out: Path) -> None:
    """Write `out/fold-<f>/`, a diffusers inpainting pipeline, for every fold of the train manifest.

    Where the folds are made (`BLEMISH_EXECUTOR`) changes no byte.

    Raises:
        WorkError: Names the fold and the cause: no good train photo, `source` is no inpainting pipeline or paints crops of
            another size than `crop_px`, or the embedded weights are not those of their card.
    """
    folds = read_card(train).folds
    source = EMBEDDED if params.source == "embedded" else params.source
    key = (params.model_dump(mode="json"), train, *([EMBEDDED] if source == EMBEDDED else []))
    with resumable_output(out, *key) as unresolved:
        work = unresolved.resolve()
        if source == "train":
            each_fold(partial(_train, params, train.resolve(), work), work, folds)
        elif params.adapt.steps > 0:
            each_fold(partial(_adapt, params, source, train.resolve(), work), work, folds)
        else:
            each_fold(partial(_take, params, source), work, folds[:1])
            for fold in folds[1:]:
                _link(work / "out" / fold_name(folds[0]), work / "out" / fold_name(fold))


def _opened(params: LearnBaseParams, source: str | Path) -> StableDiffusionInpaintPipeline:
    """A finished base that paints crops of `crop_px`: the embedded one learned several sizes, another has its own.

    Raises:
        BaseModelError: If another base has another size.
    """
    pipe = load_pipeline(source)
    own = pipe.unet.config["sample_size"] * pipe.vae_scale_factor
    if params.crop_px != own:
        if source != EMBEDDED:
            raise BaseModelError(f"{source} paints crops of {own} px and learn_base.crop_px is {params.crop_px}; set it to {own}")
        pipe.unet.register_to_config(sample_size=params.crop_px // pipe.vae_scale_factor)
        pipe.vae.register_to_config(sample_size=params.crop_px)
    return pipe


def _take(params: LearnBaseParams, source: str | Path, fold: int, folder: Path) -> None:
    """A finished base as it is."""
    save_pipeline(_opened(params, source), folder)


def _link(first: Path, other: Path) -> None:
    """The same weights in every fold: linked, not copied, since a full-size base has gigabytes."""
    if not other.exists():
        with whole_folder(other) as building:
            shutil.copytree(first, building, copy_function=os.link, dirs_exist_ok=True)


def good_photos(train: Path, fold: int, limit: int) -> list[np.ndarray]:
    """At most `limit` good train photos of a fold, drawn by a seed of the fold, in a fixed order.

    Raises:
        NoGoodImagesError: If there is none.
    """
    good = [s for s in good_samples(read_manifest(train, fold)) if s.split == "train"]
    if not good:
        raise NoGoodImagesError("no good train photo; add defect-free photos to the data set")
    chosen = np.random.default_rng(derive_seed(fold, "good photos")).permutation(len(good))[:limit]
    return [read_rgb(train / good[i].image) for i in sorted(chosen)]


def _crops(params: LearnBaseParams, train: Path, fold: int) -> GoodCrops:
    return GoodCrops(good_photos(train, fold, params.photos), params.crop_px, params.crop_side_px, params.even_exposure)


def _adapt(params: LearnBaseParams, source: str | Path, train: Path, work: Path, fold: int, folder: Path) -> None:
    """Train the UNet of a finished base on the good photos; VAE, words and scheduler stay."""
    torch.set_num_threads(params.threads)
    pipe, crops = _opened(params, source), _crops(params, train, fold)
    fit = FitParams(steps=params.adapt.steps, batch=params.adapt.batch, lr=params.adapt.lr)
    plan = LoopPlan(fit.steps, fold, "adapt", warmup_steps=20, cosine=True, checkpoint=work / f"adapt-{fold}.pt")
    history = train_unet(pipe, crops, UnetFit(fit), plan)
    save_pipeline(pipe, folder)
    write_json(folder / "card.json", _card(params, fold, crops, pipe, [history]))


def _train(params: LearnBaseParams, train: Path, work: Path, fold: int, folder: Path) -> None:
    torch.set_num_threads(params.threads)
    crops = _crops(params, train, fold)
    pipe = small_pipeline(params.crop_px, derive_seed(fold, "base"))
    plan = LoopPlan(params.vae.steps, fold, "vae", warmup_steps=20, cosine=True, checkpoint=work / f"vae-{fold}.pt")
    vae = train_vae(pipe, crops, params.vae, plan)
    plan = replace(plan, steps=params.unet.steps, label="unet", checkpoint=work / f"unet-{fold}.pt")
    unet = train_unet(pipe, crops, UnetFit(params.unet), plan)
    save_pipeline(pipe, folder)
    write_json(folder / "card.json", _card(params, fold, crops, pipe, [vae, unet]))


def _card(
    params: LearnBaseParams, fold: int, crops: GoodCrops, pipe: StableDiffusionInpaintPipeline, histories: list[History]
) -> dict[str, Any]:
    psnr = reconstruction_psnr(pipe, crops.images(64, np.random.default_rng(fold)))
    logger.info("fold %d: VAE reconstructs good crops at %.1f dB", fold, psnr)
    return {
        "source": params.source,
        "fold": fold,
        "vae_psnr_db": round(psnr, 2),
        "unet_loss_last_50": round(float(np.mean([row["loss"] for row in histories[-1].losses[-50:]])), 5),
        "skipped_steps": sum(history.skipped for history in histories),
        "params": params.model_dump(mode="json"),
    }
