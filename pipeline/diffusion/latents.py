"""What the networks are fed: pictures as tensors, latents, the nine input channels, and the training target."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def mask_tensor(masks: NDArray[np.bool_]) -> Tensor:
    """(B, H, W) bool -> (B, 1, H, W) float32 of 0 and 1."""
    return torch.from_numpy(np.ascontiguousarray(masks))[:, None].float()


def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Scaled mean latents (B, 4, h, w) of images (B, 3, H, W) in [-1, 1]; no sampling noise."""
    return vae.encode(images).latent_dist.mode() * vae.config["scaling_factor"]


def encode_drawn(vae: AutoencoderKL, images: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Scaled latents (B, 4, h, w) drawn from the posterior, one generator a row: what the stock pipeline encodes with."""
    return vae.encode(images).latent_dist.sample(generators) * vae.config["scaling_factor"]


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images (B, 3, H, W), about [-1, 1], of scaled latents."""
    return vae.decode(latents / vae.config["scaling_factor"]).sample


def latent_mask(mask: Tensor, latents: Tensor) -> Tensor:
    """A (B, 1, H, W) mask at latent size, nearest, as the stock inpainting pipeline does."""
    return F.interpolate(mask, size=latents.shape[-2:])


def masked_background(vae: AutoencoderKL, images: Tensor, mask: Tensor) -> Tensor:
    """B = E((1 - M) I): the hole is 0, mid-grey, on images in [-1, 1] (DefectFill spec, section 2)."""
    return encode(vae, images * (1.0 - mask))


def unet_input(noisy: Tensor, mask: Tensor, background: Tensor) -> Tensor:
    """[x_t (4), m (1), b (4)] along channels: the order of the public checkpoints; the paper's formula is only notation."""
    return torch.cat([noisy, mask, background], dim=1)


def training_target(scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the network should predict, by the scheduler's own `prediction_type`.

    Raises:
        ValueError: For a type other than epsilon, v_prediction or sample.
    """
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise ValueError(f"prediction_type {kind!r}: expected epsilon, v_prediction or sample")
