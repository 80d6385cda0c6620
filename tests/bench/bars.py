"""What every `make bench-<name>` writes: bars with value, limit and reference, in reports/bench/<name>.json."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any, Literal

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
