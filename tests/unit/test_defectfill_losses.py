"""Every loss against a value worked out by hand."""

import pytest
import torch

from pipeline.generators.defectfill.losses import attention_loss, defect_loss, object_loss, weighted_squared_error


def two_pixels() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two channels, two pixels: error 3 everywhere on the defect pixel, 2 everywhere on the other."""
    target = torch.tensor([[[[3.0, 2.0]], [[3.0, 2.0]]]])
    mask = torch.tensor([[[[1.0, 0.0]]]])
    return torch.zeros_like(target), target, mask


def test_defect_loss_mean_divides_by_all_elements():
    predicted, target, mask = two_pixels()
    assert defect_loss(predicted, target, mask, "mean").item() == pytest.approx(18 / 4)


def test_defect_loss_area_is_the_mean_over_the_defect():
    predicted, target, mask = two_pixels()
    assert defect_loss(predicted, target, mask, "area").item() == pytest.approx(9.0)


def test_object_loss_squares_its_weight():
    predicted, target, mask = two_pixels()
    # weight 1 on the defect, 0.3 beside it: (2 * 9 + 2 * 0.09 * 4) / 4
    assert object_loss(predicted, target, mask, 0.3, "mean").item() == pytest.approx((18 + 0.72) / 4)
    assert object_loss(predicted, target, mask, 0.3, "area").item() == pytest.approx((18 + 0.72) / (2 * 1.09))


def test_area_gives_each_sample_its_own_mean():
    target = torch.ones(2, 1, 1, 4)
    target[1] = 2.0
    weight = torch.tensor([[[[1.0, 0, 0, 0]]], [[[1.0, 1, 1, 1]]]])
    assert weighted_squared_error(torch.zeros_like(target), target, weight, "area").item() == pytest.approx((1 + 4) / 2)


def test_an_empty_mask_costs_nothing():
    target = torch.ones(1, 2, 2, 2)
    assert defect_loss(torch.zeros_like(target), target, torch.zeros(1, 1, 2, 2), "area").item() == 0.0


def test_attention_loss_averages_layers_then_squares():
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    maps = [torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.4)]
    assert attention_loss(maps, mask, "none").item() == pytest.approx((0.49 + 3 * 0.09) / 4)
    assert attention_loss(maps, mask, "max").item() == pytest.approx((0 + 3 * 1.0) / 4)


def test_no_map_is_an_error_and_not_a_zero():
    with pytest.raises(ValueError, match="no attention map"):
        attention_loss([], torch.zeros(1, 1, 2, 2), "none")


def test_permuting_the_batch_permutes_the_attention_terms():
    mask = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    order = [2, 0, 1]
    single = [attention_loss([maps[i : i + 1]], mask[i : i + 1], "none").item() for i in range(3)]
    permuted = [attention_loss([maps[order][i : i + 1]], mask[order][i : i + 1], "none").item() for i in range(3)]
    assert permuted == [single[i] for i in order]
