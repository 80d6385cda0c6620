"""The network's side of sampling: requests are encoded once, candidates denoised in micro-batches of one fixed size.

Every batch is padded to that size, so the bytes of a row do not depend on which others it shares it with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from numpy.typing import NDArray
from torch import Tensor

from pipeline.diffusion.denoise import Conditions, Running, Trajectory, advance, regrouped, start
from pipeline.diffusion.exposure import exposed, exposure_gain
from pipeline.diffusion.latents import decode, encode, encode_drawn, latent_mask, mask_tensor, masked_background, to_tensor
from pipeline.generators.defectfill.concept import LORA_NAME, LOWER_PRECISION, autocast, hold_frozen_weights_in
from pipeline.params import DiffusionSamplingParams


@dataclass(frozen=True)
class Canvases:
    """What the candidates of each request share, encoded once; a row a request, padded to the micro-batch.

    Attributes:
        images: (B, 3, S, S) in [-1, 1].
        mask: 1 where to paint, (B, 1, S, S).
        text: Embeddings of the prompts, (B, L, D).
        clean: Latents of the images, (B, 4, h, w).
        background: Latents of the images with a grey hole.
        before: The pictures a change is measured against, (B, 3, S, S).
        gain: What the light of each was multiplied by, (B, 1, 1, 1).
    """

    images: Tensor
    mask: Tensor
    text: Tensor
    clean: Tensor
    background: Tensor
    before: Tensor
    gain: Tensor


@dataclass(frozen=True)
class Painted:
    """One candidate.

    Attributes:
        change: (S, S, 3) grey levels between what the model painted and what was there; None where it ranked low early.
        early: Distance of the clean latent predicted early from the known one inside the mask; None without early ranking.
    """

    change: NDArray[np.float32] | None
    early: float | None


class Painter:
    """A pipeline with a concept on it, and how to paint with it."""

    def __init__(
        self, pipe: StableDiffusionInpaintPipeline, params: DiffusionSamplingParams, micro_batch: int, empty: Tensor
    ) -> None:
        """Take a pipeline that lies on its device; `empty` embeds the empty prompt, (1, L, D)."""
        self._pipe, self._params, self._micro_batch, self._empty = pipe, params, micro_batch, empty
        self._device = empty.device

    @torch.inference_mode()
    def canvases(self, pictures: NDArray[np.uint8], masks: NDArray[np.bool_], text: Tensor) -> Canvases:
        """Encode at most a micro-batch of N requests: (N, S, S, 3) pictures, (N, S, S) masks, (N, L, D) prompts.

        With `composite: change` a change is measured against the picture as the VAE gives it back: that leaves the VAE's own
        blur out, so the texture below the defect stays sharp.
        """
        vae, rows = self._pipe.vae, _padded(range(len(pictures)), self._micro_batch)
        images = to_tensor(pictures[rows]).to(self._device)
        mask = mask_tensor(masks[rows]).to(self._device)
        gain = torch.ones(len(images), 1, 1, 1, device=self._device)
        if self._params.even_exposure:
            gain = exposure_gain(images, mask)
            images = exposed(images, gain)
        clean = encode(vae, images)
        before = decode(vae, clean) if self._params.composite == "change" else images
        return Canvases(images, mask, text[rows], clean, masked_background(vae, images, mask), before, gain)

    @torch.inference_mode()
    def paint(self, canvases: Canvases, rows: Sequence[int], seeds: Sequence[int]) -> Iterator[Painted]:
        """A candidate for every (row of the canvases, seed), in order; those of one row stand together."""
        pieces = [slice(at, at + self._micro_batch) for at in range(0, len(rows), self._micro_batch)]
        if self._params.prune is None:
            for piece in pieces:
                running = self._begin(canvases, rows[piece], seeds[piece])
                for change in self._finish(running, canvases, rows[piece]):
                    yield Painted(change, None)
            return
        begun = [self._begin(canvases, rows[piece], seeds[piece]) for piece in pieces]
        for running in begun:
            advance(self._predict, running, _early_steps(len(running.times), self._params.prune.after))
        # Rows of padding stand behind the last candidate.
        early = torch.cat([early_distance(running) for running in begun])[: len(rows)].tolist()
        kept = most_different(rows, early, self._params.prune.keep)
        changes = self._survivors(begun, canvases, rows, kept)
        going_on = set(kept)
        for place, score in enumerate(early):
            yield Painted(next(changes) if place in going_on else None, score)

    def _survivors(
        self, begun: Sequence[Running], canvases: Canvases, rows: Sequence[int], kept: Sequence[int]
    ) -> Iterator[NDArray[np.float32]]:
        """The changes of the candidates at the places in `kept`, in full micro-batches again."""
        for at in range(0, len(kept), self._micro_batch):
            places = kept[at : at + self._micro_batch]
            running = regrouped(begun, torch.from_numpy(_padded(places, self._micro_batch)).to(self._device))
            yield from self._finish(running, canvases, [rows[place] for place in places])

    def _begin(self, canvases: Canvases, rows: Sequence[int], seeds: Sequence[int]) -> Running:
        """A micro-batch before its first step.

        Everything random of a row comes from the CPU generator of its seed, in the order in which the stock pipeline draws:
        clean latent (where the sampling starts from it), noise, background; the latents are means unless `posterior` is `drawn`.
        """
        vae, wanted = self._pipe.vae, self._params
        chosen = _padded(rows, self._micro_batch)
        generators = [torch.Generator().manual_seed(seeds[place]) for place in _padded(range(len(rows)), self._micro_batch)]
        clean, background, mask = (tensor[chosen] for tensor in (canvases.clean, canvases.background, canvases.mask))
        drawn = wanted.posterior == "drawn"
        if drawn and wanted.strength < 1.0:
            clean = encode_drawn(vae, canvases.images[chosen], generators)
        noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators]).to(self._device)
        if drawn:
            background = encode_drawn(vae, canvases.images[chosen] * (1.0 - mask), generators)
        empty = self._empty.expand(len(chosen), -1, -1)
        given = Conditions(clean, latent_mask(mask, clean), background, canvases.text[chosen], empty)
        return start(self._pipe.scheduler, given, noise, trajectory(wanted))

    def _finish(self, running: Running, canvases: Canvases, rows: Sequence[int]) -> NDArray[np.float32]:
        """(N, S, S, 3) grey levels between what was painted and what was there, of the N rows that are no padding."""
        advance(self._predict, running, len(running.times))
        vae, wanted, chosen = self._pipe.vae, self._params, _padded(rows, self._micro_batch)
        painted = decode(vae, running.latents)
        if wanted.posterior == "drawn" and wanted.composite == "change":
            before = decode(vae, running.given.clean)  # every candidate has drawn its own
        else:
            before = canvases.before[chosen]
        change = ((painted - before) / canvases.gain[chosen])[: len(rows)] * 127.5
        return np.ascontiguousarray(change.permute(0, 2, 3, 1).cpu().numpy())

    def _predict(self, fed: Tensor, step: Tensor, encoder_hidden_states: Tensor) -> Any:
        with autocast(self._device, self._params.autocast):
            return self._pipe.unet(fed, step, encoder_hidden_states=encoder_hidden_states)


def trajectory(params: DiffusionSamplingParams) -> Trajectory:
    """The trajectory of the parameters."""
    return Trajectory(params.scheduler, params.steps, params.guidance, params.strength, params.blend, params.guidance_interval)


def _padded(rows: Sequence[int], size: int) -> NDArray[np.int64]:
    """The numbers and the last one again, up to the fixed micro-batch."""
    return np.array([*rows, *[rows[-1]] * (size - len(rows))])


def _early_steps(steps: int, share: float) -> int:
    """How many of the steps are taken before candidates are ranked: at least one."""
    return max(1, round(share * steps))


def early_distance(running: Running) -> Tensor:
    """(B,) root mean square difference, inside the mask, of the clean latents predicted now from the known ones."""
    mask, clean = running.given.mask, running.given.clean
    squared = ((running.predicted - clean).square() * mask).sum(dim=(1, 2, 3))
    return (squared / (mask.sum(dim=(1, 2, 3)) * clean.shape[1]).clamp(min=1.0)).sqrt()


def most_different(rows: Sequence[int], early: Sequence[float], keep: int) -> list[int]:
    """Places, in order, of each request's `keep` most distant candidates; of equal ones the first (Low-Fidelity Selection)."""
    kept: list[int] = []
    for _, group in groupby(range(len(rows)), key=lambda place: rows[place]):
        kept += sorted(group, key=lambda place: (-early[place], place))[:keep]
    return sorted(kept)


def settle(pipe: StableDiffusionInpaintPipeline, params: DiffusionSamplingParams) -> None:
    """Make the UNet quick for sampling alone, in place: the LoRA added to its weights, these held in `autocast`, blocks compiled.

    The text encoder keeps its adapter: prompts of several types are encoded when they are first asked for.
    """
    pipe.fuse_lora(components=["unet"], adapter_names=[LORA_NAME])
    pipe.unet.unload_lora()
    if params.autocast in LOWER_PRECISION:
        hold_frozen_weights_in(pipe.unet, LOWER_PRECISION[params.autocast])
    if params.compile == "regional":
        pipe.unet.compile_repeated_blocks(fullgraph=True, dynamic=False)
