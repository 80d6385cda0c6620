import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import RTDetrImageProcessor

from detectors.protocol import COMPACT, Limits
from detectors.rtdetr_v2 import RtDetrV2
from detectors.session import fresh_network

CLASSES = 5


@pytest.fixture
def network() -> nn.Module:
    return fresh_network("rtdetr_v2", COMPACT, CLASSES, 0)


def test_every_class_starts_at_two_percent(network):
    heads = {
        name: value for name, value in network.state_dict().items() if name.endswith(("class_embed.0.bias", "score_head.bias"))
    }
    assert len(heads) == 3  # the head of the proposals, and that of the decoder under both its names
    for value in heads.values():
        assert value.sigmoid().tolist() == pytest.approx([0.02] * CLASSES)


def test_norms_pass_maps_on_at_their_scale_and_none_is_frozen(network):
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 30 and all(bool((norm.weight == 1).all()) for norm in norms)
    assert not [name for name, module in network.named_modules() if "Frozen" in type(module).__name__]


def test_box_heads_start_at_their_anchors(network):
    state = network.state_dict()
    assert float(state["bbox_embed.0.layers.2.weight"].abs().max()) == 0
    assert float(state["bbox_embed.0.layers.0.weight"].std()) > 0.05, "inner layers pass on a signal"


def test_decoding_is_the_rule_of_the_librarys_image_processor(network):
    pictures, limits = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), Limits(0.021, 100, 1.0)
    network.eval()
    with torch.no_grad():
        ours = RtDetrV2().decode(network, pictures, limits)
        theirs = RTDetrImageProcessor().post_process_object_detection(network(pictures), 0.021, [(64, 64), (64, 64)])
    for left, right in zip(ours, theirs, strict=True):
        assert len(left.scores) == len(right["scores"]) > 0
        assert left.scores.tolist() == pytest.approx(right["scores"].tolist())
        assert left.categories.tolist() == right["labels"].tolist()
        assert torch.allclose(torch.from_numpy(left.boxes), right["boxes"].double(), atol=1e-4)


def test_good_pictures_alone_cost_what_their_scores_claim(network):
    """Varifocal loss without targets, by its formula: alpha p^gamma times -log(1 - p), summed over queries and classes."""
    network.eval()  # dropout-free anyway; running statistics make both passes alike
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        named = RtDetrV2().losses(network, pictures, [[], []])
        out = network(pictures)
    total = 0.0
    for logits in [*out.intermediate_logits.unbind(1), out.enc_topk_logits]:
        total += float((0.75 * logits.sigmoid() ** 2 * F.softplus(logits)).sum())
    assert float(named["loss"]) == pytest.approx(total, rel=1e-4)
    assert float(named["loss_bbox"]) == float(named["loss_giou"]) == 0
