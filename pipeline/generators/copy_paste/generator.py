"""The baseline: cut a real defect out along its mask and paste it elsewhere with a soft rim. It learns nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.generators.protocol import FitJob, Request, SampleJob, Synthetic
from pipeline.images import read_mask, read_rgb, write_png
from pipeline.masks.composite import apply_change
from pipeline.masks.crops import warp_picture
from pipeline.records import write_json
from pipeline.references import Reference


class CopyPaste:
    """Fitting keeps the references; sampling warps them by the request's own transform."""

    def fit(self, job: FitJob, out: Path) -> None:
        """Write the references as PNG, and `references.json` with their ids and types."""
        rows = []
        for number, reference in enumerate(job.references):
            name = f"{number:04d}"
            write_png(out / f"{name}.png", reference.image)
            write_png(out / f"{name}.mask.png", reference.mask)
            rows.append({"id": reference.id, "defect": reference.defect, "file": name})
        write_json(out / "references.json", rows)

    def load(self, fitted: Path, job: SampleJob) -> CopyPasteSampler:
        """Read the references back."""
        rows = json.loads((fitted / "references.json").read_text(encoding="utf-8"))
        references = {
            row["id"]: Reference(
                row["id"], row["defect"], read_rgb(fitted / f"{row['file']}.png"), read_mask(fitted / f"{row['file']}.mask.png")
            )
            for row in rows
        }
        return CopyPasteSampler(references, job.feather_px)


class CopyPasteSampler:
    """Pastes the references a request's masks come from; the seed plays no part, so all candidates of a request are equal."""

    def __init__(self, references: dict[str, Reference], feather_px: int) -> None:
        """Keep the references by id."""
        self._references = references
        self._feather_px = feather_px

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic]:
        """Paste, request by request."""
        for request, _ in requests:
            yield self._paste(request)

    def facts(self) -> dict[str, Any]:
        """Nothing but the rim: what is pasted counts, however little it differs."""
        return {"feather_px": self._feather_px, "surely_changed_above": 0.0, "possibly_changed_above": 0.0}

    def _paste(self, request: Request) -> Synthetic:
        image = request.clean
        for part in request.parts:
            assert part.reference is not None and part.affine is not None, "synthesize.masks.copy_paste allows affine masks only"
            moved = warp_picture(self._references[part.reference].image, part.affine, len(image))
            image = apply_change(image, moved.astype(np.float32) - image.astype(np.float32), part.mask, self._feather_px)
        # The rim outside the mask only hides the seam: what was pasted is the mask, where it differs from what was there.
        return Synthetic(image, request.mask & (image != request.clean).any(axis=2))
