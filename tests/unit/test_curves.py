"""Curves of a training: what is written, and what a killed run leaves."""

import csv
import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.curves import WRITERS, Curves, forget_after


@pytest.fixture(autouse=True)
def quiet_dvc():
    """DVCLive silences the logger `dvc` for good; other tests want it as it was."""
    level = logging.getLogger("dvc").level
    yield
    logging.getLogger("dvc").setLevel(level)


def run(folder: Path, first: int, last: int, offset: float = 0.0) -> None:
    """Steps `first` to `last`, 1-based; a picture at step 2 and 4."""
    curves = Curves(folder, list(WRITERS))
    for done in range(first, last + 1):
        curves.scalars(done, {"loss": done + offset, "rate/unet": 0.5})
        if done % 2 == 0:
            curves.picture("painted", done, np.full((8, 16, 3), done, np.uint8))
    curves.close()


def table(folder: Path, name: str) -> list[tuple[int, float]]:
    text = (folder / "dvclive" / "plots" / "metrics" / f"{name}.tsv").read_text(encoding="utf-8")
    return [(int(step), float(value)) for step, value in list(csv.reader(text.splitlines(), delimiter="\t"))[1:]]


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_numbers_and_pictures_are_in_both_kinds_of_files(tmp_path):
    run(tmp_path / "run", 1, 4)
    assert table(tmp_path / "run", "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert table(tmp_path / "run", "rate/unet") == [(step, 0.5) for step in (1, 2, 3, 4)]
    found = events(tmp_path / "run")
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert [(e.step, e.width, e.height) for e in found.Images("painted")] == [(2, 16, 8), (4, 16, 8)]
    pictures = sorted(str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*.png"))
    assert pictures == [
        "dvclive/plots/images/painted/000002.png",
        "dvclive/plots/images/painted/000004.png",
        "pictures/painted/000002.png",
        "pictures/painted/000004.png",
    ]


def test_a_run_resumed_at_step_two_shows_each_step_once(tmp_path):
    run(tmp_path / "run", 1, 4, offset=100.0)
    run(tmp_path / "run", 3, 5)
    wanted = [(1, 101.0), (2, 102.0), (3, 3.0), (4, 4.0), (5, 5.0)]
    assert table(tmp_path / "run", "loss") == wanted
    assert [(e.step, e.value) for e in events(tmp_path / "run").Scalars("loss")] == wanted


def test_a_run_from_the_start_leaves_nothing_of_the_one_before(tmp_path):
    run(tmp_path / "run", 1, 4)
    run(tmp_path / "run", 1, 1)
    assert table(tmp_path / "run", "loss") == [(1, 1.0)]
    assert [e.step for e in events(tmp_path / "run").Scalars("loss")] == [1]
    assert not list((tmp_path / "run").rglob("*.png"))


def test_later_pictures_are_forgotten_and_others_stay(tmp_path):
    for name in ("a/000002.png", "a/000003.png", "painted.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    forget_after(tmp_path, 2)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png")) == ["a/000002.png", "painted.png"]


def files_of(project: Path) -> dict[Path, bytes]:
    """All but the reports and git's own files, of which branches and experiments are counted."""
    outside = (project / ".git", project / "reports")
    files = [path for path in project.rglob("*") if path.is_file() and not any(path.is_relative_to(o) for o in outside)]
    refs = [path for path in (project / ".git" / "refs").rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in [*files, *refs]}


def test_nothing_is_written_into_the_project(dvc_project, monkeypatch):
    """No experiment, no commit, no change of dvc.yaml, no signal file: only the folder asked for."""
    monkeypatch.chdir(dvc_project)
    (dvc_project / "dvc.yaml").write_text("stages: {}\n")
    for command in (["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "start"]):
        subprocess.run(["git", *command], check=True)
    before = files_of(dvc_project)
    run(Path("reports/runs/x"), 1, 3)
    assert {str(path) for path in files_of(dvc_project).keys() ^ before.keys()} == set()
    assert files_of(dvc_project) == before
