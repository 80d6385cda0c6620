"""What every `make bench-<name>` writes: bars with value, limit and reference, in reports/bench/<name>.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

Part = Callable[[Path], dict[str, Any]]

FOLDER = Path("reports/bench")


def bar(
    name: str, value: float | None, limit: float, better: Literal["higher", "lower"], reference: str, command: str
) -> dict[str, Any]:
    """One promise: a value (None: not run), its limit, and whether it holds."""
    holds = value is not None and (value >= limit if better == "higher" else value <= limit)
    return {
        "name": name,
        "value": value,
        "bar": limit,
        "better": better,
        "holds": holds,
        "reference": reference,
        "command": command,
    }


def machine() -> str:
    """Processor, cores, system and Python."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def write_bars(name: str, bars: list[dict[str, Any]], **facts: Any) -> int:
    """Write and print the bars; 0 if all hold, else 1."""
    result = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), **facts, "bars": bars}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for one in bars:
        verdict = "not run" if one["value"] is None else "holds" if one["holds"] else "FAILS"
        relation = "at most" if one["better"] == "lower" else "at least"
        print(f"{verdict:7}  {one['name']}: {one['value']} ({relation} {one['bar']}; {one['reference']})")
    return 0 if all(one["holds"] for one in bars) else 1


def run_parts(
    name: str, parts: Mapping[str, Part], bars: Callable[[dict[str, Any]], list[dict[str, Any]]], again: Callable[[str], None]
) -> int:
    """Run the parts of a bench on the data set named on the command line that are not there yet, then write all bars.

    Each part's result is kept below `.work/bench-<name>`, so a killed bench goes on. A part that was not run counts as failed
    and says so.

    Args:
        name: Of the bench.
        parts: Each takes the folder of the data set and returns what it found.
        bars: Makes the bars from the results by part.
        again: Called with a part that is to be done anew, to delete what it keeps besides its result.
    """
    parser = argparse.ArgumentParser(description=f"Bench `{name}` on real magnetic tiles.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the magnetic-tile data set")
    parser.add_argument("--parts", nargs="*", choices=list(parts), default=list(parts), help="what to run if it is missing")
    parser.add_argument("--again", nargs="*", choices=list(parts), default=[], help="what to run anew")
    args = parser.parse_args()
    work = work_folder(name)
    found: dict[str, dict[str, Any]] = {}
    for part, run in parts.items():
        kept = work / f"{part}.json"
        if part in args.again:
            kept.unlink(missing_ok=True)
            again(part)
        if not kept.exists() and part in args.parts:
            kept.write_text(json.dumps(run(args.data)), encoding="utf-8")
        if kept.exists():
            found[part] = json.loads(kept.read_text(encoding="utf-8"))
    return write_bars(name, bars(found), results=found)


def work_folder(name: str) -> Path:
    """Where a bench keeps what it made; created."""
    folder = Path(f".work/bench-{name}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
