"""The arms of the comparison: what each adds to the real data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline.params import LearnConceptParams

COMBINED = "_classical"
ONLY = "_only"


class UnknownNameError(ValueError):
    """A detector or arm that does not exist."""


@dataclass(frozen=True)
class Arm:
    """What a detector is trained on.

    Attributes:
        name: Of the arm.
        recipe: Of augmentation.
        generator: Whose images are mixed in; None for none.
        real: Whether real defects are in it.
    """

    name: str
    recipe: Literal["base", "classical"]
    generator: str | None
    real: bool = True


def arm_names() -> list[str]:
    """Every valid arm; generators are the sub-sections of `learn_concept`."""
    generators = list(LearnConceptParams.model_fields)
    return ["real", "classical", *generators, *(name + COMBINED for name in generators), *(name + ONLY for name in generators)]


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
    """`real`, `classical`, `<generator>` (real + synthetic), `<generator>_classical` (both) or `<generator>_only`.

    `<generator>_only` sees synthetic defects and good photos; its validation is real, as everyone's.

    Raises:
        UnknownNameError: If there is no such arm.
    """
    check_name(name, arm_names(), "arm")
    if name == "real":
        return Arm(name, "base", None)
    if name == "classical":
        return Arm(name, "classical", None)
    if name.endswith(ONLY):
        return Arm(name, "base", name.removesuffix(ONLY), real=False)
    if name.endswith(COMBINED):
        return Arm(name, "classical", name.removesuffix(COMBINED))
    return Arm(name, "base", name)
