"""Sampling from a concept: what the network paints, composited into the clean crop.

Every departure from diffusers' `StableDiffusionInpaintPipeline` is an option; docs/concepts.md lists them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.diffusion.components import load_pipeline, prompt_ids
from pipeline.diffusion.photos import random_boxes_mask, random_crops
from pipeline.generators.defectfill.concept import CARD, LORA_NAME, ConceptError, joint_prompt, load_concept
from pipeline.generators.defectfill.detail import strengthened, surface_fits, with_detail
from pipeline.generators.defectfill.painting import Painted, Painter, settle
from pipeline.generators.protocol import Dropped, Part, Request, SampleJob, Synthetic
from pipeline.images import Mask, Picture
from pipeline.masks.composite import LEAST_SURE, apply_change, change_size, changed_region, feathered
from pipeline.masks.crops import paint_mask, resize_mask, resize_picture, resize_square
from pipeline.params import DiffusionSamplingParams
from pipeline.seeds import derive_seed
from pipeline.training import torch_device

CALIBRATION_BOXES = 6
CALIBRATION_BATCHES = 2
SURE, POSSIBLE = 0.99, 0.95
"""Quantiles of what the base alone changes, above which a pixel counts as changed: by itself, and beside one that does."""


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
        self._painter = Painter(self._pipe, self._params, job.micro_batch, self._text(""))
        plain = json.loads((fitted / CARD).read_text(encoding="utf-8"))["plain_prompt"]
        self._photos = {reference.id: reference.image for reference in job.references}
        self._thresholds = self._change_without_concept(plain)
        settle(self._pipe, self._params)

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic | Dropped]:
        """Paint in order, all candidates of `micro_batch` requests at a time; a request's own stand together.

        Raises:
            ConceptError: If a request is for a type the concept does not have.
        """
        waiting = _by_request(requests)
        while window := list(islice(waiting, self._job.micro_batch)):
            asked = [request for request, _ in window]
            canvases = self._painter.canvases(
                np.stack([resize_picture(request.clean, self._side) for request in asked]),
                np.stack([self._painted(request.mask) for request in asked]),
                torch.cat([self._text_of(request.defects) for request in asked]),
            )
            rows = [row for row, (_, seeds) in enumerate(window) for _ in seeds]
            painted = self._painter.paint(canvases, rows, [seed for _, seeds in window for seed in seeds])
            gains = canvases.gain.flatten().tolist()
            for row, one in zip(rows, painted, strict=True):
                yield self._compose(asked[row], one, gains[row])

    def facts(self) -> dict[str, Any]:
        """Settings and the measured thresholds, in grey levels under the light the network sees."""
        return {
            "feather_px": self._job.feather_px,
            "micro_batch": self._job.micro_batch,
            "surely_changed_above": round(self._thresholds[0], 3),
            "possibly_changed_above": round(self._thresholds[1], 3),
            "sampling": self._params.model_dump(mode="json"),
        }

    def _compose(self, request: Request, painted: Painted, gain: float) -> Synthetic | Dropped:
        if painted.change is None:
            assert painted.early is not None, "only a low early rank leaves a candidate without a picture"
            return Dropped(painted.early)
        change = resize_square(painted.change, len(request.clean)).astype(np.float32, copy=False)
        wanted, shrink = self._params.detail, len(request.clean) / self._side
        if wanted is not None and shrink < wanted.from_shrink:
            wanted = None
        # A dark crop is painted under more light than it has, and what is painted becomes as dark as the crop.
        sure, possible = (threshold / gain for threshold in self._thresholds)
        with_pixels = _asked_of_references(change, request, sure)
        if self._params.contrast_gain > 1:
            change = self._as_strong(change, request.clean, with_pixels)
        shown: list[Part] = []
        if wanted is not None:
            shown = [part for part in with_pixels if surface_fits(request.clean, part, self._photo_of(part))]
            change = self._with_details(change, request.clean, shown, wanted.coarse_px * shrink, wanted.light)
        if self._params.keep_grey and (request.clean == request.clean[..., :1]).all():
            # A grey photo stays grey: colour noise of the decoder would give synthetic crops away.
            change = np.repeat(change.mean(axis=2, keepdims=True), 3, axis=2)
        if self._params.composite == "none":
            image = apply_change(request.clean, change, np.ones_like(request.mask), 0)
        else:
            image = apply_change(request.clean, change, request.mask, self._job.feather_px)
        changed = changed_region(image, request.clean, [part.mask for part in request.parts], sure, possible)
        return Synthetic(image, changed, painted.early, detailed=bool(shown) and len(shown) == len(with_pixels))

    def _with_details(
        self, change: NDArray[np.float32], clean: Picture, parts: Sequence[Part], coarse_px: float, light: float
    ) -> NDArray[np.float32]:
        """The change with the references' detail."""
        for part in parts:
            near = feathered(part.mask, self._job.feather_px) > 0
            fine = with_detail(change, clean, part, self._photo_of(part), coarse_px, light)
            change = np.where(near[..., None], fine, change)
        return change

    def _as_strong(self, change: NDArray[np.float32], clean: Picture, parts: Sequence[Part]) -> NDArray[np.float32]:
        """The change with parts that came out paler than their references made stronger."""
        stronger = change
        for part in parts:
            near = feathered(part.mask, self._job.feather_px) > 0
            strong = strengthened(change, clean, part, self._photo_of(part), self._params.contrast_gain)
            stronger = np.where(near[..., None], strong, stronger)
        return stronger

    def _photo_of(self, part: Part) -> Picture:
        assert part.reference is not None, "a matrix moves a reference's mask"
        if part.reference not in self._photos:
            raise ConceptError(
                f"reference {part.reference!r} is not among the {len(self._photos)} the sampler was given; hand the references "
                "over with the job, or set synthesize.defectfill.detail to null and contrast_gain to 1"
            )
        return self._photos[part.reference]

    def _painted(self, mask: Mask) -> Mask:
        """The mask at the network's size, or the pixel below its middle where it is so thin that it has vanished."""
        side = self._side
        painted = paint_mask(mask, side, self._pipe.vae_scale_factor) if self._params.widen_mask else resize_mask(mask, side)
        if not painted.any():
            y, x = (np.argwhere(mask).mean(axis=0) * side / len(mask)).astype(int)
            painted[y, x] = True
        return painted

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

    def _change_without_concept(self, plain_prompt: str) -> tuple[float, float]:
        """`SURE` and `POSSIBLE` quantile, inside masks, of what the base alone changes on good crops, in smoothed grey levels.

        Under the light the network sees (`even_exposure`): photos of one product differ in theirs by several times.
        """
        rng = np.random.default_rng(derive_seed(self._job.seed, "calibration"))
        self._pipe.disable_lora()
        text = self._text(plain_prompt).expand(self._job.micro_batch, -1, -1)
        sizes = []
        for number in range(CALIBRATION_BATCHES):
            limits = (self._side // 2, 2 * self._side)
            pictures = random_crops(list(self._job.good), self._job.micro_batch, self._side, limits, rng)
            masks = random_boxes_mask(len(pictures), self._side, CALIBRATION_BOXES, rng)
            seeds = [derive_seed(self._job.seed, "calibration", number, row) for row in range(len(pictures))]
            canvases = self._painter.canvases(pictures, masks, text)
            painted = self._painter.paint(canvases, range(len(pictures)), seeds)
            gains = canvases.gain.flatten().tolist()
            # One candidate a crop, so that none is dropped.
            changes = [gain * one.change for gain, one in zip(gains, painted, strict=True) if one.change is not None]
            sizes += [change_size(change, np.zeros_like(change))[mask] for change, mask in zip(changes, masks, strict=True)]
        self._pipe.enable_lora()
        found = np.concatenate(sizes)
        return float(np.quantile(found, SURE)), float(np.quantile(found, POSSIBLE))


def _by_request(asked: Iterable[tuple[Request, int]]) -> Iterator[tuple[Request, list[int]]]:
    """Neighbours that share a request, with all their seeds."""
    for _, group in groupby(asked, key=lambda one: one[0].id):
        same = list(group)
        yield same[0][0], [seed for _, seed in same]


def _asked_of_references(change: NDArray[np.float32], request: Request, sure: float) -> list[Part]:
    """The parts whose reference says more: a mask that was bent or drawn has none, and what failed is left for the guards."""
    size = change_size(change, np.zeros_like(change))
    strengths = ((part, float(np.quantile(size[part.mask], 1 - LEAST_SURE))) for part in request.parts if part.affine is not None)
    return [part for part, strength in strengths if strength >= sure]
