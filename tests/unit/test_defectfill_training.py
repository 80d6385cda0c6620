"""Options of the fit: precision, memory, averages, prompts, words, adapters, pictures; and exact resume with all of them."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.averaging import Ema
from pipeline.diffusion.components import load_pipeline
from pipeline.generators.defectfill import fit as fit_module
from pipeline.generators.defectfill.attention import AttentionRecorder, token_column
from pipeline.generators.defectfill.concept import LORA_FILE, ConceptError, TokenError, load_concept, rare_words, whole
from pipeline.generators.defectfill.fit import Fit, fit, fit_adapter, losses_of, open_fit, pooled_losses, texts_of
from pipeline.generators.defectfill.generator import DefectFill, PerTypeSampler
from pipeline.generators.defectfill.losses import attention_loss
from pipeline.generators.protocol import Display, FitJob, Request, SampleJob
from pipeline.images import read_rgb
from pipeline.training import DeviceError, LoopPlan
from tests.diffusion_toy import SIDE, fit_params, references, request_of, sampling_params, write_base

pytestmark = pytest.mark.slow

EVERYTHING = {
    "dropout": 0.1,
    "accumulate": 2,
    "ema_decay": 0.9,
    "gradient_checkpointing": True,
    "prompt_dropout": 0.4,
    "prompt_noise": 0.3,
    "steps": 4,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def job(base: Path, work: Path, **changes: object) -> FitJob:
    work.mkdir(exist_ok=True)
    return FitJob(fit_params(**changes), references(), base, work, seed=0)


def begin(base: Path, work: Path, **changes: object) -> Fit:
    """A fit about to begin whose LoRA is not at its start, where B = 0 blocks every gradient to A and to the text."""
    begun = open_fit(job(base, work, **changes))
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in begun.trained:
            tensor.add_(torch.randn_like(tensor) * 0.05 * (len(tensor) != len(begun.concept.pipe.tokenizer)))
    return begun


def gradients(begun: Fit, seed: int = 2, **changes: object) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    pooled_losses(begun, fit_params(**changes))["loss"].backward()
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in begun.trained]


def test_a_missing_device_is_refused_before_anything_is_loaded(base, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device 'cuda' is not there"):
        open_fit(job(tmp_path / "no base at all", tmp_path, device="cuda"))


def test_checkpointing_gives_the_same_gradients_and_one_map_a_layer(base, tmp_path):
    found = []
    for checkpointing in (False, True):
        begun = begin(base, tmp_path, gradient_checkpointing=checkpointing, dropout=0.1)
        assert begun.concept.pipe.unet.is_gradient_checkpointing == checkpointing
        found.append(gradients(begun, dropout=0.1))
        assert begun.concept.recorder._columns is None, "the second run in backward leaves nothing behind"
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))
    assert sum(float(g.abs().sum()) for g in found[1]) > 0


def test_a_checkpointed_block_runs_twice_and_its_maps_are_counted_once(base):
    unet = load_pipeline(base).unet.train()
    recorder = AttentionRecorder(unet)
    unet.enable_gradient_checkpointing(recorder.checkpointed)
    computed = []
    real = recorder._maps
    sample, text = torch.randn(2, 9, 16, 16), torch.randn(2, 24, 64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pipeline.generators.defectfill.attention.token_column",
            lambda *rest: computed.append(1) or token_column(*rest),
        )
        with recorder.recording(torch.tensor([3, 4])) as maps:
            unet(sample, 5, encoder_hidden_states=text)
        assert len(maps) == len(computed) == len(recorder.layers) == 4
        torch.stack([m.sum() for m in maps]).sum().backward()
    assert len(maps) == 4 and len(computed) == 8 and real == []
    assert float(text.grad.abs().sum()) > 0


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_bug_15_what_is_trained_stays_float32_in_lower_precision(base, tmp_path, kind, dtype):
    begun = begin(base, tmp_path, autocast=kind)
    unet = begun.concept.pipe.unet
    assert {p.dtype for p in unet.parameters() if not p.requires_grad} == {dtype}
    seen = []
    hook = unet.conv_in.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    torch.manual_seed(2)
    losses = pooled_losses(begun, fit_params(autocast=kind))
    hook.remove()
    assert seen == [dtype] and {value.dtype for value in losses.values()} == {torch.float32}
    losses["loss"].backward()
    assert {t.dtype for t in begun.trained} == {t.grad.dtype for t in begun.trained} == {torch.float32}
    plain = begin(base, tmp_path)
    torch.manual_seed(2)
    for name, exact in pooled_losses(plain, fit_params()).items():
        assert losses[name].item() == pytest.approx(exact.item(), rel=0.01) and losses[name].item() != exact.item()


def test_the_attention_softmax_is_float32_under_autocast():
    torch.manual_seed(0)
    query, key = torch.randn(1, 2, 4, 8).bfloat16(), torch.randn(1, 2, 5, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        maps = [token_column(query, key, torch.tensor([column])) for column in range(5)]
    assert maps[0].dtype == torch.float32
    assert torch.allclose(torch.stack(maps).sum(dim=0), torch.ones(1, 2, 2), atol=1e-6)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_fit_in_lower_precision_trains_and_is_saved_in_float32(base, tmp_path, kind):
    history = fit_adapter(job(base, tmp_path, autocast=kind), tmp_path / "concept", "toy")
    saved = load_file(tmp_path / "concept" / LORA_FILE)
    assert {t.dtype for t in saved.values()} == {torch.float32} and len(history.losses) == 3
    ups = [t for name, t in saved.items() if "lora_B" in name or "up.weight" in name]
    assert history.skipped < 3 and all(float(t.abs().sum()) > 0 for t in ups)


def test_rows_without_a_prompt_get_the_empty_one_in_both_branches(base, tmp_path):
    begun = begin(base, tmp_path)
    concept, encoder = begun.concept, begun.concept.pipe.text_encoder
    texts = texts_of(concept, ["long scratch", "hole"], torch.tensor([True, False]), 0.0)
    with torch.no_grad():
        empty = encoder(concept.empty).last_hidden_state[0]
        scratch = encoder(concept.ids["long scratch"]).last_hidden_state
    for row, wanted in zip(texts, (scratch[0], empty, scratch[1], empty), strict=True):
        assert torch.allclose(row, wanted, atol=1e-6)


def test_rows_without_a_prompt_add_nothing_to_the_attention_loss():
    mask = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    maps = [torch.tensor([0.25, 0.5]).view(2, 1, 1)]
    assert attention_loss(maps, mask, "none").item() == pytest.approx((0.75**2 + 0.5**2) / 2)
    assert attention_loss(maps, mask, "none", torch.tensor([True, False])).item() == pytest.approx(0.75**2 / 2)
    assert attention_loss(maps, mask, "none", torch.tensor([False, False])).item() == 0.0


def test_the_share_of_dropped_prompts_is_the_one_asked_for(base, tmp_path, monkeypatch):
    begun, seen = begin(base, tmp_path), []
    batch = begun.pool.rows([0, 1] * 8)
    monkeypatch.setattr(fit_module, "texts_of", lambda *a: seen.append(a[2].float().mean()) or texts_of(*a))
    for seed in range(6):
        torch.manual_seed(seed)
        losses_of(begun.concept, batch, fit_params(prompt_dropout=0.25))
    assert float(torch.stack(seen).mean()) == pytest.approx(0.75, abs=0.1)


def test_prompt_noise_has_the_deviation_asked_for_and_spares_empty_prompts(base, tmp_path):
    concept = begin(base, tmp_path).concept
    prompted = torch.tensor([True, False])
    with torch.no_grad():
        plain = texts_of(concept, ["hole", "hole"], prompted, 0.0)
        noisy = texts_of(concept, ["hole", "hole"], prompted, 0.5)
    difference = noisy - plain
    assert float(difference[[0, 2]].std()) == pytest.approx(0.5, rel=0.1)
    assert float(difference[[1, 3]].abs().max()) == 0.0
    assert not torch.equal(difference[0], difference[2])


def test_what_is_saved_is_the_average(base, tmp_path, monkeypatch):
    averages = []
    monkeypatch.setattr(fit_module, "Ema", lambda *rest: averages.append(Ema(*rest)) or averages[-1])
    fit_adapter(job(base, tmp_path / "w", ema_decay=0.9), tmp_path / "averaged", "toy")
    fit_adapter(job(base, tmp_path / "v"), tmp_path / "last", "toy")
    averaged, last = (load_file(tmp_path / name / LORA_FILE) for name in ("averaged", "last"))
    assert any(not torch.equal(averaged[name], last[name]) for name in averaged)
    # The two files name their tensors differently; the embedding, which is no LoRA, is the long one.
    shadow = sorted(t.double().sum().item() for t in averages[0].average.values() if len(t) < 200)
    assert sorted(t.double().sum().item() for t in averaged.values()) == pytest.approx(shadow, abs=1e-9)
    (ema,) = averages
    assert ema.updates == 3


@pytest.mark.parametrize(
    "changes",
    [EVERYTHING, {**EVERYTHING, "autocast": "fp16", "token": "rare"}, {**EVERYTHING, "adapter": "per_type"}],
    ids=["float32", "fp16", "per_type"],
)
def test_a_killed_fit_resumes_to_the_same_bytes_with_every_option(base, tmp_path, monkeypatch, changes):
    fit(job(base, tmp_path / "a", **changes), tmp_path / "whole")
    real, calls = fit_module.losses_of, {"left": 5}

    def stop(*rest):
        calls["left"] -= 1
        if calls["left"] == 0:  # in the second micro-batch of step 3
            raise KeyboardInterrupt
        return real(*rest)

    monkeypatch.setattr(fit_module, "losses_of", stop)
    monkeypatch.setattr(fit_module, "LoopPlan", partial(LoopPlan, checkpoint_every_s=-1.0))
    with pytest.raises(KeyboardInterrupt):
        fit(job(base, tmp_path / "b", **changes), tmp_path / "resumed")
    (checkpoint,) = (tmp_path / "b").glob("*.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 2
    fit(job(base, tmp_path / "b", **changes), tmp_path / "resumed")
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert len(files) >= 2
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name


def test_a_checkpoint_holds_what_is_trained_and_not_the_base(base, tmp_path):
    fit_adapter(job(base, tmp_path / "w", ema_decay=0.9), tmp_path / "concept", "toy")
    saved = torch.load(tmp_path / "w" / "toy-0.pt", weights_only=True)
    assert set(saved) == {"step", "trained", "ema", "optimizer", "history"}
    assert all(t.shape[0] != 9 and t.ndim == 2 for t in saved["trained"].values()), "no convolution of the UNet"


def test_rare_words_are_single_tokens_without_meaning_and_add_no_row(base, tmp_path):
    tokenizer = load_pipeline(base).tokenizer
    words = rare_words(tokenizer, ["hole", "long scratch"], "surface")
    assert words == {"hole": "z", "long scratch": "x"}, "the highest ids among the consonants"
    assert rare_words(tokenizer, ["hole"], "Z type") == {"hole": "x"}, "the object's own words are taken"
    assert all(whole(tokenizer, word) is not None for word in words.values())
    with pytest.raises(TokenError, match="20 rare words for 21 defect types; set token to `new`"):
        rare_words(tokenizer, [str(n) for n in range(21)], "surface")
    begun = open_fit(job(base, tmp_path, token="rare"))
    assert len(begun.concept.pipe.tokenizer) == len(tokenizer) and not begun.new_ids
    assert {group["name"] for group in begun.optimizer.param_groups} == {"unet", "text"}
    assert not begun.concept.pipe.text_encoder.get_input_embeddings().weight.requires_grad
    assert begun.concept.columns == {"hole": 4, "long scratch": 4}


def test_a_concept_of_rare_words_loads_into_the_stock_pipeline(base, tmp_path):
    fit(job(base, tmp_path / "w", token="rare"), tmp_path / "concept")
    stock = load_pipeline(base)
    before = len(stock.tokenizer)
    assert load_concept(stock, tmp_path / "concept", base) == {"hole": "A surface with z", "long scratch": "A surface with x"}
    assert len(stock.tokenizer) == before and stock.get_active_adapters() == ["default"]
    assert not (list((tmp_path / "concept" / "tokens").glob("*.safetensors")))


@pytest.fixture(scope="module")
def per_type(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("per_type")
    fit(job(base, folder / "w", adapter="per_type", steps=2), folder / "concept")
    return folder / "concept"


def test_per_type_trains_each_adapter_on_its_references_alone(per_type):
    card = json.loads((per_type / "card.json").read_text())
    assert card["adapters"] == {"hole": "hole", "long scratch": "long-scratch"}
    for defect, folder in card["adapters"].items():
        own = json.loads((per_type / folder / "card.json").read_text())
        assert own["references"] == [f"{defect}-0"] and list(own["prompts"]) == [defect]
    first, second = (load_file(per_type / folder / LORA_FILE) for folder in card["adapters"].values())
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_per_type_paints_each_request_with_the_adapter_of_its_type(base, per_type):
    sampling = sampling_params(steps=2, guidance=2.0)
    good = [np.random.default_rng(0).integers(90, 160, (80, 90, 3)).astype(np.uint8)]
    task = SampleJob(sampling, base, good, feather_px=2, micro_batch=2, seed=0)
    clean, mask = good[0][:24, :24].copy(), np.zeros((24, 24), bool)
    mask[6:12, 6:12] = True

    def asked(defect: str, seed: int) -> tuple[Request, int]:
        return request_of(f"{defect}-{seed}", defect, clean, mask), seed

    mixed = [asked("hole", 1), asked("hole", 2), asked("long scratch", 3), asked("hole", 4)]
    sampler = DefectFill().load(per_type, task)
    assert isinstance(sampler, PerTypeSampler)
    together = [result.image for result in sampler(mixed)]
    for (request, seed), image in zip(mixed, together, strict=True):
        alone = DefectFill().load(per_type / {"hole": "hole", "long scratch": "long-scratch"}[request.defects[0]], task)
        assert (next(iter(alone([(request, seed)]))).image == image).all()
    assert set(sampler.facts()["adapters"]) == {"hole", "long scratch"}
    both = Request("r", clean, (*mixed[0][0].parts, *mixed[2][0].parts))
    with pytest.raises(ConceptError, match=r"one type at a time.*\['hole', 'long scratch'\].*join_overlap to null"):
        list(sampler([(both, 1)]))


def test_types_that_would_share_a_folder_are_refused(base, tmp_path):
    task = FitJob(fit_params(adapter="per_type"), references(("long scratch", "long-scratch")), base, tmp_path, seed=0)
    with pytest.raises(TokenError, match="share a folder name; rename the types"):
        fit(task, tmp_path / "concept")


def shown_job(base: Path, folder: Path, **changes: object) -> FitJob:
    good = np.random.default_rng(0).integers(90, 160, (80, 90, 3)).astype(np.uint8)
    (folder / "work").mkdir(parents=True)
    return FitJob(fit_params(**changes), references(), base, folder / "work", 0, Display(folder / "display", good))


def test_pictures_show_every_type_and_a_row_a_previewed_step(base, tmp_path):
    fit(shown_job(base, tmp_path, preview_every=2, steps=5), tmp_path / "concept")
    display = tmp_path / "display"
    attention = [read_rgb(path) for path in sorted((display / "pictures" / "attention").glob("*.png"))]
    assert [a.shape for a in attention] == [(2 * SIDE, 3 * SIDE, 3)] * 2
    mask, seen = attention[0][:SIDE, SIDE : 2 * SIDE], attention[0][:SIDE, 2 * SIDE :]
    assert set(np.unique(mask)) == {0, 255} and len(np.unique(seen)) > 2 and (seen.min(), seen.max()) == (0, 255)
    grid = read_rgb(display / "painted.png")
    assert grid.shape == ((2 + 2) * SIDE, 2 * SIDE, 3), "good crops, masks, step 2, step 4; a column a type"
    assert (grid[SIDE : 2 * SIDE, :SIDE] == attention[0][:SIDE, SIDE : 2 * SIDE]).all()
    assert not (display / "tensorboard").exists() and not (display / "dvclive").exists()


def test_pictures_change_nothing_of_what_is_learned(base, tmp_path):
    fit(shown_job(base, tmp_path / "a", dropout=0.1), tmp_path / "plain")
    fit(shown_job(base, tmp_path / "b", dropout=0.1, preview_every=1), tmp_path / "watched")
    assert (tmp_path / "plain" / LORA_FILE).read_bytes() == (tmp_path / "watched" / LORA_FILE).read_bytes()
    assert not (tmp_path / "a" / "display").exists()


def test_previews_work_in_lower_precision_and_from_a_checkpointed_network(base, tmp_path):
    task = shown_job(base, tmp_path, preview_every=3, autocast="bf16", gradient_checkpointing=True)
    fit(task, tmp_path / "concept")
    assert (tmp_path / "display" / "painted.png").exists()


def test_curves_hold_terms_rates_and_norms_of_every_step(base, tmp_path):
    fit(shown_job(base, tmp_path, curves=("tensorboard", "dvclive")), tmp_path / "concept")
    tables = tmp_path / "display" / "dvclive" / "plots" / "metrics"
    names = {str(path.relative_to(tables)) for path in tables.rglob("*.tsv")}
    losses = {"loss.tsv", "defect.tsv", "object.tsv", "attention.tsv", "gradient_norm.tsv"}
    assert names == losses | {f"rate/{group}.tsv" for group in ("unet", "text", "token")}
    assert len((tables / "loss.tsv").read_text().splitlines()) == 1 + 3
    (events,) = (tmp_path / "display" / "tensorboard").glob("events*")
    assert events.stat().st_size > 0
