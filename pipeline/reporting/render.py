"""Tables, bars and the two templates: numbers in, Markdown and HTML out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.reporting.comparison import BASELINES
from pipeline.reporting.pictures import GalleryRow

TEMPLATES = Path(__file__).parent / "templates"
METRIC_NAMES = {
    "box_map50": "box mAP50",
    "box_map": "box mAP50-95",
    "mask_map50": "mask mAP50",
    "mask_map": "mask mAP50-95",
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "pixel_pro": "PRO",
    "region_f": "F-measure of regions",
    "pixel_f": "F-measure of pixels",
}
_BAR_AREA = 420
_LABELS = 170
_ROW = 26


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart, in the units of its SVG."""

    label: str
    text: str
    y: int
    width: float
    dots: tuple[float, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Horizontal bars of one detector; `ticks` are (x, text)."""

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    left: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class GeneratorPage:
    """What the report shows of one generator: its cards, selected samples, and requests with all their candidates."""

    name: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[GalleryRow, ...]
    candidates: tuple[GalleryRow, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything the templates need."""

    comparison: Mapping[str, Any]
    data: Mapping[str, Any]
    generators: tuple[GeneratorPage, ...] = ()
    detections: tuple[tuple[str, str], ...] = ()


def number(value: float | None) -> str:
    """Three decimals; a dash for what a detector does not have."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Three decimals with a sign, and a true minus."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def interval(gap: Mapping[str, Any]) -> str:
    """Mean of a difference and its interval, if it has one."""
    if gap["low"] is None:
        return f"{signed(gap['mean'])} (one fold: no interval)"
    return f"{signed(gap['mean'])} [{signed(gap['low'])}, {signed(gap['high'])}]"


def _kind(arm: str) -> str:
    return arm if arm in BASELINES else "learned"


def bar_chart(title: str, arms: Mapping[str, Mapping[str, Any]]) -> Chart:
    """Bars of the primary metric, one an arm, with a dot for each fold when there are several."""
    values = {arm: row["box_map50"] for arm, row in arms.items()}
    folds = {arm: [v for v in row["by_fold"].values() if v is not None] for arm, row in arms.items()}
    largest = max([0.1, *(v for v in values.values() if v is not None), *(v for many in folds.values() for v in many)])
    top = min(1.0, math.ceil(largest * 10) / 10)
    bars = tuple(
        Bar(
            label=arm,
            text=number(value),
            y=place * _ROW,
            width=round((value or 0.0) / top * _BAR_AREA, 2),
            dots=tuple(round(v / top * _BAR_AREA, 2) for v in folds[arm]) if len(folds[arm]) > 1 else (),
            kind=_kind(arm),
        )
        for place, (arm, value) in enumerate(values.items())
    )
    ticks = tuple((round(_BAR_AREA * step / 4, 2), f"{top * step / 4:.3g}") for step in range(5))
    return Chart(title, bars, ticks, _LABELS, _LABELS + _BAR_AREA + 60, len(bars) * _ROW + 24)


def used_metrics(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The metrics at least one arm has."""
    return [name for name in METRIC_NAMES if any(row[name] is not None for row in arms.values())]


def metric_title(metric: str, data: Mapping[str, Any]) -> str:
    """Name of a metric; where a data set has drawn boxes only, scores of masks say that their truth is derived."""
    derived = data["derived_masks"] and metric.startswith(("mask_", "pixel_"))
    return METRIC_NAMES[metric] + (" against derived masks" if derived else "")


def _environment(*, escape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, signed=signed, interval=interval)
    environment.filters.update(percent=lambda share: f"{share:.0%}".replace("%", " %"))
    environment.globals.update(metric_title=metric_title, used_metrics=used_metrics, bar_chart=bar_chart, baselines=BASELINES)
    return environment


def render_html(page: Page) -> str:
    """The report as one file that needs nothing beside it; every text is escaped."""
    return _render("report.html.j2", page, escape=True)


def render_markdown(page: Page) -> str:
    """The numbers alone, for a terminal, a review or a Prefect artifact."""
    return _render("report.md.j2", page, escape=False)


def _render(template: str, page: Page, *, escape: bool) -> str:
    return _environment(escape=escape).get_template(template).render(page=page).rstrip() + "\n"


def detection_title(stem: str) -> str:
    """`detections-rtdetr-real-fold-0` as a caption."""
    return stem.removeprefix("detections-").replace("-", " ")


def order_generators(names: Sequence[str]) -> list[str]:
    """Learned generators first, the baselines after them."""
    return sorted(names, key=lambda name: (name in BASELINES, name))
