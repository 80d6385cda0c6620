"""Training the networks of an inpainting pipeline: first the VAE, then the nine-channel UNet in its latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionInpaintPipeline
from diffusers.training_utils import EMAModel
from torch import Tensor

from pipeline.diffusion.components import prompt_ids
from pipeline.diffusion.latents import encode, latent_mask, masked_background, training_target, unet_input
from pipeline.diffusion.photos import rng_from_torch
from pipeline.diffusion.sources import InpaintBatch, Source, relit
from pipeline.params import FitParams
from pipeline.training import History, LoopPlan, run_loop

EMPTY_PROMPT_SHARE = 0.1
KL_WEIGHT = 1e-8
"""Latent diffusion's 1e-6 (Rombach et al. 2022, appendix G) weighs a sum over the picture; here the errors are means over it."""
MAX_GRAIN = 0.15
"""Deviation, of a range of 2, of the grain laid over training pictures: drawings are smoother than photos, whose grain counts."""
SQUARED_WEIGHT = 4.0
"""Of the squared error beside the absolute one: it is what PSNR counts, and it punishes a lost crack."""
HOLE_WEIGHT = 0.5
"""Share of the loss that is taken inside the hole alone, where the network cannot copy."""


def _varied(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Random light and grey grain: the VAE must carry what is darker, brighter or finer than any good crop."""
    deviation = torch.from_numpy(rng.uniform(0.0, MAX_GRAIN, (len(images), 1, 1, 1))).float()
    grain = deviation * torch.randn(len(images), 1, *images.shape[2:])
    return (relit(images, rng) + grain).clamp(-1.0, 1.0)


def train_vae(pipe: StableDiffusionInpaintPipeline, source: Source, fit: FitParams, plan: LoopPlan) -> History:
    """L1 + squared + KL; leaves the VAE frozen, its `scaling_factor` set so that latents have unit deviation."""
    vae = pipe.vae.to(memory_format=torch.channels_last)
    vae.train().requires_grad_(True)

    def losses_at(step: int) -> dict[str, Tensor]:
        rng = rng_from_torch()
        images = _varied(source.images(fit.batch, rng), rng).to(pipe.device)
        latents = vae.encode(images).latent_dist
        back = vae.decode(latents.sample()).sample
        absolute, squared, kl = F.l1_loss(back, images), F.mse_loss(back, images), latents.kl().mean()
        return {"loss": absolute + SQUARED_WEIGHT * squared + KL_WEIGHT * kl, "l1": absolute, "squared": squared, "kl": kl}

    history = run_loop(plan, losses_at, torch.optim.AdamW(vae.parameters(), fit.lr, weight_decay=0.0), {"vae": vae})
    vae.eval().requires_grad_(False)
    with torch.inference_mode():
        seen = source.images(64, np.random.default_rng(plan.seed)).to(pipe.device)
        spread = vae.encode(seen).latent_dist.mode().std()
    vae.register_to_config(scaling_factor=round(1.0 / float(spread), 6))
    return history


@dataclass(frozen=True)
class UnetFit:
    """How the UNet is trained.

    Attributes:
        fit: Steps, batch, rate.
        words: Whether the text encoder learns too.
        ema_decay: Of the averaged weights that are kept in the end; None keeps the last ones.
    """

    fit: FitParams
    words: bool = False
    ema_decay: float | None = None


def train_unet(pipe: StableDiffusionInpaintPipeline, source: Source, how: UnetFit, plan: LoopPlan) -> History:
    """The scheduler's own target on pictures with holes; the prompt is dropped for a tenth of the rows."""
    unet, text = pipe.unet.to(memory_format=torch.channels_last), pipe.text_encoder
    unet.train().requires_grad_(True)
    text.train(how.words).requires_grad_(how.words)
    parameters = [*unet.parameters(), *(text.parameters() if how.words else ())]
    state = {"unet": unet, "text_encoder": text}
    ema = EMAModel(parameters, decay=how.ema_decay, use_ema_warmup=True, power=0.75) if how.ema_decay is not None else None
    if ema is not None:
        ema.to(pipe.device)
        state["ema"] = ema

    def losses_at(step: int) -> dict[str, Tensor]:
        rng = rng_from_torch()
        return inpainting_losses(pipe, source.inpainting(how.fit.batch, rng), rng, words=how.words)

    def after_step(done: int) -> None:
        if ema is not None:
            ema.step(parameters)

    history = run_loop(plan, losses_at, torch.optim.AdamW(parameters, how.fit.lr, weight_decay=0.0), state, after_step)
    if ema is not None:
        ema.copy_to(parameters)
    unet.eval().requires_grad_(False)
    text.eval().requires_grad_(False)
    return history


def inpainting_losses(
    pipe: StableDiffusionInpaintPipeline, batch: InpaintBatch, rng: np.random.Generator, *, words: bool
) -> dict[str, Tensor]:
    """Squared error of the scheduler's target, half over the whole latent and half inside the hole; scalars by name."""
    device, scheduler = pipe.device, pipe.scheduler
    images, masks = batch.images.to(device), batch.masks.to(device)
    with torch.no_grad():
        latents, background = encode(pipe.vae, images), masked_background(pipe.vae, images, masks)
    noise = torch.randn(latents.shape).to(device)
    times = torch.randint(0, scheduler.config["num_train_timesteps"], (len(images),)).to(device)
    said = ["" if rng.random() < EMPTY_PROMPT_SHARE else prompt for prompt in batch.prompts]
    with torch.set_grad_enabled(words):
        texts = pipe.text_encoder(prompt_ids(pipe.tokenizer, said).to(device)).last_hidden_state
    noisy, hole = scheduler.add_noise(latents, noise, times), latent_mask(masks, latents)
    predicted = pipe.unet(unet_input(noisy, hole, background), times, encoder_hidden_states=texts).sample
    error = (predicted - training_target(scheduler, latents, noise, times)) ** 2
    whole, inside = error.mean(), (error * hole).sum() / (hole.sum() * error.shape[1]).clamp(min=1)
    return {"loss": (1 - HOLE_WEIGHT) * whole + HOLE_WEIGHT * inside, "whole": whole, "hole": inside}


def reconstruction_psnr(pipe: StableDiffusionInpaintPipeline, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of (B, 3, S, S) pictures through the VAE, peak 2 on [-1, 1]."""
    images = images.to(pipe.device)
    with torch.inference_mode():
        back = pipe.vae.decode(pipe.vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    return float(10 * torch.log10(4.0 / F.mse_loss(back, images)))


def save_pipeline(pipe: StableDiffusionInpaintPipeline, out: Path) -> None:
    """Write the diffusers folder; the place the pipeline was loaded from, which diffusers notes in it, is left out."""
    for part in (pipe, pipe.unet, pipe.vae):
        part.register_to_config(_name_or_path="")
    pipe.save_pretrained(out, safe_serialization=True)
