"""The averaged weights and the best of them so far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a network's floating-point state; the first steps count more."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network; counters are copied."""
        self.updates += 1
        # Without the ramp the average would still be half random weights when a short training ends.
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.updates = int(state["updates"])
        # Checkpoints are read to the CPU; the average stays on the network's device.
        self.average = {name: value.to(self.average[name].device) for name, value in state["average"].items()}


class Best:
    """The validated weights with the highest box mAP50; ties go to mAP50-95, then to the later step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.step = 0
        self.weights: dict[str, Tensor] = {}

    @staticmethod
    def _rank(row: dict[str, Any]) -> tuple[float, float, int]:
        return (row["box_map50"] or 0.0, row["box_map"] or 0.0, row["step"])

    def offer(self, row: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Record a validation and keep its weights if none was better."""
        self.rows.append(row)
        if self._rank(row) >= max(self._rank(r) for r in self.rows):
            self.step = row["step"]
            self.weights = {name: value.clone() for name, value in weights.items()}

    @property
    def row(self) -> dict[str, Any]:
        """The validation of the kept weights."""
        return next(r for r in self.rows if r["step"] == self.step)

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"rows": self.rows, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.rows, self.step, self.weights = list(state["rows"]), int(state["step"]), dict(state["weights"])
