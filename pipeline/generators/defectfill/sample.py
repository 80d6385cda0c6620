"""Sampling from a concept: micro-batches of fixed size, the generated *change* composited into the clean crop."""

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
from pipeline.diffusion.latents import decode, encode, latent_mask, mask_tensor, masked_background, to_tensor
from pipeline.diffusion.photos import random_boxes_mask, random_crops
from pipeline.generators.defectfill.concept import CARD, load_concept
from pipeline.generators.protocol import Request, SampleJob, Synthetic
from pipeline.images import Mask
from pipeline.masks.composite import apply_change, change_size, changed_region
from pipeline.masks.crops import paint_mask, resize_picture
from pipeline.seeds import derive_seed

CALIBRATION_BOXES = 6
CALIBRATION_BATCHES = 2
CHANGE_QUANTILE = 0.99


class DefectFillSampler:
    """Inpaints requests with a concept; see `Sampler`."""

    def __init__(self, fitted: Path, job: SampleJob) -> None:
        """Load base and concept, encode the prompts, and measure what is painted without the concept."""
        self._job = job
        self._pipe = load_pipeline(job.base)
        prompts = load_concept(self._pipe, fitted)
        self._pipe.unet.eval()
        self._pipe.text_encoder.eval()
        self._side = self._pipe.unet.config["sample_size"] * self._pipe.vae_scale_factor
        self._texts = {defect: self._text(prompt) for defect, prompt in prompts.items()}
        self._empty = self._text("")
        plain = json.loads((fitted / CARD).read_text(encoding="utf-8"))["plain_prompt"]
        self._threshold = self._change_without_concept(plain)

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic]:
        """Paint in order, `micro_batch` crops at a time."""
        waiting = iter(requests)
        while group := list(islice(waiting, self._job.micro_batch)):
            pictures = np.stack([resize_picture(request.clean, self._side) for request, _ in group])
            masks = np.stack([_painted(request.mask, self._side) for request, _ in group])
            texts = torch.cat([self._texts[request.defect] for request, _ in group])
            changes = self._changes(pictures, masks, texts, [seed for _, seed in group])
            for (request, _), change in zip(group, changes, strict=True):
                yield self._compose(request, change)

    def facts(self) -> dict[str, Any]:
        """Settings and the measured threshold, in grey levels."""
        return {
            "feather_px": self._job.feather_px,
            "micro_batch": self._job.micro_batch,
            "change_threshold": round(self._threshold, 3),
            "sampling": self._job.params.model_dump(mode="json"),
        }

    def _compose(self, request: Request, change: NDArray[np.float32]) -> Synthetic:
        side = len(request.clean)
        if side != self._side:
            change = cv2.resize(change, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)
        if (request.clean == request.clean[..., :1]).all():
            # A grey photo stays grey: colour noise of the decoder would give synthetic crops away.
            change = np.repeat(change.mean(axis=2, keepdims=True), 3, axis=2)
        image = apply_change(request.clean, change, request.mask, self._job.feather_px)
        return Synthetic(image, changed_region(image, request.clean, self._threshold))

    @torch.inference_mode()
    def _text(self, prompt: str) -> Tensor:
        return self._pipe.text_encoder(prompt_ids(self._pipe.tokenizer, [prompt])).last_hidden_state

    @torch.inference_mode()
    def _changes(
        self, pictures: NDArray[np.uint8], masks: NDArray[np.bool_], texts: Tensor, seeds: list[int]
    ) -> NDArray[np.float32]:
        """(B, S, S, 3) grey levels added by the model: decoded result minus decoded *reconstruction* of the clean crop.

        Subtracting the reconstruction leaves the VAE's own blur out, so the texture below the defect stays sharp.
        """
        count = len(pictures)
        fill = self._job.micro_batch - count
        images = to_tensor(np.concatenate([pictures, np.repeat(pictures[-1:], fill, axis=0)]))
        mask = mask_tensor(np.concatenate([masks, np.repeat(masks[-1:], fill, axis=0)]))
        texts = torch.cat([texts, texts[-1:].expand(fill, -1, -1)])
        vae, settings = self._pipe.vae, self._job.params
        clean = encode(vae, images)
        noise = torch.stack([torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])
        noise = torch.cat([noise, noise[-1:].expand(fill, -1, -1, -1)])
        given = Conditions(
            clean, latent_mask(mask, clean), masked_background(vae, images, mask), texts, self._empty.expand(len(images), -1, -1)
        )
        path = Trajectory(settings.steps, settings.guidance, settings.strength)
        painted = inpaint(self._pipe.unet, self._pipe.scheduler, given, noise, path)
        change = (decode(vae, painted) - decode(vae, clean))[:count] * 127.5
        return np.ascontiguousarray(change.permute(0, 2, 3, 1).numpy())

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


def _painted(mask: Mask, side: int) -> Mask:
    """The mask at the network's size, or the pixel below its middle where it is so thin that it has vanished."""
    painted = paint_mask(mask, side)
    if not painted.any():
        y, x = (np.argwhere(mask).mean(axis=0) * side / len(mask)).astype(int)
        painted[y, x] = True
    return painted
