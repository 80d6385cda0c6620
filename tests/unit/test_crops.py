import numpy as np
import pytest

from pipeline.masks.composite import apply_change, changed_region, feathered
from pipeline.masks.crops import (
    EmptyMaskError,
    Window,
    mask_bounds,
    paint_mask,
    paste_window,
    read_mask_window,
    read_window,
    resize_mask,
    window_around,
)


def mask_with(shape: tuple[int, int], y: slice, x: slice) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y, x] = True
    return mask


def test_bounds_are_half_open():
    assert mask_bounds(mask_with((4, 5), slice(2, 3), slice(3, 4))) == (3, 2, 4, 3)


def test_bounds_of_nothing_are_an_error():
    with pytest.raises(EmptyMaskError, match="no defect pixel"):
        mask_bounds(np.zeros((3, 3), bool))


def test_window_is_centred_and_scaled():
    mask = mask_with((100, 100), slice(40, 50), slice(30, 50))  # 20 wide, centre (40, 45)
    assert window_around(mask, 2.0, 8) == Window(20, 25, 40)


def test_window_has_a_least_side():
    mask = mask_with((100, 100), slice(50, 52), slice(50, 52))
    assert window_around(mask, 2.0, 32) == Window(35, 35, 32)


def test_window_does_not_outgrow_the_photo_unless_the_mask_does():
    mask = mask_with((60, 100), slice(0, 20), slice(80, 100))
    assert window_around(mask, 4.0, 8) == Window(40, 0, 60)
    wide = mask_with((60, 100), slice(0, 60), slice(10, 90))
    assert window_around(wide, 4.0, 8) == Window(6, -14, 88)


def test_window_at_an_edge_is_moved_inside():
    mask = mask_with((100, 100), slice(0, 10), slice(95, 100))
    assert window_around(mask, 3.0, 8) == Window(70, 0, 30)


def test_reading_beyond_the_border_reflects_and_masks_are_empty_there():
    photo = np.arange(12, dtype=np.uint8).reshape(3, 4)[..., None].repeat(3, axis=2)
    window = Window(-1, -1, 3)
    assert read_window(photo, window)[..., 0].tolist() == [[5, 4, 5], [1, 0, 1], [5, 4, 5]]
    assert read_mask_window(np.ones((3, 4), bool), window).tolist() == [[False] * 3, [False, True, True], [False, True, True]]


def test_pasting_what_was_read_changes_nothing_even_over_the_border():
    photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for window in (Window(-5, -5, 12), Window(20, 10, 15), Window(4, 4, 8), Window(-5, -5, 50)):
        copy = photo.copy()
        paste_window(copy, read_window(photo, window), window)
        assert (copy == photo).all()


def test_a_line_of_one_pixel_survives_shrinking_by_three():
    mask = mask_with((96, 96), slice(None), slice(48, 49))
    assert resize_mask(mask, 32).any(axis=1).all()


def test_feather_falls_linearly_to_zero():
    mask = mask_with((1, 9), slice(0, 1), slice(4, 5))
    expected = [0, 0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 0]
    assert np.allclose(feathered(mask, 2)[0], expected, atol=1e-6)


def test_background_is_the_clean_crop_bit_for_bit():
    rng = np.random.default_rng(1)
    clean = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    mask = mask_with((32, 32), slice(10, 16), slice(12, 20))
    image = apply_change(clean, rng.normal(0, 90, clean.shape).astype(np.float32), mask, 2)
    outside = feathered(mask, 2) == 0
    assert (image[outside] == clean[outside]).all()
    assert (image[mask] != clean[mask]).any()


def test_a_full_change_inside_the_mask_is_added_exactly():
    clean = np.full((8, 8, 3), 100, np.uint8)
    mask = mask_with((8, 8), slice(2, 6), slice(2, 6))
    image = apply_change(clean, np.full((8, 8, 3), -30, np.float32), mask, 0)
    assert (image[mask] == 70).all() and (image[~mask] == 100).all()


def test_changed_region_ignores_small_changes_and_is_empty_for_none():
    clean = np.full((16, 16, 3), 100, np.uint8)
    image = clean.copy()
    image[4:12, 4:12] = 160
    image[0, 0] = 103
    asked = mask_with((16, 16), slice(4, 12), slice(4, 12))
    region = changed_region(image, clean, [asked], 10.0, 10.0)
    assert region[asked].all() and not region[0, 0]
    assert not changed_region(clean, clean, [asked], 0.0, 0.0).any()


def scratch(*pieces: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grey picture with a scratch four pixels high, pieces of columns lighter by so much; the clean one; rows asked for."""
    clean = np.full((16, 80, 3), 100, np.uint8)
    image = clean.copy()
    for start, stop, lighter in pieces:
        image[6:10, start:stop] += lighter
    return image, clean, mask_with((16, 80), slice(6, 10), slice(2, 78))


def test_what_is_faint_counts_beside_what_is_sure_and_nowhere_else():
    image, clean, _ = scratch((2, 14, 60), (14, 22, 20), (30, 38, 20))
    elsewhere = mask_with((16, 80), slice(12, 16), slice(2, 78))
    region = changed_region(image, clean, [elsewhere], sure=40.0, possible=10.0)
    assert region[7:9, 3:21].all(), "the faint half of the scratch"
    assert not region[:, 26:].any(), "as faint, but beside nothing"
    assert not changed_region(image, clean, [elsewhere], sure=40.0, possible=40.0)[:, 15:].any(), "one threshold loses it"


def test_a_defect_goes_on_down_to_a_quarter_of_its_own_strength():
    image, clean, asked = scratch((2, 30, 60), (30, 50, 24), (50, 78, 8))
    region = changed_region(image, clean, [asked], sure=40.0, possible=30.0)
    assert region[7:9, 3:49].all() and not region[:, 54:].any()


@pytest.mark.parametrize(("feather_px", "grown"), [(0, 0), (2, 1), (4, 2)])
def test_where_a_defect_fades_it_ends_at_half_its_strength(feather_px: int, grown: int):
    """A hole of 10 x 10 px, 80 grey levels dark. A soft edge of 2 px has 2/3, 1/3 of that, one of 4 px has 4/5, 3/5, 2/5, 1/5."""
    clean, hole = np.full((64, 64, 3), 150, np.uint8), mask_with((64, 64), slice(27, 37), slice(27, 37))
    image = apply_change(clean, np.full(clean.shape, -80.0, np.float32), hole, feather_px)
    region = changed_region(image, clean, [hole], sure=14.0, possible=9.5)
    assert mask_bounds(region) == (27 - grown, 27 - grown, 37 + grown, 37 + grown)


def test_a_thin_defect_ends_at_half_its_strength_too():
    """A line of one pixel, 80 grey levels dark; of the soft edge of 2 px, 2/3 and 1/3 of that, the nearer pixel is its own."""
    clean, line = np.full((64, 64, 3), 150, np.uint8), mask_with((64, 64), slice(8, 56), slice(30, 31))
    image = apply_change(clean, np.full(clean.shape, -80.0, np.float32), line, 2)
    assert mask_bounds(changed_region(image, clean, [line], sure=14.0, possible=9.5)) == (29, 7, 32, 57)


def test_each_of_two_defects_has_its_own_strength():
    """A hole of -80 grey levels beside a large stain of -20: both end at half their own."""
    clean, hole = np.full((96, 96, 3), 150, np.uint8), mask_with((96, 96), slice(20, 30), slice(20, 30))
    stain = mask_with((96, 96), slice(8, 88), slice(44, 88))
    change = np.broadcast_to(np.where(np.arange(96) < 36, np.float32(-80), np.float32(-20))[None, :, None], clean.shape)
    image = apply_change(clean, change, hole | stain, 2)
    region = changed_region(image, clean, [hole, stain], sure=14.0, possible=9.5)
    assert mask_bounds(region & (np.arange(96) < 36)) == (19, 19, 31, 31) and mask_bounds(region[:, 36:]) == (7, 7, 53, 89)


def test_a_gap_belongs_to_the_defect_and_an_end_that_was_not_painted_does_not():
    image, clean, asked = scratch((2, 20, 60), (40, 60, 60))
    region = changed_region(image, clean, [asked], sure=40.0, possible=30.0)
    assert region[6:10, 3:59].all() and not region[:, 64:].any()
    assert not region[:5].any() and not region[11:].any(), "no more than asked for is filled"


def test_where_hardly_anything_changed_nothing_is_filled():
    image, clean, asked = scratch((2, 5, 60), (70, 73, 60))
    assert not changed_region(image, clean, [asked], sure=30.0, possible=20.0)[:, 10:64].any()


@pytest.mark.parametrize("cell", [2, 8])
def test_a_painted_line_is_whole_at_latent_size_wherever_it_lies(cell: int):
    """A line of one pixel, upright, through 24 of 32 rows of cells; the VAE of Stable Diffusion has cells of 8 pixels."""
    side = 32 * cell
    for x in range(10 * cell, 11 * cell + 1):
        mask = mask_with((side, side), slice(4 * cell, 28 * cell), slice(x, x + 1))
        assert paint_mask(mask, side, cell)[::cell, ::cell][4:28].any(axis=1).all()
