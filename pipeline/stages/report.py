"""Stage `report`: evaluation files and labelled pictures become one comparison, for machines, terminals and people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.images import Mask, Picture, read_rgb
from pipeline.masks.crops import read_window
from pipeline.matches import MATCHES, MatchRecord, read_record, record_name
from pipeline.params import ReportParams
from pipeline.records import DatasetCard, Sample, fold_name, read_card, read_manifest, write_json, write_text
from pipeline.reporting.comparison import Plan, RecordKey, compare
from pipeline.reporting.data_card import data_card, flatten
from pipeline.reporting.pictures import (
    GalleryRow,
    boxes_by_image,
    bytes_uri,
    candidates_row,
    gallery_row,
    spread_over_types,
)
from pipeline.reporting.render import GeneratorPage, Page, detection_title, order_generators, render_html, render_markdown
from pipeline.shards import CandidateFate, Candidates, read_fates, read_shard


def report(params: ReportParams, data: Path, reports: Path) -> None:
    """Write `comparison.json`, `comparison.md` and the self-contained `comparison.html` into `reports`.

    Args:
        params: Section `report`.
        data: Folder of the stages' outputs; `prepared/train`, `candidates`, `selected` and `labelled` are read.
        reports: Folder with `eval/`, whose test results are the only trace of test data here.

    Raises:
        FileNotFoundError: If an input is missing; the message names the stage that writes it.
        ValueError: If the evaluation is empty or pictures do not fit their manifest.
    """
    rows = _metrics(reports / "eval")
    card, samples = read_card(data / "prepared" / "train"), read_manifest(data / "prepared" / "train")
    names = order_generators([folder.name for folder in sorted((data / "selected").glob("*")) if folder.is_dir()])
    plan = Plan(card.classes, names, params.resamples, params.confidence)
    comparison, facts = compare(rows, _records(reports / "eval", rows), plan), data_card(card, samples, rows)
    page = Page(
        comparison=comparison,
        data=facts,
        generators=tuple(_generator(name, data, card, samples, params) for name in names),
        detections=tuple(
            (detection_title(file.stem), bytes_uri(file.read_bytes()))
            for file in sorted((reports / "eval").glob("detections-*.png"))
        ),
    )
    write_json(reports / "comparison.json", {**comparison, "data": facts})
    write_text(reports / "comparison.md", render_markdown(page))
    write_text(reports / "comparison.html", render_html(page))


def _metrics(folder: Path) -> Sequence[Mapping[str, Any]]:
    file = folder / "metrics.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; run `python -m detectors evaluate`, or `dvc repro evaluate`")
    return json.loads(file.read_text(encoding="utf-8"))["rows"]


def _records(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[RecordKey, MatchRecord]:
    """Matches of every row, by detector, arm and fold."""
    keys = [(row["detector"], row["arm"], row["fold"]) for row in rows]
    missing = [record_name(*key) for key in keys if not (folder / MATCHES / record_name(*key)).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder / MATCHES}: {', '.join(missing)} missing; run `python -m detectors evaluate` again")
    return {key: read_record(folder / MATCHES / record_name(*key)) for key in keys}


def _generator(name: str, data: Path, card: DatasetCard, samples: Sequence[Sample], params: ReportParams) -> GeneratorPage:
    """Facts of every fold, and galleries of the first fold."""
    facts: list[tuple[str, str]] = []
    for fold in card.folds:
        prefix = f"fold {fold}: " if len(card.folds) > 1 else ""
        for stage in ("candidates", "selected", "labelled"):
            file = data / stage / name / fold_name(fold) / "card.json"
            values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            facts += [(f"{prefix}{stage}.{key}", value) for key, value in flatten(values)]
    shown = min(card.folds)
    clean = {sample.id: data / "prepared" / "train" / sample.image for sample in samples if sample.fold == shown}
    made = _gallery(name, data, shown, clean, params.gallery_rows)
    return GeneratorPage(name, tuple(facts), made, _candidates(name, data, shown, clean, params.candidate_rows))


def _gallery(name: str, data: Path, fold: int, clean: Mapping[str, Path], count: int) -> tuple[GalleryRow, ...]:
    folder = data / "selected" / name / fold_name(fold)
    labels = data / "labelled" / name / fold_name(fold) / "annotations.json"
    boxes = boxes_by_image(json.loads(labels.read_text(encoding="utf-8")))
    made = {sample.id: sample for sample in read_manifest(folder) if not sample.is_good}
    rows: list[GalleryRow] = []
    for sample in (made[one] for one in spread_over_types({s.id: s.defect for s in made.values()}, count)):
        origin = next(iter(sample.parents), "")
        if origin not in clean:
            raise ValueError(f"{name}, {sample.id}: its clean photo {origin!r} is not in train's manifest; run `select` again")
        rows.append(gallery_row(sample, folder, clean[origin], boxes[sample.image]))
    return tuple(rows)


def _candidates(name: str, data: Path, fold: int, clean: Mapping[str, Path], count: int) -> tuple[GalleryRow, ...]:
    """All candidates of a few requests, the kept ones first."""
    folder = data / "selected" / name / fold_name(fold)
    chosen = spread_over_types({fate.request: fate.defect for fate in read_fates(folder)}, count)
    # Read twice: the rows of a large set are more than the memory should hold.
    fates: dict[str, list[CandidateFate]] = {request: [] for request in chosen}
    for fate in read_fates(folder):
        if fate.request in fates:
            fates[fate.request].append(fate)
    entries: dict[str, Candidates] = {}
    for shard in sorted({fates[request][0].shard for request in chosen}):
        found = read_shard(data / "candidates" / name / fold_name(fold) / shard)
        entries |= {entry.request.id: entry for entry in found if entry.request.id in chosen}
    return tuple(_side_by_side(entries[request], fates[request], clean) for request in chosen)


def _side_by_side(entry: Candidates, fates: Sequence[CandidateFate], clean: Mapping[str, Path]) -> GalleryRow:
    before = read_window(read_rgb(clean[entry.request.clean]), entry.request.window)
    tiles: list[tuple[str, Picture | Mask]] = [("clean", before), ("wanted here", entry.mask)]
    with_picture = [fate for fate in fates if fate.number not in entry.dropped]
    for fate in sorted(with_picture, key=lambda one: (one.sample is None, one.number)):
        tiles.append((_caption(fate), entry.images[entry.numbers.index(fate.number)]))
    return candidates_row(f"{entry.request.defect}, {entry.request.id}", tiles)


def _caption(fate: CandidateFate) -> str:
    apart = "" if fate.reference_distance is None else f", from reference {fate.reference_distance:.2f}"
    scores = f"distance {fate.score:.2f}, changed {fate.changed_share:.0%}, likeness {fate.quality:.2f}{apart}"
    return f"{fate.fate}: {scores}"
