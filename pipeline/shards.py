"""Candidates on disk: a few tar files a fold instead of thousands of pictures, with the same bytes every time."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.images import Mask, Picture
from pipeline.masks.crops import Window


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it is kept beside its candidates.

    Attributes:
        id: Id of the request.
        defect: Type.
        clean: Id of the good sample.
        reference: Id of the reference (one defect of a sample) whose mask was warped.
        window: The crop in pixels of the clean photo.
    """

    id: str
    defect: str
    clean: str
    reference: str
    window: Window


@dataclass(frozen=True, slots=True)
class Candidates:
    """A request, the mask it asked for, and its answers: (S, S, 3) crops and (S, S) masks of what changed."""

    request: RequestRecord
    mask: Mask
    images: tuple[Picture, ...]
    changed: tuple[Mask, ...]


def _png(array: Picture | Mask) -> bytes:
    grey = array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def write_shard(path: Path, entries: list[Candidates]) -> None:
    """Write a tar of PNG and JSON; no clock, owner or order enters the bytes. Temporary name first."""
    temporary = path.with_name(path.name + ".tmp")
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard:
        for entry in entries:
            files = {"request.json": json.dumps(asdict(entry.request), sort_keys=True).encode(), "mask.png": _png(entry.mask)}
            for number, (image, changed) in enumerate(zip(entry.images, entry.changed, strict=True)):
                files |= {f"{number:02d}.png": _png(image), f"{number:02d}.changed.png": _png(changed)}
            for name, data in files.items():
                info = tarfile.TarInfo(f"{entry.request.id}/{name}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    temporary.replace(path)


def read_shard(path: Path) -> Iterator[Candidates]:
    """The entries of a shard, in order. Nothing is unpacked to disk."""
    with tarfile.open(path) as shard:
        files: dict[str, dict[str, bytes]] = {}
        for member in shard.getmembers():
            request, name = member.name.rsplit("/", 1)
            content = shard.extractfile(member)
            assert content is not None, f"{path}: {member.name} is no file"
            files.setdefault(request, {})[name] = content.read()
    for entry in files.values():
        yield _entry(entry)


def _entry(files: dict[str, bytes]) -> Candidates:
    row = json.loads(files["request.json"])
    record = RequestRecord(**{**row, "window": Window(**row["window"])})
    pictures = {name: np.array(Image.open(io.BytesIO(data))) for name, data in files.items() if name.endswith(".png")}
    changed = tuple(pictures[name] > 0 for name in sorted(pictures) if name.endswith(".changed.png"))
    images = tuple(pictures[name] for name in sorted(pictures) if name != "mask.png" and not name.endswith(".changed.png"))
    return Candidates(record, pictures["mask.png"] > 0, images, changed)
