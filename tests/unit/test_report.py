from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from pipeline.images import read_rgb, write_png
from pipeline.matches import Matches, MatchRecord
from pipeline.records import read_manifest, write_json
from pipeline.reporting import charts, comparison, data_card, pictures, plots, render, reweighting, sweeps, wording
from pipeline.reporting.provenance import ProvenanceError
from tests.conftest import ROOT
from tests.report_toy import (
    CLASSES,
    records_of,
    rows_of,
    run_report,
    sample,
    write_quick_look,
    write_study,
)
from tests.study_toy import World, draw_study


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


def test_image_auroc_is_compared_too():
    # Two bad photos, then two good ones. `real` gives one of each a high score: right in half of the pairs. `defectfill` is right
    # in all.
    truths = np.array([[1, 0], [1, 0], [0, 0], [0, 0]])

    def scored(one: MatchRecord, scores: list[float]) -> MatchRecord:
        return replace(one, image_score=np.array(scores), box=replace(one.box, truths=truths))

    scores = {"real": [0.9, 0.1, 0.9, 0.1], "defectfill": [0.9, 0.9, 0.1, 0.1]}
    records = {key: scored(one, scores[key[1]]) for key, one in records_of({"real": [1, 1], "defectfill": [1, 1]}).items()}
    found = comparison.compare(rows_of({"real": [0.25] * 2, "defectfill": [0.25] * 2}), records, plan("defectfill"))
    gaps = found["detectors"]["rtdetr"]["secondary_differences"]["image_auroc"]
    assert gaps["defectfill"]["real"]["mean"] == 0.5
    assert set(gaps["defectfill"]) == {"real"}
    assert found["detectors"]["rtdetr"]["differences"]["defectfill"]["real"]["mean"] == 0.0


def test_how_exactly_boxes_fit_is_compared_too():
    """Both arms box all four defects at IoU 0.5; at 0.75 `real` does one of them, which serves 26 of 101 recall thresholds."""

    def fitting(one: MatchRecord, exact: int) -> MatchRecord:
        right = np.stack([np.ones(4, bool), np.arange(4) < exact], axis=1)
        return replace(one, iou=np.array([0.5, 0.75]), box=replace(one.box, matched=right))

    records = {
        key: fitting(one, {"real": 1, "defectfill": 4}[key[1]])
        for key, one in records_of({"real": [4, 4], "defectfill": [4, 4]}).items()
    }
    found = comparison.compare(rows_of({"real": [1.0] * 2, "defectfill": [1.0] * 2}), records, plan("defectfill"))
    compared = found["detectors"]["rtdetr"]
    assert compared["differences"]["defectfill"]["real"]["mean"] == 0.0
    assert compared["secondary_differences"]["box_map"]["defectfill"]["real"]["mean"] == round((1 - 26 / 101) / 2, 6)


def test_arms_are_compared_at_equal_false_alarms():
    # The last two of four photos are good; `real` finds one of four defects and `defectfill` two, neither with a false alarm.
    truths = np.array([[2, 0], [2, 0], [0, 0], [0, 0]])

    def scored(one: MatchRecord, scores: list[float]) -> MatchRecord:
        return replace(one, image_score=np.array(scores), box=replace(one.box, truths=truths))

    scores = {"real": [0.9, 0.1, 0.8, 0.2], "defectfill": [0.9, 0.7, 0.8, 0.2]}
    arms = {"real": [1, 1], "defectfill": [2, 2]}
    records = {key: scored(one, scores[key[1]]) for key, one in records_of(arms).items()}
    result = comparison.compare(rows_of({arm: [0.25] * 2 for arm in arms}), records, plan("defectfill"))["detectors"]["rtdetr"]
    points = result["operating_points"]
    assert (points["alarms"], points["rejected"]) == ((0.1, 0.25, 0.5, 1.0, 2.0), (0.01, 0.05, 0.1))
    assert points["arms"]["real"] == {"found": [0.25] * 5, "escapes": [0.5] * 3}
    assert points["arms"]["defectfill"] == {"found": [0.5] * 5, "escapes": [0.5] * 3}
    gaps = {name: rows["defectfill"]["real"]["mean"] for name, rows in result["secondary_differences"].items()}
    # Of the four pairs of a bad and a good photo `real` has two right, `defectfill` three.
    assert gaps == {"box_map": round(25 / 101, 6), "image_auroc": 0.25, "found": 0.25, "escapes": 0.0}


def test_without_good_photos_only_what_is_found_is_compared():
    found = comparison.compare(
        rows_of({"real": [0.25], "defectfill": [0.5]}), records_of({"real": [1], "defectfill": [2]}), plan()
    )
    compared = found["detectors"]["rtdetr"]["secondary_differences"]
    assert (compared["image_auroc"], compared["escapes"]) == ({}, {})
    assert set(compared["found"]) == {"defectfill"}


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
    chart = charts.bar_chart("rtdetr", arms)
    # From 0 to 0.4, which is 324 wide and begins at 18: 0.3 is three quarters of it, 0.2 a half.
    assert [row.x for row in chart.rows] == [261.0, 342.0]
    assert chart.rows[0].dots == (180.0, 342.0)
    assert [text for _, text in chart.ticks] == ["0", "10", "20", "30", "40"]
    assert len({row.style.colour for row in chart.rows}) == 2


def test_axes_hold_both_ends_in_round_steps():
    assert charts.axis(-0.03, 0.12) == (-0.05, 0.0, 0.05, 0.1, 0.15)
    assert charts.axis(0.0, 1.0) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def test_a_forest_shows_each_interval_around_its_mean_and_leaves_the_baseline_out():
    gap = {"mean": 0.1, "low": 0.0, "high": 0.2}
    chart = charts.forest({"real": {"classical": gap}, "defectfill": {"real": gap}}, "real")
    assert chart is not None
    (row,) = chart.rows
    # From -0.05 to 0.2 on 324 units from 18: zero lies a fifth along.
    assert (chart.zero, row.low, row.x, row.high) == (82.8, 82.8, 212.4, 342.0)
    assert row.text == "+10.0 (+0.0 to +20.0)"
    assert charts.forest({"real": {"classical": gap}}, "copy_paste") is None


def test_arms_of_one_generator_share_a_colour_and_differ_by_dashes():
    arms = ["real", "b", "a", "a_classical", "a_only"]
    styles = [charts.style_of(arm, arms) for arm in arms]
    assert styles[2].colour == styles[3].colour == styles[4].colour
    assert len({style.colour for style in styles[:3]}) == 3
    assert len({style.dash for style in styles[2:]}) == 3


def test_precision_at_recall_of_three_detections_by_hand():
    # Right, wrong, right, of three defects: precision 1 up to a recall of 1/3, 2/3 up to 2/3, then nothing.
    right = np.array([[True], [False], [True]])
    matches = Matches(np.arange(3), np.zeros(3, int), np.array([0.9, 0.8, 0.7]), right, np.ones((3, 1), int))
    curve = reweighting.precision_at_recall(matches, 0)
    assert curve[:34].tolist() == [1.0] * 34
    assert curve[34:67] == pytest.approx([2 / 3] * 33)
    assert not curve[67:].any()
    assert curve.mean() == pytest.approx(reweighting.reweighted_map(matches, [0], np.arange(3), np.ones((1, 3)))[0])


def test_curves_are_means_over_folds_and_their_height_is_the_score():
    curves = plots.mean_curves(records_of({"real": [1, 2]}))["rtdetr"]["real"]
    # Fold 0 finds one of four holes, fold 1 two: 26 and 51 of the 101 recalls.
    assert curves[:26] == (1.0,) * 26
    assert curves[26:51] == (0.5,) * 25
    assert not any(curves[51:])


def test_confusions_of_folds_are_added_and_must_have_been_counted_alike():
    rows = rows_of({"real": [0.25, 0.5]})
    total = comparison.total_confusion([row["confusion"] for row in rows])
    assert total["found"] == [[6, 2], [0, 0]]
    assert (total["missed"], total["good_photos"], total["good_photos_alarmed"]) == ([4, 0], 8, 4)
    assert (total["score"], total["iou"]) == (0.3, 0.5)
    with pytest.raises(ValueError, match=r"another evaluate\.f_measure_score"):
        comparison.total_confusion([rows[0]["confusion"], rows[1]["confusion"] | {"score": 0.5}])


# --- sweeps ----------------------------------------------------------------------------------------------------------------


def point(value: float, real: float, learned: float, low: float | None, folds: int = 3) -> dict:
    """A comparison at one value, as far as sweeps read it."""
    rows = {"real": real, "defectfill": learned}
    gap = {"mean": learned - real, "low": low, "high": None if low is None else 2 * (learned - real) - low}
    arms = {arm: {"box_map50": score, "by_fold": {str(f): score + f / 100 for f in range(folds)}} for arm, score in rows.items()}
    result = {"arms": arms, "differences": {"defectfill": {"real": gap}}, "best_arm": "defectfill"}
    return {"value": value, "folds": list(range(folds)), "detectors": {"rtdetr": result}}


def test_a_learning_curve_has_its_points_to_scale_with_intervals():
    pages = sweeps.sweep_pages({"prepare.k": {"points": [point(2, 0.2, 0.4, 0.1), point(10, 0.5, 0.5, -0.1)]}})
    assert [page.parameter for page in pages] == ["prepare.k", "mix.share"]
    ((_, scores, gains),) = pages[0].charts
    assert [line.name for line in scores.lines] == ["real", "best learned arm"]
    assert [text for _, text in scores.x_ticks] == ["2", "10"]
    assert gains is not None
    (line,) = gains.lines
    (_, high, low), _ = line.whiskers
    # The axis goes from -10 to 30 points over 200 units down from 12.
    assert (high, line.points[0][1], low) == (12.0, 62.0, 112.0)
    assert pages[0].table[0] == ("rtdetr", "2", "20.0", "–", "–", "defectfill", "40.0", "+20.0 (+10.0 to +30.0)", "–")


def test_points_of_one_fold_have_no_interval():
    ((_, scores, gains),) = sweeps.sweep_pages({"prepare.k": {"points": [point(2, 0.2, 0.4, None, 1)]}})[0].charts
    assert gains is not None
    assert not any(line.whiskers for line in (*scores.lines, *gains.lines))


def test_a_sweep_that_was_not_run_says_how(project: Path):
    html = run_report(project)["html"]
    assert "make sweep KEY=prepare.k VALUES=&#34;2 5 10&#34;" in html
    assert (project / "reports" / "plots" / "prepare.k.csv").read_text() == "detector,arm,value,box_map50\n"


def test_a_sweep_of_other_data_is_named_and_not_shown(study: Path):
    file = study / "reports" / "sweeps" / "prepare.k.json"
    document = json.loads(file.read_text())
    for one in document["points"]:
        one["data"]["name"] = "other plates"
    kept = file.read_bytes()
    write_json(file, document)
    html = run_report(study)["html"]
    file.write_bytes(kept)
    assert "Run on other data only (<code>reports/sweeps/prepare.k.json</code>)" in html
    assert "mix.share.json" not in html
    assert (study / "reports" / "plots" / "prepare.k.csv").read_text() == "detector,arm,value,box_map50\n"
    assert len((study / "reports" / "plots" / "mix.share.csv").read_text().splitlines()) > 1


def test_values_that_are_no_numbers_stand_evenly():
    assert sweeps.places(["ddim", "dpm"]) == [0.0, 1.0]
    assert sweeps.places([2, 5]) == [2.0, 5.0]


def test_a_sweep_without_points_is_refused(tmp_path: Path):
    (tmp_path / "prepare.k.json").write_text('{"parameter": "prepare.k", "points": []}')
    with pytest.raises(ValueError, match=r"prepare\.k\.json has no point"):
        sweeps.read_sweeps(tmp_path)


# --- words -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


def test_a_study_is_told_in_words_with_its_intervals_and_what_it_could_not_see(study: Path):
    texts = run_report(study)
    found = json.loads(texts["json"])
    assert wording.headline(found) == "Yes: defectfill with rtdetr. No evidence: defectfill with yolo_seg."
    helps, nothing = wording.statements(found)
    gap = found["detectors"]["rtdetr"]["differences"][found["detectors"]["rtdetr"]["best_arm"]]["real"]
    assert f"Gain over the real photos alone: {100 * gap['mean']:+.1f} points (95\u00a0% sure:" in helps.text
    assert helps.text.endswith("It beats both, by more than chance explains.")
    smallest = found["detectors"]["yolo_seg"]["verdicts"]["defectfill"]["smallest"]
    assert nothing.text.endswith(f"a gain over both of less than about {100 * smallest:.1f} points would often go unseen.")
    assert helps.text in texts["html"]
    assert nothing.text in texts["html"]
    assert helps.sure.startswith("Judged by arm defectfill_classical, chosen on val. ")
    # Where the other arm was not trained, nothing was chosen.
    del found["detectors"]["rtdetr"]["arms"]["defectfill"]
    alone = wording.statements(found)[0]
    assert alone.sure.startswith("Judged by arm defectfill_classical, the only one of this generator that was trained. ")


def test_a_study_shows_what_escapes(study: Path):
    texts = run_report(study)
    arms = json.loads(texts["json"])["detectors"]["rtdetr"]["operating_points"]["arms"]
    shares = arms["defectfill"]["escapes"]
    assert all(0 <= after <= before <= 1 for before, after in pairwise(shares))
    assert "| defectfill | " + " | ".join(f"{share:.3f}" for share in shares) + " |" in texts["md"]
    assert "<td>defectfill</td>" + "".join(f"<td>{100 * share:.1f}</td>" for share in shares) in texts["html"]


def test_a_quick_look_names_scores_and_promises_nothing(project: Path):
    found = json.loads(run_report(project)["json"])
    assert wording.headline(found) == "Quick look: no verdict yet"
    assert wording.statements(found) == []
    assert wording.quick_look(found)[0] == (
        "rtdetr scored 25.0 with the real photos alone, 50.0 with defects made by defectfill."
    )
    combined = {"arms": {"real": {"box_map50": 0.25}, "defectfill_classical": {"box_map50": 0.5}}}
    combined["best_arm"] = "defectfill_classical"
    assert wording.quick_look({"detectors": {"rtdetr": combined}})[0].endswith(
        "50.0 with defects made by defectfill and strong augmentation."
    )


def test_how_many_parts_were_learned_from_is_what_was_used_not_what_was_asked_for():
    """A part with several types counts for each, so a common type has more than K of them."""
    train = [{"type": "open", "train_parts": 5}, {"type": "short", "train_parts": 8}, {"type": "good", "train_parts": 200}]
    test = {"photos": 9, "good_photos": 4, "good_parts": 4, "defects": {"open": 3, "short": 4}}
    text = wording.tested({"k": 5, "train": {"0": train}, "test": {"0": test}}, {"detectors": ["rtdetr"]})
    assert "learned from at most 8 real parts of each defect type" in text
    assert "7 real defects on 5 photos, among 4 photos of 4 good parts" in text


def test_confidences_are_not_rounded_to_certainty():
    assert [wording.percent(share) for share in (0.95, 0.975, 0.995)] == ["95\u00a0%", "97.5\u00a0%", "99.5\u00a0%"]


def test_every_chart_is_well_formed(study: Path):
    html = run_report(study)["html"]
    drawn = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert all(ElementTree.fromstring(svg).get("viewBox") for svg in drawn)
    # Two detectors with bars, two forests and curves, and two charts of each sweep; the others are keys of legends.
    assert sum("aria-label" in svg for svg in drawn) == 2 * (4 + 2 * 2)


def test_files_for_dvc_hold_scores_curves_and_sweeps(study: Path):
    found = json.loads(run_report(study)["json"])
    metrics = json.loads((study / "reports" / "metrics.json").read_text())
    assert metrics["verdict"] == "defectfill helps rtdetr; defectfill gives no evidence of helping yolo_seg"
    arms = found["detectors"]["rtdetr"]["arms"]
    assert metrics["box_map50"]["rtdetr"] == {arm: row["box_map50"] for arm, row in arms.items()}
    curves = (study / "reports" / "plots" / "precision_recall.csv").read_text().splitlines()
    assert len(curves) == 1 + 2 * 5 * 21
    sweep = (study / "reports" / "plots" / "prepare.k.csv").read_text().splitlines()
    assert f"rtdetr,real,2,{arms['real']['box_map50']}" in sweep


def test_dvc_draws_every_file_of_plots_by_columns_it_has(study: Path):
    run_report(study)
    named = {name: drawn for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] for name, drawn in entry.items()}
    files = sorted((study / "reports" / "plots").iterdir())
    assert sorted(named) == [f"reports/plots/{file.name}" for file in files]
    for file in files:
        drawn = named[f"reports/plots/{file.name}"]
        template = (ROOT / ".dvc" / "plots" / f"{drawn['template']}.json").read_text()
        fields = {one["field"] for one in json.loads(template)["encoding"].values()} - {"rev", "<DVC_METRIC_X>", "<DVC_METRIC_Y>"}
        assert {drawn["x"], drawn["y"], *fields} == set(file.read_text().splitlines()[0].split(","))


# --- honesty ---------------------------------------------------------------------------------------------------------------


def test_a_part_that_was_trained_on_and_tested_stops_the_report(project: Path):
    train = read_manifest(project / "data" / "prepared" / "train")
    assert data_card.check_sides(train, {0: ["t0", "t1", "t1"]}) == [{"fold": 0, "train_parts": 3, "test_parts": 2}]
    with pytest.raises(ValueError, match="fold 0: part 'p2' is on train's side and was tested"):
        data_card.check_sides(train, {0: ["t0", "p2"]})


def test_candidates_are_counted_by_what_became_of_them(project: Path):
    html = run_report(project)["html"]
    assert "<td>kept</td><td>1</td>" in html
    assert "<td>changed too little of the mask</td><td>1</td>" in html
    assert "1 synthetic samples of defectfill" in html


# --- the stage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_quick_look(tmp_path)
    return tmp_path


def test_report_holds_the_numbers_in_all_three_forms(project: Path):
    texts = run_report(project)
    assert json.loads(texts["json"])["detectors"]["rtdetr"]["arms"]["defectfill"]["box_map50"] == 0.5
    assert "| defectfill | 0.500 | 0.250 | 0.750 | 0.875 | 0.500 |" in texts["md"]
    assert "| defectfill | +0.248 (one fold: no interval) | – | – |" in texts["md"]
    assert "<td>defectfill</td><td>50.0</td><td>25.0</td><td>75.0</td><td>87.5</td><td>50.0</td>" in texts["html"]
    # Two of four defects are found, and there is no false alarm; without good photos nothing is said of escapes.
    assert "| defectfill | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 |" in texts["md"]
    assert "<td>defectfill</td>" + "<td>50.0</td>" * 5 in texts["html"]
    for text in texts.values():
        assert "quick look: no verdict" in text.lower()
    assert "escape" not in texts["md"] + texts["html"]


def test_html_is_self_contained_well_formed_and_escaped(project: Path):
    html = run_report(project)["html"]
    assert "plates &lt;&amp;&gt;" in html
    assert "plates <&>" not in html
    assert "http://" not in html
    assert "https://" not in html
    assert "<script" not in html
    svg = html[html.index("<svg") : html.index("</svg>") + 6]
    assert len(ElementTree.fromstring(svg).findall("rect")) == 2
    # One row of six pictures of a synthetic sample, two of three of test photos, and clean crop, mask and two candidates of a
    # request. Masks are PNG.
    assert (html.count("data:image/png;base64,"), html.count("data:image/jpeg;base64,")) == (2, 14)
    assert "a&lt;b&gt;.png" in html
    assert "x.png: mask is empty" in html
    assert 'selected.perceptual</td><td class="wrap">base' in html


def test_all_candidates_of_a_request_are_shown_with_their_fates_the_kept_one_first(project: Path):
    html = run_report(project)["html"]
    shown = [html.index(text) for text in ("wanted here", "kept: distance 1.50", "changed too little of the mask: distance 1.50")]
    assert shown == sorted(shown)
    assert "changed 75%, likeness 0.25, from reference 0.62" in html


def test_same_inputs_give_the_same_bytes(project: Path):
    assert run_report(project) == run_report(project)


def test_report_names_the_stage_whose_output_is_missing(project: Path):
    (project / "reports" / "eval" / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.json is missing; run `python -m detectors evaluate`"):
        run_report(project)


def test_report_names_the_records_that_are_missing(project: Path):
    (project / "reports" / "eval" / "matches" / "rtdetr-defectfill-fold-0.npz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"rtdetr-defectfill-fold-0\.npz missing; run `python -m detectors evaluate` again"
    ):
        run_report(project)


def test_report_names_the_pictures_that_are_missing(project: Path):
    (project / "reports" / "eval" / "gallery" / "gallery.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"gallery\.json is missing; run `python -m detectors evaluate` again"):
        run_report(project)


def test_report_never_opens_the_test_output(project: Path):
    assert not (project / "data" / "prepared" / "test").exists()
    run_report(project)


def test_a_synthetic_sample_that_was_not_made_from_training_photos_is_named(project: Path):
    folder = project / "data" / "selected" / "defectfill" / "fold-0"
    text = (folder / "manifest.jsonl").read_text().replace('"g1"', '"gone"')
    (folder / "manifest.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"defectfill, s1: 'gone' it was made from is not in train's manifest"):
        run_report(project)


def plant(project: Path, *, labelled: bool, size: tuple[int, int] = (64, 64)) -> None:
    """A photo nobody made stands where the synthetic one was."""
    photo = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    folders = ("labelled",) if labelled else ("selected", "labelled")
    for folder in folders:
        write_png(project / "data" / folder / "defectfill" / "fold-0" / "images" / "s1.png", photo)


def test_a_photo_planted_in_the_labelled_set_stops_the_report(project: Path):
    plant(project, labelled=True)
    with pytest.raises(ProvenanceError, match=r"labelled/defectfill/fold-0/images/s1.png is not the file that `select` wrote"):
        run_report(project)


def test_a_photo_planted_beside_the_synthetic_ones_stops_the_report(project: Path):
    folder = project / "data" / "labelled" / "defectfill" / "fold-0"
    document = json.loads((folder / "annotations.json").read_text())
    document["images"].append({"id": 2, "file_name": "images/s2.png"})
    write_json(folder / "annotations.json", document)
    write_png(folder / "images" / "s2.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ProvenanceError, match=r"fold-0/images/s2.png is none of the images that `select` kept"):
        run_report(project)


def test_models_of_another_split_stop_the_report(project: Path):
    """A part came to the training side after the detectors were trained: one of theirs may be tested now."""
    write_png(project / "data" / "prepared" / "train" / "images" / "new.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ProvenanceError, match=r"detectors were trained before \S+data/prepared/train changed"):
        run_report(project)


def test_models_of_other_synthetic_photos_stop_the_report(project: Path):
    write_json(project / "data" / "labelled" / "defectfill" / "fold-0" / "card.json", {"images": 2})
    with pytest.raises(ProvenanceError, match=r"detectors were trained before \S+data/labelled/defectfill changed"):
        run_report(project)


def test_scores_that_do_not_say_what_was_learned_from_stop_the_report(project: Path):
    file = project / "reports" / "eval" / "metrics.json"
    write_json(file, {"rows": json.loads(file.read_text())["rows"]})
    with pytest.raises(ValueError, match=r"metrics.json does not say what the models learned from"):
        run_report(project)


def test_a_photo_planted_before_labelling_stops_the_report(project: Path):
    plant(project, labelled=False)
    with pytest.raises(ProvenanceError, match=r"s1.png is not g1, the training photo it names, .* 100% of the pixels differ"):
        run_report(project)


def test_a_planted_photo_of_another_size_stops_the_report(project: Path):
    plant(project, labelled=False, size=(32, 64))
    with pytest.raises(ProvenanceError, match=r"100% of the pixels differ, expected none"):
        run_report(project)


def test_one_strange_pixel_stops_the_report_however_much_of_the_photo_is_labelled(project: Path):
    """Boards have defects all over, and two of them agree in most of their pixels: no likeness tells one from the other."""
    selected, labelled = (project / "data" / stage / "defectfill" / "fold-0" for stage in ("selected", "labelled"))
    write_png(selected / "masks" / "s1.png", np.ones((64, 64), bool))
    run_report(project)
    photo = read_rgb(selected / "images" / "s1.png")
    photo[31, 25] += 1
    for folder in (selected, labelled):
        write_png(folder / "images" / "s1.png", photo)
    with pytest.raises(ProvenanceError, match=r"s1.png is not g1, .* 0.0244% of the pixels differ, expected none"):
        run_report(project)


def test_an_image_that_no_kept_candidate_made_stops_the_report(project: Path):
    fates = project / "data" / "selected" / "defectfill" / "fold-0" / "candidates.jsonl"
    fates.write_text(fates.read_text().replace('"sample": "s1"', '"sample": null'))
    with pytest.raises(ProvenanceError, match=r"no candidate was kept for \S+selected/defectfill/fold-0/images/s1.png"):
        run_report(project)
