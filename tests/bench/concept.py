"""`make bench-concept`: what learning a concept costs. Writes reports/bench/concept.json.

The reference is a loop that does in every step what public re-implementations do: it draws and encodes picture and both masked
pictures, encodes both prompts of every row, and sends the two branches through the UNet one after the other. Same weights, same
losses, same threads, turn about with ours.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
from pipeline.params import DefectFillParams, LearnConceptParams, load_section
from pipeline.records import read_manifest
from pipeline.references import Reference, read_references, reference_samples
from pipeline.training import LoopPlan, run_loop
from tests.bench.bars import bar, write_bars
from tests.bench.embedded import prepared

COMMAND = "make bench-concept DATA=<folder of magnetic tiles>"
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


def bare_seconds(begun: Fit, params: DefectFillParams) -> float:
    """Forward and backward alone, without optimiser."""
    start = time.perf_counter()
    for _ in range(STEPS):
        bare_losses(begun, params)["loss"].backward()
    return (time.perf_counter() - start) / STEPS


def references(data: Path) -> list[Reference]:
    """K = 5 defects a type of fold 0 of the magnetic tiles."""
    folder = prepared(data) / "train"
    return read_references(folder, reference_samples(read_manifest(folder, 0)))


def speed(found: list[Reference], params: DefectFillParams) -> dict[str, float]:
    """Median seconds a step of ours, of the plain loop and of the bare UNet, and what the pool adds a step."""
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        begun = open_fit(FitJob(params, found, EMBEDDED, Path(work), seed=0))
        opened = time.perf_counter() - start
        single = params.model_copy(update={"encoded_crops": 1})
        start = time.perf_counter()
        open_fit(FitJob(single, found, EMBEDDED, Path(work), seed=0))
        pool = opened - (time.perf_counter() - start)
    rows: dict[str, list[float]] = {"ours": [], "plain": [], "bare": []}
    for losses in (pooled_losses, plain_losses):
        seconds_a_step(losses, begun, params)
    for _ in range(ROUNDS):
        rows["ours"].append(seconds_a_step(pooled_losses, begun, params))
        rows["plain"].append(seconds_a_step(plain_losses, begun, params))
        rows["bare"].append(bare_seconds(begun, params))
    result = {f"{name}_s": round(float(np.median(values)), 4) for name, values in rows.items()}
    return result | {"pool_s_a_step": round(max(0.0, pool) / params.steps, 4)}


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Bench of concept learning on real magnetic tiles.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the magnetic-tile data set")
    args = parser.parse_args()
    params = load_section("learn_concept", LearnConceptParams).defectfill
    found = speed(references(args.data), params)
    ours = found["ours_s"] + found["pool_s_a_step"]
    bars = [
        bar("steps a second, times the plain loop", round(found["plain_s"] / ours, 3), 1.8, "higher", "plain loop", COMMAND),
        bar("seconds a step over a bare UNet pass", round(ours / found["bare_s"], 3), 1.15, "lower", "UNet alone, 2B", COMMAND),
    ]
    return write_bars("concept", bars, results={"speed": found})


if __name__ == "__main__":
    raise SystemExit(main())
