from __future__ import annotations

import pytest
import torch

from detectors.adapter_parts import without_repeats

# The second box is the first one, half a side further: they share 50 of 150. The third is the first one again.
CORNERS = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10]])
SCORES = torch.tensor([0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("classes", "iou", "kept"),
    [
        ([0, 0, 0], 0.5, [0, 1]),
        ([0, 0, 0], 0.3, [0]),
        ([0, 0, 0], 1.0, [0, 1, 2]),
        ([0, 0, 1], 0.5, [0, 1, 2]),
        ([0, 1, 0], 0.3, [0, 1]),
    ],
)
def test_the_surer_of_two_boxes_of_a_class_stays(classes: list[int], iou: float, kept: list[int]):
    assert without_repeats(CORNERS, SCORES, torch.tensor(classes), iou).tolist() == kept


def test_no_box_has_no_repeats():
    assert without_repeats(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).tolist() == []
