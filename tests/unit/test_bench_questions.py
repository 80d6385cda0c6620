"""The pieces of the bench that asks about boxes."""

from __future__ import annotations

import numpy as np

from pipeline.labels.boxes import mask_to_box
from tests.bench.questions import FULL, LEAST_PX, cut, interval


def test_a_slanted_defect_is_cut_until_its_boxes_are_half_full_and_a_full_one_is_not():
    slanted = np.eye(64, dtype=bool) | np.eye(64, k=1, dtype=bool) | np.eye(64, k=-1, dtype=bool)
    pieces = cut(slanted)
    assert len(pieces) == 8 and np.array_equal(np.sum(pieces, axis=0), slanted)
    for piece in pieces:
        x0, y0, x1, y1 = mask_to_box(piece)
        assert piece.sum() >= FULL * (x1 - x0) * (y1 - y0) or max(x1 - x0, y1 - y0) < 2 * LEAST_PX
    full = np.zeros((32, 32), bool)
    full[4:28, 6:20] = True
    assert len(cut(full)) == 1


def test_an_interval_of_two_parts_by_hand():
    assert interval(np.array([1.0, 1.0, 0.0]), ["a", "a", "b"]) == [0.667, 0.0, 1.0]
