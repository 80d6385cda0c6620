"""One run at a time on an output, and parameters that stay as they were while it lasts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.params import ParamsError
from pipeline.single_run import LOCKS, RunningError, only_run, settled
from tests.conftest import ROOT

HOLD = """
import sys
from pipeline.single_run import only_run
with only_run('data/base'):
    print('held', flush=True)
    sys.stdin.read()
"""


def holder() -> subprocess.Popen[str]:
    """A process that works on data/base until its input ends."""
    command, pipe = [sys.executable, "-c", HOLD], subprocess.PIPE
    first = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={"PYTHONPATH": str(ROOT)})
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    return first


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("label: {close_px: 2}\ntrain: {steps: 10}\n")


def test_a_second_run_is_refused_until_the_first_has_ended():
    with holder() as first:
        with pytest.raises(RunningError, match=f"data/base is being made by process {first.pid}; wait"), only_run("data/base"):
            pass
        with only_run("data/concepts"):
            pass
        first.communicate()
    with only_run("data/base"):
        pass


def test_a_killed_run_keeps_nobody_out():
    with holder() as first:
        first.kill()
    with only_run("data/base"):
        assert (LOCKS / "data-base").read_text() == str(os.getpid())


def test_parameters_that_change_under_a_run_are_named():
    with (
        pytest.raises(ParamsError, match=r"params\.yaml: train changed while this ran"),
        settled(Path("params.yaml"), "train", "label"),
    ):
        Path("params.yaml").write_text("label: {close_px: 2}\ntrain: {steps: 20}\n")


def test_other_sections_and_comments_may_change():
    with settled(Path("params.yaml"), "train"):
        Path("params.yaml").write_text("label: {close_px: 3}\ntrain: {steps: 10}  # half an hour\n")
    assert "close_px: 3" in Path("params.yaml").read_text()
