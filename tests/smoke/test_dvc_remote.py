"""The local remote gives back what was pushed, byte for byte, and an up-to-date graph runs nothing."""

from __future__ import annotations

import configparser
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

LABEL = """
import json, pathlib, random
out = pathlib.Path("data/labelled/copy_paste/fold-0")
(out / "images").mkdir(parents=True)
draw = random.Random(0)
for n in range(5):
    (out / "images" / f"{n}.png").write_bytes(draw.randbytes(500 + n))
(out / "annotations.json").write_text(json.dumps({"images": list(range(5))}))
with open("ran.txt", "a") as log:
    log.write("label\\n")
"""


def dvc(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def labelled(dvc_project: Path) -> Path:
    """A project with one stage whose output is a labelled set."""
    (dvc_project / "label.py").write_text(LABEL)
    (dvc_project / ".gitignore").write_text("/data\n/ran.txt\n")
    stage = {"cmd": "python label.py", "deps": ["label.py"], "outs": ["data/labelled/copy_paste"]}
    (dvc_project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"label": stage}}))
    dvc(dvc_project, "repro")
    return dvc_project


@pytest.mark.slow
def test_push_drop_pull_restores_every_byte(labelled: Path):
    before = digests(labelled / "data" / "labelled")
    assert len(before) == 6
    dvc(labelled, "push")
    shutil.rmtree(labelled / ".dvc" / "cache")
    shutil.rmtree(labelled / "data")
    dvc(labelled, "pull")
    assert digests(labelled / "data" / "labelled") == before


@pytest.mark.slow
def test_a_second_repro_runs_nothing(labelled: Path):
    assert "Running stage" not in dvc(labelled, "repro")
    assert (labelled / "ran.txt").read_text() == "label\n"


def test_the_project_has_a_local_remote_inside_itself_and_stays_silent():
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    core = {key: config["core"][key] for key in ("analytics", "check_update", "autostage", "remote")}
    assert core == {"analytics": "false", "check_update": "false", "autostage": "false", "remote": "local"}
    url = config["'remote \"local\"'"]["url"]
    assert not Path(url).is_absolute()
    ignored = subprocess.run(["git", "check-ignore", "-q", f".dvc/{url}/files"], cwd=ROOT, check=False)
    assert ignored.returncode == 0, "the remote's files must not enter git"
