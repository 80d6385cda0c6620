"""The sd2 profile: the architecture of Stable Diffusion 2 inpainting, narrow and with random weights, through production code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from pipeline.diffusion.components import load_pipeline, prompt_ids
from pipeline.diffusion.latents import latent_mask, mask_tensor, training_target
from pipeline.diffusion.pretrain import save_pipeline
from pipeline.generators.defectfill import painting as painting_module
from pipeline.generators.defectfill.attention import AttentionRecorder
from pipeline.generators.defectfill.fit import fit
from pipeline.generators.defectfill.sample import DefectFillSampler
from pipeline.generators.protocol import FitJob, SampleJob
from tests.diffusion_toy import fit_params, references, request_of, sampling_params, write_sd2

pytestmark = pytest.mark.slow

PIXELS = 16 * 8
"""Latents of 16 through a VAE of factor 8; 64 and 512 px in the real one."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sd2(tmp_path_factory.mktemp("sd2"))


def test_the_folder_loads_in_float32_with_a_scheduler_all_steps_can_use(base: Path, tmp_path: Path):
    pipe = load_pipeline(base)
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert pipe.vae_scale_factor == 8 and len(pipe.tokenizer) == 49408
    assert isinstance(pipe.scheduler, DDIMScheduler), "PNDM has no velocity"
    kept = ("prediction_type", "beta_schedule", "steps_offset", "clip_sample", "set_alpha_to_one", "timestep_spacing")
    assert [pipe.scheduler.config[name] for name in kept] == ["epsilon", "scaled_linear", 1, False, False, "leading"]
    # The public schedule keeps 0.47 % of the picture's variance at its end.
    assert float(pipe.scheduler.alphas_cumprod[-1]) == pytest.approx(0.0047, abs=5e-5)
    save_pipeline(pipe, tmp_path / "again")
    again = load_pipeline(tmp_path / "again")
    assert again.scheduler.config["prediction_type"] == "epsilon" and torch.equal(
        again.unet.conv_in.weight, pipe.unet.conv_in.weight
    )


def test_a_base_with_velocity_gets_its_target_whatever_scheduler_it_names(base: Path):
    scheduler = load_pipeline(base).scheduler
    scheduler.register_to_config(prediction_type="v_prediction")
    latents, noise, times = torch.full((1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), 3.0), torch.tensor([500])
    signal = float(scheduler.alphas_cumprod[500])
    wanted = signal**0.5 * 3 - (1 - signal) ** 0.5 * 2
    assert torch.allclose(training_target(scheduler, latents, noise, times), torch.tensor(wanted))


def test_exactly_nine_maps_are_recorded(base: Path):
    pipe = load_pipeline(base)
    recorder = AttentionRecorder(pipe.unet)
    text = pipe.text_encoder(prompt_ids(pipe.tokenizer, ["A metal nut with a scratch", ""])).last_hidden_state
    assert text.shape == (2, 77, 32)
    with recorder.recording(torch.tensor([4, 1])) as maps:
        pipe.unet(torch.randn(2, 9, 16, 16), 5, encoder_hidden_states=text)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 4)] * 3 + [(8, 8)] * 3 + [(16, 16)] * 3


@pytest.fixture(scope="module")
def concept(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concept")
    (folder / "work").mkdir()
    params = fit_params(steps=2, warmup_steps=0, object="metal nut")
    fit(FitJob(params, references(), base, folder / "work", seed=0), folder / "fitted")
    return folder / "fitted"


def test_two_steps_move_unet_text_encoder_and_token_rows(concept: Path):
    lora = load_file(concept / "pytorch_lora_weights.safetensors")
    ups = {name: float(tensor.abs().sum()) for name, tensor in lora.items() if "up.weight" in name or "lora_B" in name}
    assert {name.split(".")[0] for name in ups} == {"unet", "text_encoder"}
    # 16 blocks of self- and cross-attention with four projections; two text layers with four.
    assert len([name for name in ups if name.startswith("unet")]) == 16 * 2 * 4 and len(ups) == 16 * 2 * 4 + 2 * 4
    assert all(value > 0 for value in ups.values())
    assert json.loads((concept / "card.json").read_text())["skipped_steps"] == 0


@pytest.mark.parametrize(("scheduler", "strength"), [("ddim", 1.0), ("dpm", 1.0), ("dpm", 0.8)])
def test_a_request_is_painted_at_the_pipelines_own_size(
    base: Path, concept: Path, scheduler: str, strength: float, monkeypatch: pytest.MonkeyPatch
):
    sides = set()
    real = painting_module.to_tensor
    monkeypatch.setattr(painting_module, "to_tensor", lambda pictures: sides.add(pictures.shape[1:3]) or real(pictures))
    rng = np.random.default_rng(0)
    clean = rng.integers(90, 160, (100, 100, 3)).astype(np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[30:60, 40:70] = True
    wanted = sampling_params(steps=4, scheduler=scheduler, strength=strength, guidance=7.5)
    job = SampleJob(wanted, base, [rng.integers(90, 160, (80, 90, 3)).astype(np.uint8)], feather_px=2, micro_batch=1, seed=0)
    result = next(iter(DefectFillSampler(concept, job)([(request_of("r", "hole", clean, mask), 1)])))
    assert sides == {(PIXELS, PIXELS)}
    assert result.image.shape == clean.shape and (result.image[:20] == clean[:20]).all()
    assert (result.image[mask] != clean[mask]).any()


def test_a_line_of_one_pixel_is_whole_at_latent_size(base: Path, concept: Path):
    """Latents are 8 times smaller, by nearest sampling; the line is at a column between those that are looked at."""
    good = [np.full((80, 90, 3), 120, np.uint8)]
    painter = DefectFillSampler(concept, SampleJob(sampling_params(steps=1), base, good, feather_px=2, micro_batch=1, seed=0))
    line = np.zeros((PIXELS, PIXELS), bool)
    line[16:112, 68] = True
    seen = latent_mask(mask_tensor(painter._painted(line)[None]), torch.zeros(1, 4, 16, 16))[0, 0]
    assert seen[2:14].amax(dim=1).eq(1).all() and not seen[0].any()
