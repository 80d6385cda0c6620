import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from detectors.local_weights import adopt, read_weights
from detectors.params import TrainParams
from detectors.pretrained import first_weights
from detectors.protocol import COMPACT, DETECTORS
from detectors.rtdetr import SideError
from detectors.session import fresh_network
from pipeline.params import ParamsError, parse_section
from pipeline.weight_cards import WeightsError, sha256_of
from tests.conftest import ROOT

CLASSES = ("dent", "hole", "stain")


def params(**tunings: dict[str, Any]) -> TrainParams:
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]
    return parse_section(TrainParams, "train", section | {name: section[name] | new for name, new in tunings.items()})


def random_file(path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
    """Write the network's tensors, each shifted so that none equals a fresh one."""
    state = {name: value.clone() + 1 for name, value in network.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return state


def small(classes: int) -> nn.Module:
    return fresh_network("deeplabv3", "mobilenet_v3_large", classes, 0)


# ---- reading


def test_a_missing_file_is_named():
    with pytest.raises(WeightsError, match=r"weights/no-such\.safetensors is missing, expected a weight file to start from"):
        read_weights(Path("weights/no-such.safetensors"))


class Runs:
    """What a pickle may do to whoever opens it."""

    def __reduce__(self):
        return Path.touch, (Path("opened"),)


def test_a_pickled_object_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Runs(), "ema": None}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.pt .* a pickled model is not opened, since that would run code"):
        read_weights(tmp_path / "model.pt")
    assert not Path("opened").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
def test_a_damaged_file_is_refused(tmp_path, name):
    random_file(tmp_path / name, nn.Linear(30, 30))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"is neither safetensors nor a torch file of tensors alone"):
        read_weights(tmp_path / name)


def test_a_nested_checkpoint_is_no_state_dict(tmp_path):
    torch.save({"model": nn.Linear(2, 2).state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match=r"holds no plain state dict"):
        read_weights(tmp_path / "checkpoint.pth")


def test_half_floats_become_floats_and_counters_stay(tmp_path):
    save_file({"a": torch.ones(2).half(), "n": torch.tensor(3)}, tmp_path / "half.safetensors")
    assert {k: v.dtype for k, v in read_weights(tmp_path / "half.safetensors").items()} == {"a": torch.float32, "n": torch.int64}


# ---- taking over


def test_a_whole_deeplab_of_other_classes_gives_all_but_its_last_layer(tmp_path):
    official = get_model("deeplabv3_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    state = random_file(tmp_path / "official.pth", official)
    network = small(len(CLASSES))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    facts = adopt("deeplabv3", DETECTORS["deeplabv3"](), network, tmp_path / "official.pth")
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("classifier.4.") else state[name]), name
    assert (facts["kind"], facts["fresh_tensors"], facts["tensors"]) == ("file", 2, len(before) - 2)
    assert facts["sha256"] == sha256_of(tmp_path / "official.pth")


def test_a_backbone_of_torchvision_is_found_under_its_own_names(tmp_path):
    state = random_file(tmp_path / "mobilenet.safetensors", get_model("mobilenet_v3_large", weights=None))
    network = small(len(CLASSES))
    head = network.state_dict()["classifier.0.project.0.weight"].clone()
    facts = adopt("deeplabv3", DETECTORS["deeplabv3"](), network, tmp_path / "mobilenet.safetensors")
    own = network.state_dict()
    assert torch.equal(own["backbone.0.0.weight"], state["features.0.0.weight"])
    assert torch.equal(own["classifier.0.project.0.weight"], head)
    assert facts["tensors"] == sum(name.startswith("backbone.") for name in own)


@pytest.mark.slow
def test_a_resnet_of_torchvision_is_found_under_its_own_names(tmp_path):
    state = random_file(tmp_path / "resnet.pth", get_model("resnet50", weights=None))
    network = fresh_network("deeplabv3", "resnet50", len(CLASSES), 0)
    adopt("deeplabv3", DETECTORS["deeplabv3"](), network, tmp_path / "resnet.pth")
    assert torch.equal(network.state_dict()["backbone.layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])


def test_a_file_of_another_architecture_is_refused(tmp_path):
    random_file(tmp_path / "other.safetensors", fresh_network("yolo_seg", COMPACT, 3, 0))
    with pytest.raises(WeightsError, match=r"only \d+ of the network's \d+ tensors .* than train\.deeplabv3\.architecture"):
        adopt("deeplabv3", DETECTORS["deeplabv3"](), small(3), tmp_path / "other.safetensors")


# ---- the published networks of ultralytics


@pytest.mark.parametrize("variant", ["rtdetr-l", "rtdetr-x", "yolo11n-seg", "yolo11x-seg"])
def test_a_published_architecture_survives_its_yaml_and_names_no_place(variant):
    name = "rtdetr" if variant.startswith("rtdetr") else "yolo_seg"
    found = DETECTORS[name]().architecture(3, variant)
    assert yaml.safe_load(yaml.safe_dump(found)) == found
    assert found["nc"] == 3 and found["scale"] == variant.removeprefix("rtdetr-").removeprefix("yolo11")[0]
    assert "yaml_file" not in found


def test_yolo11n_seg_has_the_published_size_and_takes_the_published_tensors(tmp_path):
    published = fresh_network("yolo_seg", "yolo11n-seg", 80, 0)
    assert sum(p.numel() for p in published.parameters()) == 2_876_848
    state = random_file(tmp_path / "yolo11n-seg.safetensors", published)
    network = fresh_network("yolo_seg", "yolo11n-seg", len(CLASSES), 1)
    weights = {"architecture": "yolo11n-seg", "weights": str(tmp_path / "yolo11n-seg.safetensors")}
    facts = first_weights(params(yolo_seg=weights), "yolo_seg", network, CLASSES)
    own, detector = network.state_dict(), DETECTORS["yolo_seg"]()
    alike = [k for k in own if own[k].shape == state[k].shape and not detector.is_class_tensor(k)]
    assert all(torch.equal(own[k], state[k]) for k in alike) and facts["tensors"] == len(alike)
    # The class branches alone: their inner width follows the number of classes.
    assert all(".cv3." in k for k in own if k not in alike)
    losses = detector.losses(network.train(), torch.rand(2, 3, 64, 64), [[], []])
    assert bool(torch.isfinite(losses["loss"]))


@pytest.mark.slow
def test_the_documented_line_converts_a_file_in_the_published_format(tmp_path):
    """`.pt` files of ultralytics hold the pickled model itself, in half floats."""
    published = fresh_network("rtdetr", "rtdetr-l", 80, 0)
    assert 32e6 < sum(p.numel() for p in published.parameters()) < 34e6
    torch.save({"model": published.half(), "ema": None, "epoch": -1}, tmp_path / "rtdetr-l.pt")
    network = fresh_network("rtdetr", "rtdetr-l", len(CLASSES), 1)
    with pytest.raises(WeightsError, match=r"a pickled model is not opened"):
        adopt("rtdetr", DETECTORS["rtdetr"](), network, tmp_path / "rtdetr-l.pt")
    text = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^ +(python -c .*rtdetr-l\.pt.*)$", text, re.MULTILINE)
    command = [sys.executable, *shlex.split(line)[1:]]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    facts = adopt("rtdetr", DETECTORS["rtdetr"](), network, tmp_path / "rtdetr-l.safetensors")
    own, state = network.state_dict(), published.float().state_dict()
    fresh = {k for k in own if DETECTORS["rtdetr"]().is_class_tensor(k)}
    assert facts["fresh_tensors"] == len(fresh)
    assert all(torch.equal(own[k], state[k]) for k in own.keys() - fresh)
    with pytest.raises(SideError, match=r"photos of 64 px are too small for this RT-DETR, which needs 128"):
        DETECTORS["rtdetr"]().losses(network.train(), torch.rand(2, 3, 64, 64), [[], []])
    assert bool(torch.isfinite(DETECTORS["rtdetr"]().losses(network, torch.rand(2, 3, 128, 128), [[], []])["loss"]))


# ---- what the parameters say


def test_without_a_file_detectors_without_weights_say_that_they_start_from_chance():
    network = small(len(CLASSES))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    facts = first_weights(params(), "deeplabv3", network, CLASSES)
    assert facts == {
        "kind": "scratch",
        "reason": "train.deeplabv3.start is scratch; deeplabv3 has no weights in the repository",
    }
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_embedded_weights_are_of_the_compact_network_only():
    network = fresh_network("yolo_seg", "yolo11n-seg", len(CLASSES), 0)
    with pytest.raises(WeightsError, match=r"give a local file as train\.yolo_seg\.weights, or set `train\.start: scratch`"):
        first_weights(params(yolo_seg={"architecture": "yolo11n-seg"}), "yolo_seg", network, CLASSES)


@pytest.mark.parametrize("change", [{"start": "file"}, {"weights": "some.pth"}])
def test_a_start_that_contradicts_itself_is_refused(change):
    with pytest.raises(ParamsError, match=r"train\.deeplabv3: .* contradict each other; a file needs a path"):
        params(deeplabv3=change)
