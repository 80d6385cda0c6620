"""`python -m pipeline targets`: more synthetic samples of what a detector misses on validation, into `data/targets.yaml`.

Nothing of `evaluate` and nothing of the test parts is opened. The models are made after `synthesize`, which reads the file
written here: as a DVC stage this would be a circle, so it is run by hand and the file is committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.masks.bank import Template, size_limits, template_of
from pipeline.params import SynthesizeParams, load_section
from pipeline.records import Sample, fold_name, read_card, read_manifest
from pipeline.references import read_references
from pipeline.runlog import digest
from pipeline.val_matches import VAL_MATCHES
from pipeline.wanted import read_default, read_targets

SIZES = ("small", "medium", "large")
PREFERRED_ARMS = ("defectfill", "real")
SHARED_PARTS = "--across-folds: val parts of one fold are test parts of another; arms are not to be compared with these targets."
Cell = tuple[str, str]
"""A defect type and one of `SIZES`."""


class TargetsError(ValueError):
    """Validation results are missing, of other data or parameters, or not validation results."""


@dataclass(frozen=True)
class Choice:
    """Whose misses count, and how.

    Attributes:
        models: Folder of the trained models.
        prepared: Folder with `train/` and `val/`.
        detector: Its name.
        arm: None for the first of `PREFERRED_ARMS` that is trained.
        min_score: Detections below it find nothing.
        total: Samples wanted a fold; None for as many as now.
        across_folds: Use val parts although they are test parts of another fold.
    """

    models: Path
    prepared: Path
    detector: str
    arm: str | None
    min_score: float
    total: int | None
    across_folds: bool


@dataclass(frozen=True)
class Tally:
    """Validation defects, and how many of them were missed."""

    seen: int
    missed: int

    def share(self, expected: float) -> float:
        """Missed share with two defects added that are missed at the `expected` rate; at a half this is Laplace's rule."""
        return (self.missed + 2 * expected) / (self.seen + 2)


def propose(choice: Choice, targets: Path, params: Path) -> tuple[list[str], str]:
    """What would change and why, line by line, and the new text of `data/targets.yaml`.

    Args:
        choice: Whose misses count.
        targets: The present file.
        params: `params.yaml`; models trained or labelled by other sections are refused.

    Raises:
        TargetsError: Says which file or parameter is in the way.
        ParamsError: If the present file asks for what the data set does not have.
    """
    _refuse_test_results(choice.models)
    arm = _arm(choice)
    card = read_card(choice.prepared / "train")
    results = {fold: _read_result(choice, arm, fold, params) for fold in card.folds}
    if not choice.across_folds:
        _refuse_parts_tested_elsewhere(choice.prepared, card.folds)
    scale = load_section("synthesize", SynthesizeParams, params).warp.scale
    bounds = {fold: size_bounds(choice.prepared / "train", fold, scale) for fold in card.folds}
    cells = tally(results, bounds, choice.min_score)
    wanted = read_targets(targets, sorted({defect for defect, _ in cells}))
    present = {defect: sum(counts.values()) for defect, counts in wanted.items()}
    total = sum(present.values()) if choice.total is None else choice.total
    counts = apportion({cell: weight for cell, weight in weights(cells).items() if present[cell[0]] > 0}, total)
    lines = [_line(defect, present[defect], cells, counts) for defect in present]
    return lines, _text(choice, arm, card.folds, lines, read_default(targets), present, counts)


def _refuse_test_results(models: Path) -> None:
    """What `evaluate` writes is known by its ground truth; neither it nor a folder in it may be read."""
    for folder in (models, models.parent):
        if any(folder.glob("ground_truth-fold-*.json")):
            raise TargetsError(
                f"{models} holds results on test parts; targets come from validation alone: give the trained models"
            )


def _arm(choice: Choice) -> str:
    """The arm asked for, else the first preferred one that is there."""
    trained = sorted({folder.parent.name for folder in (choice.models / choice.detector).glob("*/fold-*")})
    wanted = PREFERRED_ARMS if choice.arm is None else (choice.arm,)
    for arm in wanted:
        if arm in trained:
            return arm
    raise TargetsError(
        f"{choice.models / choice.detector}: no trained arm {' or '.join(wanted)}, found {trained or 'none'}; run `train` first"
    )


def _read_result(choice: Choice, arm: str, fold: int, params: Path) -> list[dict[str, Any]]:
    """Validation defects of one fold with the scores they were found with.

    Raises:
        TargetsError: If there is no result, or one of other parameters, photos or another split.
    """
    folder = choice.models / choice.detector / arm / fold_name(fold)
    path = folder / VAL_MATCHES
    if not path.exists():
        raise TargetsError(f"{path} is missing; run `train` of this arm (again) for its validation results")
    found = json.loads(path.read_text(encoding="utf-8"))
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    sections = yaml.safe_load(params.read_text(encoding="utf-8"))
    train = dict(card["params"])
    # Of an arm with synthetic photos the card also holds how they were mixed in.
    pairs = (("train", train), ("mix", train.pop("mix", {})), ("label", found["label"]))
    changed = [f"{name}.{key}" for name, then in pairs for key in sorted(then) if not _same(then[key], sections[name].get(key))]
    inputs = {"train": choice.prepared / "train", "val": choice.prepared / "val"}
    if generator := card["arm"]["generator"]:
        inputs["labelled"] = choice.prepared.parent / "labelled" / generator
    changed += [str(folder) for name, folder in inputs.items() if found["read"][name] != digest(folder)]
    if changed:
        raise TargetsError(f"{folder}: trained before {', '.join(changed)} changed; run `train` again (`dvc repro`)")
    _check_split(path, found, choice.prepared, fold)
    return found["instances"]


def _same(then: Any, now: Any) -> bool:
    """Whether a value is still what it was; PyYAML reads `1e-3` as text, which stands for the number 0.001."""
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(_same(value, now[key]) for key, value in then.items())
    if isinstance(then, float) and isinstance(now, str):
        try:
            return then == float(now)
        except ValueError:
            return False
    return then == now


def _check_split(path: Path, found: Mapping[str, Any], prepared: Path, fold: int) -> None:
    """Whether it says it is validation, and every photo in it is on val."""
    val = {(s.image, s.defect) for s in _val_samples(prepared, fold)}
    strangers = sorted({i["image"] for i in found["instances"] if (i["image"], i["defect"]) not in val})
    if (found["split"], found["fold"]) != ("val", fold) or strangers:
        raise TargetsError(f"{path}: not the validation result of fold {fold} (photos that are not on val: {strangers})")


def _val_samples(prepared: Path, fold: int) -> list[Sample]:
    """Defects of the val parts of one fold."""
    return [s for s in read_manifest(prepared / "val", fold) if s.split == "val" and not s.is_good]


def _refuse_parts_tested_elsewhere(prepared: Path, folds: Sequence[int]) -> None:
    """One file serves every fold, and folds take turns at testing: what is val in one is test in another.

    A part that neither train nor val of a fold lists is on its test side, which is not opened to look.
    """
    for fold in folds:
        own = {s.part_id for s in _val_samples(prepared, fold)}
        for other in folds:
            open_parts = {s.part_id for side in ("train", "val") for s in read_manifest(prepared / side, other)}
            if tested := sorted(own - open_parts):
                raise TargetsError(
                    f"val parts of fold {fold} are test parts of fold {other} ({len(tested)}, first: {tested[0]}), and one file "
                    "of targets serves all folds; choose targets with one fold (prepare.folds: [0]), or pass --across-folds and "
                    "do not compare arms with them"
                )


def size_bounds(train: Path, fold: int, scale: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """By type the areas up to which a defect is small and medium, as `synthesize` takes them; `scale` is that of its warps."""
    templates: dict[str, list[Template]] = {}
    for reference in read_references(train, read_manifest(train, fold)):
        templates.setdefault(reference.defect, []).append(template_of(reference.mask, reference.id))
    return {defect: size_limits(found, scale) for defect, found in sorted(templates.items())}


def size_of(area_px: float, bounds: tuple[float, float]) -> str:
    """One of `SIZES`."""
    return SIZES[sum(area_px > bound for bound in bounds)]


def tally(
    results: Mapping[int, Iterable[Mapping[str, Any]]], bounds: Mapping[int, Mapping[str, tuple[float, float]]], min_score: float
) -> dict[Cell, Tally]:
    """Defects seen and missed by type and size, all folds together; each is sized by the references of its own fold.

    Raises:
        TargetsError: For a type without a reference.
    """
    cells = {(defect, size): Tally(0, 0) for defect in sorted(set().union(*bounds.values())) for size in SIZES}
    for fold, instances in results.items():
        for one in instances:
            if one["defect"] not in bounds[fold]:
                raise TargetsError(
                    f"type {one['defect']!r} is on val and has no reference in fold {fold}; run `prepare` with more parts"
                )
            cell = (one["defect"], size_of(one["area_px"], bounds[fold][one["defect"]]))
            missed = one["score"] is None or one["score"] < min_score
            cells[cell] = Tally(cells[cell].seen + 1, cells[cell].missed + missed)
    return cells


def weights(cells: Mapping[Cell, Tally]) -> dict[Cell, float]:
    """Smoothed missed share of each cell: the type's share is drawn towards a half, its sizes' shares towards the type's.

    Val holds a few parts a type. One defect missed out of one must not draw everything, none missed must not stop a type, and a
    size that val does not show is taken to be as hard as its type.
    """
    found: dict[Cell, float] = {}
    for defect, size in cells:
        sizes = [cells[defect, other] for other in SIZES]
        whole = Tally(sum(one.seen for one in sizes), sum(one.missed for one in sizes))
        found[defect, size] = cells[defect, size].share(whole.share(0.5))
    return found


def apportion(weights: Mapping[Cell, float], total: int) -> dict[Cell, int]:
    """Whole numbers in proportion to the weights that add up to the total (largest remainders; ties in order of the cells).

    Raises:
        TargetsError: If there is nothing to share out, or nobody to share it out to.
    """
    if total <= 0 or not weights:
        raise TargetsError("no sample is wanted of any type; give --total, or a count above 0 in data/targets.yaml")
    exact = {cell: total * weight / sum(weights.values()) for cell, weight in weights.items()}
    counts = {cell: int(value) for cell, value in exact.items()}
    by_remainder = sorted(exact, key=lambda cell: counts[cell] - exact[cell])
    for cell in by_remainder[: total - sum(counts.values())]:
        counts[cell] += 1
    return counts


def _line(defect: str, before: int, cells: Mapping[Cell, Tally], counts: Mapping[Cell, int]) -> str:
    """One type: what was asked, what will be, and the defects that speak for it."""
    if before == 0:
        return f"{defect}: 0 -> 0 (switched off by hand, stays so)"
    missed = ", ".join(f"{size} {cells[defect, size].missed} of {cells[defect, size].seen}" for size in SIZES)
    after = ", ".join(f"{size} {counts[defect, size]}" for size in SIZES)
    return f"{defect}: {before} -> {sum(counts[defect, size] for size in SIZES)} ({after}); missed on val: {missed}"


def _text(
    choice: Choice,
    arm: str,
    folds: Sequence[int],
    lines: Sequence[str],
    default: int,
    present: Mapping[str, int],
    counts: Mapping[Cell, int],
) -> str:
    """The new file, with the evidence above it."""
    wanted = {d: {size: counts[d, size] for size in SIZES} if before else 0 for d, before in present.items()}
    document = {"default": default, "types": wanted}
    where, score = ", ".join(map(fold_name, folds)), choice.min_score
    told = [
        "Synthetic samples wanted in each fold, by defect type and size. `default` is for types that are not named.",
        f"Written by `python -m pipeline targets` from the validation parts of {where}; no test part was read.",
        f"Detector {choice.detector}, arm {arm}. Missed: no box of the type with a score of {score} or more at IoU 0.5 or more.",
        "Counts are proportional to (missed + 2 r) / (seen + 2), where r = (missed + 1) / (seen + 2) over all sizes of the type.",
        "Sizes are terciles of the areas of the type's train references, enlarged and reduced as synthesize.warp.scale allows.",
        *([SHARED_PARTS] if choice.across_folds else []),
        *lines,
    ]
    body = yaml.safe_dump(document, default_flow_style=None, sort_keys=False, allow_unicode=True, width=4096)
    return "".join(f"# {line}\n" for line in told) + body
