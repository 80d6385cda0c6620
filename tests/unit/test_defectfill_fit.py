"""The fifteen bugs of public re-implementations of DefectFill (arXiv 2503.13985), each in a test with its number.

| bug | what it was |
|---|---|
| 01 | attention maps detached: their loss trains nothing |
| 02 | prompts encoded without gradient: the text LoRA never trains |
| 03 | background channels made of the noisy latent |
| 04 | channels in the order noisy, background, mask |
| 05 | warm-up that multiplies the rate by 0 at step 0, for good |
| 06 | noise added to pixels |
| 07 | attention loss from the defect branch |
| 08 | M' built from the random mask, and fed as the mask channel |
| 09 | one random box instead of thirty |
| 10 | type looked up by the place in the shuffled batch |
| 11 | scale augmentation undone by a resize |
| 12 | only the first piece of a folder name in the first prompt supervised |
| 13 | rates too low, and another LoRA scale when sampling than in training |
| 14 | the same few seeds for every picture, no composite: also in tests/contracts |
| 15 | all in half precision without loss scaling: also in test_defectfill_training.py |

"of others" are those of further repositories; the loss arithmetic is in test_defectfill_losses.py.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from pipeline.answering import Draws, answer
from pipeline.diffusion.components import load_pipeline, prompt_ids
from pipeline.diffusion.latents import masked_background, training_target, unet_input
from pipeline.diffusion.photos import random_boxes_mask
from pipeline.generators.defectfill import fit as fit_module
from pipeline.generators.defectfill import losses as losses_module
from pipeline.generators.defectfill.attention import AttentionRecorder, token_column
from pipeline.generators.defectfill.batches import BatchSource, zoomed
from pipeline.generators.defectfill.concept import TokenError, add_lora, add_tokens, load_concept, token_column_of, token_of
from pipeline.generators.defectfill.encoded import encode_batch, encoded_pool
from pipeline.generators.defectfill.fit import attach, fit, fit_adapter, losses_of
from pipeline.generators.protocol import FitJob, Synthetic
from pipeline.masks.crops import Window
from pipeline.scenes import Placed
from pipeline.selection import Verdict
from pipeline.shards import PartRecord, RequestRecord
from pipeline.training import LoopPlan
from tests.diffusion_toy import SIDE, fit_params, references, request_of, write_base

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def concept(base: Path):
    """A fresh concept, a batch, and its trainable groups."""
    torch.manual_seed(0)
    pipe = load_pipeline(base)
    params = fit_params()
    source = BatchSource(references(), params, SIDE)
    ids = add_tokens(pipe, source.defects)
    groups = add_lora(pipe, params, list(ids.values()))
    drawn = source.draw_types(["hole", "hole"], np.random.default_rng(0))
    words = {defect: token_of(defect) for defect in source.defects}
    return attach(pipe, words, ids, "surface"), encode_batch(pipe.vae, drawn), groups, ids


def wake_lora(groups: dict[str, list[torch.Tensor]]) -> None:
    """LoRA starts with B = 0, which blocks the gradient to A and, before it, to the text: give every tensor a value."""
    with torch.no_grad():
        for tensor in groups["unet"] + groups["text"]:
            tensor.add_(torch.randn_like(tensor) * 0.05)


def test_bug_01_attention_loss_alone_moves_the_unet_lora(concept):
    made, batch, groups, _ = concept
    wake_lora(groups)
    losses_of(made, batch, fit_params())["attention"].backward()
    assert sum(float(p.grad.abs().sum()) for p in groups["unet"] if p.grad is not None) > 0


def test_bug_02_every_text_lora_tensor_gets_a_gradient(concept):
    made, batch, groups, _ = concept
    wake_lora(groups)
    losses_of(made, batch, fit_params())["loss"].backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in groups["text"])


def test_only_the_rows_of_the_types_get_a_gradient(concept):
    made, batch, groups, ids = concept
    losses_of(made, batch, fit_params())["loss"].backward()
    moved = groups["token"][0].grad.abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert moved == sorted(ids[d] for d in set(batch.defects))


def test_bug_15_trainable_tensors_are_float32(concept):
    _, _, groups, _ = concept
    assert {p.dtype for group in groups.values() for p in group} == {torch.float32}


def test_bug_04_channels_are_noisy_mask_background():
    noisy, mask, background = torch.full((1, 4, 2, 2), 0.5), torch.ones(1, 1, 2, 2), torch.full((1, 4, 2, 2), -2.0)
    fed = unet_input(noisy, mask, background)
    assert fed.shape == (1, 9, 2, 2)
    assert (fed[:, 4:5] == 1).all() and (fed[:, :4] == 0.5).all() and (fed[:, 5:] == -2).all()


def spy_on_unet(made, batch, monkeypatch, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and text of the UNet calls of one `losses_of`."""
    calls = []
    forward = made.pipe.unet.forward

    def spy(sample, *args, **kwargs):
        calls.append((sample.detach().clone(), kwargs["encoder_hidden_states"].detach().clone()))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(made.pipe.unet, "forward", spy)
    torch.manual_seed(seed)
    losses_of(made, batch, fit_params())
    monkeypatch.undo()
    return calls


def test_bug_03_background_channels_do_not_depend_on_noise_or_time_and_encode_the_masked_image(concept, monkeypatch):
    made, batch, _, _ = concept
    ((first, _),) = spy_on_unet(made, batch, monkeypatch, 1)
    ((second, _),) = spy_on_unet(made, batch, monkeypatch, 2)
    assert not torch.equal(first[:, :4], second[:, :4])
    assert torch.equal(first[:, 5:], second[:, 5:])
    vae = made.pipe.vae
    pictures = BatchSource(references(), fit_params(), SIDE).draw_types(["hole", "hole"], np.random.default_rng(0))
    expected = vae.encode(pictures.images * (1 - pictures.masks)).latent_dist.mean * vae.config.scaling_factor
    assert torch.allclose(first[:2, 5:], expected)
    assert torch.equal(masked_background(vae, pictures.images, pictures.masks), expected)


def test_bug_08_defect_branch_sees_the_true_mask_and_object_branch_the_random_one(concept, monkeypatch):
    made, batch, _, _ = concept
    ((fed, texts),) = spy_on_unet(made, batch, monkeypatch, 1)
    defect, whole = fed.chunk(2)
    assert torch.equal(defect[:, 4:5], batch.masks) and torch.equal(defect[:, 5:], batch.true_background)
    assert torch.equal(whole[:, 4:5], batch.random_masks) and torch.equal(whole[:, 5:], batch.random_background)
    assert not torch.equal(batch.masks, batch.random_masks)
    assert set(fed[:, 4:5].unique().tolist()) == {0.0, 1.0}, "bug 04: the fifth channel is a mask"
    assert torch.equal(defect[:, :4], whole[:, :4]), "both branches share picture, time and noise"
    with torch.no_grad():
        wanted = made.pipe.text_encoder(made.ids["hole"]).last_hidden_state
    assert torch.allclose(texts, wanted[[0, 0, 1, 1]], atol=1e-6), "A photo of <hole>, then A surface with <hole>"


def test_bug_08_the_object_loss_is_weighted_by_the_true_mask(concept, monkeypatch):
    made, batch, _, _ = concept
    weights = []
    real = losses_module.weighted_squared_error
    monkeypatch.setattr(losses_module, "weighted_squared_error", lambda *a: weights.append(a[2]) or real(*a))
    losses_of(made, batch, fit_params())
    defect, whole = weights
    assert torch.equal(defect, batch.masks) and torch.equal(whole, batch.masks + 0.3 * (1 - batch.masks))


def test_bug_07_maps_come_from_the_object_branch_only(concept, monkeypatch):
    """Other boxes in the object branch change the maps, another mask in the defect branch does not."""
    made, batch, _, _ = concept
    seen = []
    real = fit_module.attention_loss
    monkeypatch.setattr(
        fit_module, "attention_loss", lambda maps, *rest: seen.append([m.detach() for m in maps]) or real(maps, *rest)
    )
    made.pipe.unet.eval()
    for variant in (
        batch,
        replace(batch, masks=1 - batch.masks, true_background=-batch.true_background),
        replace(batch, random_masks=1 - batch.random_masks),
    ):
        torch.manual_seed(0)
        losses_of(made, variant, fit_params())
    first, other_defect, other_object = seen
    assert [m.shape[0] for m in first] == [len(batch.defects)] * len(made.recorder.layers) and len(first) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, other_defect, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other_object, strict=True))


def test_rows_of_the_pool_are_the_crops_encoded_one_by_one(base):
    pipe = load_pipeline(base)
    source = BatchSource(references(), fit_params(), SIDE)
    pool = encoded_pool(pipe.vae, source, 5, np.random.default_rng(3))
    assert pool.defects == ["hole", "long scratch"] * 3, "as many of each type, 5 rounded up"
    batch = source.draw_types(pool.defects, np.random.default_rng(3))
    drawn = pool.rows([4, 1, 4])
    assert drawn.defects == ["hole", "long scratch", "hole"]
    wanted = encode_batch(pipe.vae, batch).rows([4, 1, 4])
    assert torch.allclose(drawn.latents, wanted.latents, atol=1e-5)
    assert torch.equal(drawn.random_masks, torch.nn.functional.interpolate(batch.random_masks, scale_factor=0.5)[[4, 1, 4]])


def test_recording_of_some_rows_keeps_theirs_alone(base):
    torch.manual_seed(0)
    query, key = torch.randn(4, 3, 16, 8), torch.randn(4, 3, 5, 8)
    whole = token_column(query, key, torch.tensor([1, 2, 3, 4]))
    assert torch.allclose(token_column(query[2:], key[2:], torch.tensor([3, 4])), whole[2:])
    unet = load_pipeline(base).unet
    recorder = AttentionRecorder(unet)
    sample, text = torch.randn(4, 9, 16, 16), torch.randn(4, 24, 64)
    with recorder.recording(torch.tensor([3, 4]), slice(2, None)) as some:
        unet(sample, 5, encoder_hidden_states=text)
    with recorder.recording(torch.tensor([9, 9, 3, 4])) as every:
        unet(sample, 5, encoder_hidden_states=text)
    assert all(torch.equal(a, b[2:]) for a, b in zip(some, every, strict=True))


def test_bug_06_noise_is_added_to_latents_not_to_pixels(concept, monkeypatch):
    made, batch, _, _ = concept
    shapes = []
    add_noise = made.pipe.scheduler.add_noise
    monkeypatch.setattr(made.pipe.scheduler, "add_noise", lambda z, *rest: shapes.append(tuple(z.shape)) or add_noise(z, *rest))
    losses_of(made, batch, fit_params())
    assert shapes == [(2, 4, SIDE // 2, SIDE // 2)]


def test_recording_leaves_the_output_as_it_was_and_equals_the_softmax(base):
    pipe = load_pipeline(base)
    torch.manual_seed(0)
    sample, text = torch.randn(2, 9, 16, 16), torch.randn(2, 24, 64)
    before = pipe.unet(sample, 5, encoder_hidden_states=text).sample
    recorder = AttentionRecorder(pipe.unet)
    with recorder.recording(torch.tensor([4, 7])) as maps:
        after = pipe.unet(sample, 5, encoder_hidden_states=text).sample
    assert torch.allclose(before, after, atol=1e-6)
    assert [tuple(m.shape) for m in maps] == [(2, 4, 4)] * 2 + [(2, 8, 8)] * 2
    query, key = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8)
    wanted = torch.softmax(query @ key.transpose(-1, -2) / 8**0.5, dim=-1).mean(dim=1)
    got = token_column(query, key, torch.tensor([1, 4]))
    assert torch.allclose(got.reshape(2, 4), torch.stack([wanted[0, :, 1], wanted[1, :, 4]]), atol=1e-6)


def test_bug_of_others_a_missing_map_stops_the_run(base):
    recorder = AttentionRecorder(load_pipeline(base).unet)
    with pytest.raises(RuntimeError, match="0 attention maps were recorded, expected 4"), recorder.recording(torch.tensor([1])):
        pass


def test_bug_09_random_masks_cover_between_a_third_and_half_on_average():
    masks = random_boxes_mask(60, 64, 30, np.random.default_rng(0))
    assert 0.3 <= masks.mean() <= 0.6
    drawn = BatchSource(references(), fit_params(), SIDE).draw(60, np.random.default_rng(0)).random_masks
    assert 0.3 <= float(drawn.mean()) <= 0.6, "what a fit draws, with boxes of its own in every row"
    assert len({row.numpy().tobytes() for row in drawn}) == 60


def test_bug_11_scale_augmentation_really_scales_the_mask():
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    mask[24:40, 24:40] = True
    # 16 px square, one pixel wider all round: 18 x 18, then 20 x 20 at 1.125 times the size.
    areas = [int(zoomed(image, mask, 64, factor, np.random.default_rng(0))[1].sum()) for factor in (1.0, 1.125)]
    assert areas == [18 * 18, 20 * 20]


def test_bug_10_a_row_keeps_the_type_of_its_own_reference():
    """Each type's defect has its own grey level, so the picture says which type a row is."""
    levels = {"hole": 10, "long scratch": 60}
    coloured = []
    for reference in references():
        image = np.full_like(reference.image, 200)
        image[reference.mask] = levels[reference.defect]
        coloured.append(replace(reference, image=image))
    source = BatchSource(coloured, fit_params(scale_augment=(1.0, 1.0), crop_scale=(2.0, 2.0), min_crop_px=32), SIDE)
    for seed in range(5):
        batch = source.draw(8, np.random.default_rng(seed))
        shown = ((batch.images + 1) * 127.5).round().amin(dim=(1, 2, 3)).tolist()
        assert shown == [levels[defect] for defect in batch.defects]


def test_bug_12_the_token_is_found_by_id_in_each_prompt(base):
    pipe = load_pipeline(base)
    ids = add_tokens(pipe, ["hole", "long scratch"])
    assert token_of("long scratch") == "<long-scratch>"
    for thing, column in (("surface", 4), ("metal tile", 5)):
        row = prompt_ids(pipe.tokenizer, [f"A {thing} with <hole>"])[0]
        assert token_column_of(row, ids["hole"]) == column
    with pytest.raises(TokenError, match="occurs 0 times"):
        token_column_of(prompt_ids(pipe.tokenizer, ["A photo"])[0], ids["hole"])


def test_types_that_would_share_a_token_are_refused(base):
    with pytest.raises(TokenError, match="rename the types"):
        add_tokens(load_pipeline(base), ["long scratch", "long-scratch"])


def test_bug_05_warm_up_starts_above_zero_and_reaches_the_rate():
    plan = LoopPlan(steps=100, seed=0, label="x", warmup_steps=10)
    assert [plan.rate(step) for step in (0, 4, 9, 50)] == [0.1, 0.5, 1.0, 1.0]


def test_bug_05_the_optimiser_gets_the_warmed_up_rates(base, tmp_path, monkeypatch):
    rates = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: rates.append([g["lr"] for g in self.param_groups]) or real(self, *a)
    )
    fit(FitJob(fit_params(warmup_steps=2), references(), base, tmp_path, seed=0), tmp_path / "concept")
    assert rates == [[1e-4, 2e-5, 5e-3], [2e-4, 4e-5, 1e-2], [2e-4, 4e-5, 1e-2]]


def test_bug_12_each_row_of_a_mixed_batch_records_its_own_token(base, monkeypatch):
    """Names that take a different number of tokens move the column, and rows of both types stand in one batch."""
    pipe = load_pipeline(base)
    ids = add_tokens(pipe, ["hole", "long scratch"])
    made = attach(pipe, {d: token_of(d) for d in ids}, ids, "metal tile")
    assert made.columns == {"hole": 5, "long scratch": 5}
    made.columns["hole"] = 3
    drawn = BatchSource(references(), fit_params(), SIDE).draw_types(["hole", "long scratch", "hole"], np.random.default_rng(0))
    seen = []
    real = made.recorder.recording
    monkeypatch.setattr(made.recorder, "recording", lambda columns, rows: seen.append(columns.tolist()) or real(columns, rows))
    losses_of(made, encode_batch(pipe.vae, drawn), fit_params())
    assert seen == [[3, 5, 3]]


def test_bug_13_the_settings_are_on_the_card_and_the_scale_in_the_file(base, tmp_path):
    fit(FitJob(fit_params(rank=4, alpha=12), references(), base, tmp_path, seed=0), tmp_path / "concept")
    card = json.loads((tmp_path / "concept" / "card.json").read_text())
    assert card["params"]["lr_unet"] == 2e-4 and card["params"]["lr_text"] == 4e-5
    pipe = load_pipeline(base)
    load_concept(pipe, tmp_path / "concept", base)
    for network in (pipe.unet, pipe.text_encoder):
        scales = {m.scaling["default"] for m in network.modules() if getattr(m, "scaling", None) and "default" in m.scaling}
        assert scales == {3.0}


def test_bug_14_every_candidate_of_every_request_has_its_own_seed():
    seeds = []

    def sampler(requests):
        for request, seed in requests:
            seeds.append(seed)
            yield Synthetic(request.clean, request.mask)

    clean, mask = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool)
    requests = [request_of(f"r{n}", "hole", clean, mask) for n in range(3)]
    placed = [
        Placed(r, RequestRecord(r.id, n, "good", Window(0, 0, 8), (PartRecord("hole", "affine", "hole-0", None),)))
        for n, r in enumerate(requests)
    ]
    verdicts = [Verdict(1.0, 1.0, 1.0, None, None, None)] * 8
    assert len(list(answer(sampler, placed, Draws(8, 0, lambda entry, clean: verdicts)))) == 3
    assert len(set(seeds)) == 3 * 8


def test_bug_of_others_token_rows_learn_and_no_other_row_moves(base, tmp_path):
    """PEFT freezes the embedding table; the new rows must be freed, and only they."""
    start = load_pipeline(base)
    ids = add_tokens(start, ["hole", "long scratch"])
    before = start.text_encoder.get_input_embeddings().weight.detach().clone()
    begun = fit_module.open_fit(FitJob(fit_params(steps=10), references(), base, tmp_path, seed=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "open_fit", lambda job: begun)
        fit(FitJob(fit_params(steps=10), references(), base, tmp_path, seed=0), tmp_path / "concept")
    after = begun.concept.pipe.text_encoder.get_input_embeddings().weight.detach()
    assert (after != before).any(dim=1).nonzero()[:, 0].tolist() == sorted(ids.values())


def test_bug_of_others_the_unet_of_sd2_has_nine_maps():
    """The public architecture with narrow channels: three cross-attention layers in each of three up blocks."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        out_channels=4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=(1, 2, 2, 2),
        cross_attention_dim=8,
        use_linear_projection=True,
    )
    recorder = AttentionRecorder(unet)
    with recorder.recording(torch.tensor([2])) as maps:
        unet(torch.randn(1, 9, 8, 8), 5, encoder_hidden_states=torch.randn(1, 6, 8))
    assert len(recorder.layers) == 9 and [m.shape[-1] for m in maps] == [2] * 3 + [4] * 3 + [8] * 3


def test_bug_of_others_the_mask_is_the_defect_and_not_its_box():
    mask = np.zeros((64, 64), bool)
    mask[10:40, 10:14] = mask[36:40, 10:40] = True
    reference = replace(references()[0], mask=mask)
    drawn = BatchSource([reference], fit_params(), SIDE).draw_types(["hole"] * 4, np.random.default_rng(0)).masks[:, 0] > 0
    for row in drawn.numpy():
        ys, xs = np.nonzero(row)
        assert row[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].mean() < 0.6


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_follows_the_scheduler(base, kind):
    scheduler = load_pipeline(base).scheduler
    scheduler.register_to_config(prediction_type=kind)
    latents, noise, times = torch.full((1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), 3.0), torch.tensor([500])
    alpha = scheduler.alphas_cumprod[500]
    expected = {"epsilon": 3.0, "sample": 2.0, "v_prediction": float(alpha.sqrt() * 3 - (1 - alpha).sqrt() * 2)}[kind]
    assert training_target(scheduler, latents, noise, times).flatten()[0].item() == pytest.approx(expected, rel=1e-5)


def test_bug_13_a_fitted_concept_loads_into_the_stock_pipeline_exactly(base, tmp_path):
    """LoRA with alpha other than rank, token rows, and text LoRA: equal outputs before saving and after loading."""
    kept = {}
    real = fit_module.save_concept

    def keep(pipe, ids, out):
        kept["pipe"] = pipe
        real(pipe, ids, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "save_concept", keep)
        history = fit_adapter(FitJob(fit_params(), references(), base, tmp_path, seed=0), tmp_path / "concept", "toy")
    assert len(history.losses) == 3 and history.skipped == 0
    trained = kept["pipe"]
    trained.unet.eval(), trained.text_encoder.eval()
    stock = StableDiffusionInpaintPipeline.from_pretrained(base, safety_checker=None, requires_safety_checker=False)
    # Another memory layout picks other kernels, and sums round differently.
    stock.unet.to(memory_format=torch.channels_last)
    prompts = load_concept(stock, tmp_path / "concept", base)
    assert prompts == {"hole": "A surface with <hole>", "long scratch": "A surface with <long-scratch>"}
    with torch.inference_mode():
        ids = prompt_ids(stock.tokenizer, [prompts["long scratch"]])
        assert torch.equal(ids, prompt_ids(trained.tokenizer, [prompts["long scratch"]]))
        texts = [p.text_encoder(ids).last_hidden_state for p in (trained, stock)]
        assert torch.equal(*texts)
        sample = torch.randn(1, 9, 16, 16)
        outputs = [p.unet(sample, 7, encoder_hidden_states=texts[0]).sample for p in (trained, stock)]
    assert torch.equal(*outputs)


def test_bug_02_training_moves_every_group(base, tmp_path):
    """Warm-up, schedule and gradients together: nothing stays at its start."""
    fit(FitJob(fit_params(steps=6), references(), base, tmp_path, seed=0), tmp_path / "concept")
    lora = load_file(tmp_path / "concept" / "pytorch_lora_weights.safetensors")
    ups = {name: tensor for name, tensor in lora.items() if "lora_B" in name or "up.weight" in name}
    assert any("text_encoder" in name for name in ups) and any("unet" in name for name in ups)
    assert all(float(tensor.abs().sum()) > 0 for tensor in ups.values())


def test_an_interrupted_fit_resumes_to_the_same_bytes(base, tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
    fit(FitJob(fit_params(), references(), base, tmp_path / "a", seed=0), tmp_path / "whole")
    calls = {"count": 0}
    real = fit_module.losses_of

    def stop_at_third(*args):
        calls["count"] += 1
        if calls["count"] == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(fit_module, "losses_of", stop_at_third)
    monkeypatch.setattr(fit_module, "LoopPlan", partial(LoopPlan, checkpoint_every_s=-1.0))
    job = FitJob(fit_params(), references(), base, tmp_path / "b", seed=0)
    with pytest.raises(KeyboardInterrupt):
        fit(job, tmp_path / "resumed")
    assert (tmp_path / "b" / "defectfill-0.pt").exists()
    fit(job, tmp_path / "resumed")
    for name in ("pytorch_lora_weights.safetensors", "tokens/hole.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
