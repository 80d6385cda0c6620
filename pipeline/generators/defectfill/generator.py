"""DefectFill behind the generator protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.generators.defectfill.concept import CARD, ConceptError
from pipeline.generators.defectfill.fit import fit
from pipeline.generators.defectfill.sample import DefectFillSampler
from pipeline.generators.protocol import Dropped, FitJob, Request, SampleJob, Sampler, Synthetic


class DefectFill:
    """One adapter for all types of a product, one token a type; or one adapter a type."""

    def fit(self, job: FitJob, out: Path) -> None:
        """Train LoRA and tokens on the references."""
        fit(job, out)

    def load(self, fitted: Path, job: SampleJob) -> Sampler:
        """Load the concept onto its base."""
        card = json.loads((fitted / CARD).read_text(encoding="utf-8"))
        if "adapters" in card:
            return PerTypeSampler({defect: fitted / folder for defect, folder in card["adapters"].items()}, job)
        return DefectFillSampler(fitted, job)


class PerTypeSampler:
    """Answers each request with the adapter of its type; see `Sampler`.

    One adapter is held at a time, so requests sorted by type cost one load a type. Each (request, seed) alone decides its
    answer, so it does not matter with which others it shares a batch.
    """

    def __init__(self, folders: Mapping[str, Path], job: SampleJob) -> None:
        self._folders, self._job = folders, job
        self._defect: str | None = None
        self._sampler: DefectFillSampler | None = None
        self._facts: dict[str, dict[str, Any]] = {}

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic | Dropped]:
        """Paint in order.

        Raises:
            ConceptError: If a request is for several types.
        """
        for defects, group in groupby(requests, key=lambda asked: asked[0].defects):
            if len(defects) > 1:
                raise ConceptError(
                    f"adapter: per_type paints one type at a time, and a request is for {list(defects)}; set "
                    "synthesize.placement.join_overlap to null, or learn the concept with adapter: shared"
                )
            yield from self._of("".join(defects))(group)

    def facts(self) -> dict[str, Any]:
        """The facts of every type's sampler, also of those a resumed run had no need of."""
        for defect in self._folders.keys() - self._facts.keys():
            self._of(defect)
        return {"adapters": {defect: self._facts[defect] for defect in self._folders}}

    def _of(self, defect: str) -> DefectFillSampler:
        if self._sampler is None or self._defect != defect:
            self._sampler = None  # the base of the one before is freed first
            self._sampler, self._defect = DefectFillSampler(self._folders[defect], self._job), defect
            self._facts[defect] = self._sampler.facts()
        return self._sampler
