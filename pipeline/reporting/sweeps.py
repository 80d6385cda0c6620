"""Learning curve and ratio sweep: comparisons at several values of a parameter, as lines with intervals."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.reporting.charts import LEARNED, LineChart, Series, baseline_style, gap_text, line_chart, points
from pipeline.reporting.comparison import BASELINES


@dataclass(frozen=True, slots=True)
class Known:
    """A sweep the report has a place for.

    Attributes:
        title: Of its section.
        axis: What its values are.
        question: What it answers.
        values: To try, as they are typed.
    """

    title: str
    axis: str
    question: str
    values: str


KNOWN = {
    "prepare.k": Known(
        "Learning curve",
        "real reference parts of each defect type (K)",
        "How much do synthetic defects help with few real defects, and how much with many?",
        "2 5 10",
    ),
    "mix.share": Known(
        "Share of synthetic data",
        "synthetic share of the defect photos in a batch",
        "How many of the defects a detector learns from should be synthetic?",
        "0.25 0.5 0.75",
    ),
}


@dataclass(frozen=True, slots=True)
class SweepPage:
    """What the report shows of one parameter; `charts` (detector, scores, gains) and `table` are empty where nothing was run.

    `foreign` says that what was run is of other data.
    """

    parameter: str
    title: str
    axis: str
    question: str
    command: str
    folds: int
    charts: tuple[tuple[str, LineChart, LineChart | None], ...]
    table: tuple[tuple[str, ...], ...]
    foreign: bool = False


def read_sweeps(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Every `<parameter>.json` of the folder, by parameter; none where there is no folder.

    Raises:
        ValueError: If a file holds no point.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        if not document["points"]:
            raise ValueError(f"{file} has no point; run `python -m flows sweep` again, or delete it")
        found[document["parameter"]] = document
    return found


def of_this_data(sweeps: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Those whose points all are of the data set that `facts`, the data card, describes: same name, layout and types."""
    about = {key: facts[key] for key in ("name", "layout", "classes")}
    return {name: one for name, one in sweeps.items() if all(about.items() <= point["data"].items() for point in one["points"])}


def sweep_pages(sweeps: Mapping[str, Mapping[str, Any]], foreign: Collection[str] = ()) -> tuple[SweepPage, ...]:
    """The known sweeps, whether they were run or not, then others by name.

    Args:
        sweeps: Of this data.
        foreign: Parameters whose sweep is of other data.
    """
    names = [*KNOWN, *sorted({*sweeps, *foreign} - KNOWN.keys())]
    return tuple(replace(_page(name, sweeps.get(name)), foreign=name in foreign) for name in names)


def _page(parameter: str, document: Mapping[str, Any] | None) -> SweepPage:
    known = KNOWN.get(parameter) or Known(f"Sweep of {parameter}", parameter, f"What does {parameter} change?", "...")
    command = f'make sweep KEY={parameter} VALUES="{known.values}"'
    if document is None:
        return SweepPage(parameter, known.title, known.axis, known.question, command, 0, (), ())
    found = document["points"]
    detectors = sorted({name for point in found for name in point["detectors"]})
    charts = tuple(_charts(name, known.axis, found) for name in detectors)
    table = tuple(row for name in detectors for row in _table(name, found))
    folds = min(len(point["folds"]) for point in found)
    return SweepPage(parameter, known.title, known.axis, known.question, command, folds, charts, table)


def places(values: Sequence[Any]) -> list[float]:
    """Where values stand on an axis: numbers to scale, anything else evenly."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if numbers else [float(place) for place in range(len(values))]


def _arm(result: Mapping[str, Any], name: str) -> str | None:
    """The arm a line shows at one value: a baseline, or the learned arm that was best on val there."""
    arm = result["best_arm"] if name == LEARNED else name
    return arm if arm in result["arms"] else None


def _charts(detector: str, axis: str, found: Sequence[Mapping[str, Any]]) -> tuple[str, LineChart, LineChart | None]:
    """Scores with the range of the folds, and gains of the best learned arm with their intervals."""
    xs = places([point["value"] for point in found])
    own = sorted((x, point["detectors"][detector]) for x, point in zip(xs, found, strict=True) if detector in point["detectors"])
    ticks = sorted({x: str(point["value"]) for x, point in zip(xs, found, strict=True)}.items())
    scores = [line for name in (*BASELINES, LEARNED) if (line := _scores(name, own)).values]
    gains = [line for name in BASELINES if (line := _gains(name, own)).values]
    score_chart = line_chart(f"Box mAP50 of {detector}", (axis, "box mAP50, points"), scores, ticks, (0.0, 0.1))
    gain_chart = line_chart(f"Gain of the {LEARNED}", (axis, "gain, points"), gains, ticks, (-0.02, 0.02)) if gains else None
    return detector, score_chart, gain_chart


def _scores(name: str, own: Sequence[tuple[float, Mapping[str, Any]]]) -> Series:
    values: list[tuple[float, float, float | None, float | None]] = []
    for x, result in own:
        arm = _arm(result, name)
        row = result["arms"][arm] if arm is not None else None
        if row is not None and row["box_map50"] is not None:
            folds = [one for one in row["by_fold"].values() if one is not None]
            low, high = (min(folds), max(folds)) if len(folds) > 1 else (None, None)
            values.append((x, row["box_map50"], low, high))
    return Series(name, tuple(values), baseline_style(name))


def _gains(baseline: str, own: Sequence[tuple[float, Mapping[str, Any]]]) -> Series:
    values: list[tuple[float, float, float | None, float | None]] = []
    for x, result in own:
        gap = result["differences"].get(_arm(result, LEARNED), {}).get(baseline)
        if gap is not None:
            values.append((x, gap["mean"], gap["low"], gap["high"]))
    return Series(f"over {baseline}", tuple(values), baseline_style(baseline))


def _table(detector: str, found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of text: detector, value, scores of the baselines, best learned arm, its score, and its gains."""
    rows: list[tuple[str, ...]] = []
    for point in found:
        result = point["detectors"].get(detector)
        if result is None:
            continue
        best = _arm(result, LEARNED)
        known = [result["arms"][name]["box_map50"] if name in result["arms"] else None for name in BASELINES]
        gaps = [result["differences"].get(best, {}).get(name) for name in ("real", "classical")]
        own = result["arms"][best]["box_map50"] if best is not None else None
        scores = (*(points(one) for one in known), best or "–", points(own))
        rows.append((detector, str(point["value"]), *scores, *(gap_text(gap) for gap in gaps)))
    return rows
