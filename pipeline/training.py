"""One optimisation loop for every network of the project: seeded a step, resumable to the bit, guarded against NaN."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.seeds import derive_seed

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 20


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
        checkpoint: File to resume from and to write to; None for none.
        checkpoint_every_s: Seconds between checkpoints.
    """

    steps: int
    seed: int
    label: str
    warmup_steps: int = 0
    cosine: bool = False
    clip_norm: float = 1.0
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


def run_loop(
    plan: LoopPlan,
    losses_at: Callable[[int], dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Stateful],
    after_step: Callable[[int], None] | None = None,
) -> History:
    """Minimise `losses_at(step)["loss"]` for `plan.steps` steps.

    Args:
        plan: Lengths, rates, checkpoint.
        losses_at: Draws its batch from torch's global generator (seeded here for each step) and returns scalar losses by
            name; the one called "loss" is minimised, the others are recorded.
        optimizer: Its groups' learning rates are the full ones.
        state: What a checkpoint holds besides optimiser and history: networks, averages, best results so far.
        after_step: Called after each step with the number of steps done, e.g. to validate.

    Returns:
        The losses of every step and the count of skipped ones.

    Raises:
        DivergedError: After `MAX_BAD_STEPS` steps in a row without a finite loss; the last checkpoint is kept.
    """
    history = History()
    everything = {**state, "optimizer": optimizer, "history": history}
    full_rates = [group["lr"] for group in optimizer.param_groups]
    first = load_checkpoint(plan.checkpoint, everything)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    bad, saved_at = 0, time.monotonic()
    with progress(plan.steps, plan.label, first) as bar:
        for step in range(first, plan.steps):
            torch.manual_seed(derive_seed(plan.seed, plan.label, step))
            for group, rate in zip(optimizer.param_groups, full_rates, strict=True):
                group["lr"] = rate * plan.rate(step)
            losses = losses_at(step)
            bad = _descend(losses["loss"], optimizer, parameters, plan.clip_norm, bad, plan.label)
            history.skipped += bad > 0
            history.losses.append({name: float(value.detach()) for name, value in losses.items()})
            if after_step is not None:
                after_step(step + 1)
            if plan.checkpoint is not None and bad == 0 and time.monotonic() - saved_at > plan.checkpoint_every_s:
                save_checkpoint(plan.checkpoint, step + 1, everything)
                saved_at = time.monotonic()
            bar.update()
            bar.set_postfix(loss=f"{history.losses[-1]['loss']:.4f}", refresh=False)
    if plan.checkpoint is not None and first < plan.steps:
        save_checkpoint(plan.checkpoint, plan.steps, everything)
    return history


def _descend(
    loss: Tensor, optimizer: torch.optim.Optimizer, parameters: list[Tensor], clip_norm: float, bad: int, label: str
) -> int:
    """Do one step unless loss or gradient is not finite; return how many bad steps there were in a row."""
    optimizer.zero_grad(set_to_none=True)
    finite = bool(torch.isfinite(loss))
    if finite:
        loss.backward()
        finite = bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, clip_norm)))
    if finite:
        optimizer.step()
        return 0
    bad += 1
    logger.warning("%s: loss or gradient not finite, step skipped (%d in a row)", label, bad)
    if bad >= MAX_BAD_STEPS:
        raise DivergedError(
            f"{label}: no finite loss for {bad} steps in a row; lower the learning rate, the last checkpoint is kept"
        )
    return bad
