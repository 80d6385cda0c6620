"""`make bench-stages`: does the last `make repro` keep the project's promises? Writes reports/bench/stages.json.

Wall time and memory come from the run records of the stages; the run that does nothing is measured on the spot.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUNS = Path("reports/runs")
OUT = Path("reports/bench/stages.json")
COMMAND = "make bench-stages"


def bar(name: str, value: float, limit: float, reference: str) -> dict[str, Any]:
    """One promise: a value, its limit (lower is better), and whether it holds."""
    return {
        "name": name,
        "value": value,
        "bar": limit,
        "better": "lower",
        "holds": value <= limit,
        "reference": reference,
        "command": COMMAND,
    }


def stage_bars(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Total wall time and highest memory of the stages of one full run."""
    wall = round(sum(run["wall_s"] for run in runs), 1)
    peak = max(run["peak_memory_mib"] for run in runs)
    return [
        bar("wall seconds of all stages, without their start-up", wall, 1200, "20 minutes on 2 cores"),
        bar("peak memory of any stage, MiB", peak, 6144, "6 GB"),
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


def machine() -> str:
    """Processor, cores, system and Python."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


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
    bars = [*stage_bars(runs), bar("seconds of a repro with nothing to do", idle, 10, "10 s")]
    result = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "stages": {run["stage"]: {"wall_s": run["wall_s"], "peak_memory_mib": run["peak_memory_mib"]} for run in runs},
        "bars": bars,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for one in bars:
        print(f"{'holds' if one['holds'] else 'FAILS'}  {one['name']}: {one['value']} (at most {one['bar']})")
    return 0 if all(one["holds"] for one in bars) else 1


if __name__ == "__main__":
    raise SystemExit(main())
