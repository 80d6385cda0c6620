"""Candidates on disk, and what became of them: a few tar files instead of thousands of pictures, the same bytes every time."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.images import Mask, Picture
from pipeline.masks.crops import Window
from pipeline.records import write_text

REQUEST, MASK, CHANGED = "request.json", "mask.", ".changed.png"
FATES = "candidates.jsonl"
Affine = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One defect of a request as it is kept.

    Attributes:
        defect: Type.
        source: How its mask was made: affine, elastic or drawn.
        reference: Id of the reference (one defect of a sample) its mask was made from; None for a drawn shape.
        affine: The two rows of the matrix from pixels (x, y) of the reference's photo to pixels of the crop; None where no matrix
            made the mask.
    """

    defect: str
    source: str
    reference: str | None
    affine: Affine | None


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it is kept beside its candidates.

    Attributes:
        id: Id of the request.
        scene: Number of the scene; all requests of a scene are on one photo, in one shard, one after the other.
        clean: Id of the good sample.
        window: The crop in pixels of the clean photo.
        parts: The defects.
    """

    id: str
    scene: int
    clean: str
    window: Window
    parts: tuple[PartRecord, ...]

    @property
    def defect(self) -> str:
        """The types, each once, joined by "+"."""
        return "+".join(dict.fromkeys(part.defect for part in self.parts))


@dataclass(frozen=True, slots=True)
class Candidates:
    """A request, the mask each of its parts asked for, and its answers: (S, S, 3) crops and (S, S) masks of what changed.

    `answered` says whether any of them passed the guards when they were drawn.
    """

    request: RequestRecord
    masks: tuple[Mask, ...]
    images: tuple[Picture, ...]
    changed: tuple[Mask, ...]
    answered: bool

    @property
    def mask(self) -> Mask:
        """(S, S) of all parts together."""
        return np.logical_or.reduce(self.masks)

    def joined(self, more: Candidates) -> Candidates:
        """With further answers to the same request behind these."""
        images, changed = self.images + more.images, self.changed + more.changed
        return replace(self, images=images, changed=changed, answered=self.answered or more.answered)


@dataclass(frozen=True, slots=True)
class CandidateFate:
    """One candidate after `select`: its scores and what became of it.

    Attributes:
        request: Id of the request.
        number: Place among the request's candidates, from 0 in the order they were drawn.
        shard: File below the candidates' folder of the fold.
        defect: The types, joined by "+".
        clean: Id of the good sample.
        references: Ids of the references its masks were made from.
        score: Perceptual distance to the clean crop inside the mask, by the selecting net.
        changed_share: Share of the requested mask that changed; of several parts the least.
        label_iou: IoU of what changed and what was requested.
        nearest_reference: The training reference whose own detail it repeats most; None where nothing guards against that.
        reference_distance: One minus the correlation with it.
        quality: Mean likeness to the nearest real references of the type, by the judging features; of several parts the mean.
        fate: "kept", or why it was not.
        sample: Stem of the selected image it went into; None for a candidate that was not kept.
    """

    request: str
    number: int
    shard: str
    defect: str
    clean: str
    references: tuple[str, ...]
    score: float
    changed_share: float
    label_iou: float
    nearest_reference: str | None
    reference_distance: float | None
    quality: float
    fate: str
    sample: str | None


def write_fates(folder: Path, fates: Iterable[CandidateFate]) -> None:
    """Write `folder/candidates.jsonl`, sorted by request and number, under a temporary name first."""
    ordered = sorted(fates, key=lambda fate: (fate.request, fate.number))
    write_text(folder / FATES, "".join(json.dumps(asdict(fate), ensure_ascii=False, sort_keys=True) + "\n" for fate in ordered))


def read_fates(folder: Path) -> list[CandidateFate]:
    """The rows of `folder/candidates.jsonl` in file order."""
    with (folder / FATES).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [CandidateFate(**{**row, "references": tuple(row["references"])}) for row in rows]


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
            request = asdict(entry.request) | {"answered": entry.answered}
            files = {REQUEST: json.dumps(request, sort_keys=True).encode()}
            files |= {f"{MASK}{number:03d}.png": _png(mask) for number, mask in enumerate(entry.masks)}
            for number, (image, changed) in enumerate(zip(entry.images, entry.changed, strict=True)):
                files |= {f"{number:03d}.png": _png(image), f"{number:03d}{CHANGED}": _png(changed)}
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
            files.setdefault(request, {})[name] = _content(shard, member)
    for entry in files.values():
        yield _entry(entry)


@dataclass(frozen=True, slots=True)
class Answers:
    """How a request was answered: the scene it belongs to, its parts, its candidates, and whether any was accepted."""

    scene: int
    parts: int
    candidates: int
    answered: bool


def read_answers(path: Path) -> list[Answers]:
    """The answers to each request of a shard, in order; no picture is decoded."""
    with tarfile.open(path) as shard:
        counts: Counter[str] = Counter()
        rows: dict[str, dict[str, Any]] = {}
        for member in shard:
            request, name = member.name.rsplit("/", 1)
            counts[request] += name.endswith(CHANGED)
            if name == REQUEST:
                rows[request] = json.loads(_content(shard, member))
    return [Answers(row["scene"], len(row["parts"]), counts[request], row["answered"]) for request, row in rows.items()]


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None, f"{shard.name}: {member.name} is no file"
    return file.read()


def _entry(files: dict[str, bytes]) -> Candidates:
    row = json.loads(files[REQUEST])
    answered = row.pop("answered")
    parts = tuple(_part(part) for part in row["parts"])
    record = RequestRecord(**{**row, "window": Window(**row["window"]), "parts": parts})
    pictures = {name: np.array(Image.open(io.BytesIO(data))) for name, data in files.items() if name.endswith(".png")}
    masks = tuple(pictures.pop(name) > 0 for name in sorted(pictures) if name.startswith(MASK))
    changed = tuple(pictures.pop(name) > 0 for name in sorted(pictures) if name.endswith(CHANGED))
    return Candidates(record, masks, tuple(pictures[name] for name in sorted(pictures)), changed, answered)


def _part(row: dict[str, Any]) -> PartRecord:
    affine = row["affine"]
    return PartRecord(**{**row, "affine": None if affine is None else tuple(tuple(line) for line in affine)})
