"""Geometry of the report's charts, in the units of an SVG 360 wide: as wide as a phone, so that no text shrinks there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.comparison import COMBINED, ONLY

WIDTH = 360
_SIDE = 18  # free on either side of a row
_ROW = 44
_LINE = 28  # from the top of a row to what is drawn in it
_AXIS = 26
_PLOT = (44.0, 12.0, 348.0, 212.0)  # left, top, right, bottom of a line chart
_HEIGHT = 256
_DODGE = 4.0  # between whiskers of several lines at one value
# Told apart by colour-blind readers, and dark enough for thin lines on white.
_FIXED = {"real": "#59616b", "classical": "#0072b2", "copy_paste": "#a86f00"}
_LEARNED = ("#00775c", "#a3417f", "#c44e00", "#5b4bb5", "#8a1c1c")
LEARNED = "best learned arm"


@dataclass(frozen=True, slots=True)
class Style:
    """How an arm is drawn everywhere."""

    colour: str
    dash: str


@dataclass(frozen=True, slots=True)
class Row:
    """One arm: a bar from zero to `x`, or a point at `x` with its interval from `low` to `high`; `dots` are single folds."""

    label: str
    text: str
    top: float
    middle: float
    x: float
    low: float | None
    high: float | None
    dots: tuple[float, ...]
    style: Style


@dataclass(frozen=True, slots=True)
class RowChart:
    """Arms below each other, on one scale; `ticks` are (x, text)."""

    title: str
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float
    bars: bool
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Line:
    """One arm over values: points of the line, marks on it, and a whisker (x, upper y, lower y) for each that has an interval."""

    name: str
    points: tuple[tuple[float, float], ...]
    marks: bool
    whiskers: tuple[tuple[float, float, float], ...]
    style: Style


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over a common axis; ticks are (place, text), `zero` is the y of 0 where the axis goes below it."""

    title: str
    x_name: str
    y_name: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    zero: float | None
    plot: tuple[float, float, float, float]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Series:
    """A line before it is drawn: (x, y, low, high), without an interval where low is None."""

    name: str
    values: tuple[tuple[float, float, float | None, float | None], ...]
    style: Style


def style_of(arm: str, arms: Sequence[str]) -> Style:
    """Colour by what the arm was trained on, the same for a generator's arms, which differ by their dashes."""
    base = arm.removesuffix(COMBINED).removesuffix(ONLY)
    dash = "6 4" if arm.endswith(COMBINED) else "2 3" if arm.endswith(ONLY) else ""
    learned = sorted({one.removesuffix(COMBINED).removesuffix(ONLY) for one in arms} - set(_FIXED))
    return Style(_FIXED.get(base) or _LEARNED[learned.index(base) % len(_LEARNED)], dash)


def points(value: float | None) -> str:
    """A score in points of 100; a dash for what there is not."""
    return "–" if value is None else f"{100 * value:.1f}"


def gain(value: float | None) -> str:
    """A difference in points, with its sign and a true minus."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def gap_text(gap: Mapping[str, Any] | None) -> str:
    """A difference in points with its interval, if it has one."""
    if gap is None:
        return "–"
    return gain(gap["mean"]) + ("" if gap["low"] is None else f" ({gain(gap['low'])} to {gain(gap['high'])})")


def axis(low: float, high: float) -> tuple[float, ...]:
    """Round numbers from at most `low` to at least `high`, four to seven of them."""
    rough = max(high - low, 1e-6) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(place * step, 10) for place in range(first, max(last, first + 1) + 1))


def _rows(title: str, entries: Sequence[dict[str, Any]], ticks: Sequence[float], *, bars: bool) -> RowChart:
    low, high = ticks[0], ticks[-1]

    def across(value: float) -> float:
        return round(_SIDE + (value - low) / (high - low) * (WIDTH - 2 * _SIDE), 2)

    rows = tuple(
        Row(
            label=entry["arm"],
            text=entry["text"],
            top=place * _ROW,
            middle=place * _ROW + _LINE,
            x=across(entry["value"]),
            low=None if entry["low"] is None else across(entry["low"]),
            high=None if entry["high"] is None else across(entry["high"]),
            dots=tuple(across(one) for one in entry["dots"]),
            style=entry["style"],
        )
        for place, entry in enumerate(entries)
    )
    marks = tuple((across(value), f"{100 * value:g}".replace("-", "−")) for value in ticks)
    return RowChart(title, rows, marks, across(0.0), bars, WIDTH, len(rows) * _ROW + _AXIS)


def bar_chart(detector: str, arms: Mapping[str, Mapping[str, Any]]) -> RowChart:
    """The primary metric as bars, one an arm, with a dot for each fold when there are several."""
    folds = {arm: [one for one in row["by_fold"].values() if one is not None] for arm, row in arms.items()}
    known = [0.0, 0.1, *(one for many in folds.values() for one in many)]
    entries = [
        {
            "arm": arm,
            "text": points(row["box_map50"]),
            "value": row["box_map50"] or 0.0,
            "low": None,
            "high": None,
            "dots": folds[arm] if len(folds[arm]) > 1 else [],
            "style": style_of(arm, list(arms)),
        }
        for arm, row in arms.items()
    ]
    return _rows(f"Box mAP50 of {detector}", entries, axis(0.0, max(known)), bars=True)


def forest(differences: Mapping[str, Mapping[str, Mapping[str, Any]]], baseline: str) -> RowChart | None:
    """Differences of all other arms to a baseline with their intervals; None if nothing was compared with it."""
    gaps = {arm: row[baseline] for arm, row in differences.items() if baseline in row}
    if not gaps:
        return None
    entries = [
        {
            "arm": arm,
            "text": gap_text(gap),
            "value": gap["mean"],
            "low": gap["low"],
            "high": gap["high"],
            "dots": [],
            "style": style_of(arm, [*differences]),
        }
        for arm, gap in gaps.items()
    ]
    ends = [
        0.0,
        -0.02,
        0.02,
        *(one for gap in gaps.values() for one in (gap["mean"], gap["low"], gap["high"]) if one is not None),
    ]
    return _rows(f"Difference to {baseline}", entries, axis(min(ends), max(ends)), bars=False)


def line_chart(
    title: str,
    names: tuple[str, str],
    series: Sequence[Series],
    x_ticks: Sequence[tuple[float, str]],
    y_least: tuple[float, float],
) -> LineChart:
    """Lines with marks and whiskers; the y axis, in points, holds at least `y_least`."""
    ends = [*y_least, *(one for line in series for value in line.values for one in value[1:] if one is not None)]
    ticks = axis(min(ends), max(ends))
    places = [place for place, _ in x_ticks]
    across, up = _scales((min(places), max(places)), (ticks[0], ticks[-1]))
    lines: list[Line] = []
    for number, one in enumerate(series):
        aside = (number - (len(series) - 1) / 2) * _DODGE
        spots = tuple((round(across(x) + aside, 2), up(y)) for x, y, _, _ in one.values)
        whiskers = tuple(
            (spot[0], up(high), up(low))
            for spot, (_, _, low, high) in zip(spots, one.values, strict=True)
            if low is not None and high is not None
        )
        lines.append(Line(one.name, spots, True, whiskers, one.style))
    return LineChart(
        title,
        names[0],
        names[1],
        tuple(lines),
        tuple((across(place), text) for place, text in x_ticks),
        tuple((up(value), f"{100 * value:g}".replace("-", "−")) for value in ticks),
        up(0.0) if ticks[0] < 0 < ticks[-1] else None,
        _PLOT,
        WIDTH,
        _HEIGHT,
    )


def curve_chart(detector: str, curves: Mapping[str, Sequence[float]]) -> LineChart:
    """Precision over recall, one line an arm."""
    across, up = _scales((0.0, 1.0), (0.0, 1.0))
    lines = tuple(
        Line(
            arm,
            tuple((across(place / (len(values) - 1)), up(value)) for place, value in enumerate(values)),
            False,
            (),
            style_of(arm, list(curves)),
        )
        for arm, values in curves.items()
    )
    marks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return LineChart(
        f"Precision and recall of {detector}",
        "share of defects found (recall), %",
        "share of detections that are right (precision), %",
        lines,
        tuple((across(one), f"{100 * one:g}") for one in marks),
        tuple((up(one), f"{100 * one:g}") for one in marks),
        None,
        _PLOT,
        WIDTH,
        _HEIGHT,
    )


def _scales(x: tuple[float, float], y: tuple[float, float]) -> tuple[Any, Any]:
    """From values to places in the plot; a single x value stands in the middle."""
    left, top, right, bottom = _PLOT

    def across(value: float) -> float:
        share = 0.5 if x[0] == x[1] else (value - x[0]) / (x[1] - x[0])
        return round(left + _SIDE + share * (right - left - 2 * _SIDE), 2)

    def up(value: float) -> float:
        return round(bottom - (value - y[0]) / (y[1] - y[0]) * (bottom - top), 2)

    return across, up


def baseline_style(name: str) -> Style:
    """Of a baseline, or of the best learned arm whatever its name."""
    return Style(_FIXED.get(name, _LEARNED[0]), "")
