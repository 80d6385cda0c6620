"""Sampling from a concept: micro-batches of fixed size, the result composited into the clean crop.

Every departure from diffusers' `StableDiffusionInpaintPipeline` is an option; docs/concepts.md lists them. Text is encoded once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.diffusion.components import load_pipeline, prompt_ids
from pipeline.diffusion.denoise import Conditions, Trajectory, inpaint
from pipeline.diffusion.latents import (
    decode,
    encode,
    encode_drawn,
    latent_mask,
    mask_tensor,
    masked_background,
    to_tensor,
)
from pipeline.diffusion.photos import random_boxes_mask, random_crops
from pipeline.generators.defectfill.concept import CARD, LORA_NAME, ConceptError, joint_prompt, load_concept
from pipeline.generators.protocol import Request, SampleJob, Synthetic
from pipeline.images import Mask
from pipeline.masks.composite import apply_change, change_size, changed_region
from pipeline.masks.crops import paint_mask, resize_mask, resize_picture
from pipeline.params import DiffusionSamplingParams
from pipeline.seeds import derive_seed
from pipeline.training import torch_device

CALIBRATION_BOXES = 6
CALIBRATION_BATCHES = 2
CHANGE_QUANTILE = 0.99


class DefectFillSampler:
    """Inpaints requests with a concept; see `Sampler`."""

    def __init__(self, fitted: Path, job: SampleJob) -> None:
        """Load base and concept, encode the prompts, and measure what is painted without the concept.

        Raises:
            pipeline.training.DeviceError: If the device is not there.
            ConceptError: If the concept was learned on another base.
        """
        self._job = job
        self._params: DiffusionSamplingParams = job.params
        self._device = torch_device(self._params.device)
        self._pipe = load_pipeline(job.base)
        self._prompts = load_concept(self._pipe, fitted, job.base)
        self._pipe.set_adapters(LORA_NAME, self._params.lora_scale)
        self._pipe.to(self._device)
        self._pipe.unet.eval()
        self._pipe.text_encoder.eval()
        self._side = self._pipe.unet.config["sample_size"] * self._pipe.vae_scale_factor
        self._texts: dict[tuple[str, ...], Tensor] = {}
        self._empty = self._text("")
        plain = json.loads((fitted / CARD).read_text(encoding="utf-8"))["plain_prompt"]
        self._threshold = self._change_without_concept(plain)

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic]:
        """Paint in order, `micro_batch` crops at a time.

        Raises:
            ConceptError: If a request is for a type the concept does not have.
        """
        waiting = iter(requests)
        while group := list(islice(waiting, self._job.micro_batch)):
            pictures = np.stack([resize_picture(request.clean, self._side) for request, _ in group])
            masks = np.stack([_painted(request.mask, self._side, self._params.widen_mask) for request, _ in group])
            texts = torch.cat([self._text_of(request.defects) for request, _ in group])
            changes = self._changes(pictures, masks, texts, [seed for _, seed in group])
            for (request, _), change in zip(group, changes, strict=True):
                yield self._compose(request, change)

    def facts(self) -> dict[str, Any]:
        """Settings and the measured threshold, in grey levels."""
        return {
            "feather_px": self._job.feather_px,
            "micro_batch": self._job.micro_batch,
            "change_threshold": round(self._threshold, 3),
            "sampling": self._params.model_dump(mode="json"),
        }

    def _compose(self, request: Request, change: NDArray[np.float32]) -> Synthetic:
        side = len(request.clean)
        if side != self._side:
            change = cv2.resize(change, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)
        if self._params.keep_grey and (request.clean == request.clean[..., :1]).all():
            # A grey photo stays grey: colour noise of the decoder would give synthetic crops away.
            change = np.repeat(change.mean(axis=2, keepdims=True), 3, axis=2)
        if self._params.composite == "none":
            image = apply_change(request.clean, change, np.ones_like(request.mask), 0)
        else:
            image = apply_change(request.clean, change, request.mask, self._job.feather_px)
        return Synthetic(image, changed_region(image, request.clean, self._threshold))

    def _text_of(self, defects: tuple[str, ...]) -> Tensor:
        for defect in defects:
            if defect not in self._prompts:
                raise ConceptError(
                    f"the concept has no defect type {defect!r}, only {sorted(self._prompts)}; learn it anew, adopt it with a "
                    "prompt for that type, or set the type's count to 0 in data/targets.yaml"
                )
        if defects not in self._texts:
            self._texts[defects] = self._text(joint_prompt([self._prompts[defect] for defect in defects]))
        return self._texts[defects]

    @torch.inference_mode()
    def _text(self, prompt: str) -> Tensor:
        # A token of several rows stands in the prompt as one word; the stock pipeline spells it out the same way.
        spelled = str(self._pipe.maybe_convert_prompt(prompt, self._pipe.tokenizer))
        return self._pipe.text_encoder(prompt_ids(self._pipe.tokenizer, [spelled]).to(self._device)).last_hidden_state

    @torch.inference_mode()
    def _changes(
        self, pictures: NDArray[np.uint8], masks: NDArray[np.bool_], texts: Tensor, seeds: list[int]
    ) -> NDArray[np.float32]:
        """(B, S, S, 3) grey levels between what the model painted and the clean crop.

        With `composite: change` the clean crop is taken as the VAE gives it back: that leaves the VAE's own blur out, so the
        texture below the defect stays sharp.
        """
        count = len(pictures)
        # The last row again, up to the fixed micro-batch.
        rows = np.minimum(np.arange(self._job.micro_batch), count - 1)
        images, mask = to_tensor(pictures[rows]).to(self._device), mask_tensor(masks[rows]).to(self._device)
        given, noise = self._conditions(images, mask, texts[rows], [seeds[row] for row in rows])
        wanted, vae = self._params, self._pipe.vae
        path = Trajectory(wanted.scheduler, wanted.steps, wanted.guidance, wanted.strength, wanted.blend)
        painted = decode(vae, inpaint(self._pipe.unet, self._pipe.scheduler, given, noise, path))
        before = decode(vae, given.clean) if wanted.composite == "change" else images
        change = (painted - before)[:count] * 127.5
        return np.ascontiguousarray(change.permute(0, 2, 3, 1).cpu().numpy())

    def _conditions(self, images: Tensor, mask: Tensor, texts: Tensor, seeds: list[int]) -> tuple[Conditions, Tensor]:
        """Conditions and noise of a micro-batch.

        Everything random of a row comes from the CPU generator of its seed, in the order in which the stock pipeline draws:
        clean latent (where the sampling starts from it), noise, background; the latents are means unless `posterior` is `drawn`.
        """
        vae, drawn = self._pipe.vae, self._params.posterior == "drawn"
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        clean = encode_drawn(vae, images, generators) if drawn and self._params.strength < 1.0 else encode(vae, images)
        noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators]).to(self._device)
        background = encode_drawn(vae, images * (1.0 - mask), generators) if drawn else masked_background(vae, images, mask)
        empty = self._empty.expand(len(images), -1, -1)
        return Conditions(clean, latent_mask(mask, clean), background, texts, empty), noise

    def _change_without_concept(self, plain_prompt: str) -> float:
        """99th percentile, inside masks, of what the base alone changes on good crops, in smoothed grey levels."""
        rng = np.random.default_rng(derive_seed(self._job.seed, "calibration"))
        self._pipe.disable_lora()
        text = self._text(plain_prompt).expand(self._job.micro_batch, -1, -1)
        sizes = []
        for number in range(CALIBRATION_BATCHES):
            limits = (self._side // 2, 2 * self._side)
            pictures = random_crops(list(self._job.good), self._job.micro_batch, self._side, limits, rng)
            masks = random_boxes_mask(len(pictures), self._side, CALIBRATION_BOXES, rng)
            seeds = [derive_seed(self._job.seed, "calibration", number, row) for row in range(len(pictures))]
            changes = self._changes(pictures, masks, text, seeds)
            sizes += [change_size(change, np.zeros_like(change))[mask] for change, mask in zip(changes, masks, strict=True)]
        self._pipe.enable_lora()
        return float(np.quantile(np.concatenate(sizes), CHANGE_QUANTILE))


def _painted(mask: Mask, side: int, widen: bool) -> Mask:
    """The mask at the network's size, or the pixel below its middle where it is so thin that it has vanished."""
    painted = paint_mask(mask, side) if widen else resize_mask(mask, side)
    if not painted.any():
        y, x = (np.argwhere(mask).mean(axis=0) * side / len(mask)).astype(int)
        painted[y, x] = True
    return painted
