"""One exposure for all crops: taken from the surround alone, and undone without a trace."""

import pytest
import torch

from pipeline.diffusion.exposure import DARKEST, GAIN, LEVEL, exposed, exposure_gain


def crop(surround: float, hole: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One picture of two greys (0 to 1), and the mask of the second."""
    light = torch.full((1, 3, 8, 8), surround)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:4, 2:4] = 1
    light[:, :, 2:4, 2:4] = hole
    return light * 2 - 1, mask


def light_of(images: torch.Tensor) -> torch.Tensor:
    return (images + 1) / 2


def test_the_surround_comes_to_the_level_and_the_hole_keeps_its_share_of_the_light():
    for surround in (0.2, 0.45, 0.8):
        images, mask = crop(surround, surround / 2)
        found = light_of(exposed(images, exposure_gain(images, mask)))
        assert found[0, 0, 7, 7] == pytest.approx(LEVEL, abs=1e-5)
        assert found[0, 0, 3, 3] == pytest.approx(LEVEL / 2, abs=1e-5), "half the light stays half the light"


def test_what_lies_in_the_hole_plays_no_part():
    gains = [exposure_gain(*crop(0.3, hole)) for hole in (0.0, 0.3, 1.0)]
    assert torch.equal(gains[0], gains[1]) and torch.equal(gains[1], gains[2])


def test_the_gain_is_bounded_and_a_black_crop_does_not_divide_by_zero():
    assert exposure_gain(*crop(1e-3, 0.5)).item() == GAIN[1] < LEVEL / DARKEST
    assert exposure_gain(*crop(1.0, 0.5)).item() == GAIN[0] > LEVEL
    assert torch.isfinite(exposure_gain(*crop(0.0, 0.0))).all()


def test_a_mask_over_the_whole_crop_takes_the_crop_as_its_surround():
    images, _ = crop(0.3, 0.3)
    assert exposure_gain(images, torch.ones(1, 1, 8, 8)).item() == pytest.approx(LEVEL / 0.3, rel=1e-5)


def test_the_way_back_is_the_inverse_gain_even_beyond_white():
    images, mask = crop(0.1, 0.9)
    gain = exposure_gain(images, mask)
    assert exposed(images, gain).max() > 1, "clipped here, the highlight would not come back"
    assert torch.allclose(exposed(exposed(images, gain), 1 / gain), images, atol=1e-6)
