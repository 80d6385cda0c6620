"""`make bench-sampling`: which options of the sampler help on real tiles, and their cost. Writes reports/bench/sampling.json.

One option at a time is changed against `params.yaml`; same concept, same requests, same seeds, fold 0. What is painted is
compared with real defects of val parts, which are neither references nor test. Each variation keeps a file of its own below
.work/bench-sampling, so a killed bench goes on. One thread, so that processor time is the cost.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from pipeline.diffusion.components import load_vae
from pipeline.generators.defectfill.sample import DefectFillSampler
from pipeline.generators.protocol import Synthetic
from pipeline.images import Picture, read_rgb, write_png
from pipeline.masks.crops import read_window, resize_picture
from pipeline.params import SelectParams, load_section
from pipeline.scenes import Placed
from pipeline.selection import Guards, open_guards, ranked, read_real, verdicts, visible
from pipeline.shards import Candidates
from pipeline.similarity.perceptual import choose_perceptual
from pipeline.similarity.quality import RealLooks, look, quality, real_looks
from tests.bench.bars import Part, run_parts, work_folder
from tests.bench.concept import benches, concept, sections
from tests.bench.concept_quality import SIDE_PX, Bench, candidates, distances, held_back, open_sampler, requests
from tests.bench.embedded import prepared, sheet
from tests.bench.fills import part_interval

WORK = work_folder("sampling")
PICTURE = Path("docs/concept/sampling.png")
DEFAULT = "default"
REQUESTS = 16
"""Of each type, for a variation."""
TIMED, ROUNDS = 16, 2
RANKED_REQUESTS, RANKED = 8, 8
"""Requests of each type whose candidates are ranked early and late, and candidates of each."""
AFTER, KEEP = (0.3, 0.5, 0.7), (1, 2, 4)


def variations() -> dict[str, dict[str, Any]]:
    """Name of each and what it changes; those equal to the default are left out."""
    grid = {
        f"{solver}, {steps} steps": {"scheduler": solver, "steps": steps}
        for solver in ("ddim", "dpm", "unipc")
        for steps in (5, 10, 20)
    }
    single: dict[str, Sequence[Any]] = {
        "guidance": (1.0, 2.0, 3.0, 5.0, 7.5),
        "strength": (0.7, 0.8, 0.9, 1.0),
        "blend": (True, False),
        "composite": ("change", "pixels", "none"),
        "widen_mask": (True, False),
        "guidance_interval": ((0.0, 0.5), (0.0, 0.8), (0.2, 0.8), (0.5, 1.0)),
        "autocast": ("bf16",),
    }
    named = {f"{key} {value}": {key: value} for key, values in single.items() for value in values}
    today = sections()[1].defectfill.model_dump()
    changed = {name: {k: v for k, v in change.items() if today[k] != v} for name, change in (grid | named).items()}
    return {DEFAULT: {}} | {name: change for name, change in changed.items() if change}


def bench_on_val(data: Path) -> Bench:
    """Fold 0, judged by the real defects of its val parts alone."""
    return replace(benches(data)[0], held_back=held_back(prepared(data), 0, [("val", "val")]))


def qualities(placed: Sequence[Placed], made: Sequence[Synthetic], real: RealLooks) -> NDArray[np.float64]:
    """(N,) likeness to the nearest real val defects, as `select` records it against the references."""
    neighbours = load_section("select", SelectParams).quality_neighbours
    looks = [(p.record.defect, look(m.image, p.request.mask)) for p, m in zip(placed, made, strict=True)]
    return np.array([quality(one[None], defect, real, neighbours)[0] for defect, one in looks])


def cost_ratio(ours: DefectFillSampler, default: DefectFillSampler, placed: Sequence[Placed]) -> float:
    """Processor seconds a sample against the default's, turn about; both samplers have painted before."""
    spent = {"ours": 0.0, "default": 0.0}
    for _ in range(ROUNDS):
        for name, sampler in (("ours", ours), ("default", default)):
            start = time.process_time()
            candidates(sampler, placed)
            spent[name] += time.process_time() - start
    return spent["ours"] / spent["default"]


def measure(bench: Bench, change: Mapping[str, Any], placed: Sequence[Placed], default: DefectFillSampler) -> dict[str, Any]:
    """What one variation paints and costs."""
    sampling, spread = sections()[1], [placed[at] for at in np.linspace(0, len(placed) - 1, TIMED).astype(int)]
    sampler = open_sampler(bench, concept(bench, "all losses"), sampling, change)
    made = candidates(sampler, placed)
    real = real_looks([(r.defect, look(r.image, r.mask)) for r in bench.held_back])
    return {
        "distance": distances(bench, placed, made).tolist(),
        "quality": qualities(placed, made, real).tolist(),
        "cost": cost_ratio(sampler, default, spread),
        "pictures": [resize_picture(made[row].image, SIDE_PX).tolist() for row in shown_rows(placed)],
    }


def shown_rows(placed: Sequence[Placed]) -> list[int]:
    """The first two requests of each type."""
    names = np.array([p.record.defect for p in placed])
    return [int(row) for defect in sorted(set(names)) for row in np.flatnonzero(names == defect)[:2]]


def variation_part(data: Path) -> dict[str, Any]:
    """Every variation against the default."""
    torch.set_num_threads(1)
    bench = bench_on_val(data)
    placed = requests(bench, sections()[1], REQUESTS)
    found: dict[str, dict[str, Any]] = {}
    default: DefectFillSampler | None = None
    for name, change in variations().items():
        kept = WORK / "variations" / f"{name.replace(' ', '-')}.json"
        if not kept.exists():
            default = default or open_sampler(bench, concept(bench, "all losses"), sections()[1], {})
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(measure(bench, change, placed, default)), encoding="utf-8")
        found[name] = json.loads(kept.read_text(encoding="utf-8"))
    rows = shown_rows(placed)
    clean = np.stack([resize_picture(placed[row].request.clean, SIDE_PX) for row in rows])
    write_contact_sheet(clean, {name: np.array(one["pictures"], np.uint8) for name, one in found.items()})
    return summary(found, bench, placed)


def summary(found: Mapping[str, Mapping[str, Any]], bench: Bench, placed: Sequence[Placed]) -> dict[str, Any]:
    """Means, and differences to the default with their 95 % intervals over clean parts."""
    part_of = {s.id: s.part_id for s in bench.samples}
    parts = tuple(part_of[p.record.clean] for p in placed)
    result: dict[str, Any] = {}
    for name, one in found.items():
        row: dict[str, Any] = {"cost": round(one["cost"], 3)}
        for measure_name in ("distance", "quality"):
            values, today = np.array(one[measure_name]), np.array(found[DEFAULT][measure_name])
            row[measure_name] = round(float(values.mean()), 4)
            row[f"{measure_name}_difference"] = [round(v, 4) for v in part_interval(values - today, parts, 0)]
        result[name] = row
    return result


SHOWN = (
    DEFAULT,
    "guidance 1.0",
    "guidance 7.5",
    "strength 0.7",
    "strength 1.0",
    "blend False",
    "composite none",
    "dpm, 10 steps",
    "unipc, 5 steps",
)


def write_contact_sheet(clean: NDArray[np.uint8], pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    """Rows: the clean crops, then each variation in `SHOWN`."""
    write_png(PICTURE, sheet([clean, *(pictures[name] for name in SHOWN if name in pictures)], scale=1))


def pruning_part(data: Path) -> dict[str, Any]:
    """Whether the early rank of a request's candidates predicts the late one, by the share of the steps taken."""
    torch.set_num_threads(1)
    bench, sampling = benches(data)[0], sections()[1]
    real = read_real(bench.train, bench.fold)
    guards = open_guards(
        choose_perceptual("auto", load_vae(bench.base)), load_section("select", SelectParams), "defectfill", real
    )
    placed = requests(bench, sampling, RANKED_REQUESTS)
    found: dict[str, Any] = {}
    for after in AFTER:
        # One more candidate than is drawn, so that all are ranked and none is dropped.
        change = {"candidates": RANKED + 1, "prune": {"after": after, "keep": RANKED}}
        made = candidates(open_sampler(bench, concept(bench, "all losses"), sampling, change), placed, RANKED)
        groups = [made[at : at + RANKED] for at in range(0, len(made), RANKED)]
        found[str(after)] = rank_agreement(
            [(p, group, late(p, group, guards, real.samples, bench.train)) for p, group in zip(placed, groups, strict=True)]
        )
    return found


def late(
    placed: Placed, group: Sequence[Synthetic], guards: Guards, samples: Mapping[str, Any], train: Path
) -> tuple[list[float], int | None]:
    """The final scores of one request's candidates, and which one `select` keeps."""
    entry = Candidates(
        placed.record, (placed.request.mask,), tuple(m.image for m in group), tuple(m.changed for m in group), False
    )
    photo: Picture = read_rgb(train / samples[placed.record.clean].image)
    judged = verdicts(visible(entry, photo.shape[:2]), read_window(photo, placed.record.window), guards)
    return [verdict.score for verdict in judged], next(iter(ranked(judged)), None)


def rank_agreement(rows: Sequence[tuple[Placed, Sequence[Synthetic], tuple[list[float], int | None]]]) -> dict[str, Any]:
    """Spearman correlation within requests with its 95 % interval, and how often the best one is among the kept."""
    correlations, among, kept_score = [], {keep: [] for keep in KEEP}, {keep: [] for keep in KEEP}
    for _, group, (scores, best) in rows:
        early = np.array([m.early for m in group], dtype=np.float64)
        correlations.append(float(stats.spearmanr(early, scores)[0]))  # pyright: ignore[reportArgumentType]
        order = np.argsort(-early, kind="stable")
        for keep in KEEP:
            if best is not None:
                among[keep].append(best in order[:keep])
            kept_score[keep].append(max(scores[place] for place in order[:keep]) / max(scores))
    parts = tuple(placed.record.clean for placed, _, _ in rows)
    return {
        "spearman": [round(v, 3) for v in part_interval(np.array(correlations), parts, 0)],
        "best_among_kept": {str(keep): round(float(np.mean(hits)), 3) for keep, hits in among.items()},
        "by_chance": {str(keep): round(keep / RANKED, 3) for keep in KEEP},
        "share_of_best_score": {str(keep): round(float(np.mean(values)), 3) for keep, values in kept_score.items()},
        "requests": len(rows),
    }


PARTS: dict[str, Part] = {"pruning": pruning_part, "variations": variation_part}


def forget(part: str) -> None:
    """What a part keeps besides its result."""
    if part == "variations":
        shutil.rmtree(WORK / "variations", ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(run_parts("sampling", PARTS, lambda found: [], forget))
