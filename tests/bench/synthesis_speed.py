"""Part `speed` of `make bench-synthesis`: accepted samples a minute, ours against today's loops, and what each measure adds.

Accepted is a request one of whose candidates passes the guards of `select`; the same guards for all. Ours judges inside the
measured time, the loops afterwards. All take turns, on the same requests of magnetic tiles, fold 0.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.answering import Draws, answer
from pipeline.diffusion.components import load_vae
from pipeline.generators.defectfill.sample import DefectFillSampler
from pipeline.images import Picture, read_rgb
from pipeline.masks.crops import read_window
from pipeline.params import DiffusionSamplingParams, SelectParams, SynthesizeParams, load_section
from pipeline.scenes import Placed
from pipeline.selection import Guards, RealSide, Verdict, open_guards, ranked, read_real, verdicts, visible
from pipeline.shards import Candidates
from pipeline.similarity.perceptual import choose_perceptual
from pipeline.similarity.quality import RealLooks, look, quality, real_looks
from tests.bench.bars import bar
from tests.bench.concept import benches, concept
from tests.bench.concept_quality import Bench, open_sampler, requests
from tests.bench.fills import part_interval
from tests.bench.reference_loops import CANDIDATES, GUIDANCE, STEPS, on_crop, on_whole_photo, one_by_one, open_stock

COMMAND = "make bench-synthesis DATA=<folder of magnetic tiles>"
OURS, WHOLE, CROPS = "ours", "whole image", "crops"
STOCK: dict[str, Any] = {
    "candidates": CANDIDATES,
    "scheduler": "ddim",
    "steps": STEPS,
    "guidance": GUIDANCE,
    "guidance_interval": (0.0, 1.0),
    "strength": 1.0,
    "prune": None,
    "blend": False,
    "composite": "pixels",
    "posterior": "drawn",
    "widen_mask": False,
    "keep_grey": False,
    "even_exposure": False,
    "contrast_gain": 1.0,
    "detail": None,
}
"""`synthesize.defectfill` of the loop on crops."""


@dataclass(frozen=True)
class Measure:
    """One step from the loop on crops towards ours.

    Attributes:
        name: For the report.
        keys: What takes our value from here on: parameters of `synthesize.defectfill`, `micro_batch`, `redraws`.
        requests: How many are answered at once, enough to fill the batches.
    """

    name: str
    keys: tuple[str, ...]
    requests: int


MEASURES = (
    Measure("caching of encodings", ("posterior",), 1),
    Measure("steps", ("scheduler", "steps", "strength"), 2),
    Measure("batch", ("micro_batch",), 4),
    Measure("guidance interval", ("guidance", "guidance_interval"), 4),
    Measure("pruning", ("prune",), 8),
    Measure("fewer candidates, redraws", ("candidates", "redraws"), 16),
    Measure(
        "blending and composite",
        ("blend", "composite", "widen_mask", "keep_grey", "even_exposure", "contrast_gain", "detail"),
        16,
    ),
)
"""In this order; the last one is ours, parameter for parameter."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Turns every way gets.
        whole_requests: Requests of the loop on whole images, over all rounds.
        whole_candidates: Candidates drawn of each of them, of the loop's eight; their time counts eight times a candidate's.
        crop_requests: Requests of the loop on crops, all eight candidates each.
        own_requests: Most requests of ours in each round; the others' are among them.
    """

    rounds: int
    whole_requests: int
    whole_candidates: int
    crop_requests: int
    own_requests: int


FULL = Plan(rounds=3, whole_requests=6, whole_candidates=2, crop_requests=10, own_requests=16)


@dataclass(frozen=True)
class Court:
    """Who accepts, and who says how real it looks."""

    real: RealSide
    guards: Guards
    looks: RealLooks
    neighbours: int

    def verdicts(self, entry: Candidates) -> list[Verdict]:
        """Of the guards of `select`, for each candidate."""
        return self.judge(entry, read_window(self._photo(entry), entry.request.window))

    def judge(self, entry: Candidates, clean: Picture) -> list[Verdict]:
        """The same, given the clean crop."""
        return verdicts(visible(entry, self._photo(entry).shape[:2]), clean, self.guards)

    def accepts(self, entry: Candidates) -> bool:
        """Whether any candidate may be kept."""
        return bool(ranked(self.verdicts(entry)))

    def quality(self, entry: Candidates) -> float | None:
        """Quality score of the candidate that is kept, None where none is."""
        kept = ranked(self.verdicts(entry))
        if not kept:
            return None
        mask = visible(entry, self._photo(entry).shape[:2]).mask
        likeness = quality(look(entry.images[kept[0]], mask)[None], entry.request.parts[0].defect, self.looks, self.neighbours)
        return float(likeness[0])

    def _photo(self, entry: Candidates) -> np.ndarray:
        return read_rgb(self.real.train / self.real.samples[entry.request.clean].image)


def open_court(bench: Bench, selection: SelectParams) -> Court:
    """Guards and looks of the fold's real defects."""
    real = read_real(bench.train, bench.fold)
    net = choose_perceptual(selection.perceptual, load_vae(bench.base))
    looks = real_looks([(r.defect, look(r.image, r.mask)) for r in real.references])
    return Court(real, open_guards(net, selection, "defectfill", real), looks, selection.quality_neighbours)


def with_stock_values(params: SynthesizeParams, ours: set[str]) -> SynthesizeParams:
    """The section with the loop's value of everything but the keys in `ours`; what the section does not know is left out."""
    own = params.defectfill.model_dump()
    stock = {key: value for key, value in STOCK.items() if key in own and key not in ours}
    redraws = params.redraws.defectfill if "redraws" in ours else 0
    changes = {
        "defectfill": DiffusionSamplingParams.model_validate(own | stock),
        "micro_batch": params.micro_batch if "micro_batch" in ours else 1,
        "redraws": params.redraws.model_copy(update={"defectfill": redraws}),
    }
    return params.model_copy(update=changes)


def ladder(params: SynthesizeParams) -> list[tuple[Measure, SynthesizeParams]]:
    """Every measure with the section as it is once it and all before it are taken."""
    keys: set[str] = set()
    found = []
    for measure in MEASURES:
        keys |= set(measure.keys)
        found.append((measure, with_stock_values(params, keys)))
    return found


@dataclass(frozen=True)
class Way:
    """One way to answer requests.

    Attributes:
        answers: Of some requests, in order.
        rounds: The requests of each round.
        times: How often its measured seconds count.
    """

    answers: Callable[[Sequence[Placed]], list[Candidates]]
    rounds: Sequence[Sequence[Placed]]
    times: float = 1.0


@dataclass(frozen=True)
class Timed:
    """Seconds a request in each round, and the answers by request."""

    seconds: list[float]
    answers: dict[str, Candidates]


def turn_about(ways: Mapping[str, Way]) -> dict[str, Timed]:
    """Let every way answer the requests of a round before the next round begins, so that all see the machine alike."""
    found = {name: Timed([], {}) for name in ways}
    for number in range(max(len(way.rounds) for way in ways.values())):
        for name, way in ways.items():
            if number < len(way.rounds) and way.rounds[number]:
                begun = time.perf_counter()
                answers = way.answers(way.rounds[number])
                seconds = (time.perf_counter() - begun) * way.times / len(answers)
                found[name].seconds.append(seconds)
                found[name].answers.update({entry.request.id: entry for entry in answers})
    return found


def dealt(placed: Sequence[Placed], count: int, rounds: int) -> list[list[Placed]]:
    """The first `count` requests, dealt to the rounds."""
    return [list(placed[:count][number::rounds]) for number in range(rounds)]


def loops(
    plan: Plan, bench: Bench, fitted: Path, court: Court, facts: Mapping[str, Any], placed: Sequence[Placed]
) -> dict[str, Way]:
    """The two loops people run today; `facts` are our sampler's."""
    # The loops' pictures are measured with our thresholds, so that the guards see all of them alike.
    thresholds, even = (facts["surely_changed_above"], facts["possibly_changed_above"]), facts["sampling"]["even_exposure"]
    stock = open_stock(bench.base, fitted, court.guards.net, thresholds, court.real, even)

    def way(paint: Any, drawn: int, count: int) -> Way:
        one = partial(one_by_one, stock, paint=paint, numbers=range(drawn))
        return Way(lambda some: [one(p) for p in some], dealt(placed, count, plan.rounds), CANDIDATES / drawn)

    return {
        WHOLE: way(on_whole_photo, plan.whole_candidates, plan.whole_requests),
        CROPS: way(on_crop, CANDIDATES, plan.crop_requests),
    }


def own_way(sampler: DefectFillSampler, params: SynthesizeParams, court: Court, some: Sequence[Placed], rounds: int) -> Way:
    """Ours with these parameters: draws, guards, redraws."""
    draws = Draws(params.defectfill.candidates, params.redraws.defectfill, court.judge)
    return Way(lambda asked: [one.entry for one in answer(sampler, asked, draws)], [list(some)] * rounds)


def speed(plan: Plan, bench: Bench, fitted: Path, params: SynthesizeParams, selection: SelectParams) -> dict[str, Any]:
    """All ways in turn; see `summary` for what is returned."""
    torch.set_num_threads(params.threads)
    court = open_court(bench, selection)
    placed = by_turns(requests(bench, params, 1 + plan.own_requests // len(court.looks.by_type)))[: plan.own_requests]
    sampler = open_sampler(bench, fitted, params, {})
    ways = loops(plan, bench, fitted, court, sampler.facts(), placed)
    ways[OURS] = own_way(sampler, params, court, placed, plan.rounds)
    rungs, before = ladder(params), None
    for measure, section in rungs:
        if section not in (before, params):
            some = placed[: measure.requests]
            ways[measure.name] = own_way(open_sampler(bench, fitted, section, {}), section, court, some, plan.rounds)
        before = section
    found = turn_about(ways)
    same = {measure.name: section == params for measure, section in rungs}
    return {"threads": params.threads, "plan": vars(plan) | {"loop_candidates": CANDIDATES}, **summary(plan, court, found, same)}


def by_turns(placed: Sequence[Placed]) -> list[Placed]:
    """The first request of every type, then the second of every type, and so on."""
    counts: Counter[str] = Counter()
    turns = []
    for one in placed:
        turns.append((counts[one.record.defect], one.record.defect))
        counts[one.record.defect] += 1
    return [placed[i] for i in sorted(range(len(placed)), key=turns.__getitem__)]


def summary(plan: Plan, court: Court, found: Mapping[str, Timed], same: Mapping[str, bool]) -> dict[str, Any]:
    """Seconds a request, accepted share and accepted samples a minute of each way, paired quality, and what each measure adds."""
    rows: dict[str, dict[str, Any]] = {}
    for name, timed in found.items():
        seconds = float(np.median(timed.seconds))
        # Of eight candidates more pass than of the few that are drawn: the loop on whole images is taken to be always accepted.
        measured = name != WHOLE or plan.whole_candidates == CANDIDATES
        share = float(np.mean([court.accepts(e) for e in timed.answers.values()])) if measured else 1.0
        rows[name] = {
            "seconds_a_request": round(seconds, 4),
            "seconds_of_rounds": [round(one, 4) for one in timed.seconds],
            "requests": len(timed.answers),
            "accepted_share": round(share, 4),
            "accepted_a_minute": round(60 * share / seconds, 3),
        }
    return {
        "ways": rows,
        "quality_difference": {loop: paired(court, found[OURS], found[loop]) for loop in (WHOLE, CROPS)},
        "contributions": contributions({name: row["seconds_a_request"] for name, row in rows.items()}, same),
    }


def contributions(seconds: Mapping[str, float], same: Mapping[str, bool]) -> dict[str, float]:
    """How many times less a request takes with each measure than with those before it.

    Args:
        seconds: A request of each way; a measure that changes nothing has none.
        same: Whether a measure brings the parameters to ours.
    """
    factors = {"crop": round(seconds[WHOLE] / seconds[CROPS], 3)}
    last = seconds[CROPS]
    for name, is_ours in same.items():
        now = seconds[OURS] if is_ours else seconds.get(name, last)
        factors[name] = round(last / now, 3)
        last = now
    return factors


def paired(court: Court, ours: Timed, other: Timed) -> dict[str, Any] | None:
    """Quality of ours minus the loop's, on requests both answered: mean and 95 % interval over clean parts."""
    parts, differences = [], []
    for name, entry in other.answers.items():
        mine, theirs = court.quality(ours.answers[name]), court.quality(entry)
        if mine is not None and theirs is not None:
            parts.append(court.real.samples[entry.request.clean].part_id)
            differences.append(mine - theirs)
    if len(set(parts)) < 2:  # one part has no spread, and an interval of no width would look like certainty
        return None
    mean, low, high = part_interval(np.array(differences), tuple(parts), 0)
    return {
        "pairs": len(differences),
        "parts": len(set(parts)),
        "mean": round(mean, 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def speed_part(data: Path) -> dict[str, Any]:
    """Ours, the two loops and the measures between them, on fold 0."""
    bench = benches(data)[0]
    params, selection = load_section("synthesize", SynthesizeParams), load_section("select", SelectParams)
    return speed(FULL, bench, concept(bench, "all losses"), params, selection)


def speed_bars(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The promises, from what `speed_part` returned; nothing has a value where it was not run."""
    rows = []
    ways, apart = found.get("ways", {}), found.get("quality_difference", {})
    for loop, times in ((WHOLE, 10), (CROPS, 3)):
        reference = f"stock pipeline, {loop}, one by one, best of {CANDIDATES}, {STEPS} DDIM steps, guidance {GUIDANCE}"
        theirs = ways.get(loop, {}).get("accepted_a_minute")
        faster = round(ways[OURS]["accepted_a_minute"] / theirs, 2) if theirs else None
        rows.append(bar(f"accepted samples a minute, times the loop on {loop}", faster, times, "higher", reference, COMMAND))
        row = apart.get(loop)
        text = f"quality score, ours minus the loop on {loop}: lower end of the 95 % interval over clean parts"
        rows.append(bar(text, row["interval"][0] if row else None, 0, "higher", reference, COMMAND))
    return rows
