"""A concept leaves the project and comes back: the stock pipeline paints the same picture, and a plain LoRA becomes a concept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionInpaintPipeline, UniPCMultistepScheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.__main__ import main
from pipeline.diffusion.components import EMBEDDED, load_pipeline, prompt_ids
from pipeline.generators.defectfill.concept import ConceptError, joint_prompt, load_concept, object_prompt
from pipeline.generators.defectfill.fit import fit
from pipeline.generators.defectfill.sample import DefectFillSampler
from pipeline.generators.protocol import FitJob, Part, Request, SampleJob
from pipeline.training import DeviceError
from tests.diffusion_toy import fit_params, references, request_of, sampling_params, write_base

pytestmark = pytest.mark.slow

LORA = "pytorch_lora_weights.safetensors"
STOCK = {
    "blend": False,
    "composite": "none",
    "posterior": "drawn",
    "widen_mask": False,
    "keep_grey": False,
    "even_exposure": False,
}
"""The options that make our sampler do what the stock pipeline does."""


def shaken(file: Path, size: float) -> None:
    """Add noise to every tensor of a safetensors file, so that a LoRA of two steps makes a difference that can be seen."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    generator = torch.Generator().manual_seed(0)
    save_file({n: t + size * torch.randn(t.shape, generator=generator) for n, t in load_file(file).items()}, file, metadata)


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on the embedded base, whose decoder, unlike a random one's, makes pictures with contrast."""
    folder = tmp_path_factory.mktemp("concept")
    (folder / "work").mkdir()
    fit(FitJob(fit_params(steps=2), references(), EMBEDDED, folder / "work", seed=0), folder / "fitted")
    shaken(folder / "fitted" / LORA, 0.1)
    for file in (folder / "fitted" / "tokens").iterdir():
        shaken(file, 0.5)
    return folder / "fitted"


def request(side: int = 64, defect: str = "hole") -> Request:
    clean = (
        np.random.default_rng(3).integers(60, 200, (side // 8, side // 8, 3)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
    )
    mask = np.zeros((side, side), bool)
    mask[side // 4 : side // 2, side // 3 : side // 3 + side // 4] = True
    return request_of("r0", defect, clean, mask)


def good() -> list[np.ndarray]:
    return [np.random.default_rng(0).integers(90, 160, (80, 90, 3)).astype(np.uint8)]


def both() -> Request:
    """A hole and a scratch on one crop."""
    wanted, second = request(), np.zeros((64, 64), bool)
    second[40:56, 36:56] = True
    return Request("r0", wanted.clean, (*wanted.parts, Part("long scratch", second, "long scratch-0", np.eye(2, 3))))


def ours(base: Path, concept: Path, wanted: Request | None = None, **changes: object) -> np.ndarray:
    job = SampleJob(sampling_params(**changes), base, good(), feather_px=2, micro_batch=1, seed=0)
    return next(iter(DefectFillSampler(concept, job)([(wanted or request(), 7)]))).image


def stock(base: Path, concept: Path, **arguments: object) -> np.ndarray:
    """What someone paints who has the folder and diffusers, and none of our code."""
    card = json.loads((concept / "card.json").read_text())
    # Named, since the weights of the embedded base lie in float16.
    pipe = StableDiffusionInpaintPipeline.from_pretrained(
        base, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    for token in card["tokens"].values():
        pipe.load_textual_inversion(str(concept / "tokens" / f"{token.strip('<>')}.safetensors"), token=token)
    pipe.load_lora_weights(str(concept))
    solver = {"dpm": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}.get(arguments.pop("scheduler", "ddim"))
    if solver is not None:
        pipe.scheduler = solver.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    wanted = arguments.pop("wanted", None) or request()
    words = " and ".join(card["tokens"][defect] for defect in wanted.defects)
    result = pipe(
        prompt=f"A surface with {words}",
        image=Image.fromarray(wanted.clean),
        mask_image=Image.fromarray(wanted.mask.astype(np.uint8) * 255),
        num_inference_steps=5,
        generator=torch.Generator().manual_seed(7),
        **arguments,
    )
    return np.array(result.images[0])


@pytest.mark.parametrize(
    ("scheduler", "strength", "guidance"),
    [("ddim", 1.0, 3.0), ("ddim", 0.7, 1.0), ("dpm", 1.0, 3.0), ("dpm", 0.7, 7.5), ("unipc", 0.7, 3.0)],
)
def test_the_stock_pipeline_paints_the_same_picture(concept: Path, scheduler: str, strength: float, guidance: float):
    theirs = stock(EMBEDDED, concept, scheduler=scheduler, strength=strength, guidance_scale=guidance).astype(int)
    same = ours(EMBEDDED, concept, scheduler=scheduler, strength=strength, guidance=guidance, **STOCK)
    assert np.abs(same - theirs).max() <= 1 and (same != theirs).mean() < 1e-3, "sums round differently in another memory layout"


def test_the_stock_pipeline_paints_several_defects_with_the_prompt_that_names_them(concept: Path):
    theirs = stock(EMBEDDED, concept, wanted=both(), strength=1.0, guidance_scale=3.0).astype(int)
    same = ours(EMBEDDED, concept, both(), strength=1.0, guidance=3.0, **STOCK)
    assert np.abs(same - theirs).max() <= 1 and (same != theirs).mean() < 1e-3
    alone = Request("r0", both().clean, (Part("hole", both().mask, None, None),))
    other = ours(EMBEDDED, concept, alone, strength=1.0, guidance=3.0, **STOCK)
    assert np.abs(other.astype(int) - theirs).max() >= 20, "the second word changes nothing"


def test_a_joint_prompt_says_what_is_common_once_and_each_type_once():
    prompts = [object_prompt(word, "metal tile") for word in ("<crack>", "<hole>", "<crack>")]
    assert joint_prompt(prompts) == "A metal tile with <crack> and <hole>"
    assert joint_prompt(prompts[:1]) == prompts[0]
    assert joint_prompt(["A photo of a sks", "A photo of a sks hole"]) == "A photo of a sks and sks hole"
    assert joint_prompt(["scratch", "a hole"]) == "scratch and a hole"


@pytest.fixture(scope="module")
def plain(concept: Path) -> np.ndarray:
    return ours(EMBEDDED, concept, strength=1.0, **STOCK).astype(int)


@pytest.mark.parametrize(
    ("departure", "at_least"),
    [
        ({"lora_scale": 0.0}, 20),
        ({"blend": True}, 20),
        ({"composite": "change"}, 20),
        ({"composite": "pixels"}, 20),
        ({"widen_mask": True}, 20),
        ({"even_exposure": True}, 3),  # these crops are nearly at that exposure
        # This VAE's posterior is narrow, as those of Stable Diffusion are: a grey level here and there.
        ({"posterior": "mean"}, 1),
    ],
    ids=lambda value: str(value),
)
def test_every_departure_is_seen(concept: Path, plain: np.ndarray, departure: dict[str, object], at_least: int):
    """Else the comparison above could not fail."""
    other = ours(EMBEDDED, concept, **({"strength": 1.0, **STOCK} | departure))
    assert np.abs(other - plain).max() >= at_least and (other != plain).mean() > 0.1


def test_grey_is_kept_only_on_request(concept: Path):
    wanted = request()
    grey = request_of("g", "hole", np.repeat(wanted.clean[..., :1], 3, axis=2), wanted.mask)
    for keep in (True, False):
        job = SampleJob(sampling_params(keep_grey=keep), EMBEDDED, good(), feather_px=2, micro_batch=1, seed=0)
        image = next(iter(DefectFillSampler(concept, job)([(grey, 1)]))).image
        assert (image == image[..., :1]).all() == keep


def test_a_composite_of_pixels_is_the_decoded_picture_inside_the_mask_and_the_clean_one_outside(concept: Path):
    wanted = request()
    decoded, pasted = (ours(EMBEDDED, concept, composite=kind).astype(int) for kind in ("none", "pixels"))
    assert (pasted[wanted.mask] == decoded[wanted.mask]).all()
    assert (pasted[:8] == wanted.clean[:8]).all() and (decoded[:8] != wanted.clean[:8]).any()


def test_a_concept_of_another_base_is_refused(concept: Path, tmp_path: Path):
    other = write_base(tmp_path / "base")
    with pytest.raises(ConceptError, match=rf"belongs to the base with digest [0-9a-f]{{24}}, and {other} has [0-9a-f]{{24}}"):
        load_concept(load_pipeline(other), concept, other)


def test_a_device_that_is_not_there_is_named(concept: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device 'cuda' is not there"):
        ours(EMBEDDED, concept, device="cuda")


def test_a_type_the_concept_does_not_have_is_named(concept: Path):
    job = SampleJob(sampling_params(), EMBEDDED, good(), feather_px=2, micro_batch=1, seed=0)
    with pytest.raises(ConceptError, match=r"no defect type 'dent', only \['hole', 'long scratch'\]"):
        list(DefectFillSampler(concept, job)([(request(defect="dent"), 1)]))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def foreign_lora(base: Path, folder: Path, parts: tuple[str, ...], *, metadata: bool) -> StableDiffusionInpaintPipeline:
    """Write a LoRA with diffusers and PEFT alone, alpha four times the rank; return the pipeline it was made on."""
    pipe = load_pipeline(base)
    targets = {"unet": ["to_k", "to_v"], "text_encoder": ["q_proj", "v_proj"]}
    torch.manual_seed(1)
    arguments: dict[str, object] = {}
    for part in parts:
        model = getattr(pipe, part)
        model.add_adapter(LoraConfig(r=3, lora_alpha=12, target_modules=targets[part]), "default")
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = torch.randn_like(parameter) * 0.2
        arguments[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
        if metadata:
            arguments[f"{part}_lora_adapter_metadata"] = model.peft_config["default"].to_dict()
    StableDiffusionInpaintPipeline.save_lora_weights(folder, **arguments)
    pipe.unet.eval(), pipe.text_encoder.eval()
    return pipe


def answer(pipe: StableDiffusionInpaintPipeline, prompt: str) -> torch.Tensor:
    """What the UNet says to one input and prompt."""
    with torch.inference_mode():
        text = pipe.text_encoder(prompt_ids(pipe.tokenizer, [prompt])).last_hidden_state
        sample = torch.randn(1, 9, 16, 16, generator=torch.Generator().manual_seed(0))
        return pipe.unet(sample, 7, encoder_hidden_states=text).sample


def arguments(lora: Path, base: Path, out: Path, *more: str) -> list[str]:
    return ["adopt", "--lora", str(lora), "--base", str(base), "--prompt", "hole=A surface with a hole", "--out", str(out), *more]


@pytest.mark.parametrize("parts", [("unet",), ("unet", "text_encoder"), ("text_encoder",)], ids="+".join)
def test_a_lora_from_elsewhere_becomes_a_concept_with_its_alpha(base: Path, tmp_path: Path, parts: tuple[str, ...]):
    made_on = foreign_lora(base, tmp_path, parts, metadata=True)
    assert main(arguments(tmp_path / LORA, base, tmp_path / "concept")) == 0
    pipe = load_pipeline(base)
    plain = answer(pipe, "A surface with a hole")
    assert load_concept(pipe, tmp_path / "concept", base) == {"hole": "A surface with a hole"}
    adopted = answer(pipe, "A surface with a hole")
    assert torch.equal(adopted, answer(made_on, "A surface with a hole")), "alpha 12 at rank 3, not alpha = rank"
    assert not torch.allclose(adopted, plain, atol=1e-3)
    job = SampleJob(sampling_params(steps=2), base, good(), feather_px=2, micro_batch=1, seed=0)
    result = next(iter(DefectFillSampler(tmp_path / "concept", job)([(request(side=32), 1)])))
    assert result.image.shape == (32, 32, 3)


def test_a_lora_without_metadata_is_read_as_diffusers_reads_it(base: Path, tmp_path: Path):
    foreign_lora(base, tmp_path, ("unet", "text_encoder"), metadata=False)
    assert main(arguments(tmp_path / LORA, base, tmp_path / "concept")) == 0
    pipes = [load_pipeline(base) for _ in range(2)]
    load_concept(pipes[0], tmp_path / "concept", base)
    pipes[1].load_lora_weights(str(tmp_path / LORA))
    assert torch.equal(*(answer(pipe, "A surface with a hole") for pipe in pipes))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_token_comes_along_and_is_spelled_out_as_the_stock_pipeline_does(base: Path, tmp_path: Path, rows: int):
    foreign_lora(base, tmp_path, ("unet",), metadata=True)
    row = torch.randn(rows, 64, generator=torch.Generator().manual_seed(2))
    save_file({"<pit>": row}, tmp_path / "learned_embeds.safetensors")
    more = ("--prompt", "pit=A surface with <pit>", "--token", f"pit={tmp_path / 'learned_embeds.safetensors'}")
    assert main(arguments(tmp_path / LORA, base, tmp_path / "concept", *more)) == 0
    job = SampleJob(sampling_params(steps=1), base, good(), feather_px=2, micro_batch=1, seed=0)
    text = DefectFillSampler(tmp_path / "concept", job)._text_of(("pit",))
    theirs = StableDiffusionInpaintPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    theirs.load_textual_inversion(str(tmp_path / "learned_embeds.safetensors"))
    wanted, _ = theirs.encode_prompt("A surface with <pit>", "cpu", 1, False)
    assert torch.allclose(text, wanted, atol=1e-5)


def test_what_does_not_fit_is_named(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    foreign_lora(base, tmp_path, ("unet", "text_encoder"), metadata=True)
    lora = tmp_path / LORA
    tensors = load_file(lora)
    (tmp_path / "pickled.bin").write_bytes(b"\x80\x04not safe")
    save_file(
        {name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in tensors.items()}, tmp_path / "wide.safetensors"
    )
    save_file({name.replace("up_blocks.0", "up_blocks.7"): t for name, t in tensors.items()}, tmp_path / "deep.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "none.safetensors")
    save_file({"<pit>": torch.zeros(8)}, tmp_path / "narrow.safetensors")
    save_file({"<pit>": torch.zeros(64)}, tmp_path / "pit.safetensors")
    out = tmp_path / "concept"
    for command, message in [
        (arguments(tmp_path / "gone.safetensors", base, out), "gone.safetensors: no readable safetensors file"),
        (arguments(tmp_path / "pickled.bin", base, out), "pickled files are not taken"),
        (arguments(tmp_path / "none.safetensors", base, out), "none.safetensors does not load onto the base"),
        (arguments(tmp_path / "wide.safetensors", base, out), "wide.safetensors does not load onto the base"),
        (arguments(tmp_path / "deep.safetensors", base, out), "LoRA tensors, of which the base"),
        (arguments(lora, base, out, "--prompt", "hole=again"), "--prompt names 'hole' twice"),
        (arguments(lora, base, out, "--prompt", "hole"), "--prompt takes NAME=VALUE, got 'hole'"),
        (arguments(lora, base, out, "--token", "pit=x"), "--token names types ['pit'] that have no --prompt"),
        (arguments(lora, base, out, "--token", f"hole={tmp_path / 'narrow.safetensors'}"), "takes rows of 64"),
        (arguments(lora, base, out, "--token", f"hole={lora}"), "expected one tensor named as its token"),
        (arguments(lora, base, out, "--token", f"hole={tmp_path / 'pit.safetensors'}"), "token <pit> is not in its prompt"),
        (arguments(lora, tmp_path / "nowhere", out), "no inpainting pipeline"),
    ]:
        assert main(command) == 2, message
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_a_changed_file_of_the_base_counts(base: Path, tmp_path: Path):
    """Not the weights alone: another scheduler or tokenizer is another base."""
    foreign_lora(base, tmp_path, ("unet",), metadata=True)
    assert main(arguments(tmp_path / LORA, base, tmp_path / "concept")) == 0
    shutil.copytree(base, tmp_path / "base")
    load_concept(load_pipeline(tmp_path / "base"), tmp_path / "concept", tmp_path / "base")
    file = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("v_prediction", "epsilon"))
    with pytest.raises(ConceptError, match="learn it anew on this one"):
        load_concept(load_pipeline(tmp_path / "base"), tmp_path / "concept", tmp_path / "base")
