"""Stage `report`: evaluation files and labelled pictures become one comparison, for machines, terminals and people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.params import ReportParams
from pipeline.records import DatasetCard, Sample, fold_name, read_card, read_manifest, write_json, write_text
from pipeline.reporting.comparison import compare
from pipeline.reporting.data_card import data_card, flatten
from pipeline.reporting.pictures import GalleryRow, boxes_by_image, bytes_uri, gallery_row, spread_over_types
from pipeline.reporting.render import GeneratorPage, Page, detection_title, order_generators, render_html, render_markdown


def report(params: ReportParams, data: Path, reports: Path) -> None:
    """Write `comparison.json`, `comparison.md` and the self-contained `comparison.html` into `reports`.

    Args:
        params: Section `report`.
        data: Folder of the stages' outputs; `prepared/train`, `selected` and `labelled` are read.
        reports: Folder with `eval/`, whose test results are the only trace of test data here.

    Raises:
        FileNotFoundError: If an input is missing; the message names the stage that writes it.
        ValueError: If the evaluation is empty or pictures do not fit their manifest.
    """
    rows = _metrics(reports / "eval")
    card, samples = read_card(data / "prepared" / "train"), read_manifest(data / "prepared" / "train")
    comparison, facts = compare(rows, card.classes), data_card(card, samples, rows)
    names = order_generators([folder.name for folder in sorted((data / "selected").glob("*")) if folder.is_dir()])
    page = Page(
        comparison=comparison,
        data=facts,
        generators=tuple(_generator(name, data, card, samples, params.gallery_rows) for name in names),
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


def _generator(name: str, data: Path, card: DatasetCard, samples: Sequence[Sample], count: int) -> GeneratorPage:
    """Facts of every fold, and a gallery of the first fold."""
    facts: list[tuple[str, str]] = []
    for fold in card.folds:
        prefix = f"fold {fold}: " if len(card.folds) > 1 else ""
        for stage in ("selected", "labelled"):
            file = data / stage / name / fold_name(fold) / "card.json"
            values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            facts += [(f"{prefix}{stage}.{key}", value) for key, value in flatten(values)]
    return GeneratorPage(name, tuple(facts), _gallery(name, data, min(card.folds), samples, count))


def _gallery(name: str, data: Path, fold: int, samples: Sequence[Sample], count: int) -> tuple[GalleryRow, ...]:
    folder = data / "selected" / name / fold_name(fold)
    labels = data / "labelled" / name / fold_name(fold) / "annotations.json"
    boxes = boxes_by_image(json.loads(labels.read_text(encoding="utf-8")))
    clean = {sample.id: sample.image for sample in samples if sample.fold == fold}
    rows: list[GalleryRow] = []
    for sample in spread_over_types([s for s in read_manifest(folder) if not s.is_good], count):
        origin = next(iter(sample.parents), None)
        if origin not in clean:
            raise ValueError(f"{name}, {sample.id}: its clean photo {origin!r} is not in train's manifest; run `select` again")
        rows.append(gallery_row(sample, folder, data / "prepared" / "train" / clean[origin], boxes[sample.image]))
    return tuple(rows)
