"""`make bench-stages`: does the last `make repro` keep the project's promises? Writes reports/bench/stages.json.

Wall time and memory come from the run records of the stages; the run that does nothing is measured on the spot.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.bars import bar, write_bars

RUNS = Path("reports/runs")
COMMAND = "make bench-stages"


def stage_bars(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Total wall time and highest memory of the stages of one full run, and the time concepts take."""
    wall = round(sum(run["wall_s"] for run in runs), 1)
    peak = max(run["peak_memory_mib"] for run in runs)
    concepts = round(sum(run["wall_s"] for run in runs if run["stage"].startswith("learn_concept")), 1)
    return [
        bar("wall seconds of all stages, without their start-up", wall, 1200, "lower", "20 minutes on 2 cores", COMMAND),
        bar("peak memory of any stage, MiB", peak, 6144, "lower", "6 GB", COMMAND),
        bar("wall seconds of concept learning, all types together", concepts, 180, "lower", "3 minutes", COMMAND),
    ]


def idle_repro_seconds() -> float:
    """Seconds of a `dvc repro` that has nothing to do.

    Raises:
        RuntimeError: If a stage is out of date.
    """
    would = subprocess.run(["dvc", "repro", "--dry"], capture_output=True, text=True, check=False)
    if would.returncode != 0 or "Running stage" in would.stdout:
        raise RuntimeError("some stage is out of date; run `make repro` first, then measure again")
    start = time.monotonic()
    subprocess.run(["dvc", "repro"], capture_output=True, check=True)
    return round(time.monotonic() - start, 1)


def main() -> int:
    """Measure, print, write; 0 if every bar holds, 1 if one does not, 2 if there is nothing to measure."""
    try:
        idle = idle_repro_seconds()
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RUNS.glob("*.json"))]
    if not runs:
        print("error: no run records in reports/runs/; run `make repro` first", file=sys.stderr)
        return 2
    bars = [*stage_bars(runs), bar("seconds of a repro with nothing to do", idle, 10, "lower", "10 s", COMMAND)]
    facts = {run["stage"]: {"wall_s": run["wall_s"], "peak_memory_mib": run["peak_memory_mib"]} for run in runs}
    return write_bars("stages", bars, stages=facts)


if __name__ == "__main__":
    raise SystemExit(main())
