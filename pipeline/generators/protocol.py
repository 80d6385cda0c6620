"""What a generator is: it is fitted on a few references, and then answers requests in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.images import Mask, Picture
from pipeline.references import Reference


@dataclass(frozen=True, slots=True)
class Part:
    """One defect of a request.

    Attributes:
        defect: Type.
        mask: (S, S) bool, where it is wanted.
        reference: Id of the reference the mask was made from; None for a drawn shape.
        affine: (2, 3) matrix from pixels (x, y) of that reference's photo to pixels of the crop; None where no matrix
            made the mask.
    """

    defect: str
    mask: Mask
    reference: str | None
    affine: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class Request:
    """Defects wanted on one clean crop, most often one.

    Attributes:
        id: Unique in a run; part of every seed.
        clean: (S, S, 3) uint8 crop of a good photo.
        parts: The defects; their masks do not touch.
    """

    id: str
    clean: Picture
    parts: tuple[Part, ...]

    @property
    def mask(self) -> Mask:
        """(S, S) bool, where any defect is wanted."""
        return np.logical_or.reduce([part.mask for part in self.parts])

    @property
    def defects(self) -> tuple[str, ...]:
        """The types, each once, in the order of the parts."""
        return tuple(dict.fromkeys(part.defect for part in self.parts))


@dataclass(frozen=True, slots=True)
class Synthetic:
    """The crop with its defects, and the mask of what REALLY changed, all parts together, both of the request's size.

    `early` is what the sampler ranked the request's candidates by before they were finished; None where it does not. `detailed`
    says that parts whose mask a matrix made show their reference's own detail, as they should.
    """

    image: Picture
    changed: Mask
    early: float | None = None
    detailed: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that ranked low among those of its request before it was finished: no picture, only its score then."""

    early: float


@dataclass(frozen=True, slots=True)
class Display:
    """Where a fit shows how it goes; nothing depends on what is written there.

    Attributes:
        folder: For curves and pictures.
        good: A good train photo to try the defects on.
    """

    folder: Path
    good: Picture


@dataclass(frozen=True, slots=True)
class FitJob:
    """What a generator is fitted with.

    Attributes:
        params: The generator's section of `learn_concept`.
        references: The few real defects, of all types.
        base: Folder of the inpainting pipeline of the fold.
        work: Folder for checkpoints; survives a killed run.
        seed: Equal to the fold.
        display: Where to show how it goes, None for nowhere.
    """

    params: Any
    references: Sequence[Reference]
    base: Path
    work: Path
    seed: int
    display: Display | None = None


@dataclass(frozen=True, slots=True)
class SampleJob:
    """How a fitted generator samples.

    Attributes:
        params: The generator's section of `synthesize`.
        base: Folder of the inpainting pipeline of the fold.
        good: Good train photos, to measure what the sampler changes without the concept.
        feather_px: Soft rim outside the mask, in pixels of the crop.
        micro_batch: Rows the network always runs at, padded: bytes do not depend on how many crops are in flight.
        seed: Equal to the fold.
        references: Those the requests' masks are made from.
    """

    params: Any
    base: Path
    good: Sequence[Picture]
    feather_px: int
    micro_batch: int
    seed: int
    references: Sequence[Reference] = ()


class Sampler(Protocol):
    """Answers requests in order; each (request, seed) alone decides its answer, and a request's seeds which are dropped.

    Outside the requested mask and its feather the image equals the clean crop bit for bit.
    """

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic | Dropped]:  # noqa: D102
        ...

    def facts(self) -> dict[str, Any]:
        """What belongs on the card of the candidates: thresholds, micro-batch, settings."""
        ...


class Generator(Protocol):
    """One way to make defects."""

    def fit(self, job: FitJob, out: Path) -> None:
        """Learn from the references and write everything needed to sample into the folder `out`."""
        ...

    def load(self, fitted: Path, job: SampleJob) -> Sampler:
        """A sampler from a fitted folder."""
        ...
