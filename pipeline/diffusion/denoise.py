"""Sampling: inpaint the mask, starting from the noised clean latent, with the known latent blended in at every step."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from pipeline.diffusion.latents import unet_input


@dataclass(frozen=True)
class Conditions:
    """What one micro-batch is conditioned on.

    Attributes:
        clean: Latents of the clean crops, (B, 4, h, w).
        mask: 1 where to inpaint, (B, 1, h, w).
        background: Latents of the crops with a grey hole, (B, 4, h, w).
        text: Embeddings of the prompts, (B, L, D).
        empty: Embeddings of the empty prompt, (B, L, D).
    """

    clean: Tensor
    mask: Tensor
    background: Tensor
    text: Tensor
    empty: Tensor


def _guided(unet: UNet2DConditionModel, latents: Tensor, step: Tensor, given: Conditions, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6) in one doubled batch; a single one at guidance 1."""
    fed = unet_input(latents, given.mask, given.background)
    if guidance == 1.0:
        return unet(fed, step, encoder_hidden_states=given.text).sample
    both = unet(torch.cat([fed, fed]), step, encoder_hidden_states=torch.cat([given.empty, given.text])).sample
    free, conditioned = both.chunk(2)
    return free + guidance * (conditioned - free)


@dataclass(frozen=True)
class Trajectory:
    """How far and how to sample.

    Attributes:
        steps: DDIM steps of a full trajectory.
        guidance: Classifier-free guidance scale, 1 for none.
        strength: Share of the trajectory that is run. The start is the *clean* latent noised to that level: a schedule that
            keeps some signal at its last step gives the wrong brightness when it starts from pure noise.
    """

    steps: int
    guidance: float
    strength: float


@torch.inference_mode()
def inpaint(unet: UNet2DConditionModel, scheduler: DDIMScheduler, given: Conditions, noise: Tensor, path: Trajectory) -> Tensor:
    """Latents (B, 4, h, w), equal to the clean ones outside the mask.

    Args:
        unet: Nine-channel network.
        scheduler: Only its configuration is used; a copy does the work.
        given: Conditions of the batch.
        noise: Standard normal, the shape of the latents; decides each row alone.
        path: Steps, guidance, strength.
    """
    own = DDIMScheduler.from_config(scheduler.config)
    own.set_timesteps(path.steps)
    times = own.timesteps[path.steps - max(1, round(path.steps * path.strength)) :]
    latents = own.add_noise(given.clean, noise, times[:1].expand(len(noise)))
    for index, time in enumerate(times):
        latents = own.step(_guided(unet, latents, time, given, path.guidance), time, latents).prev_sample
        following = times[index + 1 : index + 2]
        known = own.add_noise(given.clean, noise, following.expand(len(noise))) if len(following) else given.clean
        latents = given.mask * latents + (1.0 - given.mask) * known
    return latents
