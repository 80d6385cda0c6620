"""Fitting: per step one forward of both branches, defect and object, which share picture, time and noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from torch import Tensor

from pipeline.diffusion.components import load_pipeline, prompt_ids
from pipeline.diffusion.latents import training_target, unet_input
from pipeline.diffusion.photos import rng_from_torch
from pipeline.generators.defectfill.attention import AttentionRecorder
from pipeline.generators.defectfill.batches import BatchSource
from pipeline.generators.defectfill.concept import (
    CARD,
    add_lora,
    add_tokens,
    defect_prompt,
    object_prompt,
    save_concept,
    token_column_of,
    token_of,
)
from pipeline.generators.defectfill.encoded import EncodedBatch, encoded_pool
from pipeline.generators.defectfill.losses import attention_loss, defect_loss, object_loss
from pipeline.generators.protocol import FitJob
from pipeline.params import DefectFillParams
from pipeline.records import write_json
from pipeline.runlog import digest
from pipeline.seeds import derive_seed
from pipeline.training import History, LoopPlan, run_loop


@dataclass
class Concept:
    """A base with LoRA and tokens on it, and what its losses need.

    Attributes:
        pipe: The inpainting pipeline, adapters attached.
        recorder: Records attention of the up blocks.
        ids: Prompt ids by type, (2, L): P_def and P_obj.
        columns: Position of the type's token in its P_obj.
    """

    pipe: StableDiffusionInpaintPipeline
    recorder: AttentionRecorder
    ids: dict[str, Tensor]
    columns: dict[str, int]


def attach(pipe: StableDiffusionInpaintPipeline, defects: list[str], token_ids: dict[str, int], thing: str) -> Concept:
    """Install the recorder and tokenise every type's two prompts."""
    ids = {d: prompt_ids(pipe.tokenizer, [defect_prompt(token_of(d)), object_prompt(token_of(d), thing)]) for d in defects}
    columns = {d: token_column_of(ids[d][1], token_ids[d]) for d in defects}
    return Concept(pipe, AttentionRecorder(pipe.unet), ids, columns)


def losses_of(concept: Concept, batch: EncodedBatch, params: DefectFillParams) -> dict[str, Tensor]:
    """The three losses of one batch and their weighted sum, each a scalar.

    Time and noise are drawn from torch's global generator and shared by both branches, as in the paper's figure 2; so both go
    through the UNet as one batch of 2B, the defect branch first. Each type's two prompts are encoded once.
    """
    pipe, scheduler, count = concept.pipe, concept.pipe.scheduler, len(batch.latents)
    noise = torch.randn_like(batch.latents)
    times = torch.randint(0, scheduler.config["num_train_timesteps"], (count,))
    noisy, target = scheduler.add_noise(batch.latents, noise, times), training_target(scheduler, batch.latents, noise, times)
    fed = torch.cat(
        [
            unet_input(noisy, batch.masks, batch.true_background),
            unet_input(noisy, batch.random_masks, batch.random_background),
        ]
    )
    present = sorted(set(batch.defects))
    texts = pipe.text_encoder(torch.cat([concept.ids[d] for d in present])).last_hidden_state
    of_row = torch.tensor([2 * present.index(d) for d in batch.defects])
    columns = torch.tensor([concept.columns[d] for d in batch.defects])
    with concept.recorder.recording(columns, slice(count, None)) as maps:
        predicted = pipe.unet(fed, times.repeat(2), encoder_hidden_states=texts[torch.cat([of_row, of_row + 1])]).sample
    defect = defect_loss(predicted[:count], target, batch.masks, params.reduction)
    whole = object_loss(predicted[count:], target, batch.masks, params.background_weight, params.reduction)
    attention = attention_loss(maps, batch.masks, params.attention_norm)
    total = params.weight_defect * defect + params.weight_object * whole + params.weight_attention * attention
    return {"loss": total, "defect": defect, "object": whole, "attention": attention}


@dataclass
class Fit:
    """A training about to begin.

    Attributes:
        concept: The base with adapters, tokens and recorder, in training mode.
        source: Draws crops of the references.
        pool: Crops encoded ahead.
        optimizer: Over UNet LoRA, text LoRA and token rows, each at its own rate.
        token_ids: Token id by type.
    """

    concept: Concept
    source: BatchSource
    pool: EncodedBatch
    optimizer: torch.optim.Optimizer
    token_ids: dict[str, int]


def open_fit(job: FitJob) -> Fit:
    """Load the base, encode the pool, add tokens and LoRA."""
    params: DefectFillParams = job.params
    torch.set_num_threads(params.threads)
    torch.manual_seed(job.seed)
    pipe = load_pipeline(job.base)
    source = BatchSource(job.references, params, pipe.unet.config["sample_size"] * pipe.vae_scale_factor)
    pool = encoded_pool(pipe.vae, source, params.encoded_crops, np.random.default_rng(derive_seed(job.seed, "encoded crops")))
    token_ids = add_tokens(pipe, source.defects)
    groups = add_lora(pipe, params, list(token_ids.values()))
    concept = attach(pipe, source.defects, token_ids, params.object)
    pipe.unet.train()
    pipe.text_encoder.train()
    rates = {"unet": params.lr_unet, "text": params.lr_text, "token": params.lr_token}
    optimizer = torch.optim.AdamW(
        [{"params": groups[name], "lr": rate, "weight_decay": 0.0 if name == "token" else 1e-2} for name, rate in rates.items()]
    )
    return Fit(concept, source, pool, optimizer, token_ids)


def pooled_losses(begun: Fit, params: DefectFillParams) -> dict[str, Tensor]:
    """The losses of a batch drawn from the pool."""
    rows = rng_from_torch().integers(len(begun.pool.defects), size=params.batch).tolist()
    return losses_of(begun.concept, begun.pool.rows(rows), params)


def fit(job: FitJob, out: Path) -> History:
    """Train LoRA and token rows on the references and write the concept into `out`."""
    params: DefectFillParams = job.params
    begun = open_fit(job)
    pipe = begun.concept.pipe
    plan = LoopPlan(params.steps, job.seed, "defectfill", params.warmup_steps, checkpoint=job.work / f"defectfill-{job.seed}.pt")
    state = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    history = run_loop(plan, lambda step: pooled_losses(begun, params), begun.optimizer, state)
    save_concept(pipe, begun.token_ids, out)
    write_card(job, begun.source.defects, history, out)
    return history


def write_card(job: FitJob, defects: list[str], history: History, out: Path) -> None:
    """Everything needed to use the concept again, and how its losses went."""
    params: DefectFillParams = job.params
    tail = history.losses[-50:]
    facts = {
        "generator": "defectfill",
        "base": digest(job.base),
        "tokens": {d: token_of(d) for d in defects},
        "prompts": {d: object_prompt(token_of(d), params.object) for d in defects},
        "plain_prompt": f"A photo of a {params.object}",
        "references": [r.id for r in job.references],
        "params": params.model_dump(mode="json"),
        "seed": job.seed,
        "skipped_steps": history.skipped,
        "losses_last_50": {name: round(float(np.mean([row[name] for row in tail])), 5) for name in tail[0]},
    }
    write_json(out / CARD, facts)
