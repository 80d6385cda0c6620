"""A randomly initialised small pipeline and a few references, for tests that need gradients and files but no quality."""

import json
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.diffusion.components import small_pipeline
from pipeline.generators.protocol import Part, Request
from pipeline.images import Mask, Picture
from pipeline.params import DefectFillParams, DiffusionSamplingParams
from pipeline.references import Reference

SIDE = 32


def fit_params(**changes: object) -> DefectFillParams:
    values: dict[str, object] = {
        "device": "cpu",
        "threads": 1,
        "token": "new",
        "adapter": "shared",
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "lr_unet": 2e-4,
        "lr_text": 4e-5,
        "lr_token": 1e-2,
        "warmup_steps": 2,
        "steps": 3,
        "batch": 2,
        "accumulate": 1,
        "ema_decay": 0.0,
        "autocast": "none",
        "gradient_checkpointing": False,
        "prompt_dropout": 0.0,
        "prompt_noise": 0.0,
        "lora_targets": "attention",
        "weight_defect": 0.5,
        "weight_object": 0.2,
        "weight_attention": 0.05,
        "background_weight": 0.3,
        "random_boxes": 30,
        "encoded_crops": 6,
        "reduction": "area",
        "attention_norm": "none",
        "crop_scale": (2.0, 4.0),
        "min_crop_px": 16,
        "scale_augment": (1.0, 1.125),
        "flip": True,
        "even_exposure": False,
        "object": "surface",
        "curves": (),
        "preview_every": 0,
    }
    return DefectFillParams.model_validate(values | changes)


def sampling_params(**changes: object) -> DiffusionSamplingParams:
    values: dict[str, object] = {
        "candidates": 1,
        "device": "cpu",
        "autocast": "none",
        "compile": "none",
        "scheduler": "ddim",
        "steps": 5,
        "guidance": 3.0,
        "guidance_interval": (0.0, 1.0),
        "strength": 0.9,
        "lora_scale": 1.0,
        "blend": True,
        "composite": "change",
        "posterior": "mean",
        "widen_mask": True,
        "keep_grey": True,
        "even_exposure": False,
        "contrast_gain": 1.0,
        "detail": None,
        "prune": None,
    }
    return DiffusionSamplingParams.model_validate(values | changes)


def references(types: tuple[str, ...] = ("hole", "long scratch")) -> list[Reference]:
    rng = np.random.default_rng(0)
    found = []
    for number, defect in enumerate(types):
        image = np.repeat(rng.integers(90, 160, (64, 64, 1)), 3, axis=2).astype(np.uint8)
        mask = np.zeros((64, 64), bool)
        mask[20:36, 24 + number : 40 + number] = True
        image[mask] = 20
        found.append(Reference(f"{defect}-0", defect, image, mask))
    return found


def request_of(name: str, defect: str, clean: Picture, mask: Mask, affine: np.ndarray | None = None) -> Request:
    """A request of one part, whose mask comes from the toy reference of its type."""
    return Request(name, clean, (Part(defect, mask, f"{defect}-0", np.eye(2, 3) if affine is None else affine),))


def write_base(folder: Path, prediction_type: str = "v_prediction") -> Path:
    pipe = small_pipeline(SIDE, seed=0)
    pipe.scheduler.register_to_config(prediction_type=prediction_type)
    pipe.save_pretrained(folder)
    return folder


SD2_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""`scheduler/scheduler_config.json` as the 512 px checkpoints of Stable Diffusion 2 have it; no spacing is named."""


def clip_tokenizer() -> CLIPTokenizer:
    """As many words as CLIP's (49408): bytes, bytes at the end of a word, made-up pairs of them, and two marks; "!" pads."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [letter + "</w>" for letter in alphabet]
    merges = list(islice(product(alphabet, ends), 49408 - 2 * 256 - 2))
    words = [*alphabet, *ends, *(left + right for left, right in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token="!")


def sd2_networks() -> dict[str, torch.nn.Module]:
    """Stable Diffusion 2 inpainting with random weights: its blocks, layers and heads a level, all a tenth as wide.

    After Stability-AI/stablediffusion, configs/stable-diffusion/v2-inpainting-inference.yaml (9 channels, multipliers 1 2 4 4,
    two layers a level, heads of one width, linear projections, no `parameterization`, hence epsilon); names of blocks, activation
    and ids of the text model after the configuration files of its sister stable-diffusion-2-1-base in the diffusers format.
    """
    width = 32
    unet = UNet2DConditionModel(
        sample_size=16,  # 64
        in_channels=9,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64, 128, 128),  # 320, 640, 1280, 1280
        attention_head_dim=[1, 2, 4, 4],  # 5, 10, 20, 20: in fact the number of heads
        layers_per_block=2,
        norm_num_groups=32,
        cross_attention_dim=width,  # 1024
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),  # 128, 256, 512, 512
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=768,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,  # 23
            num_attention_heads=2,  # 16
            hidden_act="gelu",
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
    )
    return {"unet": unet, "vae": vae, "text_encoder": text}


def write_sd2(folder: Path) -> Path:
    """A local folder as the public one, in float16."""
    torch.manual_seed(0)
    pipe = StableDiffusionInpaintPipeline(
        **sd2_networks(),
        tokenizer=clip_tokenizer(),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SD2_SCHEDULER))
    return folder
