"""Help answers at once, because nothing heavy is imported before a stage runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

HEAVY = ("torch", "torchvision", "diffusers", "transformers", "ultralytics", "albumentations", "scipy", "cv2", "prefect", "dvc")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["pipeline", "detectors", "flows"])
def test_the_command_line_imports_nothing_heavy(package: str):
    code = f"import sys; sys.argv = ['x', '--help']\ntry:\n import {package}.__main__ as m; m.main()\nexcept SystemExit: pass\n"
    answer = python("-c", code + f"print([name for name in {HEAVY} if name in sys.modules])")
    assert answer.stderr == ""
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("package", ["pipeline", "detectors", "flows"])
def test_help_names_the_commands(package: str):
    answer = python("-m", package, "--help")
    commands = {"pipeline": "learn_concept", "detectors": "evaluate", "flows": "reproduce"}
    assert answer.returncode == 0
    assert commands[package] in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["pipeline", "learn_concept", "--generator", "no_such"], "invalid choice: 'no_such'"),
        (["pipeline", "configure", "--layout", "mvtek"], "nearest valid name: 'mvtec'"),
        (["pipeline", "configure", "--profile", "prof"], "nearest valid name: 'proof'"),
        (["detectors", "train", "--detector", "rtdet", "--arm", "real"], "nearest valid name: 'rtdetr'"),
    ],
)
def test_a_wrong_name_ends_with_code_2_and_one_sentence(arguments: list[str], text: str):
    before = (ROOT / "params.yaml").read_bytes()
    answer = python("-m", *arguments)
    assert answer.returncode == 2
    assert text in answer.stderr
    assert "Traceback" not in answer.stderr
    assert (ROOT / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("stage", ["prepare", "learn_base", "select", "label", "report"])
def test_a_dry_run_prints_the_resolved_parameters_and_runs_nothing(stage: str):
    option = ["--generator", "copy_paste"] if stage in ("select", "label") else []
    answer = python("-m", "pipeline", stage, *option, "--dry-run")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("{")
