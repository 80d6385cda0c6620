"""The procedural set that ships with the project as code: something to run before own photos are at hand."""

from __future__ import annotations

from pathlib import Path

from pipeline.layouts.raw import RawDefect, RawPhoto, RawSet, unique_ids
from pipeline.params import PrepareParams
from pipeline.procedural.sample_set import DEFECT_TYPES, draw_sample_set


def read(source: Path, params: PrepareParams) -> RawSet:
    """Draw the set of `params.sample` into memory; `source` is only the code DVC watches."""
    drawn = draw_sample_set(params.sample.seed, params.sample.size_px, params.sample.parts_per_type, params.sample.good_parts)
    photos: list[RawPhoto] = []
    for p in drawn:
        defects = () if p.defect is None or p.mask is None else (RawDefect(p.defect, p.mask),)
        photos.append(RawPhoto(p.id, p.id, p.picture, p.part_id, defects))
    note = "The photos are drawn by pipeline/procedural, not taken: results on them say nothing about a real line."
    return RawSet("sample", unique_ids(photos), DEFECT_TYPES, notes=(note,))
