"""The stage killed, in many processes and on a real cluster one of whose workers is killed: always the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.synthesis_toy import SHARDS, digests, start_stage, write_data

LIMIT_S = 240


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


@contextmanager
def dask(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler or a worker as a user starts it, with its own log; ended by its process id."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", "dask", *arguments], cwd=ROOT, env=environment) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until(reached, what: str) -> None:
    limit = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_makes_the_same_bytes(prepared: Path, tmp_path: Path, serial):
    folder, about = project(prepared, tmp_path / "run"), tmp_path / "scheduler.json"
    with ExitStack() as stack:
        loopback = ("--host", "127.0.0.1", "--no-dashboard")
        stack.enter_context(dask("scheduler", *loopback, "--port", "0", "--scheduler-file", str(about)))
        wait_until(about.exists, "the scheduler")
        options = ("--scheduler-file", str(about), "--nthreads", "1", "--no-nanny", *loopback)
        places = [tmp_path / "one", tmp_path / "two"]
        workers = [stack.enter_context(dask("worker", *options, "--local-directory", str(place))) for place in places]
        process = start_stage(folder, "defectfill", f"dask:{address(about)}")
        wait_until(lambda: shards(folder), "the first shard")
        os.kill(workers[0].pid, signal.SIGKILL)
        assert len(shards(folder)) < SHARDS, "the worker outlived its work"
        process.join(LIMIT_S)
        assert process.exitcode == 0
    assert made(folder) == of(serial, "defectfill")


def address(about: Path) -> str:
    return json.loads(about.read_text())["address"]
