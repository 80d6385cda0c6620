import numpy as np
import pytest

from pipeline.labels.boxes import (
    EmptyMaskError,
    annotation_margin,
    apply_margin,
    box_to_coco,
    coco_to_box,
    mask_inside,
    mask_to_box,
)


def test_box_of_one_pixel_is_one_pixel_wide():
    mask = np.zeros((4, 5), bool)
    mask[2, 3] = True
    assert mask_to_box(mask) == (3, 2, 4, 3)


def test_box_of_a_full_mask_is_the_picture():
    assert mask_to_box(np.ones((4, 5), bool)) == (0, 0, 5, 4)


def test_an_empty_mask_has_no_box():
    with pytest.raises(EmptyMaskError, match="drop the sample"):
        mask_to_box(np.zeros((4, 5), bool))


def test_coco_boxes_hold_width_and_height():
    assert box_to_coco((3, 2, 4, 6)) == [3.0, 2.0, 1.0, 4.0]
    assert coco_to_box([3.0, 2.0, 1.0, 4.0]) == (3.0, 2.0, 4.0, 6.0)


def square(x0, y0, x1, y1, size=40):
    mask = np.zeros((size, size), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_margin_is_the_median_of_each_side():
    pairs = [
        ((8, 7, 16, 15), square(10, 10, 14, 14)),  # 2, 3, 2, 1
        ((6, 6, 20, 18), square(10, 10, 14, 14)),  # 4, 4, 6, 4
        ((7, 9, 15, 16), square(10, 10, 14, 14)),  # 3, 1, 1, 2
    ]
    assert annotation_margin(pairs) == (3.0, 3.0, 2.0, 2.0)


def test_margin_is_measured_on_the_pixels_inside_the_box_only():
    mask = square(10, 10, 14, 14) | square(30, 30, 34, 34)
    assert annotation_margin([((8, 8, 16, 16), mask)]) == (2.0, 2.0, 2.0, 2.0)


def test_no_pixel_in_any_box_gives_no_margin():
    assert annotation_margin([((0, 0, 4, 4), square(10, 10, 14, 14))]) is None


def test_margin_is_clipped_to_the_picture():
    assert apply_margin((1, 1, 39, 38), (3, 3, 3, 3), (40, 40)) == (0.0, 0.0, 40, 40)
    assert apply_margin((10, 10, 14, 14), (1, 2, 3, 4), (40, 40)) == (9, 8, 17, 18)


def test_a_pixel_a_fractional_box_touches_is_inside():
    inside = mask_inside(np.ones((10, 10), bool), (1.5, 2.0, 3.2, 4.0))
    assert mask_to_box(inside) == (1, 2, 4, 4)
