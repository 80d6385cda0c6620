"""What a surface hands to defects and camera: its reflectance and the structures that defects act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.images import Mask
from pipeline.procedural.noise import Plane

Colour = tuple[float, float, float]
WHITE: Colour = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Threads:
    """A fabric's course: `warp` and `weft` count threads along columns and rows (integer part = thread, n + 0 = its middle)."""

    warp: Plane
    weft: Plane


@dataclass(frozen=True, slots=True)
class Traces:
    """A printed circuit: where copper is, tones of copper and board, and the traces' width in pixels."""

    copper: Mask
    tones: tuple[float, float]
    width_px: float


@dataclass(frozen=True, slots=True)
class Scene:
    """One surface.

    Attributes:
        family: Its name in `SURFACES`.
        tone: (H, W) reflectance, about 0.05 to 0.95.
        colour: Factors on red, green and blue.
        threads: Of a fabric.
        traces: Of a printed circuit.
        inside: Where the part is; None where it fills the picture.
        tints: Coloured layers of defects: (H, W) weight in [0, 1] and colour.
    """

    family: str
    tone: Plane
    colour: Colour = WHITE
    threads: Threads | None = None
    traces: Traces | None = None
    inside: Mask | None = None
    tints: tuple[tuple[Plane, Colour], ...] = field(default=())

    @property
    def size_px(self) -> int:
        """Side of the square."""
        return self.tone.shape[0]

    def rgb(self) -> Plane:
        """(H, W, 3) reflectance in colour."""
        picture = self.tone[..., None] * np.array(self.colour, np.float32)
        for weight, colour in self.tints:
            picture *= 1 + weight[..., None] * (np.array(colour, np.float32) - 1)
        return picture


Surface = Callable[[np.random.Generator, int], Scene]
