"""A Dask cluster on loopback, started as a user starts one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.conftest import ROOT

LIMIT_S = 400
LOOPBACK = ("--host", "127.0.0.1", "--no-dashboard")


def wait_until(reached: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.02)


@contextmanager
def dask(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler or a worker; ended by its process id."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-m", "dask", *arguments], cwd=ROOT, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Value for `BLEMISH_EXECUTOR`, and the processes of the workers."""
    about = folder / "scheduler.json"
    with ExitStack() as stack:
        stack.enter_context(dask("scheduler", *LOOPBACK, "--port", "0", "--scheduler-file", str(about)))
        wait_until(lambda: about.exists() and about.read_text().rstrip().endswith("}"), "the scheduler")
        options = ("--scheduler-file", str(about), "--nthreads", "1", "--no-nanny", *LOOPBACK)
        places = [folder / f"worker-{number}" for number in range(workers)]
        processes = [stack.enter_context(dask("worker", *options, "--local-directory", str(place))) for place in places]
        yield "dask:" + json.loads(about.read_text())["address"], processes
