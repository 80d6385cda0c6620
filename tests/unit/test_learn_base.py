import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel

from pipeline.diffusion.components import BaseModelError, load_pipeline, small_pipeline
from pipeline.diffusion.denoise import Conditions, Trajectory, inpaint
from pipeline.diffusion.tokenizer import small_tokenizer
from pipeline.fan_out import WorkError
from pipeline.images import write_png
from pipeline.params import LearnBaseParams
from pipeline.records import DatasetCard, Sample, write_card, write_manifest
from pipeline.stages.learn_base import learn_base
from pipeline.weight_cards import write_weight_card
from tests.conftest import ROOT
from tests.diffusion_toy import SIDE, write_base

pytestmark = pytest.mark.slow


def params(**changes: object) -> LearnBaseParams:
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["learn_base"]
    small = {"source": "train", "crop_px": 32, "crop_side_px": (24, 40), "threads": 1}
    small |= {"adapt": {"steps": 0, "batch": 2, "lr": 1e-3}}
    steps = {"vae": {"steps": 2, "batch": 2, "lr": 1e-3}, "unet": {"steps": 2, "batch": 2, "lr": 1e-3}}
    return LearnBaseParams.model_validate(section | small | steps | changes)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folds with one good photo each."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "train"
    samples = []
    for fold in (0, 1):
        photo = np.random.default_rng(fold).integers(60, 200, (48, 56, 3)).astype(np.uint8)
        write_png(folder / f"images/good-{fold}.png", photo)
        samples.append(Sample(f"good-{fold}", f"images/good-{fold}.png", None, None, f"p{fold}", "train", fold))
    write_manifest(folder, samples)
    write_card(folder, DatasetCard("toy", "folder", ("hole",), 1, {}, (0, 1), "mask"))
    return folder


def test_a_trained_base_is_a_stock_inpainting_pipeline(train: Path, tmp_path: Path):
    learn_base(params(), train, tmp_path / "base")
    pipe = StableDiffusionInpaintPipeline.from_pretrained(
        tmp_path / "base" / "fold-1", safety_checker=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    result = pipe("A photo of a surface", image=image, mask_image=mask, num_inference_steps=2, height=32, width=32)
    assert result.images[0].size == (32, 32)


def test_a_folder_as_source_is_taken_over_for_every_fold(train: Path, tmp_path: Path):
    base = write_base(tmp_path / "given")
    learn_base(params(source=str(base)), train, tmp_path / "base")
    first, second = (load_pipeline(tmp_path / "base" / f"fold-{fold}") for fold in (0, 1))
    given = load_pipeline(base)
    for name, weight in given.unet.state_dict().items():
        assert torch.equal(weight, first.unet.state_dict()[name]) and torch.equal(weight, second.unet.state_dict()[name])


def test_adapting_moves_the_unet_alone_and_every_fold_its_own_way(train: Path, tmp_path: Path):
    base = write_base(tmp_path / "given")
    learn_base(params(source=str(base), adapt={"steps": 2, "batch": 2, "lr": 1e-2}), train, tmp_path / "base")
    given, first, second = (load_pipeline(p) for p in (base, tmp_path / "base" / "fold-0", tmp_path / "base" / "fold-1"))
    for part in ("vae", "text_encoder"):
        weights = getattr(given, part).state_dict()
        assert all(torch.equal(weight, getattr(first, part).state_dict()[name]) for name, weight in weights.items())
    name = "conv_in.weight"
    states = [pipe.unet.state_dict()[name] for pipe in (given, first, second)]
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])
    assert json.loads((tmp_path / "base" / "fold-1" / "card.json").read_text())["source"] == str(base)


def test_no_path_of_the_machine_enters_a_base(train: Path, tmp_path: Path):
    base = write_base(tmp_path / "pipeline")
    learn_base(params(source=str(base), adapt={"steps": 1, "batch": 2, "lr": 1e-2}), train, tmp_path / "base")
    learn_base(params(source=str(base)), train, tmp_path / "as it is")
    for folder in ("base/fold-0", "as it is/fold-0"):
        texts = [file.read_text() for file in (tmp_path / folder).rglob("*.json") if file.name != "card.json"]
        assert len(texts) > 4 and not any(str(tmp_path) in text for text in texts)


def test_embedded_weights_are_taken_only_with_the_hashes_of_their_card(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    embedded = write_base(tmp_path / "embedded")
    for module in ("pipeline.diffusion.components", "pipeline.stages.learn_base"):
        monkeypatch.setattr(f"{module}.EMBEDDED", embedded)
    with pytest.raises(WorkError, match=r"card\.json is missing"):
        learn_base(params(source="embedded"), train, tmp_path / "base")
    write_weight_card(embedded, {"data": "none"})
    learn_base(params(source="embedded"), train, tmp_path / "base")
    assert torch.equal(
        load_pipeline(embedded).unet.conv_in.weight, load_pipeline(tmp_path / "base" / "fold-0").unet.conv_in.weight
    )
    file = embedded / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(WorkError, match="its card expects"):
        learn_base(params(source="embedded", photos=7), train, tmp_path / "again")


def test_a_base_paints_at_the_size_asked_for_or_says_why_not(train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = write_base(tmp_path / "given")
    with pytest.raises(WorkError, match=rf"paints crops of {SIDE} px and learn_base\.crop_px is {2 * SIDE}; set it to {SIDE}"):
        learn_base(params(source=str(base), crop_px=2 * SIDE), train, tmp_path / "refused")
    for module in ("pipeline.diffusion.components", "pipeline.stages.learn_base"):
        monkeypatch.setattr(f"{module}.EMBEDDED", base)
    write_weight_card(base, {"data": "none"})
    for name, steps in {"taken": 0, "adapted": 1}.items():
        adapt = {"steps": steps, "batch": 2, "lr": 1e-3}
        learn_base(params(source="embedded", crop_px=2 * SIDE, adapt=adapt), train, tmp_path / name)
        pipe = load_pipeline(tmp_path / name / "fold-0")
        assert pipe.unet.config["sample_size"] * pipe.vae_scale_factor == pipe.vae.config["sample_size"] == 2 * SIDE


def test_a_source_that_is_nowhere_is_named_with_the_ways_out(train: Path, tmp_path: Path):
    with pytest.raises(WorkError, match=r"fold 0: no inpainting pipeline 'no/where'.*learn_base.source"):
        learn_base(params(source="no/where"), train, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_pipeline_that_cannot_inpaint_is_refused(tmp_path: Path):
    pipe = small_pipeline(SIDE, seed=0)
    config = {**pipe.unet.config, "in_channels": 4}
    pipe.register_modules(unet=UNet2DConditionModel.from_config(config))
    pipe.save_pretrained(tmp_path / "plain")
    with pytest.raises(BaseModelError, match="takes 4 channels, an inpainting UNet takes 9"):
        load_pipeline(tmp_path / "plain")


def test_without_good_photos_there_is_nothing_to_learn(train: Path, tmp_path: Path):
    write_manifest(train, [])
    with pytest.raises(WorkError, match="fold 0: no good train photo"):
        learn_base(params(), train, tmp_path / "base")


def test_words_of_our_prompts_are_one_token_each():
    tokenizer = small_tokenizer()
    assert tokenizer.tokenize("A photo of a surface") == ["a</w>", "photo</w>", "of</w>", "a</w>", "surface</w>"]
    assert tokenizer.decode(tokenizer("qz 7", add_special_tokens=False).input_ids).strip() == "qz 7"


@pytest.mark.parametrize(("scheduler", "guidance"), [("ddim", 1.0), ("ddim", 3.0), ("dpm", 3.0)])
def test_latents_outside_the_mask_come_back_exactly(scheduler: str, guidance: float):
    pipe = small_pipeline(SIDE, seed=0)
    torch.manual_seed(0)
    clean, mask = torch.randn(2, 4, 16, 16), torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:9, 5:11] = 1
    text = torch.randn(2, 24, 64)
    given = Conditions(clean, mask, clean, text, torch.zeros_like(text))
    path = Trajectory(scheduler, 4, guidance, strength=0.75, blend=True)
    result = inpaint(pipe.unet.eval(), pipe.scheduler, given, torch.randn_like(clean), path)
    keep = mask.expand_as(clean) == 0
    assert torch.equal(result[keep], clean[keep]) and not torch.equal(result, clean)
