"""Candidates on disk, and what became of them: a few tar files instead of thousands of pictures, the same bytes every time."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipeline.images import Mask, Picture
from pipeline.masks.crops import Window

REQUEST, MASK, CHANGED = "request.json", "mask.", ".changed.png"
FATES = "candidates.jsonl"
STATED = ("answered", "early", "dropped", "detailed")
"""Fields of `Candidates` that stand in a request's JSON beside those of the request."""
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
        scene: Number of the scene; all requests of a scene are on one photo and in one shard.
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

    `answered` says whether any of them passed the guards when they were drawn. Where the sampler ranks candidates early, `early`
    holds the score of every one that was drawn, `dropped` the numbers of those that got no picture, and `detailed` of those that
    show their reference's detail (`Synthetic.detailed`).
    """

    request: RequestRecord
    masks: tuple[Mask, ...]
    images: tuple[Picture, ...]
    changed: tuple[Mask, ...]
    answered: bool
    early: tuple[float, ...] = ()
    dropped: tuple[int, ...] = ()
    detailed: tuple[int, ...] = ()

    @property
    def drawn(self) -> int:
        """How many answers were drawn, with a picture or without."""
        return len(self.images) + len(self.dropped)

    @property
    def numbers(self) -> list[int]:
        """The number of each picture among all that were drawn."""
        return [number for number in range(self.drawn) if number not in self.dropped]

    @property
    def mask(self) -> Mask:
        """(S, S) of all parts together."""
        return np.logical_or.reduce(self.masks)

    def joined(self, more: Candidates) -> Candidates:
        """With further answers to the same request behind these."""
        images, changed = self.images + more.images, self.changed + more.changed
        dropped, detailed = (
            own + tuple(self.drawn + number for number in others)
            for own, others in ((self.dropped, more.dropped), (self.detailed, more.detailed))
        )
        answered, early = self.answered or more.answered, self.early + more.early
        return replace(self, images=images, changed=changed, answered=answered, early=early, dropped=dropped, detailed=detailed)


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
        score: Perceptual distance to the clean crop inside the mask, by the selecting net; None, as the other scores of the
            picture, for a candidate without one.
        changed_share: Share of the requested mask that changed; of several parts the least.
        label_iou: IoU of what changed and what was requested.
        nearest_reference: The training reference whose own detail it repeats most; None where nothing guards against that.
        reference_distance: One minus the correlation with it.
        quality: Mean likeness to the nearest real references of the type, by the judging features; of several parts the mean.
        early: What the sampler ranked it by before it was finished; None where it does not.
        fate: "kept", or why it was not.
        sample: Stem of the selected image it went into; None for a candidate that was not kept.
    """

    request: str
    number: int
    shard: str
    defect: str
    clean: str
    references: tuple[str, ...]
    score: float | None
    changed_share: float | None
    label_iou: float | None
    nearest_reference: str | None
    reference_distance: float | None
    quality: float | None
    fate: str
    sample: str | None
    early: float | None = None


@contextmanager
def write_fates(folder: Path) -> Iterator[Callable[[Iterable[CandidateFate]], None]]:
    """Write `folder/candidates.jsonl` row by row, in the order given; it gets its name when the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{FATES}.tmp"
    with temporary.open("w", encoding="utf-8") as lines:

        def note(fates: Iterable[CandidateFate]) -> None:
            lines.writelines(json.dumps(asdict(fate), ensure_ascii=False, sort_keys=True) + "\n" for fate in fates)

        yield note
    temporary.replace(folder / FATES)


def read_fates(folder: Path) -> Iterator[CandidateFate]:
    """The rows of `folder/candidates.jsonl` one after the other, in file order."""
    with (folder / FATES).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield CandidateFate(**{**row, "references": tuple(row["references"])})


def _mask_png(mask: Mask) -> bytes:
    """One bit a pixel."""
    return cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()


def _picture_png(picture: Picture) -> bytes:
    """A picture whose channels are equal as one channel, a third of the bytes and of the time.

    OpenCV takes half of Pillow's time. To deflate, a grey photo is noise: looking for runs alone is faster and gives less.
    """
    how = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    if (picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all():
        how += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
        return cv2.imencode(".png", np.ascontiguousarray(picture[..., 0]), how)[1].tobytes()
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), how)[1].tobytes()


EncodedEntry = tuple[str, dict[str, bytes]]
"""Id of a request, and the files it is kept as."""


def encoded(entry: Candidates) -> EncodedEntry:
    """A request and its candidates as PNG and JSON."""
    request = asdict(entry.request) | {name: getattr(entry, name) for name in STATED}
    files = {REQUEST: json.dumps(request, sort_keys=True).encode()}
    files |= {f"{MASK}{number:03d}.png": _mask_png(mask) for number, mask in enumerate(entry.masks)}
    for number, image, changed in zip(entry.numbers, entry.images, entry.changed, strict=True):
        files |= {f"{number:03d}.png": _picture_png(image), f"{number:03d}{CHANGED}": _mask_png(changed)}
    return entry.request.id, files


def write_shard(path: Path, entries: Iterable[Candidates]) -> None:
    """Write a tar of PNG and JSON; whole or not at all.

    Raises:
        OSError: Names the file if it cannot be written.
    """
    with whole_file(path) as temporary:
        write_tar(temporary, map(encoded, entries))


def write_tar(path: Path, entries: Iterable[EncodedEntry]) -> None:
    """Write entries as they come; no clock or owner enters the bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for request, files in entries:
            for name, data in files.items():
                info = tarfile.TarInfo(f"{request}/{name}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name of this writer's own, so that two may write the same file; renamed when the block ends well.

    Raises:
        OSError: Names the file if it cannot be written; nothing of it is left.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, temporary, str(temporary)):  # a full disk is reported without a name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_shard(path: Path) -> Iterator[Candidates]:
    """The entries of a shard, in order, one in memory at a time. Nothing is unpacked to disk."""
    with tarfile.open(path) as shard:
        for _, members in groupby(shard, key=lambda member: member.name.rsplit("/", 1)[0]):
            yield _entry({member.name.rsplit("/", 1)[1]: _content(shard, member) for member in members})


def read_scenes(path: Path) -> Iterator[list[Candidates]]:
    """The entries of each scene of a shard, as soon as they are all read: what was drawn again stands behind the rest."""
    with tarfile.open(path) as shard:
        stated = (json.loads(_content(shard, member)) for member in shard if member.name.endswith("/" + REQUEST))
        missing = Counter(row["scene"] for row in stated)
    waiting: dict[int, list[Candidates]] = {}
    for entry in read_shard(path):
        scene = entry.request.scene
        waiting.setdefault(scene, []).append(entry)
        missing[scene] -= 1
        if not missing[scene]:
            yield sorted(waiting.pop(scene), key=lambda one: one.request.id)


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None, f"{shard.name}: {member.name} is no file"
    return file.read()


def _entry(files: dict[str, bytes]) -> Candidates:
    row = json.loads(files[REQUEST])
    answered, early, dropped, detailed = (row.pop(name) for name in STATED)
    parts = tuple(_part(part) for part in row["parts"])
    record = RequestRecord(**{**row, "window": Window(**row["window"]), "parts": parts})
    pictures = {name: Image.open(io.BytesIO(data)) for name, data in files.items() if name.endswith(".png")}
    masks = tuple(np.array(pictures.pop(name)) > 0 for name in sorted(pictures) if name.startswith(MASK))
    changed = tuple(np.array(pictures.pop(name)) > 0 for name in sorted(pictures) if name.endswith(CHANGED))
    images = tuple(np.array(pictures[name].convert("RGB")) for name in sorted(pictures))
    return Candidates(record, masks, images, changed, answered, tuple(early), tuple(dropped), tuple(detailed))


def _part(row: dict[str, Any]) -> PartRecord:
    affine = row["affine"]
    return PartRecord(**{**row, "affine": None if affine is None else tuple(tuple(line) for line in affine)})
