"""Fitting: per step one forward of both branches, defect and object, which share picture, time and noise."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.averaging import Ema
from pipeline.diffusion.components import load_pipeline
from pipeline.diffusion.latents import training_target, unet_input
from pipeline.diffusion.photos import rng_from_torch
from pipeline.generators.defectfill.batches import BatchSource
from pipeline.generators.defectfill.concept import (
    CARD,
    LOWER_PRECISION,
    Concept,
    TokenError,
    add_lora,
    add_tokens,
    attach,
    autocast,
    columns_of,
    hold_frozen_weights_in,
    object_prompt,
    rare_words,
    save_concept,
    slug_of,
    token_of,
    whole,
)
from pipeline.generators.defectfill.encoded import EncodedBatch, encoded_pool
from pipeline.generators.defectfill.losses import attention_loss, defect_loss, object_loss
from pipeline.generators.defectfill.watching import watching
from pipeline.generators.protocol import FitJob
from pipeline.params import DefectFillParams
from pipeline.records import write_json
from pipeline.runlog import digest
from pipeline.seeds import derive_seed
from pipeline.training import History, LoopPlan, run_loop, torch_device


def texts_of(concept: Concept, defects: list[str], prompted: Tensor, noise: float) -> Tensor:
    """Embeddings (2B, L, D) of the rows' prompts, P_def of every row first, then P_obj; each prompt is encoded once.

    Args:
        concept: Whose text encoder.
        defects: Type of each of the B rows.
        prompted: (B,) bool on the CPU; the other rows get the empty prompt, without noise.
        noise: Deviation of the Gaussian noise on the embeddings, each row its own (MAGIC, arXiv 2507.02314).
    """
    present = sorted(set(defects))
    every = bool(prompted.all())
    ids = [concept.ids[d] for d in present] + ([] if every else [concept.empty])
    encoded = concept.pipe.text_encoder(torch.cat(ids)).last_hidden_state
    of_row = torch.tensor([2 * present.index(d) for d in defects])
    of_row = torch.cat([of_row, of_row + 1])
    if not every:
        of_row[~prompted.repeat(2)] = len(encoded) - 1
    texts = encoded[of_row.to(encoded.device)]
    if noise:
        drawn = noise * torch.randn(texts.shape) * prompted.repeat(2).view(-1, 1, 1)
        texts = texts + drawn.to(texts.device)
    return texts


def losses_of(concept: Concept, batch: EncodedBatch, params: DefectFillParams) -> dict[str, Tensor]:
    """The three losses of one batch and their weighted sum, each a scalar in float32.

    Time and noise are drawn from torch's global generator and shared by both branches, as in the paper's figure 2; so both go
    through the UNet as one batch of 2B, the defect branch first. All draws are made on the CPU: they do not depend on the device.
    """
    pipe, scheduler, count, device = concept.pipe, concept.pipe.scheduler, len(batch.latents), batch.latents.device
    # In one memory layout, that of the networks: the order in which numbers are drawn follows it.
    noise = torch.empty(batch.latents.shape, memory_format=torch.channels_last).normal_().to(device)
    times = torch.randint(0, scheduler.config["num_train_timesteps"], (count,)).to(device)
    prompted = torch.rand(count) >= params.prompt_dropout if params.prompt_dropout else torch.ones(count, dtype=torch.bool)
    noisy, target = scheduler.add_noise(batch.latents, noise, times), training_target(scheduler, batch.latents, noise, times)
    fed = torch.cat(
        [
            unet_input(noisy, batch.masks, batch.true_background),
            unet_input(noisy, batch.random_masks, batch.random_background),
        ]
    )
    with autocast(device, params.autocast):
        texts = texts_of(concept, batch.defects, prompted, params.prompt_noise)
        with concept.recorder.recording(columns_of(concept, batch.defects), slice(count, None)) as maps:
            predicted = pipe.unet(fed, times.repeat(2), encoder_hidden_states=texts).sample.float()
    defect = defect_loss(predicted[:count], target, batch.masks, params.reduction)
    whole_crop = object_loss(predicted[count:], target, batch.masks, params.background_weight, params.reduction)
    counted = None if bool(prompted.all()) else prompted.to(device)
    attention = attention_loss(maps, batch.masks, params.attention_norm, counted)
    total = params.weight_defect * defect + params.weight_object * whole_crop + params.weight_attention * attention
    return {"loss": total, "defect": defect, "object": whole_crop, "attention": attention}


@dataclass
class Fit:
    """A training about to begin.

    Attributes:
        concept: The base with adapters, tokens and recorder, in training mode.
        source: Draws crops of the references.
        pool: Crops encoded ahead.
        optimizer: Over UNet LoRA, text LoRA and token rows, each at its own rate.
        trained: All that learns, for checkpoints and averaging.
        words: Word by type.
        new_ids: Id of each type's own trained row; empty with rare words.
    """

    concept: Concept
    source: BatchSource
    pool: EncodedBatch
    optimizer: torch.optim.Optimizer
    trained: nn.ParameterList
    words: dict[str, str]
    new_ids: dict[str, int]


def open_fit(job: FitJob) -> Fit:
    """Load the base onto its device, encode the pool, name the types, add LoRA.

    Raises:
        pipeline.training.DeviceError: If the device is not there.
    """
    params: DefectFillParams = job.params
    device = torch_device(params.device)
    torch.set_num_threads(params.threads)
    torch.manual_seed(job.seed)
    pipe = load_pipeline(job.base).to(device)
    cell = pipe.vae_scale_factor
    source = BatchSource(job.references, params, pipe.unet.config["sample_size"] * cell, cell)
    pool = encoded_pool(pipe.vae, source, params.encoded_crops, np.random.default_rng(derive_seed(job.seed, "encoded crops")))
    new_ids = add_tokens(pipe, source.defects) if params.token == "new" else {}
    words = {d: token_of(d) for d in new_ids} or rare_words(pipe.tokenizer, source.defects, params.object)
    groups = add_lora(pipe, params, list(new_ids.values()))
    ids = new_ids or {d: whole(pipe.tokenizer, word) for d, word in words.items()}
    concept = attach(pipe, words, ids, params.object)
    if params.autocast in LOWER_PRECISION:
        hold_frozen_weights_in(pipe.unet, LOWER_PRECISION[params.autocast])
    if params.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing(concept.recorder.checkpointed)
    pipe.unet.train()
    pipe.text_encoder.train()
    trained = nn.ParameterList([tensor for group in groups.values() for tensor in group])
    return Fit(concept, source, pool, optimizer_of(groups, params), trained, words, new_ids)


def optimizer_of(groups: Mapping[str, list[Tensor]], params: DefectFillParams) -> torch.optim.Optimizer:
    """AdamW with a rate a group; token rows do not decay."""
    rates = {"unet": params.lr_unet, "text": params.lr_text, "token": params.lr_token}
    return torch.optim.AdamW(
        [
            {"params": tensors, "lr": rates[name], "weight_decay": 0.0 if name == "token" else 1e-2, "name": name}
            for name, tensors in groups.items()
        ]
    )


def pooled_losses(begun: Fit, params: DefectFillParams) -> dict[str, Tensor]:
    """The losses of a batch drawn from the pool."""
    rows = rng_from_torch().integers(len(begun.pool.defects), size=params.batch).tolist()
    return losses_of(begun.concept, begun.pool.rows(rows), params)


def fit(job: FitJob, out: Path) -> None:
    """Train on the references and write the concept into `out`: one adapter, or one sub-folder a type.

    Raises:
        TokenError: If two types would share a sub-folder.
    """
    params: DefectFillParams = job.params
    if params.adapter == "shared":
        fit_adapter(job, out, "defectfill")
        return
    folders = {d: slug_of(d) for d in sorted({r.defect for r in job.references})}
    if len(set(folders.values())) < len(folders):
        raise TokenError(f"defect types {list(folders)} share a folder name; rename the types")
    for defect, folder in folders.items():
        own = [r for r in job.references if r.defect == defect]
        display = None if job.display is None else replace(job.display, folder=job.display.folder / folder)
        (out / folder).mkdir(parents=True, exist_ok=True)
        fit_adapter(replace(job, references=own, display=display), out / folder, f"defectfill-{folder}")
    write_json(out / CARD, {"generator": "defectfill", "adapters": folders, "seed": job.seed})


def fit_adapter(job: FitJob, out: Path, label: str) -> History:
    """Train LoRA and token rows on all references of the job and write them into `out`."""
    params: DefectFillParams = job.params
    begun = open_fit(job)
    plan = LoopPlan(
        params.steps,
        job.seed,
        label,
        params.warmup_steps,
        accumulate=params.accumulate,
        loss_scaling=params.autocast == "fp16",
        checkpoint=job.work / f"{label}-{job.seed}.pt",
    )
    ema = Ema(begun.trained, params.ema_decay) if params.ema_decay else None

    def after_step(done: int) -> None:
        if ema is not None:
            ema.update(begun.trained)

    state = {"trained": begun.trained} | ({} if ema is None else {"ema": ema})
    with watching(job, begun.concept, begun.source, begun.words) as watch:
        history = run_loop(plan, lambda step: pooled_losses(begun, params), begun.optimizer, state, after_step, watch)
    if ema is not None:
        begun.trained.load_state_dict(ema.average)
    save_concept(begun.concept.pipe, begun.new_ids, out)
    write_card(job, begun, history, out)
    return history


def write_card(job: FitJob, begun: Fit, history: History, out: Path) -> None:
    """Everything needed to use the concept again, and how its losses went."""
    params: DefectFillParams = job.params
    tail = history.losses[-50:]
    facts = {
        "generator": "defectfill",
        "base": digest(job.base),
        "tokens": {d: begun.words[d] for d in begun.new_ids},
        "prompts": {d: object_prompt(word, params.object) for d, word in begun.words.items()},
        "plain_prompt": f"A photo of a {params.object}",
        "lora_scale": 1.0,
        "references": [r.id for r in job.references],
        "params": params.model_dump(mode="json"),
        "seed": job.seed,
        "skipped_steps": history.skipped,
        "losses_last_50": {name: round(float(np.mean([row[name] for row in tail])), 5) for name in tail[0]},
    }
    write_json(out / CARD, facts)
