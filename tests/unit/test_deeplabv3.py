from typing import ClassVar

import numpy as np
import pytest
import torch

from detectors.datasets import Target
from detectors.deeplabv3 import BatchSizeError, DeepLabV3, class_map, cut, dice_loss, normalise
from detectors.protocol import Limits
from pipeline.labels.boxes import mask_to_box


def target(category: int, rows: slice, columns: slice, side: int = 8) -> Target:
    mask = np.zeros((side, side), bool)
    mask[rows, columns] = True
    return Target(category, mask_to_box(mask), mask)


def test_a_small_defect_stays_on_top_of_a_large_one_whatever_their_order():
    large, small = target(0, slice(0, 6), slice(0, 6)), target(1, slice(2, 4), slice(2, 4))
    for order in ([large, small], [small, large]):
        found = class_map(order, 8)
        assert found.dtype == torch.int64
        assert int((found == 1).sum()) == 36 - 4 and int((found == 2).sum()) == 4


def test_beyond_a_picture_smaller_than_the_square_there_is_background():
    assert int(class_map([target(0, slice(0, 3), slice(0, 3), side=3)], 8).sum()) == 9


def test_dice_by_hand():
    truth = torch.tensor([[[0, 1], [0, 1]]])  # class 0 has two pixels, class 1 none
    shares = torch.zeros(1, 3, 2, 2)
    shares[0, 1] = torch.tensor([[0.0, 1.0], [0.0, 0.5]])
    shares[0, 2] = 0.3  # a class that is absent counts for nothing
    # 1 - (2 * 1.5 + 1) / (1.5 + 2 + 1)
    assert float(dice_loss(shares, truth)) == pytest.approx(1 - 4 / 4.5)
    assert float(dice_loss(shares, torch.zeros_like(truth))) == 0.0


def probabilities() -> np.ndarray:
    """Two classes on 12 px: one piece of class 0 with a gap of a pixel, a far one, a speck, and a block of class 1."""
    shares = np.full((3, 12, 12), 0.1, np.float32)
    shares[0] = 0.8
    for category, rows, columns, value in (
        (1, slice(0, 3), slice(0, 2), 0.6),
        (1, slice(0, 3), slice(3, 5), 0.8),
        (1, slice(9, 12), slice(0, 3), 0.7),
        (1, slice(6, 7), slice(10, 11), 0.9),
        (2, slice(8, 12), slice(8, 12), 0.95),
    ):
        shares[:, rows, columns] = (1 - value) / 2
        shares[category, rows, columns] = value
    return shares


def test_a_map_is_cut_as_real_masks_are_and_scored_by_the_mean_of_its_pixels():
    found = cut(probabilities(), close_px=1, min_area_px=4)
    assert [(category, mask_to_box(mask)) for _, category, mask in found] == [
        (1, (8, 8, 12, 12)),
        (0, (0, 0, 5, 3)),
        (0, (0, 9, 3, 12)),
    ]
    assert [score for score, _, _ in found] == pytest.approx([0.95, 0.7, 0.7])
    assert int(found[1][2].sum()) == 12, "closing decides what belongs together, never what is defect"


def test_specks_are_no_detections_even_where_a_class_has_nothing_else():
    speck = np.stack([np.full((12, 12), 0.6), np.full((12, 12), 0.4)]).astype(np.float32)
    speck[:, 5, 5] = (0.2, 0.8)
    assert cut(speck, close_px=1, min_area_px=4) == []
    assert len(cut(speck, close_px=1, min_area_px=1)) == 1


class Map(torch.nn.Module):
    """A network that gives the same map for every picture."""

    rule: ClassVar[dict[str, int]] = {"close_px": 1, "min_area_px": 4}

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": torch.from_numpy(probabilities()).log().expand(len(pictures), -1, -1, -1)}


def test_limits_keep_the_best():
    [found] = DeepLabV3().decode(Map(), torch.rand(1, 3, 12, 12), Limits(0.8, 10, 0.6))
    assert found.categories.tolist() == [1] and found.boxes.tolist() == [[8, 8, 12, 12]]
    [found] = DeepLabV3().decode(Map(), torch.rand(1, 3, 12, 12), Limits(0.0, 2, 0.6))
    assert found.categories.tolist() == [1, 0]
    assert found.masks is not None and found.masks.sum(axis=(1, 2)).tolist() == [16, 12]


def test_pictures_are_brought_to_the_mean_torchvisions_files_were_trained_with():
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert float(normalise(grey).abs().max()) < 1e-6


def test_one_picture_alone_is_refused():
    network = DeepLabV3().build(DeepLabV3().architecture(2, "mobilenet_v3_large")).train()
    with pytest.raises(BatchSizeError, match=r"batches of 2 pictures or more, got 1; raise train\.batch"):
        DeepLabV3().losses(network, torch.rand(1, 3, 32, 32), [[]])


@pytest.mark.slow
def test_the_default_is_torchvisions_resnet50_one():
    # With 21 outputs and the auxiliary head, which we leave out, the count torchvision publishes.
    network = DeepLabV3().build(DeepLabV3().architecture(20, "resnet50"))
    auxiliary = 9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21
    assert sum(p.numel() for p in network.parameters()) + auxiliary == 42_004_074
