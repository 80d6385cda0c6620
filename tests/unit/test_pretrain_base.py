import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline

from pipeline.diffusion.components import load_pipeline
from pipeline.params import FitParams, PretrainBaseParams
from pipeline.pretraining.base import CURVE_ROWS, pretrain_base, write_curve
from pipeline.pretraining.drawings import DrawnCrops, _Row, _with_lent_holes
from pipeline.runlog import ClaimError
from pipeline.training import History
from pipeline.weight_cards import verified_card

pytestmark = pytest.mark.slow


def params(**changes: object) -> PretrainBaseParams:
    fit = {"steps": 2, "batch": 2, "lr": 1e-3}
    values = {"seed": 0, "threads": 1, "crop_px": (32, 64), "large_share": 0.5, "ema_decay": 0.9, "vae": fit, "unet": fit}
    return PretrainBaseParams.model_validate(values | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pretrain_base(params(), "cpu", folder / "base", folder / "work")
    return folder / "base"


def test_the_base_is_a_stock_pipeline_in_half_precision_small_enough_for_the_repository(base: Path):
    card = verified_card(base)
    assert sum(card["parameters"].values()) <= 12e6
    assert sum(file.stat().st_size for file in base.rglob("*") if file.is_file()) <= 25 * 2**20
    stock = StableDiffusionInpaintPipeline.from_pretrained(
        base, dtype=torch.float16, safety_checker=None, requires_safety_checker=False
    )
    assert stock.unet.dtype == torch.float16
    assert load_pipeline(base).unet.dtype == torch.float32
    assert load_pipeline(base).text_encoder.dtype == torch.float32


def test_the_card_says_how_it_was_made(base: Path):
    card = json.loads((base / "card.json").read_text())
    assert set(card["held_out"]["vae_psnr_db"]) == {"32px", "64px"}
    assert card["params"]["unet"]["steps"] == 2
    assert len(card["surfaces"]) >= 12
    assert len((base / "unet_curve.csv").read_text().splitlines()) == 3


def test_the_same_parameters_make_the_same_bytes(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pretrain_base(params(), "cpu", tmp_path / "base", tmp_path / "work")
    assert verified_card(tmp_path / "base")["sha256"] == verified_card(base)["sha256"]


def test_a_killed_run_goes_on_where_it_was(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    import pipeline.pretraining.base as module

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_unet", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain_base(params(), "cpu", tmp_path / "base", tmp_path / "work")
    assert not (tmp_path / "base").exists()
    with pytest.raises(ClaimError, match="begun with other seed; put them back"):
        pretrain_base(params(seed=1), "cpu", tmp_path / "base", tmp_path / "work")
    with monkeypatch.context() as patch:
        # The VAE is finished: its loop has no step left to do.
        patch.setattr("pipeline.diffusion.pretrain._varied", killed)
        pretrain_base(params(), "cpu", tmp_path / "base", tmp_path / "work")
    assert verified_card(tmp_path / "base")["sha256"] == verified_card(base)["sha256"]


def test_rows_have_holes_prompts_and_one_side_a_batch():
    rng = np.random.default_rng(0)
    sides = set()
    prompts: list[str] = []
    for _ in range(12):
        batch = DrawnCrops((32, 64), 0.5).inpainting(4, rng)
        sides.add((batch.images.shape[-1], len(batch.images)))
        assert batch.images.shape[-2:] == batch.masks.shape[-2:]
        assert float(batch.images.abs().max()) <= 1.0
        assert set(batch.masks.unique().tolist()) <= {0.0, 1.0}
        prompts += batch.prompts
    assert sides == {(32, 4), (64, 1)}
    assert any(" with " in prompt for prompt in prompts)
    assert any(prompt.startswith("A photo of a ") for prompt in prompts)


def test_a_long_curve_is_thinned_to_means():
    history = History([{"loss": float(step)} for step in range(4 * CURVE_ROWS)])
    path = Path("curve.csv")
    rows = _written(history, path)
    assert len(rows) == CURVE_ROWS + 1
    assert rows[1] == "4,1.5"


def _written(history: History, path: Path) -> list[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_curve(history, Path(folder) / path)
        return (Path(folder) / path).read_text().splitlines()


def test_steps_are_at_least_one():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        FitParams(steps=0, batch=1, lr=1.0)


def test_holes_of_a_defects_shape_are_lent_to_bare_surfaces_only_where_they_are_bare():
    disc = np.zeros((32, 32), bool)
    disc[8:16, 8:16] = True
    free = np.ones((32, 32), bool)
    free[8:12] = False
    picture = np.zeros((32, 32, 3), np.uint8)
    rows = [_Row(picture, disc, "A photo of spot")] + [_Row(picture, ~disc & free, "A photo of a surface", free)] * 40
    drawn = _with_lent_holes(rows, np.random.default_rng(0))
    lent = [row for row in drawn[1:] if (row.hole == (disc & free)).all()]
    assert drawn[0] is rows[0]
    assert len(lent) in range(15, 35)
    assert all(row.hole.sum() == 4 * 8 and row.prompt == "A photo of a surface" for row in lent)


def test_without_a_defect_in_the_batch_no_hole_is_lent():
    free = np.ones((8, 8), bool)
    rows = [_Row(np.zeros((8, 8, 3), np.uint8), free, "A photo of a surface", free)]
    assert _with_lent_holes(rows, np.random.default_rng(0)) == rows
