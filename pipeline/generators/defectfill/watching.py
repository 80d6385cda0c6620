"""Curves and pictures of a fit under way, in a folder on which nothing depends."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.curves import Curves
from pipeline.diffusion.latents import unet_input
from pipeline.diffusion.photos import random_crops
from pipeline.generators.defectfill.batches import Batch, BatchSource
from pipeline.generators.defectfill.concept import Concept, autocast, columns_of, object_prompt
from pipeline.generators.defectfill.encoded import EncodedBatch, encode_batch
from pipeline.generators.defectfill.losses import averaged_map
from pipeline.generators.protocol import FitJob
from pipeline.images import Picture, read_rgb, write_png
from pipeline.params import DefectFillParams
from pipeline.seeds import derive_seed
from pipeline.training import Watch

PREVIEW_STEPS = 15
PREVIEW_GUIDANCE = 3.0
"""Of the previews alone, which the stock pipeline paints: they are for people, nothing is computed from them."""


@dataclass(frozen=True)
class Shown:
    """What the pictures show, the same at every step.

    Attributes:
        batch: One crop of a reference a type, with its mask.
        encoded: The same for the networks.
        clean: One good crop a type, (T, S, S, 3); the mask of `batch` is painted on it.
    """

    batch: Batch
    encoded: EncodedBatch
    clean: NDArray[np.uint8]


@contextmanager
def watching(job: FitJob, concept: Concept, source: BatchSource, words: Mapping[str, str]) -> Iterator[Watch | None]:
    """What to call after each step of the fit; None if nobody watches."""
    params: DefectFillParams = job.params
    if job.display is None or not (params.curves or params.preview_every):
        yield None
        return
    folder = job.display.folder
    shown = choose(job.display.good, job.seed, concept, source) if params.preview_every else None
    with closing(Curves(folder, params.curves)) as curves:

        def watch(done: int, values: dict[str, float]) -> None:
            curves.scalars(done, values)
            if shown is not None and done % params.preview_every == 0:
                with evaluating(concept), autocast(concept.pipe.unet.device, params.autocast):
                    curves.picture("attention", done, attention_picture(concept, shown))
                    prompts = [object_prompt(words[d], params.object) for d in shown.batch.defects]
                    curves.picture("painted", done, painted_picture(concept, shown, prompts, job.seed))
                write_png(folder / "painted.png", grid(shown, folder / "pictures" / "painted"))

        yield watch


def choose(good: Picture, seed: int, concept: Concept, source: BatchSource) -> Shown:
    """Draw the crops."""
    rng = np.random.default_rng(derive_seed(seed, "preview"))
    batch = source.draw_types(source.defects, rng)
    side = batch.images.shape[-1]
    clean = random_crops([good], len(batch.defects), side, (side // 2, 2 * side), rng)
    return Shown(batch, encode_batch(concept.pipe.vae, batch), clean)


@contextmanager
def evaluating(concept: Concept) -> Iterator[None]:
    """Without dropout and gradient, and back to training."""
    networks = (concept.pipe.unet, concept.pipe.text_encoder)
    for network in networks:
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for network in networks:
            network.train()


def attention_picture(concept: Concept, shown: Shown) -> Picture:
    """A row a type: crop, mask, attention to the type's token at half the noise, each map stretched to black and white."""
    pipe, batch = concept.pipe, shown.encoded
    device, length = batch.latents.device, pipe.scheduler.config["num_train_timesteps"]
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0)).to(device)
    times = torch.full((len(noise),), length // 2, device=device)
    noisy = pipe.scheduler.add_noise(batch.latents, noise, times)
    texts = pipe.text_encoder(torch.stack([concept.ids[d][1] for d in batch.defects])).last_hidden_state
    with concept.recorder.recording(columns_of(concept, batch.defects)) as maps:
        pipe.unet(unet_input(noisy, batch.random_masks, batch.random_background), times, encoder_hidden_states=texts)
    side = shown.batch.images.shape[-1]
    seen = averaged_map(maps, (side, side), "none")
    low, high = seen.amin(dim=(2, 3), keepdim=True), seen.amax(dim=(2, 3), keepdim=True)
    columns = [grey(shown.batch.masks), grey((seen - low) / (high - low).clamp(min=1e-8))]
    return np.concatenate([np.concatenate(column) for column in (pixels(shown.batch), *columns)], axis=1)


def painted_picture(concept: Concept, shown: Shown, prompts: list[str], seed: int) -> Picture:
    """One row, a painted crop a type, each from its own seed."""
    side = shown.clean.shape[1]
    painted = concept.pipe(
        prompt=prompts,
        image=[Image.fromarray(crop) for crop in shown.clean],
        mask_image=[Image.fromarray(mask) for mask in grey(shown.batch.masks)],
        height=side,
        width=side,
        num_inference_steps=PREVIEW_STEPS,
        guidance_scale=PREVIEW_GUIDANCE,
        generator=[torch.Generator().manual_seed(derive_seed(seed, "preview", prompt)) for prompt in prompts],
        output_type="np",
    ).images
    return np.concatenate((painted * 255).round().astype(np.uint8), axis=1)


def grid(shown: Shown, rows: Path) -> Picture:
    """Good crops, masks, then the rows painted so far, the earliest first."""
    head = [np.concatenate(shown.clean, axis=1), np.concatenate(grey(shown.batch.masks), axis=1)]
    return np.concatenate([*head, *(read_rgb(path) for path in sorted(rows.glob("*.png")))])


def pixels(batch: Batch) -> Picture:
    """(B, S, S, 3) uint8 of the batch's images."""
    return ((batch.images.permute(0, 2, 3, 1).numpy() + 1.0) * 127.5).round().astype(np.uint8)


def grey(maps: Tensor) -> Picture:
    """(B, 1, S, S) in [0, 1] as (B, S, S, 3) uint8."""
    return (maps.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).cpu().numpy() * 255).round().astype(np.uint8)
