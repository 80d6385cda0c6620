"""The batched sampler: encoded once a request, the same bytes in any company, early pruning, fused LoRA, large crops."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from pydantic import ValidationError

from pipeline.diffusion.exposure import exposure_gain
from pipeline.diffusion.latents import mask_tensor, to_tensor
from pipeline.generators.defectfill import sample as sample_module
from pipeline.generators.defectfill.fit import fit
from pipeline.generators.defectfill.painting import Painted, most_different, settle
from pipeline.generators.defectfill.sample import DefectFillSampler
from pipeline.generators.protocol import Dropped, FitJob, Request, SampleJob, Synthetic
from pipeline.masks.composite import change_size
from tests.diffusion_toy import SIDE, fit_params, references, request_of, sampling_params, write_base
from tests.unit.test_concept_interop import LORA, shaken

pytestmark = pytest.mark.slow

PRUNED = {"candidates": 4, "prune": {"after": 0.5, "keep": 2}}
Answers = list[Synthetic | Dropped]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def concept(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concept")
    (folder / "work").mkdir()
    fit(FitJob(fit_params(steps=2), references(), base, folder / "work", seed=0), folder / "fitted")
    shaken(folder / "fitted" / LORA, 0.1)
    return folder / "fitted"


def request(number: int, side: int = SIDE) -> Request:
    clean = np.random.default_rng(number).integers(90, 160, (side, side, 3)).astype(np.uint8)
    mask = np.zeros((side, side), bool)
    mask[side // 4 : side // 2, side // 4 + number : side // 2 + number] = True
    return request_of(f"r{number}", ("hole", "long scratch")[number % 2], clean, mask)


Opening = Callable[..., DefectFillSampler]


@pytest.fixture(scope="module")
def fresh(base: Path, concept: Path) -> Opening:
    """Opens a sampler with some settings changed."""

    def opened(light: float = 1.0, **changes: object) -> DefectFillSampler:
        good = [(np.random.default_rng(0).integers(90, 160, (80, 90, 3)) * light).astype(np.uint8)]
        wanted = sampling_params(**({"steps": 4} | changes))
        return DefectFillSampler(concept, SampleJob(wanted, base, good, feather_px=2, micro_batch=4, seed=0))

    return opened


@pytest.fixture(scope="module")
def sampler(fresh: Opening) -> Opening:
    """The same, each only once: opening one measures a threshold."""
    known: dict[str, DefectFillSampler] = {}
    return lambda **changes: known.get(str(changes)) or known.setdefault(str(changes), fresh(**changes))


def asked(numbers: Sequence[int], candidates: int = 4) -> list[tuple[Request, int]]:
    return [(request(number), 100 * number + seed) for number in numbers for seed in range(candidates)]


def contents(answers: Answers) -> list[object]:
    return [one.early if isinstance(one, Dropped) else (one.image.tobytes(), one.changed.tobytes(), one.early) for one in answers]


@pytest.mark.parametrize("changes", [{}, PRUNED, PRUNED | {"scheduler": "unipc"}], ids=str)
def test_a_request_gets_the_same_bytes_in_any_order_and_any_company(sampler: Opening, changes: dict[str, object]):
    painter = sampler(**changes)
    together = contents(list(painter(asked(range(5)))))
    backwards = contents(list(painter(asked(range(5)[::-1]))))
    alone = [content for number in (0, 3) for content in contents(list(painter(asked([number]))))]
    assert [*together[:4], *together[12:16]] == alone
    assert [together[4 * n : 4 * n + 4] for n in range(5)] == [backwards[4 * n : 4 * n + 4] for n in range(5)][::-1]


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "unipc"])
def test_who_goes_on_is_painted_as_without_pruning_and_is_the_most_different_early(sampler: Opening, scheduler: str):
    whole = list(sampler(scheduler=scheduler)(asked(range(3))))
    pruned = list(sampler(scheduler=scheduler, **PRUNED)(asked(range(3))))
    assert len(pruned) == 12
    for at in range(0, 12, 4):
        group = pruned[at : at + 4]
        early = [one.early for one in group]
        kept = [place for place, one in enumerate(group) if isinstance(one, Synthetic)]
        assert set(kept) == set(np.argsort(early)[-2:]) and len(set(early)) == 4
        for place in kept:
            assert (group[place].image == whole[at + place].image).all() and whole[at + place].early is None


def test_of_equally_different_candidates_the_first_go_on():
    assert most_different([0, 0, 0, 1, 1], [1.0, 2.0, 1.0, 5.0, 5.0], keep=2) == [0, 1, 3, 4]
    assert most_different([0, 0, 0, 1, 1], [1.0, 1.0, 3.0, 5.0, 5.0], keep=1) == [2, 3]


@pytest.mark.parametrize(("posterior", "encodes", "decodes"), [("mean", 2, 4), ("drawn", 8, 7)])
def test_a_request_is_encoded_once_and_its_before_decoded_once(
    sampler: Opening, monkeypatch: pytest.MonkeyPatch, posterior: str, encodes: int, decodes: int
):
    """Three requests with four candidates each: one window, three micro-batches; what is drawn is every candidate's own."""
    painter = sampler(posterior=posterior)
    calls = {"encode": 0, "decode": 0}
    vae = painter._pipe.vae
    for name in calls:
        real = getattr(vae, name)

        def spy(*arguments: object, name: str = name, real: object = real) -> object:
            calls[name] += 1
            return real(*arguments)

        monkeypatch.setattr(vae, name, spy)
    list(painter(asked(range(3))))
    assert calls == {"encode": encodes, "decode": decodes}


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_fused_lora_paints_what_the_adapter_paints(
    fresh: Opening, sampler: Opening, scale: float, monkeypatch: pytest.MonkeyPatch
):
    fused, none = sampler(lora_scale=scale), sampler(lora_scale=0.0)
    monkeypatch.setattr(sample_module, "settle", lambda pipe, params: None)
    adapter = fresh(lora_scale=scale)
    assert not hasattr(fused._pipe.unet, "peft_config") and hasattr(adapter._pipe.unet, "peft_config")
    assert fused.facts() == adapter.facts(), "the threshold is measured without the concept, before it is fused"
    first, second, base_alone = (np.stack([one.image for one in s(asked([1]))]).astype(int) for s in (fused, adapter, none))
    assert np.abs(first - second).max() <= 1 and np.abs(first - base_alone).max() > 3


def test_attention_is_fused_with_an_adapter_and_without(fresh: Opening, sampler: Opening, monkeypatch: pytest.MonkeyPatch):
    fused = sampler()
    monkeypatch.setattr(sample_module, "settle", lambda pipe, params: None)
    for painter in (fused, fresh()):
        processors = painter._pipe.unet.attn_processors.values()
        assert processors and {type(processor) for processor in processors} == {AttnProcessor2_0}
        convolutions = [w for w in painter._pipe.unet.parameters() if w.dim() == 4 and min(w.shape[1:]) > 1]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)


def test_bfloat16_paints_nearly_the_same(sampler: Opening):
    exact, lower = (sampler(autocast=kind) for kind in ("none", "bf16"))
    assert {weight.dtype for weight in lower._pipe.unet.parameters()} == {torch.bfloat16}
    first, second = (np.stack([one.image for one in s(asked([1]))]).astype(int) for s in (exact, lower))
    assert 0 < np.abs(first - second).mean() < 2


def test_regional_compilation_takes_every_attention_block(fresh: Opening):
    """Marked only: the compiler itself needs a GPU here."""
    painter = fresh()
    settle(painter._pipe, sampling_params().model_copy(update={"compile": "regional"}))
    blocks = [m for m in painter._pipe.unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    assert blocks and all(block._compiled_call_impl is not None for block in blocks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compile": "regional"}, "compile: regional needs device: cuda, not cpu"),
        ({"candidates": 2, "prune": {"after": 0.5, "keep": 2}}, r"prune\.keep is 2 of 2 candidates"),
        ({"guidance_interval": (0.6, 0.4)}, "guidance_interval must rise"),
        ({"guidance_interval": (0.0, 1.2)}, "less than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        sampling_params(**changes)


@pytest.mark.parametrize("composite", ["change", "pixels"])
@pytest.mark.parametrize("factor", [3, 8])
def test_texture_below_a_change_stays_sharp_on_large_crops(sampler: Opening, factor: int, composite: str):
    """Design, section 5: two photos that look alike when shrunk differ by the same grain after painting as before."""
    side = factor * SIDE
    rough = request(0, side)
    smooth = np.random.default_rng(1).integers(100, 150, (SIDE, SIDE, 3)).repeat(factor, axis=0).repeat(factor, axis=1)
    grain = np.zeros((factor, factor, 1), int)
    grain[0, 0], grain[-1, -1] = 40, -40  # no mean, so that shrinking loses it
    grain = np.tile(grain, (SIDE, SIDE, 3))
    plain, grainy = (replace(rough, clean=(smooth + more).astype(np.uint8)) for more in (0, grain))
    first, second = (next(iter(sampler(composite=composite)([(one, 1)]))) for one in (plain, grainy))
    assert isinstance(first, Synthetic) and isinstance(second, Synthetic)
    assert (first.image != plain.clean)[rough.mask].mean() > 0.5
    shown, fine = first.image.astype(int), second.image.astype(int)
    inside = (np.minimum(shown, fine) > 0) & (np.maximum(shown, fine) < 255) & rough.mask[..., None]
    assert inside.sum() > rough.mask.sum() and (np.abs(grain[inside]) == 40).any()
    assert np.abs(fine - shown - grain)[inside].max() <= 1, "rounded once"


def test_a_change_for_a_smaller_crop_is_averaged(sampler: Opening):
    """Every pixel changes by the mean of the four it stands for."""
    painter, half = sampler(composite="none", keep_grey=False), SIDE // 2
    change = np.random.default_rng(0).integers(-60, 60, (SIDE, SIDE, 3)).astype(np.float32)
    clean = np.full((half, half, 3), 128, np.uint8)
    asked = request_of("r", "hole", clean, np.ones((half, half), bool))
    image = painter._compose(asked, Painted(change, None), gain=1.0).image
    assert (image == np.rint(128 + change.reshape(half, 2, half, 2, 3).mean(axis=(1, 3)))).all()


def test_what_counts_as_changed_is_measured_under_one_light(fresh: Opening):
    """Photos with half the light are painted under twice the gain, on the same canvas: equal thresholds but for rounding."""
    bright, dark = (fresh(light=light, even_exposure=True)._thresholds for light in (1.0, 0.5))
    assert dark == pytest.approx(bright, rel=0.05)


def test_in_a_dark_crop_less_counts_as_changed(fresh: Opening):
    """12 grey levels sure and 10 possible under the network's light: painted at 4 times its light, a crop needs 3 and 2.5."""
    painter = fresh(keep_grey=False)
    painter._thresholds = (12.0, 10.0)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[8:24, 8:24] = True
    asked = request_of("r", "hole", np.full((SIDE, SIDE, 3), 30, np.uint8), mask)
    change = Painted(np.full((SIDE, SIDE, 3), -6.0, np.float32), None)
    bright, dark = (painter._compose(asked, change, gain).changed for gain in (1.0, 4.0))
    assert not bright.any() and dark[mask].all()


def test_each_crop_of_a_window_is_judged_under_its_own_light(fresh: Opening):
    """The same crop with a third of its light is painted on the same canvas; so it changes where the bright one does."""
    painter = fresh(even_exposure=True, keep_grey=False)
    bright = request(0)
    dark = replace(bright, id="dark", clean=(bright.clean / 3).astype(np.uint8))
    first, second = painter([(bright, 7), (dark, 7)])
    painter._thresholds = (0.5 * largest(first, bright),) * 2
    first, second = painter([(bright, 7), (dark, 7)])
    both = int((first.changed & second.changed).sum())
    assert both > 0.7 * max(int(first.changed.sum()), int(second.changed.sum())) > 0


def largest(one: Synthetic, asked: Request) -> float:
    """Grey levels under the network's light of what changed most."""
    gain = exposure_gain(to_tensor(asked.clean[None]), mask_tensor(asked.mask[None])).item()
    return gain * float(change_size(one.image, asked.clean).max())
