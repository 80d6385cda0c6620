"""The best validated weights so far."""

from __future__ import annotations

from typing import Any

from torch import Tensor


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
