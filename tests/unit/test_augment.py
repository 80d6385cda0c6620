import warnings
from dataclasses import replace

import numpy as np
import pytest

from detectors import augment
from detectors.augment import augmenter, compose
from detectors.datasets import Example, Target
from detectors.letterbox import fit
from pipeline.labels.boxes import mask_to_box


def example(margin=0):
    picture = np.random.default_rng(0).integers(0, 255, (64, 48, 3)).astype(np.uint8)
    mask = np.zeros((64, 48), bool)
    mask[20:30, 10:20] = True
    box = (10 - margin, 20 - margin, 20 + margin, 30 + margin)
    return Example(picture, (Target(1, box, mask),), fit((64, 48), 64))


@pytest.mark.parametrize("recipe", ["base", "classical"])
def test_same_seed_same_bytes_in_any_order(recipe):
    apply = augmenter(recipe, drawn_boxes=False)
    first = [apply(example(), seed) for seed in (1, 2, 3)]
    again = [apply(example(), seed) for seed in (3, 2, 1)][::-1]
    other = augmenter(recipe, drawn_boxes=False)(example(), 2)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.picture, b.picture)
        assert [t.box for t in a.targets] == [t.box for t in b.targets]
    assert np.array_equal(first[1].picture, other.picture)
    assert not np.array_equal(first[0].picture, first[1].picture)


@pytest.mark.parametrize("recipe", ["base", "classical"])
def test_a_grey_picture_stays_grey_and_a_coloured_one_coloured(recipe):
    apply, coloured = augmenter(recipe, drawn_boxes=False), example()
    grey = replace(coloured, picture=np.repeat(coloured.picture[..., :1], 3, axis=2))
    seen = [apply(grey, seed).picture for seed in range(40)]
    assert all(picture.shape[2:] == (3,) and (picture == picture[..., :1]).all() for picture in seen)
    assert all((picture != picture[..., :1]).any() for picture in (apply(coloured, seed).picture for seed in range(5)))


@pytest.mark.parametrize("recipe", ["base", "classical"])
def test_boxes_stay_tight_around_moved_masks(recipe):
    apply = augmenter(recipe, drawn_boxes=False)
    targets = [t for seed in range(20) for t in apply(example(), seed).targets]
    assert targets
    assert all(t.box == mask_to_box(t.mask) and t.category == 1 for t in targets)


def test_drawn_boxes_keep_their_margin():
    apply = augmenter("base", drawn_boxes=True)
    for seed in range(10):
        for target in apply(example(margin=5), seed).targets:
            tight = mask_to_box(target.mask)
            assert target.box[0] < tight[0] - 2
            assert target.box[3] > tight[3] + 2


def disc(margins, radius=12):
    """A round defect in a drawn box with margins to its left, top, right and bottom."""
    ys, xs = np.mgrid[:160, :160]
    mask = (xs - 80) ** 2 + (ys - 80) ** 2 <= radius**2
    box = tuple(edge + sign * m for edge, sign, m in zip(mask_to_box(mask), (-1, -1, 1, 1), margins, strict=True))
    return Example(np.zeros((160, 160, 3), np.uint8), (Target(0, box, mask),), fit((160, 160), 160))


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (3, 3, 3, 3), (1, 4, 6, 0), (2, 5, 3, 5), (9, 7, 0, 0)])
@pytest.mark.parametrize("radius", [0, 12])
def test_an_outline_holds_the_mask_and_has_the_drawn_box(margins, radius):
    (target,) = disc(margins, radius).targets
    outline = augment._outline(target)
    assert mask_to_box(outline) == target.box
    assert outline[target.mask].all()


def test_drawn_boxes_do_not_grow_when_turned(monkeypatch):
    # However it is turned, a disc of 25 px in a box with 4 px around it is as wide; the box around turned corners is not.
    turn = augment.A.Affine(rotate=(30, 30), fill_mask=0, p=1.0)
    monkeypatch.setattr(augment, "_classical", lambda: [turn])
    (target,) = augmenter("classical", drawn_boxes=True)(disc((4, 4, 4, 4)), 0).targets
    assert target.box == pytest.approx((64, 64, 97, 97), abs=1)
    monkeypatch.setattr(augment, "_base", lambda: [turn])
    (moved,) = augmenter("base", drawn_boxes=True)(disc((4, 4, 4, 4)), 0).targets
    assert moved.box[2] - moved.box[0] == pytest.approx(33 * (np.cos(np.pi / 6) + np.sin(np.pi / 6)), abs=1)


def test_good_images_stay_without_targets():
    good = Example(example().picture, (), fit((64, 48), 64))
    assert augmenter("classical", drawn_boxes=False)(good, 4).targets == ()


def test_a_target_pushed_out_of_the_picture_is_dropped(monkeypatch):
    monkeypatch.setattr(augment, "_base", lambda: [augment.A.Crop(x_min=18, y_min=0, x_max=48, y_max=64, p=1.0)])
    assert augmenter("base", drawn_boxes=False)(example(), 0).targets == ()  # 2 of 10 columns: exactly a fifth is too little
    monkeypatch.setattr(augment, "_base", lambda: [augment.A.Crop(x_min=15, y_min=0, x_max=48, y_max=64, p=1.0)])
    (target,) = augmenter("base", drawn_boxes=False)(example(), 0).targets
    assert target.box == (0, 20, 5, 30)


def test_an_argument_the_library_does_not_know_is_an_error(monkeypatch):
    monkeypatch.setattr(augment, "_base", lambda: [augment.A.GaussNoise(var_limit=(1, 2))])
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="var_limit"):
        compose("base")
