"""Tables and the two templates: numbers in, Markdown and HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.reporting import charts, wording
from pipeline.reporting.comparison import BASELINES, SIZES
from pipeline.reporting.pictures import GalleryRow
from pipeline.reporting.sweeps import SweepPage

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


@dataclass(frozen=True, slots=True)
class GeneratorPage:
    """What the report shows of one generator: its cards, selected samples, and requests with all their candidates.

    Attributes:
        name: Of the generator.
        made: Synthetic samples of all folds, each made from training photos alone.
        fates: How many candidates of all folds were kept, and refused for which reason.
        facts: Of its cards.
        rows: Samples.
        candidates: Requests.
    """

    name: str
    made: int
    fates: tuple[tuple[str, int], ...]
    facts: tuple[tuple[str, str], ...]
    rows: tuple[GalleryRow, ...]
    candidates: tuple[GalleryRow, ...]


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """Defects of test photos under two arms: counts a group, and rows of those found by one arm alone or by neither."""

    before: str
    after: str
    score: float
    defects: int
    counts: Mapping[str, int]
    groups: tuple[tuple[str, tuple[GalleryRow, ...]], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything the templates need; `curves` are precision by detector and arm, `sides` the parts of each fold."""

    comparison: Mapping[str, Any]
    data: Mapping[str, Any]
    sides: Sequence[Mapping[str, int]]
    curves: Mapping[str, Mapping[str, Sequence[float]]]
    sweeps: tuple[SweepPage, ...]
    before_after: Mapping[str, BeforeAfter]
    generators: tuple[GeneratorPage, ...]


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


def used_metrics(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The metrics at least one arm has."""
    return [name for name in METRIC_NAMES if any(row[name] is not None for row in arms.values())]


def used_sizes(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The sizes of defects that were tested."""
    return [name for name in SIZES if any(row["per_size"][name] is not None for row in arms.values())]


def metric_title(metric: str, data: Mapping[str, Any]) -> str:
    """Name of a metric; where a data set has drawn boxes only, scores of masks say that their truth is derived."""
    derived = data["derived_masks"] and metric.startswith(("mask_", "pixel_"))
    return METRIC_NAMES[metric] + (" against derived masks" if derived else "")


def order_generators(names: Sequence[str]) -> list[str]:
    """Learned generators first, the baselines after them."""
    return sorted(names, key=lambda name: (name in BASELINES, name))


def fate_reasons(generators: Sequence[GeneratorPage]) -> list[str]:
    """What became of candidates of any generator: kept first, then by name."""
    return sorted({fate for one in generators for fate, _ in one.fates}, key=lambda fate: (fate != "kept", fate))


def _environment(*, escape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, signed=signed, interval=interval)
    environment.filters.update(points=charts.points, gain=charts.gain, gap=charts.gap_text)
    environment.filters.update(percent=wording.percent)
    environment.globals.update(metric_title=metric_title, used_metrics=used_metrics, used_sizes=used_sizes)
    environment.globals.update(fate_reasons=fate_reasons, charts=charts, wording=wording, baselines=BASELINES)
    return environment


def render_html(page: Page) -> str:
    """The report as one file that needs nothing beside it; every text is escaped."""
    return _render("report.html.j2", page, escape=True)


def render_markdown(page: Page) -> str:
    """The numbers alone, for a terminal, a review or a Prefect artifact."""
    return _render("report.md.j2", page, escape=False)


def _render(template: str, page: Page, *, escape: bool) -> str:
    return _environment(escape=escape).get_template(template).render(page=page).rstrip() + "\n"
