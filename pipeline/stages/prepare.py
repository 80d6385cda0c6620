"""Stage `prepare`: a raw data set in any layout -> train, val and test folders, split by part, with no leak between them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.images import write_png
from pipeline.layouts import LAYOUTS
from pipeline.layouts.raw import RawPhoto, RawSet
from pipeline.leak_guard import check_no_leak
from pipeline.near_duplicates import find_near_duplicates, merge_parts
from pipeline.params import PrepareParams
from pipeline.records import DatasetCard, Sample, Split, write_card, write_manifest
from pipeline.runlog import whole_folder
from pipeline.splits import FoldSplit, SplitError, SplitPlan, split_fold
from pipeline.validation import CheckedSet, check, load_photo, quiet_progress

logger = logging.getLogger(__name__)

FOLDERS: dict[Split, str] = {"train": "train", "unused": "train", "val": "val", "test": "test"}
"""Unused defect photos are listed in train's manifest; nothing may learn from them, but a larger K will."""
SHOWN_GROUPS = 10
LARGE_GROUP, LARGE_SHARE = 10, 0.05
"""Parts joined into one, from which on they are more likely look-alike objects than one piece that came back to the camera."""


def prepare(params: PrepareParams, out: Path) -> DatasetCard:
    """Import, validate, split and write `out/{train,val,test}`; all three appear together or not at all.

    Raises:
        LayoutError, InvalidDataError, SplitError, LeakError: Each names the value, what was expected and the way out.
    """
    bad = sorted(fold for fold in set(params.folds) if not 0 <= fold < params.fold_count)
    if bad:
        raise SplitError(f"prepare.folds names {bad}; expected folds from 0 to {params.fold_count - 1} (prepare.fold_count)")
    raw = LAYOUTS[params.layout]()(Path(params.source), params)
    checked = check(raw, params.skip_invalid)
    photos, merge_notes = _merged(checked, params.near_duplicate_min_correlation)
    splits = {fold: _split(photos, params, fold) for fold in sorted(set(params.folds))}
    card = _card(raw, params, checked, splits, merge_notes)
    samples = [sample for fold, split in splits.items() for photo in photos for sample in _samples(photo, split, fold)]
    with ExitStack() as stack:
        folders = {name: stack.enter_context(whole_folder(out / name)) for name in ("train", "val", "test")}
        for name, folder in folders.items():
            write_manifest(folder, (s for s in samples if FOLDERS[s.split] == name))
            write_card(folder, card)
        _write_pictures(photos, samples, folders, checked.white)
        check_no_leak(folders, params.near_duplicate_min_correlation)
    for fold in splits:
        _log_summary(fold, [s for s in samples if s.fold == fold], card)
    return card


def _merged(checked: CheckedSet, min_correlation: float) -> tuple[list[RawPhoto], tuple[str, ...]]:
    """Photos with the parts of near-duplicates joined, and what to say about it."""
    hits = find_near_duplicates(checked.frames, min_correlation)
    before = [photo.part_id for photo in checked.photos]
    after, groups = merge_parts(before, hits)
    photos = [replace(photo, part_id=part) for photo, part in zip(checked.photos, after, strict=True)]
    if not groups:
        return photos, ()
    shown = "; ".join(" = ".join(group) for group in groups[:SHOWN_GROUPS]) + ("; ..." if len(groups) > SHOWN_GROUPS else "")
    note = (
        f"Near-duplicate photos joined {len(set(before))} parts into {len(set(after))} (largest group: {max(map(len, groups))}; "
        f"correlation of at least {min_correlation}): {shown}. Raise prepare.near_duplicate_min_correlation if these "
        "are different parts"
    )
    if max(map(len, groups)) > max(LARGE_GROUP, LARGE_SHARE * len(set(before))):
        note = f"WARNING, one group is suspiciously large: {note}"
    logger.log(logging.WARNING if note.startswith("WARNING") else logging.INFO, "%s", note)
    return photos, (note,)


def _split(photos: Sequence[RawPhoto], params: PrepareParams, fold: int) -> FoldSplit:
    types: dict[str, frozenset[str]] = {}
    for photo in photos:
        types[photo.part_id] = types.get(photo.part_id, frozenset()) | {defect.name for defect in photo.defects}
    plan = SplitPlan(params.fold_count, params.k, params.val_parts, params.val_good_fraction)
    split = split_fold(types, plan, fold)
    good_sides = {FOLDERS[split.side[photo.part_id]] for photo in photos if not photo.defects}
    missing = {"train", "test"} - good_sides
    if missing:
        where = " and ".join(sorted(missing))
        raise SplitError(f"fold {fold}: no good photo in {where}; add photos of at least {params.fold_count} more good parts")
    return split


def _samples(photo: RawPhoto, split: FoldSplit, fold: int) -> list[Sample]:
    """The manifest lines of one photo: one a type, or one without a mask if it is good."""
    side = split.side[photo.part_id]
    image = f"images/{photo.id}.png"
    if not photo.defects:
        # A part beyond the budget K lends its good photos: good surface is not what is scarce, and it is on train's side.
        return [Sample(photo.id, image, None, None, photo.part_id, "train" if side == "unused" else side, fold)]
    several = len(photo.defects) > 1
    lines: list[Sample] = []
    for defect in photo.defects:
        name = f"{photo.id}.{defect.name}" if several else photo.id
        lines.append(Sample(name, image, f"masks/{name}.png", defect.name, photo.part_id, side, fold, boxes=defect.boxes))
    return lines


def _write_pictures(photos: Sequence[RawPhoto], samples: Iterable[Sample], folders: Mapping[str, Path], white: int) -> None:
    """Write each photo and its masks into every folder whose manifest names it; one photo is in memory at a time."""
    wanted: dict[str, dict[str, dict[str, str]]] = {}
    for sample in samples:
        masks = wanted.setdefault(Path(sample.image).stem, {}).setdefault(FOLDERS[sample.split], {})
        if sample.mask is not None and sample.defect is not None:
            masks[sample.defect] = sample.mask
    for photo in quiet_progress(photos, "prepare: write"):
        picture, masks = load_photo(photo, white)
        done: Path | None = None
        for name, names in sorted(wanted[photo.id].items()):
            files = {f"images/{photo.id}.png": picture} | {names[defect]: mask for defect, mask in masks.items()}
            for file, content in files.items():
                if done is None:
                    write_png(folders[name] / file, content)
                else:
                    (folders[name] / file).parent.mkdir(exist_ok=True)
                    shutil.copyfile(done / file, folders[name] / file)
            done = folders[name]


def _card(
    raw: RawSet, params: PrepareParams, checked: CheckedSet, splits: Mapping[int, FoldSplit], notes: Sequence[str]
) -> DatasetCard:
    capped: dict[str, int] = {}
    for split in splits.values():
        for name in split.capped:
            capped[name] = max(capped.get(name, 0), split.references[name])
    return DatasetCard(
        name=raw.name,
        layout=params.layout,
        classes=raw.types,
        k=params.k,
        capped=capped,
        folds=tuple(splits),
        box_truth=raw.box_truth,
        dropped=checked.dropped,
        notes=(*raw.notes, *checked.notes, *notes, *(note for split in splits.values() for note in split.notes)),
    )


def _log_summary(fold: int, samples: Sequence[Sample], card: DatasetCard) -> None:
    """One line a type: parts and photos on each side."""
    for name in (*card.classes, None):
        cells: list[str] = []
        for side in ("train", "val", "test", "unused"):
            chosen = [s for s in samples if s.defect == name and s.split == side]
            cells.append(f"{side} {len({s.part_id for s in chosen})}/{len(chosen)}")
        logger.info("fold %d, %s (parts/photos): %s", fold, name or "good", ", ".join(cells))
