"""`make concept-gallery`: learn the concepts of any data set, K = 5, and show references, requests and what is painted there."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from pipeline.params import LearnConceptParams, SynthesizeParams, load_section
from pipeline.records import fold_name
from tests.bench.bars import work_folder
from tests.bench.concept_pictures import COLUMNS, gallery
from tests.bench.concept_quality import Bench, candidates, fitted, open_sampler, requests
from tests.bench.embedded import adapt_once, prepare_once


def opened(data: Path, layout: str, work: Path) -> Bench:
    """Fold 0 of a data set with its adapted base; what lies in `work` is not done again."""
    train = prepare_once(data, layout, (0,), work / "prepared") / "train"
    base = adapt_once(train, work / "base")
    return Bench(0, train, base / fold_name(0), held_back=(), judge=[])


def main() -> None:
    """Write one JPEG."""
    parser = argparse.ArgumentParser(description="Gallery of the concepts of a data set.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--layout", required=True, help="its layout, e.g. magnetic_tile or deep_pcb")
    args = parser.parse_args()
    work = work_folder(f"gallery-{args.layout}")
    bench, sampling = opened(args.data, args.layout, work), load_section("synthesize", SynthesizeParams)
    concept = fitted(bench, load_section("learn_concept", LearnConceptParams).defectfill, work / "concept")
    placed = requests(bench, sampling, COLUMNS)
    ways = [
        candidates(open_sampler(bench, concept, sampling, change), placed)
        for change in ({"contrast_gain": 1.0, "detail": None}, {})
    ]
    sheet = gallery(bench.references, placed, *ways)
    out = Path("docs/concept") / f"{args.layout}.jpg"
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(out, quality=88)
    print(out)


if __name__ == "__main__":
    main()
