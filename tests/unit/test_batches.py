"""Which images a step sees, in every arm and at every step, and what a synthetic one weighs."""

import numpy as np
import pytest
import torch

from detectors.arms import parse_arm
from detectors.batches import Batches, Counts, Pools, batch_counts, draw_batch, open_batches
from detectors.datasets import Example
from detectors.letterbox import fit
from detectors.params import MixParams, Recipe, TrainParams, check_share
from detectors.tiling import Framing
from detectors.training import load_fold, load_pools, losses_at
from pipeline.params import LabelParams, ParamsError, load_section
from pipeline.stages.label import label
from tests.detector_toy import write_prepared, write_selected

RULES = LabelParams(close_px=2, min_area_px=9)


def pool(count, value):
    return tuple(Example(np.full((8, 8, 3), value + i, np.uint8), (), fit((8, 8), 32)) for i in range(count))


def pools(synthetic=0):
    return Pools(pool(10, 0), pool(20, 50), pool(synthetic, 100))


def test_counts_are_exact_and_rounded_half_up():
    assert batch_counts(8, 0.25, 0.5, pools()) == Counts(real=6, good=2, synthetic=0)
    assert batch_counts(8, 0.25, 0.5, pools(5)) == Counts(real=3, good=2, synthetic=3)
    assert batch_counts(8, 0.25, 0.25, pools(5)) == Counts(real=4, good=2, synthetic=2)
    assert batch_counts(8, 0.25, 0.5, Pools(pool(3, 0), ())) == Counts(real=8, good=0, synthetic=0)


@pytest.mark.parametrize(("share", "missing"), [(0.08, "synthetic"), (0.92, "real")])
def test_a_share_that_leaves_no_photo_of_a_kind_is_refused(share, missing):
    """Of eight photos two are good; six times 0.08 is no whole photo, and six times 0.92 is all six."""
    train, mix = load_section("train", TrainParams), load_section("mix", MixParams)
    assert (train.batch, train.negative_share) == (8, 0.25)
    with pytest.raises(ParamsError, match=rf"{share} leaves no {missing} photo among the 6 .* expected 0\.167 to 0\.833"):
        check_share(train, mix.model_copy(update={"share": share}))


@pytest.mark.parametrize("share", [0.09, 0.25, 0.91, 1.0])
def test_a_share_that_leaves_both_or_asks_for_one_kind_alone_is_taken(share):
    check_share(load_section("train", TrainParams), load_section("mix", MixParams).model_copy(update={"share": share}))


def values(drawn):
    return [int(e.picture[0, 0, 0]) for e, _ in drawn]


@pytest.mark.parametrize("step", [0, 1, 17])
def test_every_batch_has_the_stated_share(step):
    drawn = values(draw_batch(pools(5), Counts(3, 2, 3), 0, step))
    assert (sum(v < 50 for v in drawn), sum(50 <= v < 100 for v in drawn), sum(v >= 100 for v in drawn)) == (3, 2, 3)


@pytest.mark.parametrize("step", [0, 5])
def test_arms_see_the_same_real_and_good_images_with_the_same_augmentation(step):
    real = draw_batch(pools(), Counts(6, 2, 0), 3, step)
    mixed = draw_batch(pools(5), Counts(3, 2, 3), 3, step)
    assert values(mixed)[:3] == values(real)[:3]
    assert values(mixed)[-2:] == values(real)[-2:]
    assert [s for _, s in mixed[:3]] == [s for _, s in real[:3]]


def test_no_image_comes_twice_before_all_came_once():
    drawn = values(draw_batch(Pools(pool(4, 0), ()), Counts(6, 0, 0), 0, 0))
    assert sorted(drawn[:4]) == [0, 1, 2, 3]


def recipe(**mix: float) -> Recipe:
    train = load_section("train", TrainParams).model_copy(update={"steps": 10})
    return Recipe(train, load_section("mix", MixParams).model_copy(update=mix), RULES)


def batches_of(pools: Pools, **mix: float) -> Batches:
    made = recipe(**mix)
    return open_batches(made.train, made.mix, pools, unchanged, 0)


def test_without_real_defects_synthetic_ones_fill_their_place():
    assert batch_counts(8, 0.25, 0.5, Pools((), pool(20, 50), pool(5, 100))) == Counts(real=0, good=2, synthetic=6)


def unchanged(example, seed):
    return example


def test_synthetic_images_come_until_their_share_of_the_steps_is_done():
    batches = batches_of(pools(5), share=1.0, until=0.6)
    seen = [{kind: len(examples) for kind, examples in batches.at(step).items()} for step in (0, 5, 6, 9)]
    assert seen == [{False: 2, True: 6}] * 2 + [{False: 8, True: 0}] * 2


def test_what_is_called_synthetic_is_synthetic():
    kinds = Batches(pools(5), Counts(3, 2, 3), Counts(6, 2, 0), 10, unchanged, 0).at(4)
    assert all(e.picture[0, 0, 0] >= 100 for e in kinds[True])
    assert all(e.picture[0, 0, 0] < 100 for e in kinds[False])


def test_the_arm_of_synthetic_defects_alone_sees_no_real_one(tmp_path):
    prepared = write_prepared(tmp_path, 32)
    label(RULES, write_selected(tmp_path, 32), prepared / "train", tmp_path / "labelled")
    arm = parse_arm("copy_paste_only")
    data = load_fold(RULES, arm, prepared, tmp_path / "labelled", 0)
    loaded = load_pools(data, arm, Framing(32, None), tmp_path)
    assert (len(loaded.real), len(loaded.good)) == (0, len(data.train.good))
    assert len(loaded.synthetic) == len(data.synthetic.defective) > 0
    assert batches_of(loaded, until=0.5).late.synthetic > 0


class GreyLevel:
    """Mean grey level of the pictures, so that a batch's loss can be worked out by hand."""

    def losses(self, network, pictures, targets):
        return {"loss": 255 * pictures[:, :, :8, :8].mean() * network.weight.sum()}


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 50.0), (0.5, 40.0), (3.0, 65.0)])
def test_a_synthetic_image_weighs_what_is_asked(weight, expected):
    """Two images of 20 and two synthetic ones of 80: (2 x 20 + weight x 2 x 80) / (2 + 2 weight)."""
    session = type("Toy", (), {"network": torch.nn.Linear(1, 1, bias=False), "detector": GreyLevel()})()
    torch.nn.init.ones_(session.network.weight)
    batches = Batches(Pools(pool(1, 20), (), pool(1, 80)), Counts(2, 0, 2), Counts(4, 0, 0), 10, unchanged, 0)
    found = losses_at(recipe(weight=weight), session, 8, batches)(0)
    assert float(found["loss"].detach()) == pytest.approx(expected, abs=1e-3)
