"""Crops in latent form: three encodes a crop cost as much as a step of a small UNet, so a pool is encoded once and drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pipeline.diffusion.latents import encode, latent_mask, masked_background
from pipeline.generators.defectfill.batches import Batch, BatchSource

ENCODE_ROWS = 16


@dataclass(frozen=True)
class EncodedBatch:
    """What one step needs of its crops.

    Attributes:
        latents: (B, 4, h, w), scaled.
        masks: True defect masks M at latent size, (B, 1, h, w) of 0 and 1.
        random_masks: M_rand, likewise.
        true_background: E((1 - M) I), (B, 4, h, w).
        random_background: E((1 - M_rand) I), (B, 4, h, w).
        defects: Type of each row.
    """

    latents: Tensor
    masks: Tensor
    random_masks: Tensor
    true_background: Tensor
    random_background: Tensor
    defects: list[str]

    def rows(self, indices: list[int]) -> EncodedBatch:
        """The rows at `indices`, repeats allowed."""
        return EncodedBatch(
            self.latents[indices],
            self.masks[indices],
            self.random_masks[indices],
            self.true_background[indices],
            self.random_background[indices],
            [self.defects[i] for i in indices],
        )


@torch.no_grad()
def encode_batch(vae: AutoencoderKL, batch: Batch) -> EncodedBatch:
    """Picture and both backgrounds through the VAE, without noise; masks to latent size."""
    images, device = batch.images.to(vae.device), vae.device
    masks, random_masks = batch.masks.to(device), batch.random_masks.to(device)
    latents = encode(vae, images)
    return EncodedBatch(
        latents,
        latent_mask(masks, latents),
        latent_mask(random_masks, latents),
        masked_background(vae, images, masks),
        masked_background(vae, images, random_masks),
        batch.defects,
    )


def encoded_pool(vae: AutoencoderKL, source: BatchSource, count: int, rng: np.random.Generator) -> EncodedBatch:
    """`count` crops, rounded up to equally many of each type: augmentation, crop and random mask are drawn once a row."""
    types = source.defects * -(-count // len(source.defects))
    groups = [types[start : start + ENCODE_ROWS] for start in range(0, len(types), ENCODE_ROWS)]
    parts = [encode_batch(vae, source.draw_types(group, rng)) for group in groups]
    return EncodedBatch(
        torch.cat([part.latents for part in parts]),
        torch.cat([part.masks for part in parts]),
        torch.cat([part.random_masks for part in parts]),
        torch.cat([part.true_background for part in parts]),
        torch.cat([part.random_background for part in parts]),
        [defect for part in parts for defect in part.defects],
    )
