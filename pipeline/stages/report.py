"""Stage `report`: evaluation files and labelled pictures become one comparison, for machines, terminals and people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.images import Mask, Picture, read_rgb
from pipeline.masks.crops import read_window
from pipeline.matches import GALLERY, MATCHES, MatchRecord, read_record, record_name
from pipeline.params import ReportParams
from pipeline.records import DatasetCard, Sample, fold_name, read_card, read_manifest, write_json, write_text
from pipeline.reporting.comparison import Plan, RecordKey, compare
from pipeline.reporting.data_card import check_sides, data_card, flatten
from pipeline.reporting.pictures import (
    GalleryRow,
    boxes_by_image,
    bytes_uri,
    candidates_row,
    gallery_row,
    spread_over_types,
)
from pipeline.reporting.plots import mean_curves, metric_summary, write_plots
from pipeline.reporting.provenance import Folders, check_learned_from, check_parents, check_pixels
from pipeline.reporting.render import BeforeAfter, GeneratorPage, Page, order_generators, render_html, render_markdown
from pipeline.reporting.sweeps import of_this_data, read_sweeps, sweep_pages
from pipeline.shards import CandidateFate, Candidates, read_fates, read_shard


def report(params: ReportParams, data: Path, reports: Path) -> None:
    """Write `comparison.json`, `comparison.md`, the self-contained `comparison.html`, `metrics.json` and `plots/` into `reports`.

    Args:
        params: Section `report`.
        data: Folder of the stages' outputs; `prepared/train`, `candidates`, `selected` and `labelled` are read.
        reports: Folder with `eval/`, whose test results are the only trace of test data here, and with `sweeps/`.

    Raises:
        FileNotFoundError: If an input is missing; the message names the stage that writes it.
        ValueError: If the evaluation is empty, a part was trained on and tested, pictures do not fit their manifest, or detectors
            learned from other data.
    """
    rows, read = _metrics(reports / "eval")
    records, all_sweeps = _records(reports / "eval", rows), read_sweeps(reports / "sweeps")
    card, samples = read_card(data / "prepared" / "train"), read_manifest(data / "prepared" / "train")
    names = order_generators([folder.name for folder in sorted((data / "selected").glob("*")) if folder.is_dir()])
    plan = Plan(card.classes, names, params.resamples, params.confidence)
    comparison, facts = compare(rows, records, plan), data_card(card, samples, rows)
    sweeps = of_this_data(all_sweeps, facts)
    page = Page(
        comparison=comparison,
        data=facts,
        sides=check_sides(samples, {fold: record.part.tolist() for (_, _, fold), record in records.items()}),
        curves=mean_curves(records),
        sweeps=sweep_pages(sweeps, all_sweeps.keys() - sweeps.keys()),
        before_after=_before_after(reports / "eval" / GALLERY),
        generators=tuple(_generator(name, data, card, samples, params) for name in names),
    )
    check_learned_from(read, data)
    write_json(reports / "comparison.json", {**comparison, "data": facts})
    write_json(reports / "metrics.json", metric_summary(comparison))
    write_plots(reports / "plots", page.curves, sweeps)
    write_text(reports / "comparison.md", render_markdown(page))
    write_text(reports / "comparison.html", render_html(page))


def _metrics(folder: Path) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, str]]:
    """A row a model, and what all of them learned from."""
    file = folder / "metrics.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; run `python -m detectors evaluate`, or `dvc repro evaluate`")
    document = json.loads(file.read_text(encoding="utf-8"))
    if "read" not in document:
        raise ValueError(f"{file} does not say what the models learned from; run `python -m detectors evaluate` again")
    return document["rows"], document["read"]


def _records(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[RecordKey, MatchRecord]:
    """Matches of every row, by detector, arm and fold."""
    keys = [(row["detector"], row["arm"], row["fold"]) for row in rows]
    missing = [record_name(*key) for key in keys if not (folder / MATCHES / record_name(*key)).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder / MATCHES}: {', '.join(missing)} missing; run `python -m detectors evaluate` again")
    return {key: read_record(folder / MATCHES / record_name(*key)) for key in keys}


def _before_after(folder: Path) -> dict[str, BeforeAfter]:
    """What `evaluate` shows of the test photos, by detector, with its pictures."""
    file = folder / "gallery.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; run `python -m detectors evaluate` again")
    described = json.loads(file.read_text(encoding="utf-8"))
    return {name: _detector_pictures(one, folder / name) for name, one in described.items()}


def _detector_pictures(described: Mapping[str, Any], folder: Path) -> BeforeAfter:
    before, after = described["before"], described["after"]
    groups: list[tuple[str, tuple[GalleryRow, ...]]] = []
    for group, lines in described["shown"].items():
        rows: list[GalleryRow] = []
        for line in lines:
            captions = {"truth": "the defect", "before": f"{before}: {line['before']}", "after": f"{after}: {line['after']}"}
            files = [(caption, folder / line["pictures"][name]) for name, caption in captions.items()]
            tiles = tuple((caption, bytes_uri(file.read_bytes(), "jpeg")) for caption, file in files)
            rows.append(GalleryRow(f"{line['type']}, {line['photo']}", tiles))
        groups.append((group, tuple(rows)))
    return BeforeAfter(before, after, described["score"], described["defects"], described["counts"], tuple(groups))


def _generator(name: str, data: Path, card: DatasetCard, samples: Sequence[Sample], params: ReportParams) -> GeneratorPage:
    """Facts and counts of every fold, and galleries of the first fold."""
    facts: list[tuple[str, str]] = []
    made, fates = 0, Counter[str]()
    for fold in card.folds:
        prefix = f"fold {fold}: " if len(card.folds) > 1 else ""
        for stage in ("candidates", "selected", "labelled"):
            file = data / stage / name / fold_name(fold) / "card.json"
            values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            facts += [(f"{prefix}{stage}.{key}", value) for key, value in flatten(values)]
        folders = Folders(*(data / stage / name / fold_name(fold) for stage in ("candidates", "selected", "labelled")))
        of_fold, of_generator = [sample for sample in samples if sample.fold == fold], _made(folders.selected)
        made += check_parents(name, of_generator, of_fold)
        clean = {sample.id: data / "prepared" / "train" / sample.image for sample in of_fold}
        check_pixels(name, of_generator, read_fates(folders.selected), folders, clean)
        fates += Counter(fate.fate for fate in read_fates(folders.selected))
    shown = min(card.folds)
    clean = {sample.id: data / "prepared" / "train" / sample.image for sample in samples if sample.fold == shown}
    rows = _gallery(name, data, shown, clean, params.gallery_rows)
    candidates = _candidates(name, data, shown, clean, params.candidate_rows)
    return GeneratorPage(name, made, tuple(sorted(fates.items())), tuple(facts), rows, candidates)


def _made(folder: Path) -> list[Sample]:
    return [sample for sample in read_manifest(folder) if not sample.is_good]


def _gallery(name: str, data: Path, fold: int, clean: Mapping[str, Path], count: int) -> tuple[GalleryRow, ...]:
    folder = data / "selected" / name / fold_name(fold)
    labels = data / "labelled" / name / fold_name(fold) / "annotations.json"
    boxes = boxes_by_image(json.loads(labels.read_text(encoding="utf-8")))
    made = {sample.id: sample for sample in _made(folder)}
    chosen = [made[one] for one in spread_over_types({s.id: s.defect for s in made.values()}, count)]
    return tuple(gallery_row(sample, folder, clean[sample.parents[0]], boxes[sample.image]) for sample in chosen)


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
