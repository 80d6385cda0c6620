from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.images import write_png
from pipeline.masks.crops import Window
from pipeline.matches import Matches, MatchRecord, record_name, write_record
from pipeline.params import ReportParams
from pipeline.records import DatasetCard, Sample, write_card, write_json, write_manifest
from pipeline.reporting import comparison, data_card, pictures, render
from pipeline.shards import CandidateFate, Candidates, PartRecord, RequestRecord, write_fates, write_shard
from pipeline.stages.report import report
from tests.study_toy import World, draw_study

CLASSES = ("hole", "scratch")


def eval_row(detector: str, arm: str, fold: int, box: float, *, masks: bool = False) -> dict:
    scores = {
        "map50": box,
        "map": round(box / 2, 6),
        "per_class": {"hole": {"map50": box, "map": 0.1}, "scratch": {"map50": None, "map": None}},
    }
    facts = {
        "images": 9,
        "good_images": 4,
        "good_parts": 4,
        "parts_per_type": {"hole": 5, "scratch": 0},
        "defects_per_type": {"hole": 6, "scratch": 0},
    }
    return {
        "detector": detector,
        "arm": arm,
        "fold": fold,
        **facts,
        "box": scores,
        "mask": scores if masks else None,
        "image_auroc": 0.75,
        "image_ap": 0.875,
        "region_f_measure": {"all": 0.5, "per_class": {"hole": 0.5, "scratch": None}},
        "pixel": {"auroc": 0.9, "ap": 0.4, "f1_max": 0.45, "pro": 0.6, "f_measure": 0.3} if masks else None,
        "val_box_map50": box,
    }


def rows_of(values: dict[str, list[float]], detector: str = "rtdetr") -> list[dict]:
    return [eval_row(detector, arm, fold, value) for arm, many in values.items() for fold, value in enumerate(many)]


def record(found: int, parts: int = 4) -> MatchRecord:
    """Holes on as many parts, one a photo; the first ones are found, the others missed. No false alarm."""
    rows = np.arange(found)
    truths = np.stack([np.ones(parts, int), np.zeros(parts, int)], axis=1)
    matches = Matches(rows, np.zeros(found, int), np.full(found, 0.9), np.ones((found, 1), bool), truths)
    names = np.array([f"p{i}" for i in range(parts)])
    return MatchRecord(CLASSES, np.array([0.5]), np.arange(1, parts + 1), names, np.zeros(parts), matches, None)


def records_of(found: dict[str, list[int]], detector: str = "rtdetr") -> dict[tuple[str, str, int], MatchRecord]:
    return {(detector, arm, fold): record(count) for arm, many in found.items() for fold, count in enumerate(many)}


def plan(*generators: str) -> comparison.Plan:
    return comparison.Plan(CLASSES, generators, resamples=200, confidence=0.95)


# --- numbers ---------------------------------------------------------------------------------------------------------------


def test_arms_baselines_first_then_by_name():
    arms = ["defectfill_classical", "copy_paste", "real", "defectfill", "classical"]
    assert comparison.arm_order(arms) == ["real", "classical", "copy_paste", "defectfill", "defectfill_classical"]


def test_means_skip_what_is_missing():
    assert comparison.mean_of([0.25, None, 0.75]) == 0.5
    assert comparison.mean_of([None]) is None


def test_comparison_of_two_folds():
    rows = rows_of({"real": [0.25, 0.5], "defectfill": [0.5, 0.75]})
    result = comparison.compare(rows, records_of({"real": [1, 2], "defectfill": [2, 3]}), plan("defectfill"))
    arms = result["detectors"]["rtdetr"]["arms"]
    assert arms["real"]["box_map50"] == 0.375
    assert arms["defectfill"]["box_map"] == 0.3125
    assert arms["real"]["mask_map50"] is arms["real"]["pixel_pro"] is None
    assert (arms["real"]["image_ap"], arms["real"]["region_f"]) == (0.875, 0.5)
    assert arms["real"]["by_fold"] == {"0": 0.25, "1": 0.5}
    assert arms["real"]["per_class"] == {"hole": 0.375, "scratch": None}
    gap = result["detectors"]["rtdetr"]["differences"]["defectfill"]["real"]
    # One of four found serves 26 of 101 recall thresholds, two serve 51, three 76: a gain of 25 / 101 on both folds.
    assert gap["mean"] == round(25 / 101, 6)
    assert gap["low"] < gap["mean"] < gap["high"]
    assert result["detectors"]["rtdetr"]["verdicts"]["defectfill"]["word"] == "not tested"  # there is no `classical`


def test_baselines_are_compared_with_each_other_but_not_with_themselves():
    rows = rows_of({"real": [0.25], "classical": [0.5]})
    result = comparison.compare(rows, records_of({"real": [1], "classical": [2]}), plan())
    differences = result["detectors"]["rtdetr"]["differences"]
    assert differences["real"]["classical"]["mean"] == -round(25 / 101, 6)
    assert set(differences["classical"]) == {"real"}


def test_one_fold_gives_no_verdict():
    rows = rows_of({"real": [0.25], "classical": [0.25], "defectfill": [0.5]})
    found = comparison.compare(rows, records_of({"real": [1], "classical": [1], "defectfill": [2]}), plan("defectfill"))
    assert found["verdict"]["headline"] == "quick look: no verdict"
    assert found["verdict"]["lines"] == []
    assert found["detectors"]["rtdetr"]["verdicts"]["defectfill"]["word"] == "not tested"


def test_three_folds_give_a_verdict_on_the_arm_chosen_on_val():
    world = World({"real": -0.5, "classical": -0.5, "copy_paste": 0.0, "defectfill": 1.0, "defectfill_classical": 1.0}, 0.1)
    records = {("rtdetr", arm, fold): one for fold, many in draw_study(world, 0).items() for arm, one in many.items()}
    rows = rows_of({arm: [0.5 if arm == "defectfill_classical" else 0.25] * 3 for arm in world.skill})
    own = comparison.Plan(CLASSES, ("copy_paste", "defectfill"), resamples=200, confidence=0.95)
    found = comparison.compare(rows, records, own)
    result = found["detectors"]["rtdetr"]
    assert set(result["verdicts"]) == {"defectfill"}  # copy_paste is a baseline
    assert (result["verdicts"]["defectfill"]["word"], result["best_arm"]) == ("helps", "defectfill_classical")
    assert found["verdict"]["headline"] == "defectfill helps rtdetr"
    assert found["verdict"]["reason"].startswith("3 folds, each with its own seed.")
    line = found["verdict"]["lines"][0]
    assert line.startswith("defectfill with rtdetr, arm defectfill_classical: helps; +")
    assert "points to copy_paste" in line
    assert line.endswith("the smallest this test finds four times in five")


def test_an_empty_evaluation_is_refused():
    with pytest.raises(ValueError, match="no row; run `evaluate` again"):
        comparison.compare([], {}, plan())


def test_masks_that_nobody_drew_are_named_so():
    assert render.metric_title("mask_map50", {"derived_masks": True}) == "mask mAP50 against derived masks"
    assert render.metric_title("box_map50", {"derived_masks": True}) == "box mAP50"
    assert render.metric_title("pixel_pro", {"derived_masks": False}) == "PRO"


# --- data ------------------------------------------------------------------------------------------------------------------


def sample(name: str, defect: str | None, part: str, split: str = "train", fold: int = 0) -> Sample:
    return Sample(name, f"images/{name}.png", None if defect is None else f"masks/{name}.png", defect, part, split, fold)  # type: ignore[arg-type]


def test_parts_and_photos_are_counted_apart():
    samples = [
        sample("a1", "hole", "a"),
        sample("a2", "hole", "a"),
        sample("b", "hole", "b", "unused"),
        sample("g", None, "g"),
        sample("other-fold", "hole", "z", fold=1),
    ]
    empty = {"train_parts": 0, "train_photos": 0, "unused_parts": 0, "unused_photos": 0}
    assert data_card.count_parts(samples, CLASSES, 0) == [
        {"type": "hole", "train_parts": 1, "train_photos": 2, "unused_parts": 1, "unused_photos": 1},
        {"type": "scratch", **empty},
        {"type": "good", **empty, "train_parts": 1, "train_photos": 1},
    ]


def test_cards_are_flattened_in_their_own_order():
    values = {"perceptual": "base", "scores": {"median": 0.123456, "kept": 3}, "notes": [], "ok": True}
    assert data_card.flatten(values) == [
        ("perceptual", "base"),
        ("scores.median", "0.1235"),
        ("scores.kept", "3"),
        ("notes", "none"),
        ("ok", "yes"),
    ]


# --- pictures --------------------------------------------------------------------------------------------------------------


def test_window_is_a_square_of_twice_the_mask_around_its_middle():
    mask = np.zeros((200, 300), bool)
    mask[100:130, 60:80] = True  # 30 high, 20 wide, middle (70, 115): side 60
    assert pictures.window_around(mask) == (40, 85, 100, 145)


def test_window_stays_inside_and_is_cut_off_where_the_picture_ends():
    mask = np.zeros((40, 300), bool)
    mask[0:4, 0:100] = True
    assert pictures.window_around(mask) == (0, 0, 200, 40)


def test_difference_is_the_largest_channel_times_four_and_clipped():
    clean = np.zeros((1, 2, 3), np.uint8)
    result = np.array([[[1, 5, 0], [0, 0, 200]]], np.uint8)
    assert pictures.amplified_difference(clean, result).tolist() == [[20, 255]]


def test_gallery_takes_types_in_equal_numbers_as_far_as_there_are():
    many = {f"h{i}": "hole" for i in range(8)} | {"s0": "scratch"}
    assert pictures.spread_over_types(many, 5) == ["h0", "h2", "h4", "h6", "s0"]
    assert len(pictures.spread_over_types(many, 99)) == 9


def test_boxes_are_half_open_corners_by_file_name():
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "bbox": [2, 3, 4, 5]}],
    }
    assert pictures.boxes_by_image(coco) == {"a.png": [(2, 3, 6, 8)], "b.png": []}


def test_bars_are_drawn_to_scale():
    records = records_of({"real": [1, 2], "defectfill": [2, 2]})
    found = comparison.compare(rows_of({"real": [0.2, 0.4], "defectfill": [0.4, 0.4]}), records, plan())
    arms = found["detectors"]["rtdetr"]["arms"]
    chart = render.bar_chart("rtdetr", arms)
    # The axis ends at 0.4, the next tenth at or above the largest value: 0.3 is three quarters of 420.
    assert [bar.width for bar in chart.bars] == [315.0, 420.0]
    assert chart.bars[0].dots == (210.0, 420.0)
    assert [bar.kind for bar in chart.bars] == ["real", "learned"]


# --- the stage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two clean photos, a reference, one synthetic hole at (20..29, 30..33), and an evaluation of two arms on fold 0."""
    train = tmp_path / "data" / "prepared" / "train"
    clean = np.full((64, 64, 3), 100, np.uint8)
    for name in ("g1", "g2", "ref"):
        write_png(train / "images" / f"{name}.png", clean)
    mask = np.zeros((64, 64), bool)
    mask[30:34, 20:30] = True
    write_png(train / "masks" / "ref.png", mask)
    write_manifest(train, [sample("g1", None, "p1"), sample("g2", None, "p2"), sample("ref", "hole", "p3")])
    card = DatasetCard(
        "plates <&>", "folder", CLASSES, 5, {"hole": 1}, (0,), "mask", ("x.png: mask is empty",), ("3 images were grey",)
    )
    write_card(train, card)
    selected = tmp_path / "data" / "selected" / "defectfill" / "fold-0"
    result = clean.copy()
    result[mask] = 130
    write_png(selected / "images" / "s1.png", result)
    write_png(selected / "masks" / "s1.png", mask)
    write_manifest(
        selected, [Sample("s1", "images/s1.png", "masks/s1.png", "hole", "p1", "train", 0, "synthetic", ("g1", "ref"))]
    )
    write_json(selected / "card.json", {"perceptual": "base", "kept": 1})
    write_candidates(tmp_path / "data" / "candidates" / "defectfill" / "fold-0", selected, clean[:16, :16], mask[24:40, 16:32])
    coco = {
        "images": [{"id": 1, "file_name": "images/s1.png"}],
        "annotations": [{"image_id": 1, "bbox": [20, 30, 10, 4]}],
        "categories": [],
    }
    write_json(tmp_path / "data" / "labelled" / "defectfill" / "fold-0" / "annotations.json", coco)
    rows = [*rows_of({"real": [0.25], "defectfill": [0.5]}), eval_row("yolo_seg", "real", 0, 0.125, masks=True)]
    write_json(tmp_path / "reports" / "eval" / "metrics.json", {"rows": rows})
    for (detector, arm, fold), one in (
        records_of({"real": [1], "defectfill": [2]}) | records_of({"real": [1]}, "yolo_seg")
    ).items():
        write_record(tmp_path / "reports" / "eval" / "matches" / record_name(detector, arm, fold), one)
    write_png(tmp_path / "reports" / "eval" / "detections-rtdetr-fold-0.png", clean)
    return tmp_path


def write_candidates(folder: Path, selected: Path, clean: np.ndarray, mask: np.ndarray) -> None:
    """A request with two candidates, the second kept."""
    request = RequestRecord(
        "fold-0-00000-0-hole",
        0,
        "g1",
        Window(16, 24, 16),
        (PartRecord("hole", "affine", "ref#0", ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))),),
    )
    folder.mkdir(parents=True)
    write_shard(folder / "shard-0000.tar", [Candidates(request, (mask,), (clean + 1, clean + 30), (mask, mask), True)])
    shared = {"request": request.id, "shard": "shard-0000.tar", "defect": "hole", "clean": "g1", "references": ("ref#0",)}
    scores = {"score": 1.5, "changed_share": 0.75, "label_iou": 0.5, "nearest_reference": "ref#0", "reference_distance": 0.625}
    fates = [("changed too little of the mask", None), ("kept", "s1")]
    with write_fates(selected) as note:
        note(
            CandidateFate(**shared, **scores, number=number, quality=0.25, fate=fate, sample=name)
            for number, (fate, name) in enumerate(fates)
        )


def run(project: Path) -> dict[str, str]:
    report(ReportParams(gallery_rows=4, candidate_rows=2, resamples=100, confidence=0.95), project / "data", project / "reports")
    return {kind: (project / "reports" / f"comparison.{kind}").read_text(encoding="utf-8") for kind in ("json", "md", "html")}


def test_report_holds_the_numbers_in_all_three_forms(project: Path):
    texts = run(project)
    assert json.loads(texts["json"])["detectors"]["rtdetr"]["arms"]["defectfill"]["box_map50"] == 0.5
    assert "| defectfill | 0.500 | 0.250 | 0.750 | 0.875 | 0.500 |" in texts["md"]
    assert "| defectfill | +0.248 (one fold: no interval) | – | – |" in texts["md"]
    assert "<td>defectfill</td><td>0.500</td><td>0.250</td><td>0.750</td><td>0.875</td><td>0.500</td>" in texts["html"]
    for text in texts.values():
        assert "quick look: no verdict" in text


def test_html_is_self_contained_well_formed_and_escaped(project: Path):
    html = run(project)["html"]
    assert "plates &lt;&amp;&gt;" in html
    assert "plates <&>" not in html
    assert "http://" not in html
    assert "https://" not in html
    assert "<script" not in html
    svg = html[html.index("<svg") : html.index("</svg>") + 6]
    assert len(ElementTree.fromstring(svg).findall("rect")) == 2
    # One whole row of six pictures, one picture of detections, and clean crop, mask and two candidates of a request.
    assert html.count("data:image/png;base64,") == 11
    assert "x.png: mask is empty" in html
    assert "selected.perceptual</td><td>base" in html


def test_all_candidates_of_a_request_are_shown_with_their_fates_the_kept_one_first(project: Path):
    html = run(project)["html"]
    shown = [html.index(text) for text in ("wanted here", "kept: distance 1.50", "changed too little of the mask: distance 1.50")]
    assert shown == sorted(shown)
    assert "changed 75%, likeness 0.25, from reference 0.62" in html


def test_same_inputs_give_the_same_bytes(project: Path):
    assert run(project) == run(project)


def test_report_names_the_stage_whose_output_is_missing(project: Path):
    (project / "reports" / "eval" / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.json is missing; run `python -m detectors evaluate`"):
        run(project)


def test_report_names_the_records_that_are_missing(project: Path):
    (project / "reports" / "eval" / "matches" / "rtdetr-defectfill-fold-0.npz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"rtdetr-defectfill-fold-0\.npz missing; run `python -m detectors evaluate` again"
    ):
        run(project)


def test_report_never_opens_the_test_output(project: Path):
    assert not (project / "data" / "prepared" / "test").exists()
    run(project)


def test_a_synthetic_sample_without_its_clean_photo_is_named(project: Path):
    folder = project / "data" / "selected" / "defectfill" / "fold-0"
    text = (folder / "manifest.jsonl").read_text().replace('"g1"', '"gone"')
    (folder / "manifest.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"defectfill, s1: its clean photo 'gone' is not in train's manifest"):
        run(project)
