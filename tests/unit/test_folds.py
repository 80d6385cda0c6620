from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from pipeline.fan_out import EXECUTOR, WorkError
from pipeline.folds import each_fold
from pipeline.runlog import resumable_output


def test_finished_folds_survive_a_killed_run_and_unfinished_ones_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(EXECUTOR, raising=False)
    out, made = tmp_path / "data" / "x", []

    def run(stop_at: int | None) -> None:
        def build(fold: int, folder: Path) -> None:
            (folder / "f").write_text(str(fold))
            made.append(fold)
            if fold == stop_at:
                raise KeyboardInterrupt

        with resumable_output(out, 0) as work:
            each_fold(build, work, [0, 1, 2])

    with pytest.raises(KeyboardInterrupt):
        run(stop_at=1)
    assert not out.exists()
    run(stop_at=None)
    assert made == [0, 1, 1, 2]
    assert [(out / f"fold-{fold}" / "f").read_text() for fold in range(3)] == ["0", "1", "2"]
    assert not [p for p in (tmp_path / ".work").rglob("*") if p.is_file()]


def write_process(bad: int | None, fold: int, folder: Path) -> None:
    """Module level, so that another process finds it."""
    if fold == bad:
        raise ValueError("no good photo")
    (folder / "pid").write_text(str(os.getpid()))


def test_folds_are_built_in_other_processes_and_a_faulty_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(EXECUTOR, "processes:2")
    with pytest.raises(WorkError, match="fold 2: no good photo"):
        each_fold(partial(write_process, 2), tmp_path, [0, 1, 2])
    assert not (tmp_path / "out" / "fold-2").exists()
    each_fold(partial(write_process, None), tmp_path, [0, 1, 2])
    pids = [(tmp_path / "out" / f"fold-{fold}" / "pid").read_text() for fold in range(3)]
    assert str(os.getpid()) not in pids
