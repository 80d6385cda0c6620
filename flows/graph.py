"""The stages of a project's `dvc.yaml` in an order that respects their dependencies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import yaml

_EDGE = re.compile(r'^"(?P<before>[^"]+)" -> "(?P<after>[^"]+)";$')


class GraphError(RuntimeError):
    """DVC cannot read the project's graph."""


def dvc_command(*arguments: str) -> list[str]:
    """The DVC of this very environment, whatever is first on PATH."""
    return [sys.executable, "-m", "dvc", *arguments]


def dvc_environment() -> dict[str, str]:
    """This environment with its own `python` first on PATH, since stages are started by that name."""
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")]), "DVC_NO_ANALYTICS": "1"}


def stage_groups(project: Path) -> list[str]:
    """Names of the stages in `dvc.yaml`, a matrix being one name, each after everything it depends on.

    Where the graph leaves the order open, the order of the file decides.

    Raises:
        GraphError: If there is no readable graph, with DVC's own message.
    """
    file = project / "dvc.yaml"
    if not file.is_file():
        raise GraphError("no dvc.yaml here; run from the project's folder or give --project")
    answer = subprocess.run(
        dvc_command("dag", "--dot", "--collapse-foreach-matrix"),
        cwd=project,
        env=dvc_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise GraphError(f"dvc dag failed: {answer.stderr.strip()}")
    names = list(yaml.safe_load(file.read_text(encoding="utf-8"))["stages"])
    return sort_groups(names, answer.stdout)


def sort_groups(names: list[str], dot: str) -> list[str]:
    """Sort `names` by the edges of a DOT graph; nodes that are no stage (tracked files) are left out."""
    sorter: TopologicalSorter[str] = TopologicalSorter({name: () for name in names})
    for line in dot.splitlines():
        edge = _EDGE.match(line.strip())
        if edge and edge["before"] in names and edge["after"] in names:
            sorter.add(edge["after"], edge["before"])
    sorter.prepare()
    ordered: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted({*ready, *sorter.get_ready()}, key=names.index)
        ordered.append(ready.pop(0))
        sorter.done(ordered[-1])
    return ordered
