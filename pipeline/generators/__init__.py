"""The catalogue of generators. Values are lazy: copy-paste never imports a diffusion stack."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from pipeline.generators.protocol import Generator

GENERATORS: dict[str, Callable[[], Generator]] = {
    "copy_paste": lambda: import_module("pipeline.generators.copy_paste.generator").CopyPaste(),
    "defectfill": lambda: import_module("pipeline.generators.defectfill.generator").DefectFill(),
}
