"""A copy of the project with other parameters, in which the same stages run; its DVC cache is the project's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from flows.graph import dvc_command, dvc_environment

CONFIGURATION = ("params.yaml", "dvc.yaml", "data/targets.yaml")
"""Taken from the project as it is; all other files as committed."""
PATHS = (
    "prepare.source",
    "learn_base.source",
    "synthesize.placement.region_masks",
    *(f"train.{detector}.weights" for detector in ("rtdetr", "yolo_seg", "rtdetr_v2", "deeplabv3")),
)
"""Parameters that may name a file or folder of the user's."""
CODE = ("pipeline", "detectors")
"""What the stages run."""


class CopyError(RuntimeError):
    """A copy could not be made, or a stage in it failed."""


def open_copy(project: Path, folder: Path, settings: Sequence[str], lists: Mapping[str, Sequence[str]]) -> None:
    """Clone the project and set parameters; a folder that is there stays as it is, so that a killed run goes on in it.

    Args:
        project: A Git repository with `dvc.yaml`.
        folder: Gets the copy.
        settings: Arguments of `python -m pipeline configure`.
        lists: Lists of `vars` in `dvc.yaml` to replace, e.g. `detectors`.

    Raises:
        CopyError: If Git, DVC or the parameters refuse.
    """
    if folder.exists():
        return
    building = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.parent.mkdir(parents=True, exist_ok=True)
    log = log_of(folder)
    run(["git", "clone", "--quiet", str(project.resolve()), str(building.resolve())], project, log)
    for name in CONFIGURATION:
        shutil.copyfile(project / name, building / name)
    run(dvc_command("cache", "dir", "--local", str((project / ".dvc" / "cache").resolve())), building, log)
    if lists:
        set_lists(building / "dvc.yaml", lists)
    own = [
        one
        for name, path in paths_of(project, building).items()
        if name not in _named(settings)
        for one in ("--set", f"{name}={path}")
    ]
    run([sys.executable, "-m", "pipeline", "configure", *own, *settings], building, log)
    run([sys.executable, "-m", "detectors", "check"], building, log)
    building.rename(folder)


def check_alike(folders: Sequence[Path], parameter: str) -> None:
    """Whether copies differ in one parameter alone: neither in code, nor in other parameters, the graph or what is wanted.

    Args:
        folders: Of the copies.
        parameter: Dotted name of what may differ.

    Raises:
        CopyError: Naming two copies and what differs.
    """
    first, *others = [_state(folder, parameter) for folder in folders]
    for folder, state in zip(folders[1:], others, strict=True):
        if differing := [name for name in first if first[name] != state[name]]:
            raise CopyError(
                f"{folders[0]} and {folder} differ in more than {parameter} ({', '.join(differing)}): the project changed "
                "between them. Begin the sweep anew with AFRESH=1 (`--afresh`)"
            )


def _state(folder: Path, parameter: str) -> dict[str, object]:
    """Everything that decides what a copy computes, but for one parameter."""
    code = subprocess.run(["git", "ls-tree", "HEAD", *CODE], cwd=folder, capture_output=True, text=True, check=True).stdout
    files = {name: yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in CONFIGURATION}
    section, *names = parameter.split(".")
    values = files["params.yaml"][section]
    for name in names[:-1]:
        values = values[name]
    del values[names[-1]]
    return {"code": code, **files}


def absolute(project: Path, path: str) -> str:
    """A path of the project as a value of YAML that holds in a copy; quoted, since YAML ends a value at " #"."""
    return json.dumps(str((project / path).resolve()))


def _named(settings: Sequence[str]) -> set[str]:
    """Parameters among arguments of `python -m pipeline configure`."""
    return {value.partition("=")[0] for flag, value in pairwise(settings) if flag == "--set"}


def paths_of(project: Path, copy: Path) -> dict[str, str]:
    """Names and absolute paths of parameters whose paths are not committed, so that the copy does not have them."""
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for name in PATHS:
        value: Any = params
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and (project / value).exists() and not (copy / value).exists():
            found[name] = absolute(project, value)
    return found


def set_lists(graph: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """Replace lists among the `vars` of a copy's `dvc.yaml`; its comments are lost."""
    document = yaml.safe_load(graph.read_text(encoding="utf-8"))
    for name, values in lists.items():
        (entry,) = (one for one in document["vars"] if name in one)
        entry[name] = list(values)
    graph.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def reproduce_copy(folder: Path, stages: Sequence[str] = ()) -> None:
    """`dvc repro` in a copy.

    Args:
        folder: Of the copy.
        stages: Only these, in this order, e.g. `train@rtdetr-real`; empty for all.

    Raises:
        CopyError: With the end of its log.
    """
    for options in [("--single-item", stage) for stage in stages] or [()]:
        run(dvc_command("repro", *options), folder, log_of(folder))


def log_of(folder: Path) -> Path:
    """Where everything is written that is run for a copy."""
    return folder.with_name(folder.name + ".log")


def run(command: Sequence[str], folder: Path, log: Path) -> None:
    """Run a command in a folder, with this environment's Python first on PATH and the folder's own code.

    Raises:
        CopyError: With the end of the log, if it fails.
    """
    environment = dvc_environment() | {"PYTHONPATH": str(folder.resolve())}
    with log.open("a", encoding="utf-8") as lines:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=lines, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise CopyError(f"{' '.join(command[-3:])} failed in {folder}; the end of {log}:\n{tail}")
