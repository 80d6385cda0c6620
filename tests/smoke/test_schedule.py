"""Regeneration at set times, against a Prefect server that stays: both as processes of their own, as a user starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

LONGEST_S = 240.0


def heed() -> None:
    """Take Ctrl-C, which whatever runs these tests in the background may have switched off."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def started(*command: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is interrupted at the end, as by Ctrl-C."""
    with log.open("wb") as lines:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=lines, stderr=subprocess.STDOUT, preexec_fn=heed)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(LONGEST_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def answer(url: str, body: dict[str, Any] | None = None) -> Any:
    """What the server says; None while it does not answer, or cannot yet."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=30) as found:
            return json.loads(found.read())
    except urllib.error.HTTPError as error:
        assert error.code >= 500, f"{url} refused {body}: {error.code} {error.read().decode()}"
        return None
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def wait_for(what: str, ready: Any, log: Path) -> Any:
    """The first answer that is not empty."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(1.0)
    raise AssertionError(f"{what} did not come in {LONGEST_S:g} s; the end of {log}:\n{log.read_text()[-3000:]}")


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A Prefect home of its own, and the address of a server on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **own, **quiet}


@pytest.fixture
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that answers: the address of its API."""
    url, log = environment["PREFECT_API_URL"], tmp_path_factory.mktemp("server") / "server.log"
    port = url.removesuffix("/api").rpartition(":")[2]
    with started(sys.executable, "-m", "prefect", "server", "start", "--port", port, env=environment, log=log):
        wait_for("the server", lambda: answer(f"{url}/health"), log)
        yield url


@contextmanager
def scheduled(project: Path, cron: str, environment: dict[str, str]) -> Iterator[Path]:
    """A schedule of a project until it is interrupted: its log."""
    log = project.parent / "schedule.log"
    command = (sys.executable, "-m", "flows", "schedule", cron, "--project", str(project))
    with started(*command, env=environment, log=log):
        yield log


def set_stage(project: Path, command: str) -> None:
    """One stage that makes `made.txt` of `raw.txt`."""
    (project / "raw.txt").write_text("raw\n")
    stage = {"cmd": command, "deps": ["raw.txt"], "outs": ["made.txt"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))


def runs_in(url: str, *states: str) -> list[dict[str, Any]]:
    """Flow runs in one of these states; none while the server does not answer."""
    return answer(f"{url}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": states}}}}) or []


def fall_due(url: str, deployment: dict[str, Any], key: str, log: Path) -> dict[str, Any]:
    """A run that is due now, of this key only once: the server may refuse while something else writes to its database."""
    body = {"state": {"type": "SCHEDULED"}, "idempotency_key": key}
    return wait_for("a run", lambda: answer(f"{url}/deployments/{deployment['id']}/create_flow_run", body), log)


@pytest.mark.slow
def test_what_falls_due_is_carried_out_and_a_stopped_schedule_is_paused(
    dvc_project: Path, environment: dict[str, str], server: str
):
    set_stage(dvc_project, "cp raw.txt made.txt")
    with scheduled(dvc_project, "* * * * *", environment) as log:
        (run, *_) = wait_for("a run", lambda: runs_in(server, "COMPLETED", "FAILED", "CRASHED"), log)
    assert run["state"]["type"] == "COMPLETED", log.read_text()[-3000:]
    assert (dvc_project / "made.txt").read_text() == "raw\n"
    (deployment,) = answer(f"{server}/deployments/filter", {})
    assert (deployment["name"], deployment["paused"]) == ("regeneration", True)
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


@pytest.mark.slow
def test_a_run_that_falls_due_beside_another_is_dropped_and_leaves_it_alone(
    dvc_project: Path, environment: dict[str, str], server: str
):
    set_stage(dvc_project, "until test -e go; do sleep 0.2; done; cp raw.txt made.txt")
    with scheduled(dvc_project, "0 3 1 1 *", environment) as log:
        (deployment,) = wait_for("the schedule", lambda: answer(f"{server}/deployments/filter", {}), log)
        first = fall_due(server, deployment, "first", log)
        wait_for("the first run", lambda: runs_in(server, "RUNNING"), log)
        second = fall_due(server, deployment, "second", log)
        (dropped, *_) = wait_for("the end of a run", lambda: runs_in(server, "CANCELLED", "COMPLETED", "FAILED", "CRASHED"), log)
        assert (dropped["id"], dropped["state"]["type"]) == (second["id"], "CANCELLED"), log.read_text()[-3000:]
        assert [run["id"] for run in runs_in(server, "RUNNING")] == [first["id"]]
        (dvc_project / "go").touch()
        (done, *_) = wait_for("the end of the first run", lambda: runs_in(server, "COMPLETED", "FAILED", "CRASHED"), log)
        assert (done["id"], done["state"]["type"]) == (first["id"], "COMPLETED"), log.read_text()[-3000:]
    assert (dvc_project / "made.txt").read_text() == "raw\n"


def refusal(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "flows", "schedule", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.slow
def test_without_a_server_that_stays_a_schedule_is_refused(environment: dict[str, str]):
    del environment["PREFECT_API_URL"]
    assert "a schedule needs a Prefect server that stays: run `make server`" in refusal(environment, "0 3 * * 6")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("0 3 * *",), ("0 3 * * 6", "--timezone", "Europe/Berlyn")])
def test_times_that_are_none_are_named(environment: dict[str, str], arguments: tuple[str, ...]):
    assert f"cron {arguments[0]!r} in zone" in refusal(environment, *arguments)
