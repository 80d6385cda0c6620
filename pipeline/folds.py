"""The folds of a stage, side by side where there are workers for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipeline.fan_out import open_crew
from pipeline.records import fold_name
from pipeline.runlog import whole_folder

Build = Callable[[int, Path], None]


def each_fold(build: Build, work: Path, folds: Sequence[int]) -> None:
    """Build every folder `work/out/fold-<f>` that is missing, as many at a time as `BLEMISH_EXECUTOR` has workers.

    Args:
        build: Takes a fold and an empty folder to fill. Can be pickled, rests on no state of this process, sets its own threads.
            The folder gets its name when it returns, so a killed run leaves whole folds or none.
        work: Of the run; see `resumable_output`.
        folds: Their numbers.

    Raises:
        WorkError: Names the fold that failed, and why.
        ExecutorError: If the environment names no executor there is.
    """
    folders = {fold: work.resolve() / "out" / fold_name(fold) for fold in folds}
    missing = [fold for fold, folder in folders.items() if not folder.exists()]
    with open_crew(ahead=1) as crew:
        for _ in crew.each(partial(_build_one, build, folders), missing, "fold"):
            pass


def _build_one(build: Build, folders: dict[int, Path], fold: int) -> None:
    with whole_folder(folders[fold]) as building:
        build(fold, building)
