"""Perceptual distance maps: LPIPS where its backbone is on disk, else features of the base's own encoder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

logger = logging.getLogger(__name__)

BACKBONE_FILE = "alexnet-owt-7be5be79.pth"
LPIPS_SIDE_PX = 128
"""AlexNet needs more than the crops of small defects have; 16 px crash it."""


class BackboneError(FileNotFoundError):
    """The backbone of LPIPS is not where it was looked for."""


@dataclass(frozen=True)
class Perceptual:
    """A distance and the picture size it wants.

    Attributes:
        name: For cards and reports.
        side_px: Side of the square pictures it is fed.
        distance: (B, 3, S, S) x (B, 3, S, S) in [-1, 1] -> (B, S, S) distances, 0 for equal pictures.
    """

    name: str
    side_px: int
    distance: Callable[[Tensor, Tensor], Tensor]


def backbone_path() -> Path:
    """Where torch keeps downloaded backbones: `$TORCH_HOME/hub/checkpoints`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE_FILE


def load_lpips(path: Path) -> Perceptual:
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018) with the torchvision backbone file at `path`; nothing is downloaded.

    Raises:
        BackboneError: If the file is missing.
        RuntimeError: If its keys do not fit AlexNet.
    """
    if not path.exists():
        raise BackboneError(
            f"LPIPS needs {BACKBONE_FILE} at {path}; put torchvision's AlexNet weights there, or set select.perceptual to 'base'"
        )
    import lpips

    with warnings.catch_warnings():
        # lpips 0.1.4 builds torchvision models with arguments that torchvision deprecated.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        # The random backbone is replaced below: without this argument the constructor downloads one.
        net = lpips.LPIPS(net="alex", spatial=True, pnet_rand=True, verbose=False)
    saved = torch.load(path, weights_only=True, map_location="cpu")
    net.net.load_state_dict(_alexnet_slices(net.net.state_dict(), saved))
    net.eval().requires_grad_(False)

    @torch.inference_mode()
    def distance(first: Tensor, second: Tensor) -> Tensor:
        return net(first, second)[:, 0]

    return Perceptual("LPIPS (AlexNet v0.1)", LPIPS_SIDE_PX, distance)


def _alexnet_slices(wanted: dict[str, Tensor], saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """`features.N.*` of the official file under the names `sliceK.N.*` that lpips gives them."""
    missing = [name for name in wanted if "features." + name.split(".", 1)[1] not in saved]
    if missing:
        raise RuntimeError(f"the backbone file lacks {missing}; expected torchvision's AlexNet state dict")
    return {name: saved["features." + name.split(".", 1)[1]] for name in wanted}


def encoder_features(vae: AutoencoderKL) -> Perceptual:
    """LPIPS' formula without learned weights on the VAE encoder: unit-normalised features, squared difference, averaged.

    For machines without the backbone. The encoder has seen this product's surface, and nothing else.
    """
    encoder = vae.encoder

    def layers(images: Tensor) -> list[Tensor]:
        hidden = encoder.conv_in(images)
        found = [hidden]
        for block in encoder.down_blocks:
            hidden = block(hidden)
            found.append(hidden)
        return found

    @torch.inference_mode()
    def distance(first: Tensor, second: Tensor) -> Tensor:
        maps = []
        for a, b in zip(layers(first), layers(second), strict=True):
            squared = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1, keepdim=True)
            maps.append(F.interpolate(squared, size=first.shape[-2:], mode="bilinear", align_corners=False))
        return torch.cat(maps, dim=1).mean(dim=1)

    return Perceptual("features of the base's own encoder", int(vae.config["sample_size"]), distance)


def choose_perceptual(wish: Literal["auto", "lpips", "base"], vae: AutoencoderKL) -> Perceptual:
    """LPIPS if wished or, on "auto", if its backbone is on disk; else the base's encoder. The choice is logged and named."""
    path = backbone_path()
    chosen = load_lpips(path) if wish == "lpips" or (wish == "auto" and path.exists()) else encoder_features(vae)
    logger.info("perceptual net: %s", chosen.name)
    return chosen
