"""Stage learn_concept: fit one generator on the few train references, fold by fold."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.generators import GENERATORS
from pipeline.generators.protocol import Display, FitJob
from pipeline.images import read_rgb
from pipeline.params import LearnConceptParams
from pipeline.records import fold_name, good_samples, read_card, read_manifest
from pipeline.references import read_references
from pipeline.runlog import RUNS, resumable_output, unfinished

logger = logging.getLogger(__name__)


def learn_concept(generator: str, params: LearnConceptParams, train: Path, base: Path, out: Path) -> None:
    """Write `out/fold-<f>/` for every fold: all that `synthesize` needs of the generator.

    Raises:
        ValueError: If a fold has no reference, or the generator refuses them.
    """
    section = getattr(params, generator)
    with resumable_output(out, section.model_dump(mode="json"), train, base) as work:
        for fold, folder in unfinished(work, read_card(train).folds):
            samples = read_manifest(train, fold)
            references = read_references(train, samples)
            logger.info("%s, fold %d: %d references", generator, fold, len(references))
            good = next(s for s in good_samples(samples) if s.split == "train")
            display = Display(RUNS / "learn_concept" / generator / fold_name(fold), read_rgb(train / good.image))
            job = FitJob(section, references, base / fold_name(fold), work, fold, display)
            GENERATORS[generator]().fit(job, folder)
