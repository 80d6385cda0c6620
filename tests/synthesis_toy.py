"""A fold small enough to synthesize in a second: photos, a random base, fitted generators; and runs of the stage elsewhere."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import yaml

from pipeline.generators import GENERATORS
from pipeline.generators.protocol import FitJob
from pipeline.images import write_png
from pipeline.params import CopyPasteParams, SelectParams, SynthesizeParams, load_section
from pipeline.records import DatasetCard, Sample, write_card, write_manifest
from pipeline.selection import read_real
from pipeline.stages.synthesize import synthesize
from tests.conftest import ROOT
from tests.diffusion_toy import fit_params, write_base

SIDE = 40
TYPES = ("hole", "scratch")
OF_A_TYPE = 7
SHARDS = 7
"""Of 14 requests, two a shard."""


def params() -> SynthesizeParams:
    """As in the project, only small; two candidates, one redraw."""
    section = load_section("synthesize", SynthesizeParams, ROOT / "params.yaml").model_dump()
    section |= {"threads": 1, "min_crop_px": 16, "micro_batch": 4, "shard_requests": 2}
    section["defectfill"] |= {"candidates": 2, "steps": 2}
    return SynthesizeParams.model_validate(section)


def selection() -> SelectParams:
    """Guards that refuse some requests of the random network, and not others."""
    section = load_section("select", SelectParams, ROOT / "params.yaml").model_dump()
    return SelectParams.model_validate(section | {"threads": 1, "perceptual": "base"})


def write_data(data: Path) -> Path:
    """Photos, manifest, targets, base and concepts of fold 0."""
    train, rng = data / "prepared" / "train", np.random.default_rng(0)
    rows = []
    for name in [f"good-{n}" for n in range(6)] + [f"{defect}-{n}" for defect in TYPES for n in range(2)]:
        photo = np.repeat(rng.integers(90, 160, (SIDE, SIDE, 1)), 3, axis=2).astype(np.uint8)
        defect = name.rsplit("-", 1)[0]
        mask = np.zeros((SIDE, SIDE), bool)
        mask[14:24, 12:30] = True
        if defect != "good":
            photo[mask] = 20
            write_png(train / "masks" / f"{name}.png", mask)
        write_png(train / "images" / f"{name}.png", photo)
        of_defect = (None, None) if defect == "good" else (f"masks/{name}.png", defect)
        rows.append(Sample(name, f"images/{name}.png", *of_defect, name, "train"))
    write_manifest(train, rows)
    write_card(train, DatasetCard("toy", "folder", TYPES, 2, {}, (0,), "mask"))
    (data / "targets.yaml").write_text(yaml.safe_dump({"default": OF_A_TYPE, "types": {}}))
    base = write_base(data / "base" / "fold-0")
    for name, section in (("copy_paste", CopyPasteParams()), ("defectfill", fit_params(steps=2))):
        concept, work = data / "concepts" / name / "fold-0", data / "work"
        concept.mkdir(parents=True)
        work.mkdir()
        GENERATORS[name]().fit(FitJob(section, read_real(train, 0).references, base, work, seed=0), concept)
        shutil.rmtree(work)
    return data


def run_stage(folder: Path, generator: str, executor: str = "serial") -> None:
    """The stage on `folder/data`, in this process."""
    os.chdir(folder)
    os.environ["BLEMISH_EXECUTOR"] = executor
    synthesize(generator, params(), selection(), Path("data"), Path("data/candidates") / generator)


def digests(folder: Path) -> dict[str, str]:
    """Of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start_stage(folder: Path, generator: str, executor: str = "serial") -> BaseProcess:
    """The stage in a process that can be killed. It is forked from one that has imported everything, and so starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.synthesis_toy"])
    ensure_running()
    process = context.Process(target=run_stage, args=(folder, generator, executor))
    process.start()
    return process
