"""Files for `dvc metrics` and `dvc plots`, and the curves the report draws itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.matches import MatchRecord
from pipeline.records import write_text
from pipeline.reporting.comparison import RecordKey, arm_order
from pipeline.reporting.reweighting import RECALL, precision_at_recall
from pipeline.reporting.sweeps import KNOWN

_EVERY = 5  # of 101 recall thresholds, in files: they are kept in Git


def mean_curves(records: Mapping[RecordKey, MatchRecord]) -> dict[str, dict[str, tuple[float, ...]]]:
    """By detector and arm, precision of boxes at IoU 0.5 and COCO's 101 recalls: mean over types, then over folds."""
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for detector in sorted({name for name, _, _ in records}):
        for arm in arm_order(one for name, one, _ in records if name == detector):
            own = [record for (name, one, _), record in sorted(records.items()) if (name, one) == (detector, arm)]
            curve = np.mean([precision_at_recall(record.box, 0) for record in own], axis=0)
            found.setdefault(detector, {})[arm] = tuple(round(float(value), 4) for value in curve)
    return found


def metric_summary(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict, and box mAP50 by detector and arm."""
    scores = {
        detector: {arm: row["box_map50"] for arm, row in result["arms"].items()}
        for detector, result in comparison["detectors"].items()
    }
    return {"verdict": comparison["verdict"]["headline"], "box_map50": scores}


def write_plots(
    folder: Path, curves: Mapping[str, Mapping[str, Sequence[float]]], sweeps: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write `precision_recall.csv`, and of each known sweep `<parameter>.csv`, which has no row where it was not run."""
    points = [
        (detector, arm, round(float(recall), 2), value)
        for detector, arms in curves.items()
        for arm, values in arms.items()
        for recall, value in list(zip(RECALL, values, strict=True))[::_EVERY]
    ]
    _write_table(folder / "precision_recall.csv", ("detector", "arm", "recall", "precision"), points)
    for parameter in KNOWN:
        found = sweeps.get(parameter, {"points": []})["points"]
        scores = [
            (detector, arm, point["value"], row["box_map50"])
            for point in found
            for detector, result in point["detectors"].items()
            for arm, row in result["arms"].items()
        ]
        _write_table(folder / f"{parameter}.csv", ("detector", "arm", "value", "box_map50"), scores)


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([header, *rows])
    write_text(path, lines.getvalue())
