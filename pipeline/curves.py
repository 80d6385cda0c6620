"""Curves and pictures of a training under way, as TensorBoard and DVCLive files. They hold clock times: never below `data/`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.images import Picture, write_png

FLUSH_S = 10


class TensorBoardFiles:
    """Event files below `folder/tensorboard`."""

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run wrote after the step it is resumed from is hidden.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1, flush_secs=FLUSH_S)

    def scalars(self, done: int, values: Mapping[str, float]) -> None:  # noqa: D102
        for name, value in values.items():
            self._writer.add_scalar(name, value, done)

    def picture(self, name: str, done: int, picture: Picture) -> None:  # noqa: D102
        self._writer.add_image(name, picture, done, dataformats="HWC")

    def close(self) -> None:  # noqa: D102
        self._writer.close()


class DvcLiveFiles:
    """Tables and pictures below `folder/dvclive`.

    Neither `next_step` nor `end` is called: they leave signal files below `.dvc`, read every table anew at every step, and
    may send what they read.
    """

    def __init__(self, folder: Path, done: int) -> None:
        # A token for DVC Studio in the environment would otherwise be used to report this run.
        os.environ.setdefault("DVC_STUDIO_OFFLINE", "true")
        from dvclive import Live

        # Without the two arguments it saves an experiment, which commits, and edits dvc.yaml.
        self._live = Live(str(folder / "dvclive"), resume=done > 0, save_dvc_exp=False, dvcyaml=None)

    def scalars(self, done: int, values: Mapping[str, float]) -> None:  # noqa: D102
        self._live.step = done
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def picture(self, name: str, done: int, picture: Picture) -> None:  # noqa: D102
        self._live.log_image(f"{name}/{done:06d}.png", picture)

    def close(self) -> None:
        """DVCLive opens the repository it stands in, git's packs with it, and never closes it."""
        if self._live._dvc_repo is not None:
            self._live._dvc_repo.close()


WRITERS: dict[str, type[TensorBoardFiles] | type[DvcLiveFiles]] = {"tensorboard": TensorBoardFiles, "dvclive": DvcLiveFiles}


class Curves:
    """What a training shows of itself; a run resumed after a kill leaves the same curves as one that was not killed."""

    def __init__(self, folder: Path, writers: Sequence[str]) -> None:
        """Write into `folder` with the named ones of `WRITERS`; pictures are also left there as PNG files."""
        self._folder, self._names = folder, writers
        self._writers: list[Any] | None = None

    def scalars(self, done: int, values: Mapping[str, float]) -> None:
        """Numbers by name after `done` steps; called for every step, the first call says where the run begins."""
        if self._writers is None:
            forget_after(self._folder, done - 1)
            self._writers = [WRITERS[name](self._folder, done - 1) for name in self._names]
        for writer in self._writers:
            writer.scalars(done, values)

    def picture(self, name: str, done: int, picture: Picture) -> None:
        """An (H, W, 3) picture after the `scalars` of the same step."""
        write_png(self._folder / "pictures" / name / f"{done:06d}.png", picture)
        for writer in self._writers or []:
            writer.picture(name, done, picture)

    def close(self) -> None:
        """Flush."""
        for writer in self._writers or []:
            writer.close()


def forget_after(folder: Path, done: int) -> None:
    """Drop what is not of the first `done` steps: all of it if there are none, else pictures and rows of later steps."""
    if done == 0:
        shutil.rmtree(folder, ignore_errors=True)
    for picture in folder.rglob("*.png"):
        if picture.stem.isdigit() and int(picture.stem) > done:
            picture.unlink()
    for table in folder.rglob("*.tsv"):
        header, *rows = table.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows if int(row.split("\t")[0]) <= done]
        table.write_text("".join([header, *kept]), encoding="utf-8")
