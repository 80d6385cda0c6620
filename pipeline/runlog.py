"""Facts about runs that must not enter cached outputs: work folders to resume from, wall time, memory, machine."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.records import write_json

WORK = Path(".work")
RUNS = Path("reports/runs")
SETTINGS = "settings.json"


def digest(*parts: Any) -> str:
    """Hex digest of values (as JSON) and of the files below any `Path` (names and bytes)."""
    state = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, Path):
            found = sorted(part.rglob("*")) if part.is_dir() else [part]
            files = [file for file in found if file.is_file() and "__pycache__" not in file.parts]
            for file in files:
                state.update(file.relative_to(part).as_posix().encode() + b"\0")
                with file.open("rb") as stream:  # piece by piece: weights may be larger than the memory
                    hashlib.file_digest(stream, lambda: state)
        else:
            state.update(json.dumps(part, sort_keys=True, default=str).encode())
        state.update(b"\1")
    return state.hexdigest()


class ClaimError(ValueError):
    """A work folder holds a run that was begun with other settings."""


def claim_folder(work: Path, settings: dict[str, Any]) -> None:
    """Make the work folder of a long run ours, or make sure that what lies in it was begun with the same settings.

    Unlike `work_folder`, code is not compared: an edited comment must not throw away hours.

    Raises:
        ClaimError: Names the settings that differ.
    """
    path = work / SETTINGS
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    if changed := sorted(key for key in begun.keys() | settings.keys() if begun.get(key) != settings.get(key)):
        raise ClaimError(
            f"{work} holds a pre-training begun with other {', '.join(changed)}; put them back to resume it, "
            "delete the folder to start afresh, or name another with --work"
        )


@contextmanager
def work_folder(name: str, *key: Any) -> Iterator[Path]:
    """A folder that outlives a killed run and is deleted by a finished one.

    The same `name` and `key` (parameters, input folders; our own code is always part of it) give the same folder again, so
    that the next run resumes; any other key starts afresh.
    """
    code = Path(__file__).parent
    folder = WORK / name / digest(code, *key)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def resumable_output(out: Path, *key: Any) -> Iterator[Path]:
    """A work folder whose sub-folder `out` becomes the output when the block ends well; see `work_folder` for the key."""
    with work_folder(name_of(out), *key) as work:
        _try_writing(out.parent)
        (work / "out").mkdir(exist_ok=True)
        yield work
        if out.exists():
            shutil.rmtree(out)
        shutil.move(work / "out", out)


def name_of(out: Path) -> str:
    """How the work folder of an output is called."""
    return out.as_posix().strip("/.").replace("/", "-")


def _try_writing(folder: Path) -> None:
    """Find out before the work, not after it, that its output has no place.

    Raises:
        OSError: Names the folder that cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def record_run(stage: str) -> Iterator[None]:
    """Write `reports/runs/<stage>.json` with wall seconds, peak memory and machine; no stage depends on it."""
    start = time.monotonic()
    yield
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    facts = {
        "stage": stage,
        "wall_s": round(time.monotonic() - start, 1),
        "peak_memory_mib": round(peak / 1024),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_json(RUNS / f"{stage.replace('@', '-')}.json", facts)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Build an output folder under a temporary name and put it in place only when the block ends well."""
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if out.exists():
        shutil.rmtree(out)
    temporary.replace(out)
