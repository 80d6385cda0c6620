"""Training a small inpainting pipeline from scratch: first the VAE, then the nine-channel UNet in its latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionInpaintPipeline
from torch import Tensor

from pipeline.diffusion.components import prompt_ids
from pipeline.diffusion.latents import encode, latent_mask, mask_tensor, masked_background, to_tensor, training_target, unet_input
from pipeline.diffusion.photos import random_boxes_mask, random_crops, rng_from_torch
from pipeline.images import Picture
from pipeline.training import History, LoopPlan, run_loop

BASE_PROMPT = "A photo of a surface"
EMPTY_PROMPT_SHARE = 0.1
KL_WEIGHT = 1e-6
"""As in latent diffusion (Rombach et al. 2022, appendix G): hardly any, so that detail is kept."""


@dataclass(frozen=True)
class CropSource:
    """Photos and how they are cropped: (B, 3, crop_px, crop_px) batches in [-1, 1]."""

    photos: list[Picture]
    crop_px: int
    side_px: tuple[int, int]

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        """A batch of random crops."""
        return to_tensor(random_crops(self.photos, count, self.crop_px, self.side_px, rng))


def _random_light(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Random contrast and brightness: defects are darker and brighter than any good crop, and the VAE must carry them."""
    count = len(images)
    gain = torch.from_numpy(rng.uniform(0.6, 1.4, (count, 1, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-0.4, 0.4, (count, 1, 1, 1))).float()
    return (images * gain + shift).clamp(-1.0, 1.0)


def train_vae(pipe: StableDiffusionInpaintPipeline, crops: CropSource, batch: int, lr: float, plan: LoopPlan) -> History:
    """Reconstruction (L1) plus a slight KL; then fix the scaling factor so that latents have unit variance."""
    vae = pipe.vae.to(memory_format=torch.channels_last).train().requires_grad_(True)

    def losses_at(step: int) -> dict[str, Tensor]:
        rng = rng_from_torch()
        images = _random_light(crops.draw(batch, rng), rng)
        latents = vae.encode(images).latent_dist
        reconstruction = F.l1_loss(vae.decode(latents.sample()).sample, images)
        kl = latents.kl().mean()
        return {"loss": reconstruction + KL_WEIGHT * kl, "l1": reconstruction, "kl": kl}

    history = run_loop(plan, losses_at, torch.optim.AdamW(vae.parameters(), lr, weight_decay=0.0), {"vae": vae})
    vae.eval().requires_grad_(False)
    with torch.inference_mode():
        spread = vae.encode(crops.draw(64, np.random.default_rng(plan.seed))).latent_dist.mode().std()
    vae.register_to_config(scaling_factor=round(1.0 / float(spread), 6))
    return history


def train_unet(pipe: StableDiffusionInpaintPipeline, crops: CropSource, batch: int, lr: float, plan: LoopPlan) -> History:
    """The scheduler's own target on random-box masks; the prompt is dropped for a tenth of the rows."""
    unet, vae, scheduler = pipe.unet.to(memory_format=torch.channels_last), pipe.vae, pipe.scheduler
    unet.train().requires_grad_(True)
    with torch.inference_mode():
        texts = pipe.text_encoder.eval()(prompt_ids(pipe.tokenizer, ["", BASE_PROMPT])).last_hidden_state
    texts = texts.clone()

    def losses_at(step: int) -> dict[str, Tensor]:
        rng = rng_from_torch()
        images = crops.draw(batch, rng)
        mask = mask_tensor(random_boxes_mask(batch, crops.crop_px, int(rng.integers(1, 31)), rng))
        with torch.no_grad():
            latents, background = encode(vae, images), masked_background(vae, images, mask)
        noise = torch.randn_like(latents)
        times = torch.randint(0, scheduler.config["num_train_timesteps"], (batch,))
        prompted = torch.from_numpy((rng.random(batch) >= EMPTY_PROMPT_SHARE).astype(np.int64))
        noisy = scheduler.add_noise(latents, noise, times)
        predicted = unet(
            unet_input(noisy, latent_mask(mask, latents), background), times, encoder_hidden_states=texts[prompted]
        ).sample
        return {"loss": F.mse_loss(predicted, training_target(scheduler, latents, noise, times))}

    history = run_loop(plan, losses_at, torch.optim.AdamW(unet.parameters(), lr, weight_decay=0.0), {"unet": unet})
    unet.eval().requires_grad_(False)
    return history


def reconstruction_psnr(pipe: StableDiffusionInpaintPipeline, crops: CropSource, seed: int) -> float:
    """Peak signal-to-noise ratio in dB of 64 random crops through the VAE, peak 2 on [-1, 1]."""
    images = crops.draw(64, np.random.default_rng(seed))
    with torch.inference_mode():
        back = pipe.vae.decode(pipe.vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    return float(10 * torch.log10(4.0 / F.mse_loss(back, images)))


def save_pipeline(pipe: StableDiffusionInpaintPipeline, out: Path) -> None:
    """Write the diffusers folder."""
    pipe.save_pretrained(out, safe_serialization=True)
