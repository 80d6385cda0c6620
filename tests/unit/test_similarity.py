import lpips
import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from pipeline.diffusion.components import small_pipeline
from pipeline.images import Picture
from pipeline.similarity.masked import masked_distance
from pipeline.similarity.perceptual import (
    BackboneError,
    Perceptual,
    backbone_path,
    choose_perceptual,
    encoder_features,
    load_lpips,
)


def grey_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference in grey levels: a net whose scores can be worked out by hand."""
    return (first - second).abs().mean(dim=1) * 127.5


BY_GREY = Perceptual("grey difference", 8, grey_distance)


def flat(value: int) -> Picture:
    return np.full((8, 8, 3), value, np.uint8)


def half() -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    return mask


def test_only_the_inside_of_the_mask_counts():
    image = flat(100)
    image[:, 4:] = 250
    image[:, :4] = 130
    score = masked_distance(BY_GREY, [image], [flat(100)], [half()])
    assert score[0] == pytest.approx(30, abs=1e-3)


def test_an_empty_mask_scores_nothing():
    assert masked_distance(BY_GREY, [flat(1)], [flat(200)], [np.zeros((8, 8), bool)])[0] == 0


def test_a_line_too_thin_for_the_small_picture_still_counts():
    mask = np.zeros((80, 80), bool)
    mask[40] = True
    image = np.full((80, 80, 3), 100, np.uint8)
    image[40:50] = 200  # one row of pixels after resizing, a tenth of it below the mask
    clean = np.full((80, 80, 3), 100, np.uint8)
    assert masked_distance(BY_GREY, [image], [clean], [mask])[0] == pytest.approx(100, abs=1)


def test_equal_pictures_have_no_distance_and_a_dark_spot_is_found_where_it_is():
    net = encoder_features(small_pipeline(32, seed=0).vae)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.2
    spotted = images.clone()
    spotted[:, :, 8:16, 8:16] = -0.8
    assert float(net.distance(images, images).abs().max()) == 0.0
    found = net.distance(images, spotted)[0]
    assert found[9:15, 9:15].mean() > 2 * found[22:, 22:].mean()


def test_lpips_reads_the_official_backbone_file(tmp_path, monkeypatch):
    """A random AlexNet, saved as torchvision's own file is, gives the distances lpips gives with the same weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = backbone_path()
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    backbone = alexnet(weights=None)
    torch.save(backbone.state_dict(), path)
    net = choose_perceptual("auto", small_pipeline(32, seed=0).vae)
    assert net.name.startswith("LPIPS")
    first, second = torch.rand(2, 2, 3, 128, 128) * 2 - 1
    got = net.distance(first, second)
    assert got.shape == (2, 128, 128)
    with pytest.warns(UserWarning):
        reference = lpips.LPIPS(net="alex", spatial=True, pnet_rand=True, verbose=False).eval()
    layers = iter(m for m in backbone.features if hasattr(m, "weight"))
    for module in (m for m in reference.net.modules() if isinstance(m, torch.nn.Conv2d)):
        module.load_state_dict(next(layers).state_dict())
    with torch.inference_mode():
        assert torch.allclose(got, reference(first, second)[:, 0], atol=1e-6)


def test_a_missing_backbone_is_named_when_lpips_was_asked_for(tmp_path):
    with pytest.raises(BackboneError, match=r"alexnet-owt-7be5be79.pth.*select.perceptual"):
        load_lpips(tmp_path / "none.pth")


def test_without_the_backbone_auto_names_what_it_uses(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert choose_perceptual("auto", small_pipeline(32, seed=0).vae).name == "features of the base's own encoder"
