"""Sampling: inpaint the mask with DDIM, DPM-Solver++ or UniPC; what is known may be put back at every step.

With `blend` off and `strength` 1 the steps are those of diffusers' `StableDiffusionInpaintPipeline`.
"""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from pipeline.diffusion.latents import unet_input

Solver = DDIMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler
Network = Callable[..., Any]
"""A nine-channel UNet, or what is called like one."""
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


def _guided(unet: Network, latents: Tensor, step: Tensor, given: Conditions, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6) in one doubled batch; a single one at guidance 1. In float32."""
    fed = unet_input(latents, given.mask, given.background)
    if guidance == 1.0:
        return unet(fed, step, encoder_hidden_states=given.text).sample.float()
    both = unet(torch.cat([fed, fed]), step, encoder_hidden_states=torch.cat([given.empty, given.text])).sample
    free, conditioned = both.float().chunk(2)
    return free + guidance * (conditioned - free)


@dataclass(frozen=True)
class Trajectory:
    """How far and how to sample.

    Attributes:
        scheduler: `ddim`, `dpm` for DPM-Solver++ of second order (Lu et al. 2022, arXiv 2211.01095), or `unipc` for UniPC of
            second order (Zhao et al. 2023, arXiv 2302.04867).
        steps: Steps of a full trajectory.
        guidance: Classifier-free guidance scale, 1 for none.
        strength: Share of the trajectory that is run, rounded down to whole steps as the stock pipeline does. At 1 the start is
            pure noise, below 1 the *clean* latent noised to that level: a schedule that keeps some signal at its last step gives
            the wrong brightness when it starts from pure noise.
        blend: Whether the known latent, noised to the level of the next step, is put back outside the mask after every step.
        guidance_interval: Lowest and highest noise time, as shares of the base's schedule, at which there is guidance; elsewhere
            its scale is 1, at half the cost (Kynkaanniemi et al. 2024, arXiv 2404.07724, section 3).
    """

    scheduler: str
    steps: int
    guidance: float
    strength: float
    blend: bool
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def guidance_at(self, time: int, times: int) -> float:
        """The scale at a noise time of a schedule of so many."""
        low, high = self.guidance_interval
        return self.guidance if low <= time / times <= high else 1.0


def _solver(config: dict[str, object], path: Trajectory) -> tuple[Solver, Tensor]:
    """A fresh scheduler with the base's noise schedule and `prediction_type`, and the timesteps that are run.

    Raises:
        ValueError: For a trajectory that starts at pure noise with a base that predicts epsilon.
    """
    if path.scheduler == "dpm":
        # Named, since a base saved with a stochastic solver would bring its noise along.
        solver = DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++", solver_order=2)
    elif path.scheduler == "unipc":
        solver = UniPCMultistepScheduler.from_config(config, predict_x0=True, solver_order=2, solver_type="bh2")
    else:
        solver = DDIMScheduler.from_config(config)
    solver.set_timesteps(path.steps)
    first = path.steps - max(1, int(path.steps * path.strength))
    times = solver.timesteps[first:]
    if not isinstance(solver, DDIMScheduler):
        solver.set_begin_index(first)
    signal = float(solver.alphas_cumprod[times[0]])
    if solver.config["prediction_type"] == "epsilon" and signal < NO_SIGNAL:
        raise ValueError(
            f"the base predicts epsilon and its schedule leaves no signal at time {int(times[0])} (alpha_bar {signal:.1g}), "
            "where epsilon says nothing about the picture; use a base with v_prediction, or a strength below 1"
        )
    return solver, times


@dataclass
class Running:
    """A micro-batch on its way through a trajectory.

    Attributes:
        path: The trajectory.
        solver: Its own; a multistep one remembers something of every row.
        times: Timesteps that are run.
        done: How many of them were.
        given: Conditions.
        noise: What every row started from.
        latents: Where every row is now, (B, 4, h, w).
        predicted: Clean latents the last step predicted; before any step the noise.
    """

    path: Trajectory
    solver: Solver
    times: Tensor
    done: int
    given: Conditions
    noise: Tensor
    latents: Tensor
    predicted: Tensor


def start(scheduler: DDIMScheduler, given: Conditions, noise: Tensor, path: Trajectory) -> Running:
    """A micro-batch before its first step.

    Args:
        scheduler: Only its configuration is used; a copy does the work.
        given: Conditions of the batch.
        noise: Standard normal, the shape of the latents; decides each row alone.
        path: Scheduler, steps, guidance, strength, blending.
    """
    solver, times = _solver(scheduler.config, path)
    latents = noise if path.strength == 1.0 else solver.add_noise(given.clean, noise, times[:1].expand(len(noise)))
    return Running(path, solver, times, 0, given, noise, latents, noise)


@torch.inference_mode()
def advance(unet: Network, running: Running, until: int) -> None:
    """Take the steps before number `until`, in place."""
    path, solver, given, noise = running.path, running.solver, running.given, running.noise
    for index in range(running.done, until):
        time = running.times[index]
        scale = path.guidance_at(int(time), solver.config["num_train_timesteps"])
        stepped = solver.step(_guided(unet, running.latents, time, given, scale), time, running.latents)
        running.latents = stepped.prev_sample
        running.predicted = stepped.pred_original_sample if isinstance(solver, DDIMScheduler) else solver.model_outputs[-1]
        if path.blend:
            following = running.times[index + 1 : index + 2]
            known = solver.add_noise(given.clean, noise, following.expand(len(noise))) if len(following) else given.clean
            running.latents = given.mask * running.latents + (1.0 - given.mask) * known
        running.done = index + 1


def regrouped(parts: Sequence[Running], rows: Tensor) -> Running:
    """The rows of these numbers, counted through all parts, as one micro-batch; all parts have come equally far."""

    def pick(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)[rows]

    first, solver = parts[0], copy(parts[0].solver)
    if not isinstance(solver, DDIMScheduler):
        remembered = zip(*(part.solver.model_outputs for part in parts), strict=True)
        solver.model_outputs = [None if tensors[0] is None else pick(list(tensors)) for tensors in remembered]
    if isinstance(solver, UniPCMultistepScheduler):
        solver.timestep_list = list(solver.timestep_list)
        solver.last_sample = pick([part.solver.last_sample for part in parts])
    given = Conditions(*(pick([getattr(part.given, field.name) for part in parts]) for field in fields(Conditions)))
    noise, latents, predicted = (pick([getattr(p, name) for p in parts]) for name in ("noise", "latents", "predicted"))
    return Running(first.path, solver, first.times, first.done, given, noise, latents, predicted)


def inpaint(unet: Network, scheduler: DDIMScheduler, given: Conditions, noise: Tensor, path: Trajectory) -> Tensor:
    """Latents (B, 4, h, w); with `blend`, equal to the clean ones outside the mask. Arguments as those of `start`."""
    running = start(scheduler, given, noise, path)
    advance(unet, running, len(running.times))
    return running.latents
