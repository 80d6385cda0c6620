import numpy as np
import pytest

from pipeline.labels.instances import close_mask, disk, instances


def blank(height=8, width=12):
    return np.zeros((height, width), bool)


def test_disk_of_radius_one_is_a_plus():
    assert disk(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


def test_pixels_that_touch_at_a_corner_are_one_instance():
    mask = blank()
    mask[2, 2] = mask[3, 3] = True
    assert len(instances(mask, 0, 1)) == 1


def test_closing_joins_pieces_but_adds_no_pixel():
    mask = blank()
    mask[3:6, 2:4] = mask[3:6, 5:8] = True  # a gap of one pixel
    assert len(instances(mask, 0, 1)) == 2
    (joined,) = instances(mask, 1, 1)
    assert np.array_equal(joined, mask)


def test_closing_does_not_reach_for_the_border():
    mask = blank()
    mask[1, 1] = True
    assert np.array_equal(close_mask(mask, 3), mask)


def test_specks_are_dropped_and_order_is_reading_order():
    mask = blank()
    mask[5:7, 0:3] = True
    mask[1:3, 6:9] = True
    mask[0, 0] = True
    found = instances(mask, 0, 4)
    assert [tuple(int(v) for v in np.argwhere(m)[0]) for m in found] == [(1, 6), (5, 0)]


def test_the_largest_speck_stays_when_all_are_too_small():
    mask = blank()
    mask[0, 0] = True
    mask[4, 4:6] = True
    (kept,) = instances(mask, 0, 9)
    assert kept.sum() == 2


def test_an_empty_mask_has_no_instance():
    assert instances(blank(), 2, 9) == []


@pytest.mark.parametrize("close_px", [0, 1, 3])
def test_instances_are_disjoint_and_cover_the_mask(close_px):
    mask = np.random.default_rng(0).random((40, 40)) > 0.9
    found = instances(mask, close_px, 1)
    assert np.array_equal(np.sum(found, axis=0), mask.astype(int))
