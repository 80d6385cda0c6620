"""Importers of raw data sets: one file a layout, each a function `read(source, params) -> RawSet` that never splits."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from pipeline.layouts.raw import RawSet
from pipeline.params import PrepareParams

Reader = Callable[[Path, PrepareParams], RawSet]


def _lazy(name: str) -> Callable[[], Reader]:
    return lambda: import_module(f"pipeline.layouts.{name}").read


LAYOUTS: dict[str, Callable[[], Reader]] = {
    "sample": _lazy("sample"),
    "mvtec": _lazy("mvtec"),
    "magnetic_tile": _lazy("magnetic_tile"),
    "deep_pcb": _lazy("deep_pcb"),
    "folder": _lazy("folder"),
}
