"""`make bench-concept`: what learning a concept costs. Writes reports/bench/concept.json.

The reference is a loop that does in every step what public re-implementations do: it draws and encodes picture and both masked
pictures, encodes both prompts of every row, and sends the two branches through the UNet one after the other. Same weights, same
losses, same threads, turn about with ours.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.components import EMBEDDED
from pipeline.diffusion.latents import training_target, unet_input
from pipeline.diffusion.photos import rng_from_torch
from pipeline.generators.defectfill.concept import columns_of
from pipeline.generators.defectfill.encoded import encode_batch
from pipeline.generators.defectfill.fit import Fit, open_fit, pooled_losses
from pipeline.generators.defectfill.losses import attention_loss, defect_loss, object_loss
from pipeline.generators.protocol import FitJob
from pipeline.images import write_png
from pipeline.params import DefectFillParams, LearnConceptParams, SynthesizeParams, load_section
from pipeline.records import fold_name, read_manifest
from pipeline.references import Reference, read_references, reference_samples
from pipeline.training import LoopPlan, run_loop
from pipeline.weight_cards import sha256_of
from tests.bench.bars import Part, bar, run_parts, work_folder
from tests.bench.concept_pictures import COLUMNS, confusion, quiz
from tests.bench.concept_quality import (
    VARIANTS,
    Bench,
    ablation_row,
    ablation_summary,
    effect,
    fitted,
    held_back,
    paint,
    requests,
)
from tests.bench.embedded import FOLDS, adapt_once, judge, prepared

COMMAND = "make bench-concept DATA=<folder of magnetic tiles>"
WORK = work_folder("concept")
PICTURES = Path("docs/concept")
STEPS, ROUNDS = 8, 5


def plain_losses(begun: Fit, params: DefectFillParams) -> dict[str, Tensor]:
    """The same three losses, with nothing shared and nothing kept."""
    concept = begun.concept
    pipe, scheduler = concept.pipe, concept.pipe.scheduler
    batch = encode_batch(pipe.vae, begun.source.draw(params.batch, rng_from_torch()))
    noise = torch.randn_like(batch.latents)
    times = torch.randint(0, scheduler.config["num_train_timesteps"], (len(noise),)).to(noise.device)
    noisy, target = scheduler.add_noise(batch.latents, noise, times), training_target(scheduler, batch.latents, noise, times)
    texts = [
        pipe.text_encoder(torch.stack([concept.ids[d][branch] for d in batch.defects])).last_hidden_state for branch in (0, 1)
    ]
    fed = unet_input(noisy, batch.masks, batch.true_background)
    predicted = pipe.unet(fed, times, encoder_hidden_states=texts[0]).sample
    defect = defect_loss(predicted, target, batch.masks, params.reduction)
    fed = unet_input(noisy, batch.random_masks, batch.random_background)
    with concept.recorder.recording(columns_of(concept, batch.defects)) as maps:
        predicted = pipe.unet(fed, times, encoder_hidden_states=texts[1]).sample
    whole = object_loss(predicted, target, batch.masks, params.background_weight, params.reduction)
    attention = attention_loss(maps, batch.masks, params.attention_norm)
    total = params.weight_defect * defect + params.weight_object * whole + params.weight_attention * attention
    return {"loss": total, "defect": defect, "object": whole, "attention": attention}


def bare_losses(begun: Fit, params: DefectFillParams) -> dict[str, Tensor]:
    """Nothing but the UNet on a ready batch of 2B."""
    half = begun.pool.rows(list(range(params.batch)))
    fed = torch.cat([unet_input(half.latents, half.masks, half.true_background)] * 2)
    with torch.no_grad():
        text = begun.concept.pipe.text_encoder(begun.concept.ids[half.defects[0]][:1]).last_hidden_state
    times = torch.full((len(fed),), 500, device=fed.device)
    predicted = begun.concept.pipe.unet(fed, times, encoder_hidden_states=text.expand(len(fed), -1, -1)).sample
    return {"loss": predicted.square().mean()}


def seconds_a_step(losses: Callable[[Fit, DefectFillParams], dict[str, Tensor]], begun: Fit, params: DefectFillParams) -> float:
    """Of one round of `STEPS` steps of the loop every network is trained with."""
    start = time.perf_counter()
    run_loop(LoopPlan(STEPS, 0, "bench"), lambda step: losses(begun, params), begun.optimizer, {})
    return (time.perf_counter() - start) / STEPS


def seconds_each(work: Callable[[], object]) -> float:
    """Of one of `STEPS` calls."""
    start = time.perf_counter()
    for _ in range(STEPS):
        work()
    return (time.perf_counter() - start) / STEPS


def split(begun: Fit, params: DefectFillParams) -> dict[str, Callable[[], object]]:
    """What a step of the plain loop consists of, each part by itself."""
    concept, rng = begun.concept, np.random.default_rng(0)
    ids = torch.cat([concept.ids[begun.source.defects[row % len(begun.source.defects)]] for row in range(params.batch)])
    return {
        "bare": lambda: bare_losses(begun, params)["loss"].backward(),
        "drawing": lambda: begun.source.draw(params.batch, rng),
        "drawing_and_encoding": lambda: encode_batch(concept.pipe.vae, begun.source.draw(params.batch, rng)),
        "text": lambda: concept.pipe.text_encoder(ids).last_hidden_state.mean().backward(),
    }


def references(data: Path) -> list[Reference]:
    """K = 5 defects a type of fold 0 of the magnetic tiles."""
    folder = prepared(data) / "train"
    return read_references(folder, reference_samples(read_manifest(folder, 0)))


def speed(found: list[Reference], params: DefectFillParams) -> dict[str, float]:
    """Median seconds a step of ours, of the plain loop and of the bare UNet, and what the pool adds a step."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        begun = open_fit(FitJob(params, found, EMBEDDED, Path(folder), seed=0))
        opened = time.perf_counter() - start
        single = params.model_copy(update={"encoded_crops": 1})
        start = time.perf_counter()
        open_fit(FitJob(single, found, EMBEDDED, Path(folder), seed=0))
        pool = opened - (time.perf_counter() - start)
    parts = {
        "ours": lambda: seconds_a_step(pooled_losses, begun, params),
        "plain": lambda: seconds_a_step(plain_losses, begun, params),
        **{name: partial(seconds_each, part) for name, part in split(begun, params).items()},
    }
    for measure in parts.values():
        measure()
    rows: dict[str, list[float]] = {name: [] for name in parts}
    for _, (name, measure) in product(range(ROUNDS), parts.items()):
        rows[name].append(measure())
    result = {f"{name}_s": round(float(np.median(values)), 4) for name, values in rows.items()}
    return result | {"pool_s_a_step": round(max(0.0, pool) / params.steps, 4)}


def benches(data: Path) -> list[Bench]:
    """The three folds, each with the base its good photos adapted."""
    folder = prepared(data)
    base = adapt_once(folder / "train", WORK / "base")
    return [Bench(fold, folder / "train", base / fold_name(fold), held_back(folder, fold), judge()) for fold in FOLDS]


def sections() -> tuple[DefectFillParams, SynthesizeParams]:
    """How concepts are fitted and sampled."""
    fitting = load_section("learn_concept", LearnConceptParams).defectfill
    return fitting, load_section("synthesize", SynthesizeParams)


def concept(bench: Bench, variant: str) -> Path:
    """The fold's concept of one variant, fitted unless it lies there."""
    fitting = sections()[0].model_copy(update=VARIANTS[variant])
    return fitted(bench, fitting, WORK / "concepts" / variant.replace(" ", "-") / fold_name(bench.fold))


def speed_part(data: Path) -> dict[str, Any]:
    """Seconds a step."""
    return speed(references(data), sections()[0])


def effect_part(data: Path) -> dict[str, Any]:
    """Adapter scale 1 against 0 on fold 0."""
    bench = benches(data)[0]
    return effect(bench, concept(bench, "all losses"), sections()[1])


def ablation_part(data: Path) -> dict[str, Any]:
    """Every variant on every fold; each row is kept."""
    fitting, sampling = sections()
    rows: dict[str, dict[str, dict[str, float]]] = {variant: {} for variant in VARIANTS}
    for bench, variant in product(benches(data), VARIANTS):
        folder = concept(bench, variant)
        kept = folder / "ablation.json"
        if not kept.exists():
            kept.write_text(json.dumps(ablation_row(bench, folder, fitting, sampling)), encoding="utf-8")
        rows[variant][str(bench.fold)] = json.loads(kept.read_text(encoding="utf-8"))
    return {"rows": rows, "summary": ablation_summary(rows)}


def quiz_part(data: Path) -> dict[str, Any]:
    """Forty crops to be named, and their key."""
    bench = benches(data)[0]
    placed = requests(bench, sections()[1], COLUMNS)
    made = paint(bench, concept(bench, "all losses"), sections()[1], placed, 1.0)
    PICTURES.mkdir(parents=True, exist_ok=True)
    crops, key = quiz(bench.held_back, placed, made, seed=0)
    write_png(PICTURES / "crops.png", crops)
    given = json.loads((PICTURES / "answers.json").read_text(encoding="utf-8"))
    if given["crops_sha256"] != sha256_of(PICTURES / "crops.png"):
        return {"key": key, "confusion": "not run: docs/concept/answers.json names other crops"}
    return {"key": key, "confusion": confusion(key, given["answers"])}


PARTS: dict[str, Part] = {
    "speed": speed_part,
    "effect": effect_part,
    "ablation": ablation_part,
    "quiz": quiz_part,
}


def bars(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The promises; a part that was not run has no value."""
    cost, summary = found.get("speed"), found.get("ablation", {}).get("summary", {})
    ours = cost["ours_s"] + cost["pool_s_a_step"] if cost else None
    faster = round(cost["plain_s"] / ours, 3) if cost and ours else None
    over = round(ours / cost["bare_s"], 3) if cost and ours else None
    rows = [
        bar("steps a second, times the plain loop", faster, 1.8, "higher", "plain loop", COMMAND),
        bar("seconds a step over a bare UNet pass", over, 1.15, "lower", "UNet alone, 2B", COMMAND),
    ]
    for defect, row in found.get("effect", {}).items():
        text = f"{defect}: upper end of the 95 % interval of the distance to real defects, scale 1 minus 0"
        rows.append(bar(text, row["difference"][2], 0, "lower", "same seeds, adapter scale 0", COMMAND))
    for variant in list(VARIANTS)[1:]:
        row = summary.get(variant, {})
        apart, iou = (row.get(f"{name}_difference", [None])[0] for name in ("distance", "attention_iou"))
        rows.append(bar(f"distance to real defects, all losses minus {variant}", apart, 0, "lower", "three folds, mean", COMMAND))
        rows.append(bar(f"attention IoU, all losses minus {variant}", iou, 0, "higher", "three folds, mean", COMMAND))
    return rows


def forget(part: str) -> None:
    """What a part keeps besides its result: fitted concepts, unless only their pictures are wanted anew."""
    if part in ("effect", "ablation"):
        shutil.rmtree(WORK / "concepts", ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(run_parts("concept", PARTS, bars, forget))
