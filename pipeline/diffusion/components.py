"""Building, loading and checking of 9-channel inpainting pipelines in the diffusers folder format."""

# diffusers and transformers annotate configs, outputs and optional parts more narrowly than they behave.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportCallIssue=false

from __future__ import annotations

import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.diffusion.tokenizer import small_tokenizer
from pipeline.weight_cards import verified_card

LATENT_CHANNELS = 4
POSTERIOR_LOG_VARIANCE = -6.0
INPAINT_CHANNELS = 2 * LATENT_CHANNELS + 1
EMBEDDED = Path(__file__).resolve().parents[1] / "weights" / "base"
"""The project's own base; `python -m pipeline pretrain base` makes it."""


class BaseModelError(ValueError):
    """A base model is missing, or is no 9-channel inpainting pipeline."""


def small_pipeline(crop_px: int, seed: int) -> StableDiffusionInpaintPipeline:
    """A randomly initialised inpainting pipeline of about 8 M parameters for square crops of `crop_px`.

    The VAE halves the side only once: at a factor of 4 cracks of 2-3 px are blurred away. v-prediction, since a small network
    trained briefly on epsilon learns the mean brightness badly (Salimans & Ho 2022, arXiv 2202.00512).
    """
    quiet_unless_terminal()
    torch.manual_seed(seed)
    tokenizer = small_tokenizer()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(24, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=crop_px,
        mid_block_add_attention=False,
    )
    # A narrow posterior from the start: at deviation 1 the noise of the sampled latents drowns detail for thousands of steps.
    vae.quant_conv.bias.data[LATENT_CHANNELS:] = POSTERIOR_LOG_VARIANCE
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=crop_px // 2,
        in_channels=INPAINT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 160),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=16,
        cross_attention_dim=64,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        # The last step is pure noise, so that sampling may start there with the right brightness (Lin et al. 2023, 2305.08891).
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    return StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def quiet_unless_terminal() -> None:
    """Keep the libraries' own loading bars off logs, and transformers' advice on rows that are overwritten at once."""
    transformers.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def load_pipeline(source: str | Path) -> StableDiffusionInpaintPipeline:
    """Load an inpainting pipeline from a folder or a hub id, in float32 and evaluation mode.

    The embedded base is checked against the hashes of its card first. The scheduler becomes a DDIM one of the same configuration.

    Raises:
        pipeline.weight_cards.WeightsError: If the embedded weights are not those of their card.
        BaseModelError: If neither a folder nor the hub has it, or its UNet does not take 9 channels.
    """
    quiet_unless_terminal()
    if source == EMBEDDED:
        verified_card(EMBEDDED)
    try:
        # Named, since transformers would otherwise keep the precision of the file.
        pipe = StableDiffusionInpaintPipeline.from_pretrained(
            str(source), dtype=torch.float32, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"no inpainting pipeline {str(source)!r}: no such folder with a model_index.json, and the hub did not give it "
            f"({error}); "
            "set learn_base.source to 'embedded', 'train', a local diffusers folder, or a hub id while the hub can be reached"
        ) from error
    channels = pipe.unet.config["in_channels"]
    if channels != INPAINT_CHANNELS:
        raise BaseModelError(f"{source}: the UNet takes {channels} channels, an inpainting UNet takes {INPAINT_CHANNELS}")
    # Other classes share the configuration and not the methods: PNDM, which Stable Diffusion names, has no velocity, and Euler
    # scales its noise differently. What they leave out must not fall back to clipping: latents are no pictures in [-1, 1].
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.requires_grad_(False).eval()
    for part in (pipe.vae, pipe.unet):
        # A third faster on CPU for these channel counts, and what GPUs prefer.
        part.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_vae(folder: Path) -> AutoencoderKL:
    """The autoencoder alone of a pipeline folder, in float32 and evaluation mode."""
    quiet_unless_terminal()
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32)
    vae.requires_grad_(False).eval()
    vae.to(memory_format=torch.channels_last)
    return vae


def prompt_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """(B, L) token ids, padded and truncated to the model's length."""
    return tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
