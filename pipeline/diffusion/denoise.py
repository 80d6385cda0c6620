"""Sampling: inpaint the mask with DDIM or DPM-Solver++; what is known may be put back at every step.

With `blend` off and `strength` 1 the steps are those of diffusers' `StableDiffusionInpaintPipeline`.
"""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Tensor

from pipeline.diffusion.latents import unet_input

NO_SIGNAL = 1e-6
"""Share of the picture (alpha_bar) below which a latent counts as pure noise; Stable Diffusion ends at 5e-3, zero SNR at 0."""


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
        scheduler: `ddim`, or `dpm` for DPM-Solver++ of second order (Lu et al. 2022, arXiv 2211.01095).
        steps: Steps of a full trajectory.
        guidance: Classifier-free guidance scale, 1 for none.
        strength: Share of the trajectory that is run, rounded down to whole steps as the stock pipeline does. At 1 the start is
            pure noise, below 1 the *clean* latent noised to that level: a schedule that keeps some signal at its last step gives
            the wrong brightness when it starts from pure noise.
        blend: Whether the known latent, noised to the level of the next step, is put back outside the mask after every step.
    """

    scheduler: str
    steps: int
    guidance: float
    strength: float
    blend: bool


def _solver(config: dict[str, object], path: Trajectory) -> tuple[DDIMScheduler | DPMSolverMultistepScheduler, Tensor]:
    """A fresh scheduler with the base's noise schedule and `prediction_type`, and the timesteps that are run.

    Raises:
        ValueError: For a trajectory that starts at pure noise with a base that predicts epsilon.
    """
    if path.scheduler == "dpm":
        # Named, since a base saved with a stochastic solver would bring its noise along.
        solver = DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++", solver_order=2)
    else:
        solver = DDIMScheduler.from_config(config)
    solver.set_timesteps(path.steps)
    first = path.steps - max(1, int(path.steps * path.strength))
    times = solver.timesteps[first:]
    if isinstance(solver, DPMSolverMultistepScheduler):
        solver.set_begin_index(first)
    signal = float(solver.alphas_cumprod[times[0]])
    if solver.config["prediction_type"] == "epsilon" and signal < NO_SIGNAL:
        raise ValueError(
            f"the base predicts epsilon and its schedule leaves no signal at time {int(times[0])} (alpha_bar {signal:.1g}), "
            "where epsilon says nothing about the picture; use a base with v_prediction, or a strength below 1"
        )
    return solver, times


@torch.inference_mode()
def inpaint(unet: UNet2DConditionModel, scheduler: DDIMScheduler, given: Conditions, noise: Tensor, path: Trajectory) -> Tensor:
    """Latents (B, 4, h, w); with `blend`, equal to the clean ones outside the mask.

    Args:
        unet: Nine-channel network.
        scheduler: Only its configuration is used; a copy does the work.
        given: Conditions of the batch.
        noise: Standard normal, the shape of the latents; decides each row alone.
        path: Scheduler, steps, guidance, strength, blending.
    """
    solver, times = _solver(scheduler.config, path)
    latents = noise if path.strength == 1.0 else solver.add_noise(given.clean, noise, times[:1].expand(len(noise)))
    for index, time in enumerate(times):
        latents = solver.step(_guided(unet, latents, time, given, path.guidance), time, latents).prev_sample
        if path.blend:
            following = times[index + 1 : index + 2]
            known = solver.add_noise(given.clean, noise, following.expand(len(noise))) if len(following) else given.clean
            latents = given.mask * latents + (1.0 - given.mask) * known
    return latents
