"""One optimisation loop for every network of the project: seeded a step, resumable to the bit, guarded against NaN."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.seeds import derive_seed

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 20
"""More than the 16 halvings that take the first loss scale of half precision, 65536, down to 1."""

Watch = Callable[[int, dict[str, float]], None]
"""Called after each step with the number of steps done and, by name: losses, `gradient_norm`, and `rate/<group>` a group."""


class DivergedError(RuntimeError):
    """The loss was not finite for many steps in a row."""


class DeviceError(ValueError):
    """The device asked for is not there."""


def torch_device(name: str) -> torch.device:
    """The device `cpu`, `cuda` or `mps`.

    Raises:
        DeviceError: If this machine, or this build of torch, does not have it.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[name]:
        there = ", ".join(device for device, here in present.items() if here)
        raise DeviceError(f"device {name!r} is not there; this machine and this build of torch have {there}")
    return torch.device(name)


class Stateful(Protocol):
    """Anything that can be written into a checkpoint and restored."""

    def state_dict(self) -> Any:  # noqa: D102
        ...

    def load_state_dict(self, state: Any, /) -> Any:  # noqa: D102
        ...


@dataclass
class History:
    """Losses of every step done, by name, and how many steps were skipped for a loss that was not finite."""

    losses: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"losses": self.losses, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.losses, self.skipped = list(state["losses"]), int(state["skipped"])


@dataclass(frozen=True)
class LoopPlan:
    """How long and how fast.

    Attributes:
        steps: Number of optimiser steps.
        seed: Step s draws everything from `derive_seed(seed, label, s)`, so a resumed run equals an uninterrupted one.
        label: Name shown in the progress bar and used in the seeds.
        warmup_steps: Linear warm-up of every learning rate from 1/warmup_steps to 1.
        cosine: Decay to a twentieth of the rate after warm-up, else constant.
        clip_norm: Largest total gradient norm.
        accumulate: Micro-batches a step; their losses are averaged.
        loss_scaling: Scale the loss so that gradients of half precision do not vanish; the scale adapts itself.
        checkpoint: File to resume from and to write to; None for none.
        checkpoint_every_s: Seconds between checkpoints.
    """

    steps: int
    seed: int
    label: str
    warmup_steps: int = 0
    cosine: bool = False
    clip_norm: float = 1.0
    accumulate: int = 1
    loss_scaling: bool = False
    checkpoint: Path | None = None
    checkpoint_every_s: float = 30.0

    def rate(self, step: int) -> float:
        """Factor on the learning rates at `step` (0-based)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if not self.cosine:
            return 1.0
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.05 + 0.95 * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * done))))


def progress(total: int, label: str, initial: int = 0) -> tqdm[Any]:
    """A bar with rate and time left, quiet when standard error is no terminal."""
    return tqdm(total=total, initial=initial, desc=label, disable=not sys.stderr.isatty(), dynamic_ncols=True)


def save_checkpoint(path: Path, step: int, state: Mapping[str, Stateful]) -> None:
    """Write the step and the states under a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save({"step": step} | {name: part.state_dict() for name, part in state.items()}, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path | None, state: Mapping[str, Stateful]) -> int:
    """Restore the states and return the number of steps done; 0 if there is no checkpoint."""
    if path is None or not path.exists():
        return 0
    saved = torch.load(path, weights_only=True, map_location="cpu")
    for name, part in state.items():
        part.load_state_dict(saved[name])
    logger.info("resumed %s at step %d", path.name, saved["step"])
    return int(saved["step"])


class Descent:
    """One optimiser step at a time, skipped unless every loss and the gradient are finite."""

    def __init__(self, plan: LoopPlan, optimizer: torch.optim.Optimizer) -> None:
        self.bad = 0
        self._plan, self._optimizer = plan, optimizer
        self._parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self._full_rates = [group["lr"] for group in optimizer.param_groups]
        # Disabled, it passes everything through.
        self.scaler = torch.amp.GradScaler(self._parameters[0].device.type, enabled=plan.loss_scaling)

    def step(self, number: int, losses_at: Callable[[int], dict[str, Tensor]]) -> tuple[dict[str, float], dict[str, float]]:
        """Step `number`: mean losses of its micro-batches by name, then gradient norm before clipping and rates.

        Raises:
            DivergedError: After `MAX_BAD_STEPS` skipped steps in a row.
        """
        for group, rate in zip(self._optimizer.param_groups, self._full_rates, strict=True):
            group["lr"] = rate * self._plan.rate(number)
        self._optimizer.zero_grad(set_to_none=True)
        rows: list[dict[str, float]] = []
        for _ in range(self._plan.accumulate):
            losses = losses_at(number)
            rows.append({name: float(value.detach()) for name, value in losses.items()})
            if not math.isfinite(rows[-1]["loss"]):
                break
            self.scaler.scale(losses["loss"] / self._plan.accumulate).backward()
        norm = self._descend() if math.isfinite(rows[-1]["loss"]) else math.nan
        self._count(norm)
        rates = {f"rate/{group.get('name', place)}": group["lr"] for place, group in enumerate(self._optimizer.param_groups)}
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}, {"gradient_norm": norm, **rates}

    def _descend(self) -> float:
        """Clip and step if the gradient is finite; return its norm."""
        self.scaler.unscale_(self._optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._plan.clip_norm))
        if math.isfinite(norm):
            self.scaler.step(self._optimizer)
        self.scaler.update()
        return norm

    def _count(self, norm: float) -> None:
        self.bad = 0 if math.isfinite(norm) else self.bad + 1
        if self.bad:
            logger.warning("%s: loss or gradient not finite, step skipped (%d in a row)", self._plan.label, self.bad)
        if self.bad >= MAX_BAD_STEPS:
            raise DivergedError(
                f"{self._plan.label}: no finite loss for {self.bad} steps in a row; lower the learning rate, "
                "the last checkpoint is kept"
            )


def run_loop(
    plan: LoopPlan,
    losses_at: Callable[[int], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Stateful],
    after_step: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> History:
    """Minimise `losses_at(step)["loss"]` for `plan.steps` steps.

    Args:
        plan: Lengths, rates, checkpoint.
        losses_at: Draws its batch from torch's global generator (seeded here for each step) and returns scalar losses by
            name; the one called "loss" is minimised, the others are recorded. Called `plan.accumulate` times a step.
        optimizer: Its groups' learning rates are the full ones.
        state: What a checkpoint holds besides optimiser and history: networks, averages, best results so far.
        after_step: Called after each step with the number of steps done, e.g. to validate.
        watch: Called after that with what there is to plot.

    Returns:
        The losses of every step and the count of skipped ones.

    Raises:
        DivergedError: After `MAX_BAD_STEPS` steps in a row without a finite loss; the last checkpoint is kept.
    """
    history, descent = History(), Descent(plan, optimizer)
    everything = {**state, "optimizer": optimizer, "history": history}
    if plan.loss_scaling:
        everything["scaler"] = descent.scaler
    first, saved_at = load_checkpoint(plan.checkpoint, everything), time.monotonic()
    with progress(plan.steps, plan.label, first) as bar:
        for step in range(first, plan.steps):
            torch.manual_seed(derive_seed(plan.seed, plan.label, step))
            losses, facts = descent.step(step, losses_at)
            history.skipped += descent.bad > 0
            history.losses.append(losses)
            if after_step is not None:
                after_step(step + 1)
            if watch is not None:
                watch(step + 1, losses | facts)
            if plan.checkpoint is not None and descent.bad == 0 and time.monotonic() - saved_at > plan.checkpoint_every_s:
                save_checkpoint(plan.checkpoint, step + 1, everything)
                saved_at = time.monotonic()
            bar.update()
            bar.set_postfix(loss=f"{losses['loss']:.4f}", refresh=False)
    if plan.checkpoint is not None and first < plan.steps:
        save_checkpoint(plan.checkpoint, plan.steps, everything)
    return history
