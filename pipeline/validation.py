"""Decodes every photo and mask once, collects all faults of the data set, and raises them together."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.images import Mask, Picture
from pipeline.layouts.decoding import UNREADABLE, Decoded, decode, decode_mask, white_level
from pipeline.layouts.raw import Fault, RawDefect, RawPhoto, RawSet
from pipeline.near_duplicates import Frame, frame, merge_parts


class InvalidDataError(ValueError):
    """The data set has faults; the message lists all of them."""


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """The usable photos of a set.

    Attributes:
        photos: Photos that decode, with a sound mask for each of their defects.
        frames: Small common frame of each photo, for the near-duplicate check.
        white: Value of pictures deeper than 8 bits that becomes 255.
        dropped: Faults that were left out on request.
        notes: Conversions, as sentences.
    """

    photos: tuple[RawPhoto, ...]
    frames: tuple[Frame, ...]
    white: int
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def quiet_progress(photos: Sequence[RawPhoto], label: str) -> Iterator[RawPhoto]:
    """`photos` under a progress bar, which is silent where standard error is no terminal."""
    yield from tqdm(photos, desc=label, disable=not sys.stderr.isatty(), dynamic_ncols=True)


def load_mask(defect: RawDefect, photo: Decoded) -> Mask:
    """(H, W) bool mask of one defect type on a decoded photo.

    Raises:
        OSError, SyntaxError, ValueError: If there is no sound mask; the message is the reason.
    """
    if callable(defect.mask):
        mask = defect.mask(photo.picture)
    elif isinstance(defect.mask, np.ndarray):
        mask = defect.mask
    else:
        mask = decode_mask(defect.mask, photo)
    if not mask.any():
        raise ValueError("mask is empty; a defect image needs at least one defect pixel")
    return mask


def load_photo(photo: RawPhoto, white: int) -> tuple[Picture, dict[str, Mask]]:
    """The upright 8-bit picture and the mask of each defect type of a photo that passed `check`."""
    decoded = decode(photo.picture, white)
    return decoded.picture, {defect.name: load_mask(defect, decoded) for defect in photo.defects}


def check(raw: RawSet, skip_invalid: bool) -> CheckedSet:
    """Validate the whole set.

    A photo with one bad mask is bad as a whole: without it, a real defect of the photo would count as good surface. For the same
    reason copies of one photo in the folders of several types become one photo with all their defects, and a copy among the good
    ones is a fault.

    Raises:
        InvalidDataError: With every fault, unless `skip_invalid`; also then, if no good photo or a type without a photo remains.
    """
    faults = list(raw.faults)
    photos: list[RawPhoto] = []
    looks: list[Hashable] = []
    frames: list[Frame] = []
    converted: dict[str, list[str]] = {}
    peaks: list[int] = []
    for photo in quiet_progress(raw.photos, "prepare: check"):
        decoded, wrong = _inspect(photo)
        faults += wrong
        if decoded is None or wrong:
            continue
        photos.append(photo)
        looks.append(_look(decoded))
        frames.append(frame(decoded.picture))
        peaks.append(decoded.peak)
        for what in decoded.conversions:
            converted.setdefault(what, []).append(photo.file)
    photos, standing, wrong, joined = _joined(photos, looks)
    faults += wrong
    frames, peaks = [frames[i] for i in standing], [peaks[i] for i in standing]
    gaps = _gaps(raw, photos)
    if gaps or (faults and not skip_invalid):
        raise InvalidDataError(_message(raw, faults, gaps, skip_invalid))
    white = white_level(max(peaks))
    for index, peak in enumerate(peaks):
        if peak and white_level(peak) != white:  # was scaled by its own peak so far
            frames[index] = frame(decode(photos[index].picture, white).picture)
    notes = (*joined, *_conversion_notes(converted, white))
    return CheckedSet(tuple(photos), tuple(frames), white, tuple(map(str, _by_file(faults))), notes)


def _by_file(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.file, fault.reason))


def _inspect(photo: RawPhoto) -> tuple[Decoded | None, list[Fault]]:
    try:
        decoded = decode(photo.picture)
    except UNREADABLE as error:
        return None, [Fault(photo.file, f"unreadable: {_reason(photo.picture, error)}")]
    faults: list[Fault] = []
    for defect in photo.defects:
        try:
            load_mask(defect, decoded)
        except UNREADABLE as error:
            faults.append(Fault(photo.file, f"{defect.name}: {_reason(defect.mask, error)}"))
    return decoded, faults


def _look(decoded: Decoded) -> Hashable:
    """Equal for copies whose masks may stand for each other."""
    content = hashlib.blake2b(decoded.picture.tobytes()).digest()
    return decoded.picture.shape, decoded.orientation, decoded.stored_size, content


def _joined(
    photos: Sequence[RawPhoto], looks: Sequence[Hashable]
) -> tuple[list[RawPhoto], list[int], list[Fault], tuple[str, ...]]:
    """Copies of a photo that say different things of it: those of several types as one photo, those among the good ones refused.

    Returns:
        The photos, which of those given they are, faults, and sentences on what was joined. Mere copies stay: they are one part
        later on.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, look in enumerate(looks):
        groups.setdefault(look, []).append(index)
    found, faults, same, lines = dict(enumerate(photos)), list[Fault](), list[tuple[int, int, float]](), list[str]()
    for group in groups.values():
        first = next((i for i in group if photos[i].defects), group[0])
        if len({tuple(defect.name for defect in photos[i].defects) for i in group}) == 1:
            continue
        for i in (i for i in group if i != first):
            names = {defect.name for defect in found[first].defects}
            del found[i]
            if not photos[i].defects:
                faults.append(Fault(photos[i].file, f"the same picture as {photos[first].file}, which has a defect; remove one"))
            elif again := sorted(names & {defect.name for defect in photos[i].defects}):
                where = f"the same picture as {photos[first].file}, and both have {again[0]}; keep one with a mask of all of it"
                faults.append(Fault(photos[i].file, where))
            else:
                found[first] = replace(found[first], defects=(*found[first].defects, *photos[i].defects))
                same.append((first, i, 1.0))
                lines.append(f"{photos[first].file} = {photos[i].file}")
    parts, _ = merge_parts([photo.part_id for photo in photos], same)
    shown = ", ".join(lines[:3]) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "")
    notes = (f"copies of one photo with other types joined: {len(lines)}: {shown}",) if lines else ()
    return [replace(photo, part_id=parts[i]) for i, photo in found.items()], list(found), faults, notes


def _reason(source: object, error: BaseException) -> str:
    if isinstance(source, Path) and source.stat().st_size == 0:
        return f"{source.name} is a file of 0 bytes"
    return str(error) or type(error).__name__


def _gaps(raw: RawSet, photos: Iterable[RawPhoto]) -> list[str]:
    photos = list(photos)
    present = {defect.name for photo in photos for defect in photo.defects}
    absent = [name for name in raw.types if name not in present]
    gaps = [f"defect type {name!r}: 0 usable references; add photos with masks, or remove the folder" for name in absent]
    if not raw.types:
        gaps.append("no defect type found; expected one folder of photos a type, beside the good ones")
    if all(photo.defects for photo in photos):
        gaps.append(
            "no usable good photo: generators need defect-free surface and the report needs false alarms; add photos of good "
            "parts (layout folder: images/good/). Crops of defect photos in their place are not supported yet"
        )
    return gaps


def _message(raw: RawSet, faults: Sequence[Fault], gaps: Sequence[str], skip_invalid: bool) -> str:
    lines = [f"data set {raw.name!r} cannot be used: {len(faults)} invalid file(s), {len(gaps)} gap(s)"]
    lines += [f"  {gap}" for gap in gaps]
    lines += [f"  {fault}" for fault in _by_file(faults)]
    if faults and not skip_invalid:
        lines.append("Repair these files, or set prepare.skip_invalid (SKIP_INVALID=1) to drop them; the report will list them.")
    return "\n".join(lines)


def _conversion_notes(converted: dict[str, list[str]], white: int) -> tuple[str, ...]:
    notes: list[str] = []
    for what, files in sorted(converted.items()):
        scale = f", {white} became 255" if what.startswith("16-bit") else ""
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        notes.append(f"{what}{scale}: {len(files)} photo(s): {', '.join(files[:3])}{more}")
    return tuple(notes)
