"""The average of weights in training, which is what detectors and concepts keep."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


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
