"""Stage learn_concept: fit one generator on the few train references, fold by fold."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.folds import each_fold
from pipeline.generators import GENERATORS
from pipeline.generators.protocol import Display, FitJob
from pipeline.images import read_rgb
from pipeline.params import LearnConceptParams
from pipeline.records import fold_name, good_samples, read_card, read_manifest
from pipeline.references import read_references
from pipeline.runlog import RUNS, resumable_output

logger = logging.getLogger(__name__)


def learn_concept(generator: str, params: LearnConceptParams, train: Path, base: Path, out: Path) -> None:
    """Write `out/fold-<f>/` for every fold: all that `synthesize` needs of the generator.

    Where the folds are learned (`BLEMISH_EXECUTOR`) changes no byte.

    Raises:
        WorkError: Names the fold that has no reference, or whose references the generator refuses.
    """
    section = getattr(params, generator)
    with resumable_output(out, section.model_dump(mode="json"), train, base) as unresolved:
        work = unresolved.resolve()
        job = ConceptJob(generator, section, train.resolve(), base.resolve(), work, RUNS.resolve())
        each_fold(job.build, work, read_card(train).folds)


@dataclass(frozen=True)
class ConceptJob:
    """One generator, for any fold and in any process.

    Attributes:
        generator: Its name.
        section: Its parameters.
        train: `data/prepared/train`.
        base: `data/base`.
        work: Holds the checkpoints.
        runs: Where curves and previews go.
    """

    generator: str
    section: Any
    train: Path
    base: Path
    work: Path
    runs: Path

    def build(self, fold: int, folder: Path) -> None:
        """Fit the generator on the references of a fold."""
        samples = read_manifest(self.train, fold)
        references = read_references(self.train, samples)
        logger.info("%s, fold %d: %d references", self.generator, fold, len(references))
        good = next(s for s in good_samples(samples) if s.split == "train")
        display = Display(self.runs / "learn_concept" / self.generator / fold_name(fold), read_rgb(self.train / good.image))
        job = FitJob(self.section, references, self.base / fold_name(fold), self.work, fold, display)
        GENERATORS[self.generator]().fit(job, folder)
