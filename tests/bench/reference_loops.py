"""The loops people run today, for comparison: the stock inpainting pipeline, one picture at a time, the best of eight kept.

Same base, same concept and same requests as ours. Nothing is shared between two pictures: text, photo and mask are encoded again
for each, every step has guidance, and LPIPS looks at one picture at a time, on the request's crop in both loops. Outside the mask
the photo is put back, as it has to be in any loop, since the VAE changes every pixel.
"""

# diffusers annotates what its pipelines take and return more narrowly than they behave.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from pipeline.diffusion.components import load_pipeline
from pipeline.diffusion.exposure import exposure_gain
from pipeline.diffusion.latents import mask_tensor, to_tensor
from pipeline.generators.defectfill.concept import load_concept
from pipeline.images import Mask, Picture, read_rgb
from pipeline.masks.composite import changed_region
from pipeline.masks.crops import paste_window, read_window, resize_picture
from pipeline.scenes import Placed
from pipeline.seeds import derive_seed
from pipeline.selection import RealSide
from pipeline.shards import Candidates
from pipeline.similarity.masked import masked_distance
from pipeline.similarity.perceptual import Perceptual

CANDIDATES, STEPS, GUIDANCE = 8, 50, 7.5
STOCK_MULTIPLE = 8
"""The stock pipeline refuses other sides."""


@dataclass(frozen=True)
class Stock:
    """The stock pipeline with a concept in it, and what its pictures are cut from and scored by.

    Attributes:
        pipe: Base with tokens and LoRA.
        prompts: By defect type.
        net: Scores each picture inside the mask.
        thresholds: Grey levels, under the light the network sees, above which a pixel has surely or possibly changed; ours, so
            that the guards see both alike.
        real: Where the clean photos lie.
        even_exposure: Whether our sampler saw crops under one light, in which its thresholds are.
    """

    pipe: StableDiffusionInpaintPipeline
    prompts: dict[str, str]
    net: Perceptual
    thresholds: tuple[float, float]
    real: RealSide
    even_exposure: bool


Paint = Callable[[Stock, Placed, int], Picture]
"""A request's crop with its defect, from a seed."""


def open_stock(
    base: Path, concept: Path, net: Perceptual, thresholds: tuple[float, float], real: RealSide, even_exposure: bool
) -> Stock:
    """Load base and concept as `DefectFillSampler` does."""
    pipe = load_pipeline(base)
    return Stock(pipe, load_concept(pipe, concept, base), net, thresholds, real, even_exposure)


def side_multiple(pipe: StableDiffusionInpaintPipeline) -> int:
    """Sides the stock pipeline and every level of the UNet can halve: 64 for Stable Diffusion."""
    levels = len(pipe.unet.config["block_out_channels"]) - 1
    return math.lcm(STOCK_MULTIPLE, pipe.vae_scale_factor * 2**levels)


def stock_picture(stock: Stock, defect: str, photo: Picture, mask: Mask, seed: int) -> Picture:
    """One call of the stock pipeline on an (H, W, 3) photo whose sides it takes."""
    height, width = photo.shape[:2]
    made = stock.pipe(
        prompt=stock.prompts[defect],
        image=Image.fromarray(photo),
        mask_image=Image.fromarray(mask.astype(np.uint8) * 255),
        height=height,
        width=width,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(seed),
    )
    return np.array(made.images[0])


def on_whole_photo(stock: Stock, placed: Placed, seed: int) -> Picture:
    """The photo at its own size, rounded to sides the base takes; the request's crop of the result."""
    record, request = placed.record, placed.request
    photo = read_rgb(stock.real.train / stock.real.samples[record.clean].image)
    mask = np.zeros(photo.shape[:2], bool)
    paste_window(mask, request.mask, record.window)
    multiple = side_multiple(stock.pipe)
    size = tuple(max(multiple, round(side / multiple) * multiple) for side in photo.shape[1::-1])
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    painted = stock_picture(stock, placed.record.defect, cv2.resize(photo, size, interpolation=cv2.INTER_AREA), small, seed)
    back = cv2.resize(painted, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return read_window(np.where(mask[..., None], back, photo), record.window)


def on_crop(stock: Stock, placed: Placed, seed: int) -> Picture:
    """The request's crop at the network's size, pasted back inside the mask."""
    request = placed.request
    side = stock.pipe.unet.config["sample_size"] * stock.pipe.vae_scale_factor
    mask = cv2.resize(request.mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0
    painted = stock_picture(stock, placed.record.defect, resize_picture(request.clean, side), mask, seed)
    return np.where(request.mask[..., None], resize_picture(painted, len(request.clean)), request.clean)


def one_by_one(stock: Stock, placed: Placed, paint: Paint, numbers: Sequence[int]) -> Candidates:
    """Paint and score one candidate after the other."""
    images: list[Picture] = []
    for number in numbers:
        image = paint(stock, placed, derive_seed("candidate", placed.request.id, number))
        masked_distance(stock.net, [image], [placed.request.clean], [placed.request.mask])
        images.append(image)
    clean, mask = placed.request.clean, placed.request.mask
    gain = exposure_gain(to_tensor(clean[None]), mask_tensor(mask[None])).item() if stock.even_exposure else 1.0
    sure, possible = (threshold / gain for threshold in stock.thresholds)
    changed = tuple(changed_region(image, clean, [mask], sure, possible) for image in images)
    return Candidates(placed.record, (placed.request.mask,), tuple(images), changed, False)
