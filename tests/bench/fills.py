"""Filling holes in good tiles: the adapted base against one trained from scratch as long, and against OpenCV's Telea."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionInpaintPipeline
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.diffusion.components import EMBEDDED, load_pipeline, prompt_ids, small_pipeline
from pipeline.diffusion.denoise import Conditions, Trajectory, inpaint
from pipeline.diffusion.exposure import exposed, exposure_gain
from pipeline.diffusion.latents import decode, encode, latent_mask, mask_tensor, masked_background, to_tensor
from pipeline.diffusion.pretrain import UnetFit, train_unet, train_vae
from pipeline.diffusion.sources import BASE_PROMPT, GoodCrops
from pipeline.images import Mask, Picture
from pipeline.params import FitParams, LearnBaseParams
from pipeline.training import LoopPlan

CROP_PX = 64
VAE_SHARE = 0.4
"""Of the minutes of the base from scratch; the UNet gets the rest."""
PROBE_STEPS = 8
RESAMPLES = 2000
SUBSET = 50


@dataclass(frozen=True)
class Holes:
    """Good test crops with a hole each: (N, S, S, 3) uint8, (N, S, S) bool, and the part each was cut from."""

    crops: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    parts: tuple[str, ...]


def cut_holes(photos: list[tuple[str, Picture]], count: int, seed: int) -> Holes:
    """Random windows of 64 px with an irregular hole of 10 to 30 px across, well inside."""
    rng = np.random.default_rng(seed)
    crops, masks, parts = [], [], []
    for _ in range(count):
        part, photo = photos[rng.integers(len(photos))]
        y, x = (int(rng.integers(0, side - CROP_PX + 1)) for side in photo.shape[:2])
        crops.append(photo[y : y + CROP_PX, x : x + CROP_PX])
        masks.append(_hole(rng))
        parts.append(part)
    return Holes(np.stack(crops), np.stack(masks), tuple(parts))


def _hole(rng: np.random.Generator) -> Mask:
    canvas = np.zeros((CROP_PX, CROP_PX), np.uint8)
    centre = tuple(int(v) for v in rng.integers(20, CROP_PX - 20, 2))
    axes = tuple(int(v) for v in rng.integers(5, 16, 2))
    cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return canvas > 0


def adapted_base(params: LearnBaseParams, photos: list[Picture]) -> StableDiffusionInpaintPipeline:
    """The embedded base after the adaptation `learn_base` does."""
    torch.set_num_threads(params.threads)
    pipe = load_pipeline(EMBEDDED)
    fit = FitParams(steps=params.adapt.steps, batch=params.adapt.batch, lr=params.adapt.lr)
    train_unet(
        pipe,
        GoodCrops(photos, params.crop_px, params.crop_side_px, params.even_exposure),
        UnetFit(fit),
        LoopPlan(fit.steps, 0, "adapt", 20, True),
    )
    return pipe


def scratch_base(params: LearnBaseParams, photos: list[Picture]) -> tuple[StableDiffusionInpaintPipeline, dict[str, float]]:
    """The same networks from random weights on the same photos, for as long as the adaptation takes.

    How many steps that is follows from the cost of a step of each, measured one after the other: the time the adaptation itself
    took would depend on what else the machine was doing.
    """
    source = GoodCrops(photos, params.crop_px, params.crop_side_px, params.even_exposure)
    trial = small_pipeline(params.crop_px, 0)
    unet_fit = params.unet.model_copy(update={"batch": params.adapt.batch})
    costs = [_cost(trial, source, "vae", params.vae), _cost(trial, source, "unet", unet_fit)]
    seconds = params.adapt.steps * costs[1]
    steps = [max(1, round(seconds * share / cost)) for share, cost in zip((VAE_SHARE, 1 - VAE_SHARE), costs, strict=True)]
    pipe = small_pipeline(params.crop_px, 0)
    fits = [section.model_copy(update={"steps": count}) for section, count in zip((params.vae, unet_fit), steps, strict=True)]
    train_vae(pipe, source, fits[0], LoopPlan(steps[0], 0, "vae", min(20, steps[0]), True))
    train_unet(pipe, source, UnetFit(fits[1]), LoopPlan(steps[1], 0, "unet", min(20, steps[1]), True))
    return pipe, {"adapt_seconds": round(seconds, 1), "vae_steps": steps[0], "unet_steps": steps[1]}


def _cost(pipe: StableDiffusionInpaintPipeline, source: GoodCrops, part: str, fit: FitParams) -> float:
    """Seconds a step, the first one left out."""
    times: list[float] = []
    for steps in (1, 1 + PROBE_STEPS):
        start = time.monotonic()
        if part == "vae":
            train_vae(pipe, source, fit.model_copy(update={"steps": steps}), LoopPlan(steps, 0, "probe"))
        else:
            train_unet(pipe, source, UnetFit(fit.model_copy(update={"steps": steps})), LoopPlan(steps, 0, "probe"))
        times.append(time.monotonic() - start)
    return (times[1] - times[0]) / PROBE_STEPS


@torch.inference_mode()
def diffusion_fills(pipe: StableDiffusionInpaintPipeline, holes: Holes, steps: int, *, even: bool) -> NDArray[np.uint8]:
    """(N, S, S, 3): the hole from pure noise in `steps` steps without guidance, the rest untouched.

    From pure noise, since a start from the noised clean latent would show the network what it has to guess. The known latents
    around the hole are those of Telea's fill: the truth would shine through the encoder's receptive field, grey would taint it.
    """
    filled, path = [], Trajectory("ddim", steps, guidance=1.0, strength=1.0, blend=True)
    for start in range(0, len(holes.crops), 16):
        crops, masks = holes.crops[start : start + 16], holes.masks[start : start + 16]
        images, mask = to_tensor(crops), mask_tensor(masks)
        gain = exposure_gain(images, mask) if even else torch.ones(len(crops), 1, 1, 1)
        images = exposed(images, gain)
        clean = encode(pipe.vae, exposed(to_tensor(telea_fills(Holes(crops, masks, ()))), gain))
        text = pipe.text_encoder(prompt_ids(pipe.tokenizer, [BASE_PROMPT] * len(crops))).last_hidden_state
        given = Conditions(clean, latent_mask(mask, clean), masked_background(pipe.vae, images, mask), text, text)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(start))
        latents = inpaint(pipe.unet, pipe.scheduler, given, noise, path)
        painted = exposed(decode(pipe.vae, latents), 1.0 / gain)
        pixels = ((painted.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        filled.append(np.where(masks[..., None], pixels.mean(axis=3, keepdims=True).astype(np.uint8), crops))
    return np.concatenate(filled)


def telea_fills(holes: Holes) -> NDArray[np.uint8]:
    """OpenCV's fast marching inpainting (Telea 2004), radius 3."""
    pairs = zip(holes.crops, holes.masks, strict=True)
    return np.stack([cv2.inpaint(np.ascontiguousarray(c), m.astype(np.uint8), 3, cv2.INPAINT_TELEA) for c, m in pairs]).astype(
        np.uint8
    )


def borrowed_fills(photos: list[tuple[str, Picture]], holes: Holes, seed: int) -> NDArray[np.uint8]:
    """What a flawless painter could do who cannot see the hole: real texture of the same part, as bright as Telea's fill."""
    rng = np.random.default_rng(seed)
    filled = []
    for crop, mask, part, near in zip(holes.crops, holes.masks, holes.parts, telea_fills(holes), strict=True):
        own = [photo for name, photo in photos if name == part]
        photo = own[rng.integers(len(own))]
        y, x = (int(rng.integers(0, side - CROP_PX + 1)) for side in photo.shape[:2])
        other = photo[y : y + CROP_PX, x : x + CROP_PX].astype(np.float32)
        lifted = np.clip(other - other[mask].mean() + near[mask].mean(), 0, 255).astype(np.uint8)
        filled.append(np.where(mask[..., None], lifted, crop))
    return np.stack(filled)


@torch.inference_mode()
def features(layers: list[nn.Module], pictures: NDArray[np.uint8]) -> list[Tensor]:
    """Unit-normalised (N, C, h, w) maps after each of the first layers of a detector's backbone."""
    hidden = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    maps: list[Tensor] = []
    for layer in layers:
        hidden = layer(hidden)
        maps.append(F.normalize(hidden, dim=1))
    return maps


def hole_distance(first: list[Tensor], second: list[Tensor], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) squared feature distance averaged over the hole and the layers (LPIPS' formula without its weights)."""
    inside = torch.from_numpy(masks)[:, None].float()
    total = torch.zeros(len(masks), dtype=torch.float64)
    for a, b in zip(first, second, strict=True):
        share = F.interpolate(inside, size=a.shape[-2:], mode="area")
        squared = (a - b).square().sum(dim=1, keepdim=True)
        total += ((squared * share).sum(dim=(1, 2, 3)) / share.sum(dim=(1, 2, 3))).double()
    return (total / len(first)).numpy()


def hole_vectors(maps: list[Tensor], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, D) mean feature inside the hole, layers side by side."""
    inside = torch.from_numpy(masks)[:, None].float()
    parts = []
    for layer in maps:
        share = F.interpolate(inside, size=layer.shape[-2:], mode="area")
        parts.append((layer * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)))
    return torch.cat(parts, dim=1).double().numpy()


def kid(real: NDArray[np.float64], made: NDArray[np.float64]) -> float:
    """Unbiased squared MMD with the cubic kernel of KID (Binkowski et al. 2018, arXiv 1801.01401)."""

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(real), len(made)
    own, other, cross = kernel(real, real), kernel(made, made), kernel(real, made)
    return float((own.sum() - np.trace(own)) / (n * (n - 1)) + (other.sum() - np.trace(other)) / (m * (m - 1)) - 2 * cross.mean())


def part_interval(differences: NDArray[np.float64], parts: tuple[str, ...], seed: int) -> tuple[float, float, float]:
    """Mean and 95 % interval of paired differences; whole parts are drawn again, since crops of one part are alike."""
    rng = np.random.default_rng(seed)
    names = sorted(set(parts))
    groups = [differences[[i for i, part in enumerate(parts) if part == name]] for name in names]
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    draws = rng.integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def kid_interval(
    real: NDArray[np.float64], ours: NDArray[np.float64], other: NDArray[np.float64], seed: int
) -> tuple[float, float, float]:
    """KID of ours minus KID of the other, and its 95 % interval over random halves drawn alike for both."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES // 10):
        rows, against = (rng.choice(len(real), len(real) // 2, replace=False) for _ in range(2))
        found.append(kid(real[against], ours[rows]) - kid(real[against], other[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return kid(real, ours) - kid(real, other), float(low), float(high)


def compare(layers: list[nn.Module], holes: Holes, others: Holes, fills: dict[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """Distances, KIDs and paired differences of every fill to the first one's; KID compares with `others`, other good crops."""
    truth, reference = features(layers, holes.crops), hole_vectors(features(layers, others.crops), holes.masks)
    maps = {name: features(layers, pictures) for name, pictures in fills.items()}
    distances = {name: hole_distance(truth, found, holes.masks) for name, found in maps.items()}
    vectors = {name: hole_vectors(found, holes.masks) for name, found in maps.items()}
    ours, *rest = fills
    result: dict[str, Any] = {
        name: {"distance": round(float(distances[name].mean()), 5), "kid": round(kid(reference, vectors[name]), 6)}
        for name in fills
    }
    for name in rest:
        result[name]["distance_difference"] = part_interval(distances[ours] - distances[name], holes.parts, 0)
        result[name]["kid_difference"] = kid_interval(reference, vectors[ours], vectors[name], 0)
    return result
