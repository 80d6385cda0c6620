"""The arms of the comparison: what each adds to the real data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline.params import LearnConceptParams

COMBINED = "_classical"


class UnknownNameError(ValueError):
    """A detector or arm that does not exist."""


@dataclass(frozen=True)
class Arm:
    """Recipe of augmentation, and the generator whose images are mixed in (None for none)."""

    name: str
    recipe: Literal["base", "classical"]
    generator: str | None


def arm_names() -> list[str]:
    """Every valid arm; generators are the sub-sections of `learn_concept`."""
    generators = list(LearnConceptParams.model_fields)
    return ["real", "classical", *generators, *(name + COMBINED for name in generators)]


def check_name(name: str, valid: Iterable[str], what: str) -> str:
    """Return `name` if it is valid.

    Raises:
        UnknownNameError: Names the nearest valid one.
    """
    known = list(valid)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise UnknownNameError(f"unknown {what} {name!r}; nearest valid name: {nearest!r} (all: {', '.join(known)})")
    return name


def parse_arm(name: str) -> Arm:
    """`real`, `classical`, `<generator>` (real + synthetic) or `<generator>_classical` (both).

    Raises:
        UnknownNameError: If there is no such arm.
    """
    check_name(name, arm_names(), "arm")
    if name == "real":
        return Arm(name, "base", None)
    if name == "classical":
        return Arm(name, "classical", None)
    if name.endswith(COMBINED):
        return Arm(name, "classical", name.removesuffix(COMBINED))
    return Arm(name, "base", name)
