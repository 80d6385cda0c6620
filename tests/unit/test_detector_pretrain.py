import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from detectors import drawn, pretrained, pretraining
from detectors.drawn import CLASSES, Supply, coco_truth, draw_example, jobs_at, validation_jobs
from detectors.model_files import ModelFileError, history_csv, load_model, to_half
from detectors.params import PretrainDetectorParams
from detectors.pretrained import embed, related_types
from detectors.pretraining import PretrainError, pretrain
from detectors.protocol import COMPACT, DETECTORS, EMBEDDED, Limits
from detectors.session import fresh_network
from pipeline.labels.boxes import mask_to_box
from pipeline.runlog import ClaimError, claim_folder
from pipeline.weight_cards import WeightsError
from tests.conftest import ROOT

DRAWING = {"sides_px": (64,), "pixels_per_step": 2 * 64**2, "mosaic_share": 0.3, "narrow_share": 0.3}


def params(**changes: Any) -> PretrainDetectorParams:
    section = yaml.safe_load((ROOT / "pretrain.yaml").read_text())["pretrain_detector"]
    section["drawing"] |= DRAWING
    tuning = {"steps": 3, "lr_scale": 0.5}
    few = {"warmup_steps": 1, "validate_every": 2, "validation_pictures": 3, "max_detections": 10, "threads": 1, "workers": 0}
    return PretrainDetectorParams.model_validate(section | few | {"rtdetr": tuning, "yolo_seg": tuning} | changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both detectors after three steps, as `pretrain` leaves them."""
    root = tmp_path_factory.mktemp("weights")
    for name in EMBEDDED:
        pretrain(params(), name, root / name, root / f"work-{name}", "cpu")
    return root


@pytest.fixture
def embedded(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pretrained, "ROOT", weights)
    return weights


@pytest.fixture
def own_copy(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """YOLO's folder, to be spoilt."""
    (tmp_path / "yolo_seg").mkdir()
    for name, data in contents(weights / "yolo_seg").items():
        (tmp_path / "yolo_seg" / name).write_bytes(data)
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    return tmp_path / "yolo_seg"


# ---- pictures


def test_a_picture_depends_on_its_seed_alone_and_boxes_are_tight():
    for job in jobs_at(params().drawing, 3, 5) * 2 + validation_jobs(params().drawing, 3, 6):
        example, again = (draw_example(job, params().drawing) for _ in range(2))
        assert pickle.dumps(example) == pickle.dumps(again)
        assert max(example.picture.shape[:2]) == job.side_px
        for target in example.targets:
            assert target.mask.shape == example.picture.shape[:2]
            assert target.box == mask_to_box(target.mask)
            assert target.mask.sum() >= drawn.SMALLEST_PX


def test_a_step_has_as_many_pictures_as_its_pixels_allow():
    drawing = params(
        drawing={"sides_px": (128,), "pixels_per_step": 5 * 128**2, "zoom": (1, 1)} | {"mosaic_share": 0, "narrow_share": 0}
    ).drawing
    assert [job.side_px for job in jobs_at(drawing, 0, 0)] == [128] * 5
    large = drawing.model_copy(update={"sides_px": (320,)})
    assert len(jobs_at(large, 0, 0)) == 2, "a batch norm needs more than one picture"
    assert {job.seed for job in jobs_at(drawing, 0, 0)}.isdisjoint(job.seed for job in jobs_at(drawing, 0, 1))


def test_a_mosaic_keeps_every_defect_in_its_quarter():
    rng = np.random.default_rng(2)
    picture, marks = drawn._mosaic(rng, 128, (1.0, 1.0))
    assert picture.shape == (128, 128, 3)
    for _, mask in marks:
        quarters = [mask[y : y + 64, x : x + 64].any() for y in (0, 64) for x in (0, 64)]
        assert sum(quarters) == 1


def test_the_truth_of_held_pictures_is_coco():
    examples = [draw_example(job, params().drawing) for job in validation_jobs(params().drawing, 0, 8)]
    truth = coco_truth(examples)
    assert [image["id"] for image in truth["images"]] == list(range(1, 9))
    assert [c["name"] for c in truth["categories"]] == list(CLASSES)
    assert len(truth["annotations"]) == sum(len(e.targets) for e in examples) > 0
    first = truth["annotations"][0]
    target = examples[first["image_id"] - 1].targets[0]
    assert first["area"] == target.mask.sum()
    assert first["category_id"] == target.category + 1


@pytest.mark.slow
def test_the_number_of_drawing_processes_changes_no_byte():
    batches = []
    for workers in (0, 1, 2):
        with Supply(params().drawing, 7, 3, workers) as supply:
            batches.append([pickle.dumps(e) for step in range(3) for e in supply.batch(step)])
    assert batches[0] == batches[1] == batches[2]


# ---- files


@pytest.mark.parametrize("name", EMBEDDED)
def test_pretrained_weights_are_half_floats_with_a_card(weights: Path, name: str):
    assert set(contents(weights / name)) == {
        "weights.safetensors", "architecture.yaml", "classes.json", "history.csv", "card.json"}  # fmt: skip
    tensors = load_file(weights / name / "weights.safetensors")
    assert {t.dtype for t in tensors.values()} <= {torch.float16, torch.int64}
    card = json.loads((weights / name / "card.json").read_text())
    assert card["steps"] == 3 and card["seed"] == 0 and card["bytes"]["weights.safetensors"] < 10_000_000
    assert [row["step"] for row in card["validations"]] == [2, 3]
    assert card["held_out"]["box"]["map50"] is not None
    assert json.loads((weights / name / "classes.json").read_text()) == list(CLASSES)
    assert not (weights / f"work-{name}").exists()


@pytest.mark.parametrize("name", EMBEDDED)
def test_half_floats_keep_the_scores(weights: Path, name: str):
    trained = load_model(weights / name)
    assert {p.dtype for p in trained.network.parameters()} == {torch.float32}
    fresh = fresh_network(name, COMPACT, len(CLASSES), 0).eval()
    half = DETECTORS[name]().build(DETECTORS[name]().architecture(len(CLASSES), COMPACT)).eval()
    half.load_state_dict(to_half(fresh.state_dict()))
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full, halved = ([f.scores for f in trained.detector.decode(n, pictures, Limits(0.0, 20, 0.6))] for n in (fresh, half))
    for left, right in zip(full, halved, strict=True):
        assert np.abs(left - right).max() < 2e-3


def test_a_number_too_large_for_half_floats_is_refused():
    with pytest.raises(ModelFileError, match=r"bn\.running_var: not finite in float16"):
        to_half({"bn.running_var": torch.tensor([1.0, 7e4]), "steps": torch.tensor(3)})


def test_a_long_curve_is_saved_as_means_of_blocks():
    losses = [{"loss": float(i)} for i in range(1, 6)]
    assert history_csv(losses, 2) == "step,loss\n3,2\n5,4.5\n"
    assert history_csv(losses[:2]) == history_csv(losses[:2], 2) == "step,loss\n1,1\n2,2\n"


# ---- resuming


def test_a_killed_pretraining_resumes_to_the_same_bytes(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    every_step = functools.partial(pretraining.LoopPlan)
    monkeypatch.setattr(pretraining, "LoopPlan", lambda **given: every_step(**given | {"checkpoint_every_s": -1.0}))
    real, calls = pretraining._validate, []

    def dies_at_the_end(*args: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(pretraining, "_validate", dies_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        pretrain(params(), "yolo_seg", tmp_path / "out", tmp_path / "work", "cpu")
    assert not (tmp_path / "out").exists()
    assert [row["step"] for row in json.loads((tmp_path / "work" / "validations.json").read_text())] == [2]
    pretrain(params(), "yolo_seg", tmp_path / "out", tmp_path / "work", "cpu")
    assert len(calls) == 4, "the first validation was not repeated; the last is that of the saved file"
    assert contents(tmp_path / "out") == contents(weights / "yolo_seg")


def test_a_run_begun_with_other_settings_is_not_resumed(tmp_path: Path):
    (tmp_path / "work").mkdir()
    begun = {"lr": 1.0, "seed": 0}
    (tmp_path / "work" / "settings.json").write_text(json.dumps(begun))
    with pytest.raises(ClaimError, match=r"begun with other lr; put them back to resume it, delete the folder"):
        claim_folder(tmp_path / "work", {"lr": 2.0, "seed": 0})


def test_what_another_detector_or_the_workers_change_is_no_part_of_a_recipe():
    other = params(workers=3, yolo_seg={"steps": 9, "lr_scale": 1.0})
    assert pretraining.recipe_of(other, "rtdetr") == pretraining.recipe_of(params(), "rtdetr")
    assert pretraining.recipe_of(other, "yolo_seg") != pretraining.recipe_of(params(), "yolo_seg")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_said(tmp_path: Path):
    with pytest.raises(PretrainError, match=r"device 'cuda' was asked for and torch finds none here; .* --device cpu"):
        pretrain(params(), "yolo_seg", tmp_path / "out", tmp_path / "work", "cuda")


# ---- the embedded start


USER_TYPES = ["Crack", "Missing_Hole", "pinhole"]


def test_a_users_type_is_related_to_drawn_types_by_the_words_of_its_name():
    found = {name: related_types(name, CLASSES) for name in [*USER_TYPES, "Break", "broken end"]}
    assert found == {
        "Crack": ["crack"],
        "Missing_Hole": ["hole", "missing_thread"],
        "pinhole": list(CLASSES),
        "Break": ["edge_break"],
        "broken end": ["broken_end"],
    }


@pytest.mark.parametrize("name", EMBEDDED)
def test_all_is_pretrained_and_class_heads_are_the_mean_of_related_types(embedded: Path, name: str):
    network = fresh_network(name, COMPACT, len(USER_TYPES), 5)
    facts = embed(name, network, USER_TYPES)
    stored = load_file(embedded / name / "weights.safetensors")
    detector = DETECTORS[name]()
    for key, value in network.state_dict().items():
        drawn = stored[key].float() if stored[key].dtype.is_floating_point else stored[key]
        if detector.is_class_tensor(key):
            assert torch.equal(value[0], drawn[CLASSES.index("crack")]), key
            pair = drawn[CLASSES.index("hole")] + drawn[CLASSES.index("missing_thread")]
            assert torch.allclose(value[1], pair / 2), key
            assert torch.allclose(value[2], drawn.mean(dim=0)), key
        else:
            assert torch.equal(value, drawn), key
    card = json.loads((embedded / name / "card.json").read_text())
    assert facts["sha256"] == card["sha256"]["weights.safetensors"]
    assert (facts["kind"], facts["tensors"], facts["fresh_tensors"]) == ("embedded", len(stored), 0)
    assert facts["class_starts"]["Crack"] == ["crack"]


def test_more_classes_than_channels_leave_the_class_branch_fresh(embedded: Path):
    many = [f"type {number}" for number in range(60)]
    assert embed("yolo_seg", fresh_network("yolo_seg", COMPACT, 60, 0), many)["fresh_tensors"] > 0


def test_changed_weights_are_refused(own_copy: Path):
    tensors = load_file(own_copy / "weights.safetensors")
    save_file({k: v + 1 for k, v in tensors.items()}, own_copy / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"weights\.safetensors has sha256 [0-9a-f]{64}, its card expects [0-9a-f]{64}"):
        embed("yolo_seg", fresh_network("yolo_seg", COMPACT, 3, 0), USER_TYPES)


def test_weights_of_another_architecture_are_refused(own_copy: Path):
    path = own_copy / "architecture.yaml"
    architecture = yaml.safe_load(path.read_text())
    architecture["backbone"][1][3][0] += 8
    path.write_text(yaml.safe_dump(architecture))
    with pytest.raises(WeightsError, match=r"not detectors/architectures/yolo_seg\.yaml \(backbone\[1\]: .*pretrain --detector"):
        embed("yolo_seg", fresh_network("yolo_seg", COMPACT, 3, 0), USER_TYPES)


def test_missing_weights_are_named_with_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path / "none")
    with pytest.raises(
        WeightsError, match=r"none/rtdetr is missing, .* pretrain --detector rtdetr`, or set `train\.start: scratch`"
    ):
        embed("rtdetr", fresh_network("rtdetr", COMPACT, 3, 0), USER_TYPES)
