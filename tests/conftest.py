"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before any library reads them: no telemetry, no look-ups, as in the Makefile.
# Hub look-ups fail at once instead of after minutes of retries.
os.environ.update(
    HF_HUB_OFFLINE="1",
    DVC_NO_ANALYTICS="1",
    DO_NOT_TRACK="1",
    NO_ALBUMENTATIONS_UPDATE="1",
    YOLO_OFFLINE="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="90",
)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def pytest_configure() -> None:
    """A developer's own executor would take units where what a test replaces is not replaced."""
    os.environ.pop("BLEMISH_EXECUTOR", None)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One real Prefect server (SQLite, its own process, home in a temporary folder) for the whole session."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=None):
        yield


@pytest.fixture
def dvc_project(tmp_path: Path) -> Path:
    """An empty git and DVC project with a local remote, set up as this one is."""
    settings = [("core.analytics", "false"), ("core.autostage", "false"), ("core.check_update", "false")]
    commands = [
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        *([sys.executable, "-m", "dvc", "config", "-q", name, value] for name, value in settings),
        [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "local", ".dvc/remote-store"],
    ]
    for command in commands:
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path
