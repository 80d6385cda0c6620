"""What a stage's command makes sure of: it is the only one on its output, and its parameters stay as they were."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipeline.params import ParamsError

LOCKS = Path(".work/locks")


class RunningError(ValueError):
    """Another process works on the same output."""


@contextmanager
def only_run(name: str) -> Iterator[None]:
    """Keep a second run on the same output out, until this one and the processes it started have ended.

    A killed `dvc repro` may leave its stage running. A second one beside it would share its work folder.

    Args:
        name: Of the output.

    Raises:
        RunningError: Naming the process that works on it.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / name.replace("/", "-")).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise RunningError(
                f"{name} is being made by process {lock.read()}; wait for it or stop it, then run again"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def settled(params: Path, *sections: str) -> Iterator[None]:
    """Refuse what was made if its parameters were edited meanwhile.

    DVC reads them again when a stage has ended, and would record the new ones for an output made with the old ones.

    Args:
        params: Parameter file.
        sections: Of it, that count.

    Raises:
        ParamsError: Naming the sections that changed.
    """
    before = _read(params, sections)
    yield
    after = _read(params, sections)
    if changed := [name for name in sections if before[name] != after[name]]:
        raise ParamsError(f"{params}: {', '.join(changed)} changed while this ran, with the values from before; run it again")


def _read(params: Path, sections: tuple[str, ...]) -> dict[str, Any]:
    document = yaml.safe_load(params.read_text(encoding="utf-8")) or {}
    return {name: document.get(name) for name in sections}
