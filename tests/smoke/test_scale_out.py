"""The stage killed, in many processes and on a real cluster one of whose workers is killed: always the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cluster_toy import LIMIT_S, cluster, wait_until
from tests.synthesis_toy import SHARDS, digests, start_stage, write_data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("toy") / "data").parent


def project(prepared: Path, folder: Path) -> Path:
    shutil.copytree(prepared, folder)
    return folder


def finish(folder: Path, generator: str, executor: str = "serial") -> float:
    """Run the stage to its end; seconds it took."""
    start = time.monotonic()
    process = start_stage(folder, generator, executor)
    process.join(LIMIT_S)
    assert process.exitcode == 0
    return time.monotonic() - start


def made(folder: Path) -> dict[str, str]:
    return digests(folder / "data" / "candidates")


def shards(folder: Path) -> list[Path]:
    return list(folder.glob(".work/*/*/out/fold-0/shard-*.tar"))


@pytest.fixture(scope="module")
def serial(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, float]]:
    """Bytes of uninterrupted runs of both generators, and the seconds each took."""
    folder = project(prepared, tmp_path_factory.mktemp("serial") / "run")
    seconds = {generator: finish(folder, generator) for generator in ("copy_paste", "defectfill")}
    return made(folder), seconds


def of(serial: tuple[dict[str, str], dict[str, float]], generator: str) -> dict[str, str]:
    return {name: value for name, value in serial[0].items() if name.startswith(generator)}


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["copy_paste", "defectfill"])
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(generator: str, prepared: Path, tmp_path: Path, serial):
    folder = project(prepared, tmp_path / "run")
    moments = np.random.default_rng(5).uniform(0.2, 0.95, 4) * serial[1][generator]
    for moment in moments:
        process = start_stage(folder, generator)
        process.join(float(moment))
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was quicker than its twin
            break
        assert not (folder / "data" / "candidates").exists() or not any((folder / "data" / "candidates").iterdir())
    finish(folder, generator)
    assert made(folder) == of(serial, generator)


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(prepared: Path, tmp_path: Path, serial):
    folder = project(prepared, tmp_path / "run")
    finish(folder, "defectfill", "processes:2")
    assert made(folder) == of(serial, "defectfill")


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_makes_the_same_bytes(prepared: Path, tmp_path: Path, serial):
    folder = project(prepared, tmp_path / "run")
    with cluster(tmp_path) as (executor, workers):
        process = start_stage(folder, "defectfill", executor)
        wait_until(lambda: shards(folder), "the first shard")
        os.kill(workers[0].pid, signal.SIGKILL)
        assert len(shards(folder)) < SHARDS, "the worker outlived its work"
        process.join(LIMIT_S)
        assert process.exitcode == 0
    assert made(folder) == of(serial, "defectfill")
