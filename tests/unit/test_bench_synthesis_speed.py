"""The reference loops put back what they must not change; the measures lead from the loop to ours; the bars divide rightly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.images import write_png
from pipeline.masks.crops import Window
from pipeline.params import SynthesizeParams, load_section
from pipeline.records import Sample
from pipeline.scenes import Placed
from pipeline.selection import RealSide
from pipeline.shards import PartRecord, RequestRecord
from pipeline.similarity.perceptual import Perceptual
from tests.bench.reference_loops import Stock, on_crop, on_whole_photo, one_by_one, side_multiple
from tests.bench.synthesis_speed import CROPS, MEASURES, OURS, WHOLE, Way, contributions, ladder, speed_bars, turn_about
from tests.conftest import ROOT
from tests.diffusion_toy import request_of

PARAMS = load_section("synthesize", SynthesizeParams, ROOT / "params.yaml")


class Painter:
    """Stands for the stock pipeline: paints the whole picture white and remembers what it was asked."""

    vae_scale_factor = 2
    unet = SimpleNamespace(config={"block_out_channels": (48, 96, 160), "sample_size": 32})

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def __call__(self, **asked):
        self.calls.append(asked)
        return SimpleNamespace(images=[Image.new("RGB", (asked["width"], asked["height"]), (255, 255, 255))])


@pytest.fixture
def loop(tmp_path: Path) -> tuple[Stock, Placed]:
    """A photo of 101 x 70 px, a crop of 40 px around a mask of 10 x 12 px."""
    photo = np.full((101, 70, 3), 90, np.uint8)
    write_png(tmp_path / "a.png", photo)
    samples = {"a": Sample("a", "a.png", None, None, "part-a", "train")}
    mask = np.zeros((40, 40), bool)
    mask[10:20, 12:24] = True
    window = Window(20, 50, 40)
    request = request_of("r-0", "hole", photo[50:90, 20:60], mask)
    record = RequestRecord("r-0", 0, "a", window, (PartRecord("hole", "drawn", None, None),))
    net = Perceptual("grey levels", 16, lambda first, second: (first - second).abs().mean(dim=1))
    stock = Stock(Painter(), {"hole": "A photo of <hole>"}, net, (5.0, 5.0), RealSide(tmp_path, 0, samples, []), False)  # type: ignore[arg-type]
    return stock, Placed(request, record)


@pytest.mark.parametrize("paint", [on_whole_photo, on_crop])
def test_a_loop_changes_the_mask_and_nothing_else(loop, paint):
    stock, placed = loop
    image = paint(stock, placed, seed=1)
    assert (image[placed.request.mask] == 255).all()
    assert (image[~placed.request.mask] == 90).all()


def test_the_whole_photo_keeps_its_size_rounded_and_the_crop_takes_the_networks(loop):
    stock, placed = loop
    assert side_multiple(stock.pipe) == 8
    on_whole_photo(stock, placed, seed=1), on_crop(stock, placed, seed=1)
    whole, crop = stock.pipe.calls
    assert (whole["height"], whole["width"]) == (104, 72) and (crop["height"], crop["width"]) == (64, 64)
    assert (whole["num_inference_steps"], whole["guidance_scale"]) == (50, 7.5)
    asked = np.array(whole["mask_image"]) > 0
    # The mask lies at rows 60 to 70 and columns 32 to 44 of the photo.
    ys, xs = np.nonzero(asked)
    assert [ys.min(), ys.max() + 1] == pytest.approx([60 * 104 / 101, 70 * 104 / 101], abs=1)
    assert [xs.min(), xs.max() + 1] == pytest.approx([32 * 72 / 70, 44 * 72 / 70], abs=1)


def test_stable_diffusion_needs_sides_of_64():
    unet = SimpleNamespace(config={"block_out_channels": (320, 640, 1280, 1280)})
    assert side_multiple(SimpleNamespace(vae_scale_factor=8, unet=unet)) == 64  # type: ignore[arg-type]


def test_candidates_are_drawn_one_after_the_other_with_the_seeds_of_ours(loop):
    stock, placed = loop
    entry = one_by_one(stock, placed, on_crop, range(3))
    assert len(entry.images) == len(entry.changed) == len(stock.pipe.calls) == 3
    assert len({call["generator"].initial_seed() for call in stock.pipe.calls}) == 3
    assert all((changed == placed.request.mask).mean() > 0.9 for changed in entry.changed)


def test_the_measures_lead_from_the_loop_to_our_parameters():
    rungs = [section for _, section in ladder(PARAMS)]
    first = rungs[0]
    assert (first.micro_batch, first.redraws.defectfill, first.defectfill.candidates, first.defectfill.steps) == (1, 0, 8, 50)
    assert rungs[-1] == PARAMS, "the last rung is ours, parameter for parameter"
    known = {key for measure in MEASURES for key in measure.keys}
    assert set(type(PARAMS.defectfill).model_fields) <= known | {"device", "lora_scale", "autocast", "compile"}


def test_contributions_multiply_to_the_whole():
    seconds = {WHOLE: 100.0, CROPS: 20.0, "a": 10.0, OURS: 2.0}
    factors = contributions(seconds, {"a": False, "changes nothing": False, "b": True})
    assert factors == {"crop": 5.0, "a": 2.0, "changes nothing": 1.0, "b": 5.0}
    assert np.prod(list(factors.values())) == seconds[WHOLE] / seconds[OURS]


def test_ways_take_turns_and_part_of_a_loop_counts_for_all_of_it(loop):
    stock, placed = loop
    order = []

    def way(name: str, rounds: int, times: float) -> Way:
        return Way(
            lambda some: order.append(name) or [one_by_one(stock, p, on_crop, [0]) for p in some], [[placed]] * rounds, times
        )

    found = turn_about({"a": way("a", 2, 1.0), "b": way("b", 1, 1000.0)})
    assert order == ["a", "b", "a"]
    assert len(found["a"].seconds) == 2 and found["b"].seconds[0] > 10 * max(found["a"].seconds)


def test_bars_compare_with_both_loops_and_have_no_value_where_nothing_was_run():
    row = {"pairs": 6, "parts": 6, "mean": 0.02, "interval": [-0.01, 0.05]}
    found = {
        "ways": {OURS: {"accepted_a_minute": 30.0}, WHOLE: {"accepted_a_minute": 2.0}, CROPS: {"accepted_a_minute": 12.0}},
        "quality_difference": {WHOLE: row, CROPS: None},
    }
    assert [(one["value"], one["holds"]) for one in speed_bars(found)] == [
        (15.0, True),
        (-0.01, False),
        (2.5, False),
        (None, False),
    ]
    assert [one["value"] for one in speed_bars({})] == [None] * 4
