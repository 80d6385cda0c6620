"""One parameter at several values: the whole flow at each, and their comparisons side by side in `reports/sweeps/`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from flows.copies import PATHS, CopyError, absolute, check_alike, open_copy, reproduce_copy

SWEEPS = Path("reports/sweeps")


@dataclass(frozen=True)
class Sweep:
    """What is swept.

    Attributes:
        project: A Git repository with `dvc.yaml`.
        parameter: Dotted name, e.g. `prepare.k` (the learning curve) or `mix.share` (the ratio of synthetic data).
        values: Of it, as YAML.
        detectors: What is trained; empty for all.
    """

    project: Path
    parameter: str
    values: Sequence[str]
    detectors: Sequence[str]

    def copy_of(self, value: str) -> Path:
        """Where the flow runs at a value."""
        return self.project / ".work" / "sweep" / f"{self.parameter}={value}"

    def setting(self, value: str) -> str:
        """A value as a copy takes it: a path of the project's made absolute, since a copy has what is committed alone."""
        return absolute(self.project, value) if self.parameter in PATHS and (self.project / value).exists() else value

    @property
    def result(self) -> Path:
        """What `report` reads."""
        return self.project / SWEEPS / f"{self.parameter}.json"


def sweep(wanted: Sweep, jobs: int, *, afresh: bool) -> Path:
    """Run the flow at every value and write the result; copies are kept, so that a killed sweep goes on where it was.

    Args:
        wanted: What is swept.
        jobs: Values at a time.
        afresh: Begin again with the project as it is now.

    Returns:
        The file written.

    Raises:
        CopyError: If a stage fails at a value, or copies of before and copies made now would differ in more than the value.
    """
    lists = {"detectors": wanted.detectors} if wanted.detectors else {}
    for value in wanted.values:
        if afresh:
            shutil.rmtree(wanted.copy_of(value), ignore_errors=True)
        open_copy(wanted.project, wanted.copy_of(value), ["--set", f"{wanted.parameter}={wanted.setting(value)}"], lists)
    check_alike([wanted.copy_of(value) for value in wanted.values], wanted.parameter)

    failed = Event()

    def point(value: str) -> dict[str, Any]:
        if failed.is_set():
            raise CopyError(f"{wanted.parameter}={value} was not begun, since another value failed")
        folder = wanted.copy_of(value)
        try:
            reproduce_copy(folder)
        except CopyError:
            failed.set()
            raise
        comparison = json.loads((folder / "reports" / "comparison.json").read_text(encoding="utf-8"))
        return {"value": _number_or_text(value), **comparison}

    with ThreadPoolExecutor(jobs) as crew:
        points = list(crew.map(point, wanted.values))
    wanted.result.parent.mkdir(parents=True, exist_ok=True)
    temporary = wanted.result.with_suffix(".tmp")
    temporary.write_text(json.dumps({"parameter": wanted.parameter, "points": points}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(wanted.result)
    return wanted.result


def _number_or_text(value: str) -> int | float | str:
    """What a value is on an axis; `.5` and `1e-3` are numbers."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
