import numpy as np

from pipeline.masks.placement import WarpLimits, place, warp_mask

STILL = WarpLimits(rotate_deg=0, scale=(1.0, 1.0), flip=False, jitter=0.0)


def block() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    return mask


def test_without_any_freedom_the_mask_stays_where_it_was():
    mask, affine = place(block(), (40, 60), STILL, np.random.default_rng(0))
    assert (mask == block()).all()
    assert np.allclose(affine, [[1, 0, 0], [0, 1, 0]])


def test_the_place_is_relative_to_the_photo():
    mask, _ = place(block(), (80, 120), STILL, np.random.default_rng(0))
    ys, xs = np.nonzero(mask)
    assert (xs.mean() + 0.5) / 120 == 40 / 60 and (ys.mean() + 0.5) / 80 == 15 / 40


def test_the_matrix_is_the_one_that_moved_the_mask():
    limits = WarpLimits(rotate_deg=45, scale=(0.7, 1.3), flip=True, jitter=0.3)
    for seed in range(10):
        mask, affine = place(block(), (90, 70), limits, np.random.default_rng(seed))
        assert mask.shape == (90, 70)
        assert (mask == warp_mask(block(), affine, (90, 70))).all()
        # At least 60 % of the warped mask lies on the photo (scale >= 0.7 of 200 pixels), up to rounding of its border.
        assert mask.sum() >= 0.5 * 0.49 * 200


def test_same_seed_same_place():
    limits = WarpLimits(rotate_deg=45, scale=(0.7, 1.3), flip=True, jitter=0.3)
    first, second = (place(block(), (90, 70), limits, np.random.default_rng(3))[0] for _ in range(2))
    assert (first == second).all()
