"""DefectFill behind the generator protocol."""

from __future__ import annotations

from pathlib import Path

from pipeline.generators.defectfill.fit import fit
from pipeline.generators.defectfill.sample import DefectFillSampler
from pipeline.generators.protocol import FitJob, SampleJob


class DefectFill:
    """One adapter for all types of a product, one token a type."""

    def fit(self, job: FitJob, out: Path) -> None:
        """Train LoRA and tokens on the references."""
        fit(job, out)

    def load(self, fitted: Path, job: SampleJob) -> DefectFillSampler:
        """Load the concept onto its base."""
        return DefectFillSampler(fitted, job)
