"""Scenes on a small prepared set: wanted defects, targets, several on a photo, and crops that are shared."""

import pickle
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.images import read_mask, write_png
from pipeline.masks.bank import template_of
from pipeline.masks.composite import distance_to
from pipeline.masks.crops import Window, paste_window
from pipeline.masks.ground import RegionError
from pipeline.params import ParamsError, SynthesizeParams
from pipeline.records import Sample, read_manifest, write_manifest
from pipeline.regions import check_regions
from pipeline.scenes import Planner, crowding, open_planner, overlap, with_spots
from pipeline.selection import read_real
from pipeline.wanted import deal, read_default, read_targets
from tests.conftest import ROOT

SIZE = (120, 140)


def params(**placement: object) -> SynthesizeParams:
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["synthesize"]
    masks = {**section["masks"], "defectfill": {"affine": 1, "elastic": 1, "drawn": 1}}
    return SynthesizeParams.model_validate(
        {**section, "min_crop_px": 16, "masks": masks, "placement": {**section["placement"], "places": 2, **placement}}
    )


@pytest.fixture
def train(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for n in range(3):
        rows.append(Sample(f"good-{n}", f"images/good-{n}.png", None, None, f"g{n}", "train"))
    for kind, side in (("dent", 8), ("hole", 14)):
        for n in range(4):
            name, mask = f"{kind}-{n}", np.zeros(SIZE, bool)
            y, x = (int(v) for v in rng.integers(10, 90, 2))
            mask[y : y + side, x : x + side + n] = True
            write_png(tmp_path / "masks" / f"{name}.png", mask)
            rows.append(Sample(name, f"images/{name}.png", f"masks/{name}.png", kind, f"{kind}{n}", "train"))
    for row in rows:
        write_png(tmp_path / row.image, rng.integers(90, 160, (*SIZE, 3)).astype(np.uint8))
    write_manifest(tmp_path, rows)
    return tmp_path


def planner(train: Path, wanted: dict, generator: str = "defectfill", **placement: object) -> Planner:
    return open_planner(generator, read_real(train, 0), params(**placement), wanted)


def masks_of(plan: Planner, number: int) -> list[tuple[str, np.ndarray]]:
    found = []
    for placed in plan.make(number):
        for part in placed.request.parts:
            whole = np.zeros(SIZE, bool)
            paste_window(whole, part.mask, placed.record.window)
            found.append((part.defect, whole))
    return found


def test_one_defect_a_scene_gives_as_many_scenes_as_are_wanted_sorted_by_type(train: Path):
    plan = planner(train, {"dent": {"any": 3}, "hole": {"any": 2}})
    assert plan.count == 5
    made = [plan.make(number) for number in range(5)]
    assert [placed.record.defect for (placed,) in made] == ["dent"] * 3 + ["hole"] * 2
    assert made[3][0].request.id == "fold-0-00003-0-hole" and made[3][0].record.scene == 3
    for (placed,) in made:
        assert placed.request.clean.shape[0] == placed.record.window.side == placed.request.mask.shape[0]


def test_a_scene_follows_from_its_number_in_another_process_and_order(train: Path):
    plan = planner(train, {"dent": {"any": 4}, "hole": {"any": 4}}, defects_per_image=[0, 1])
    other = pickle.loads(pickle.dumps(plan))
    assert len(pickle.dumps(plan)) < 200_000, "no photos travel"
    for number in reversed(range(plan.count)):
        for one, two in zip(plan.make(number), other.make(number), strict=True):
            assert one.record == two.record and (one.request.mask == two.request.mask).all()
            assert (one.request.clean == two.request.clean).all()


def test_copy_paste_gets_masks_with_a_reference_and_a_matrix_that_made_them(train: Path):
    plan = planner(train, {"hole": {"any": 8}}, "copy_paste")
    references = {r.id: r for r in read_real(train, 0).references}
    for number in range(plan.count):
        for placed in plan.make(number):
            (part,) = placed.request.parts
            assert part.reference is not None and part.affine is not None
            ys, xs = np.nonzero(references[part.reference].mask)
            moved = part.affine @ [xs.mean(), ys.mean(), 1]
            own_y, own_x = np.nonzero(part.mask)
            assert np.hypot(moved[0] - own_x.mean(), moved[1] - own_y.mean()) < 3.5
    sources = {p.source for n in range(20) for one in planner(train, {"hole": {"any": 20}}).make(n) for p in one.record.parts}
    assert sources == {"affine", "elastic", "drawn"}


def test_defects_of_a_photo_keep_their_distance_and_none_is_lost(train: Path):
    plan = planner(train, {"dent": {"any": 12}, "hole": {"any": 12}}, defects_per_image=[0, 0, 1], min_distance_px=6)
    assert plan.count == 8
    kinds: list[str] = []
    for number in range(plan.count):
        found = masks_of(plan, number)
        kinds += [kind for kind, _ in found]
        for place, (_, first) in enumerate(found):
            assert all(distance_to(first)[second].min() >= 6 for _, second in found[place + 1 :])
    assert sorted(kinds) == ["dent"] * 12 + ["hole"] * 12


def test_photos_are_as_crowded_as_the_references_show(train: Path):
    """Eight photos with a defect each; then three of them hold two dents each, and no photo two types."""
    assert crowding(read_real(train, 0), "references") == ([8], False)
    for n in range(3):
        path = train / "masks" / f"dent-{n}.png"
        mask = read_mask(path)
        mask[100:108, 100:108] = True
        write_png(path, mask)
    per_image, mixed = crowding(read_real(train, 0), "references")
    assert (per_image, mixed) == ([5, 3], False)
    assert crowding(read_real(train, 0), [0, 1]) == ([0, 1], True)
    plan = planner(train, {"dent": {"any": 40}, "hole": {"any": 40}})
    scenes = [{kind for kind, _ in masks_of(plan, number)} for number in range(plan.count)]
    assert all(len(kinds) == 1 for kinds in scenes)
    assert 80 / 2 < plan.count < 80


def test_where_there_is_no_room_defects_are_left_out_with_the_reason(train: Path):
    plan = planner(train, {"hole": {"any": 4}}, defects_per_image=[0, 0, 0, 1], min_distance_px=1000, tries=5)
    placed, refused = plan.plan(0)
    assert len(placed) == 1 and refused == ["hole: too near another defect"] * 3
    assert plan.wanted(0) == 4 and plan.make(0)[0].record == placed[0].record


def test_near_defects_share_a_crop_of_normal_size_and_all_masks_are_in_it(train: Path):
    limits, shared = params(), 0
    plan = planner(train, {"dent": {"any": 30}, "hole": {"any": 30}}, defects_per_image=[0, 0, 0, 0, 1], min_distance_px=4)
    never = planner(
        train, {"dent": {"any": 30}, "hole": {"any": 30}}, defects_per_image=[0, 0, 0, 0, 1], min_distance_px=4, join_overlap=None
    )
    for number in range(plan.count):
        for placed in plan.make(number):
            parts = placed.request.parts
            longest = max(max(np.ptp(np.nonzero(p.mask)[0]), np.ptp(np.nonzero(p.mask)[1])) + 1 for p in parts)
            assert placed.record.window.side <= max(limits.min_crop_px, round(limits.crop_scale[1] * longest)) + 1
            assert all(part.mask.any() for part in parts)
            shared += len(parts) > 1
            assert placed.request.id.endswith("+".join(dict.fromkeys(part.defect for part in parts)))
        assert sum(m.sum() for _, m in masks_of(plan, number)) == sum(m.sum() for _, m in masks_of(never, number))
        assert all(len(placed.request.parts) == 1 for placed in never.make(number))
    assert shared > 0


def test_the_overlap_of_windows_is_a_share_of_the_smaller():
    assert overlap(Window(0, 0, 10), Window(5, 0, 10)) == 0.5
    assert overlap(Window(0, 0, 20), Window(5, 5, 4)) == 1.0
    assert overlap(Window(0, 0, 4), Window(4, 0, 4)) == 0


@pytest.mark.parametrize(("spots", "used"), [("yyn", "ab"), ("yn", "a"), ("ynn", "abc"), ("nn", "ab"), ("yy", "ab")])
def test_masks_without_a_spot_do_not_crowd_out_those_that_know_theirs(spots: str, used: str):
    mask = np.ones((4, 6), bool)
    templates = [
        replace(template_of(mask, name), spot=np.zeros((2, 128)) if spot == "y" else None)
        for name, spot in zip("abc", spots, strict=False)
    ]
    assert "".join(one.reference for one in with_spots(templates)) == used


def test_a_type_uses_the_masks_whose_spot_its_twins_show(train: Path):
    rows = read_manifest(train, 0)
    # Of the holes three have a photo of their part without the defect; of the dents one.
    for n, hole in enumerate(["hole-0", "hole-1", "hole-2", "dent-0"]):
        shutil.copy(train / "images" / f"{hole}.png", train / "images" / f"twin-{n}.png")
        rows.append(Sample(f"twin-{n}", f"images/twin-{n}.png", None, None, hole.replace("-", ""), "train"))
    write_manifest(train, rows)
    banks = planner(train, {"dent": {"any": 1}, "hole": {"any": 1}}).banks
    used = {kind: [one.reference.split("#")[0] for one in bank.templates] for kind, bank in banks.items()}
    assert used == {"hole": ["hole-0", "hole-1", "hole-2"], "dent": [f"dent-{n}" for n in range(4)]}


def test_dealing_mixes_types_keeps_counts_and_follows_the_weights():
    kinds, sizes, starts = deal(0, {"a": {"small": 50, "large": 50}, "b": {"any": 100}}, ["a", "b"], [1, 1], True)
    assert np.bincount(kinds).tolist() == [100, 100] and np.bincount(sizes).tolist() == [100, 50, 0, 50]
    lengths = np.diff(starts)
    assert set(lengths) == {1, 2} and starts[-1] == 200 and 100 < len(lengths) < 170
    firsts = kinds[starts[:-1]]
    assert (np.diff(firsts) >= 0).all()
    assert any(len(set(kinds[a:b])) == 2 for a, b in pairwise(starts))
    none = deal(0, {"a": {"any": 0}}, ["a"], [1], True)
    assert none[2].tolist() == [0]


def test_sizes_are_met(train: Path):
    plan = planner(train, {"hole": {"small": 4, "medium": 4, "large": 4}})
    low, high = plan.banks["hole"].size_limits
    areas = sorted(int(mask.sum()) for number in range(12) for _, mask in masks_of(plan, number))
    assert len(areas) == 12 and areas[3] <= low <= areas[4] and areas[7] <= high <= areas[8]


def test_targets_take_numbers_and_sizes(tmp_path: Path):
    file = tmp_path / "targets.yaml"
    file.write_text("default: 5\ntypes: {hole: {large: 2, small: 1}, dent: 0}\n")
    assert read_targets(file, ["dent", "hole", "stain"]) == {
        "dent": {"any": 0},
        "hole": {"small": 1, "large": 2},
        "stain": {"any": 5},
    }
    assert read_default(file) == 5
    file.write_text("default: 5\ntypes:\n")
    assert read_targets(file, ["hole"]) == {"hole": {"any": 5}}
    for text, message in (
        ("default: 1\ntypes: {rust: 2}\n", r"unknown defect types \['rust'\]"),
        ("default: 1\ntypes: {hole: {huge: 2}}\n", r"'hole' has sizes \['huge'\]; expected some of any, small, medium, large"),
        ("default: 1\ntypes: {hole: {small: -2}}\n", r"whole numbers of at least 0, got \{'small': -2\} for 'hole'"),
        ("default: 1\ntypes: {hole: yes}\n", r"whole numbers of at least 0, got \{'any': True\} for 'hole'"),
        ("types: {hole: 2}\n", "expected `default: <number>`.*got {'types': {'hole': 2}}"),
        ("default: 1\ntipes: {hole: 2}\n", "expected `default: <number>` and `types: {}`, got"),
        ("default: 1\ntypes: {1: 2, rust: 3}\n", r"unknown defect types \[1, 'rust'\]"),
        ("default: 1\ntypes: {hole: {1: 2, huge: 3}}\n", r"'hole' has sizes \[1, 'huge'\]"),
        ("default: 1\ntypes: []\n", "expected `default: <number>` and `types: {}`, got"),
        ("default: 1\ntypes: hole\n", "expected `default: <number>` and `types: {}`, got"),
        ("", "expected `default: <number>` and `types: {}`, got None"),
        ("default: {1\n", "no valid YAML"),
    ):
        file.write_text(text)
        with pytest.raises(ParamsError, match=message):
            read_targets(file, ["dent", "hole", "stain"])


def test_the_users_region_masks_hold_and_faults_are_named(train: Path, tmp_path: Path):
    folder = tmp_path / "regions"
    region = np.zeros(SIZE, bool)
    region[20:100, 30:80] = True
    for n in range(3):
        write_png(folder / f"good-{n}.png", region)
    plan = planner(train, {"dent": {"any": 9}}, region_masks=str(folder))
    found = [mask for number in range(9) for _, mask in masks_of(plan, number)]
    assert len(found) == 9 and not any((mask & ~region).any() for mask in found)
    write_png(folder / "good-1.png", region[:50])
    with pytest.raises(RegionError, match=r"good-1\.png: \(50, 140\)"):
        planner(train, {"dent": {"any": 1}}, region_masks=str(folder))
    with pytest.raises(RegionError, match="no mask for any of 3 good photos"):
        planner(train, {"dent": {"any": 1}}, region_masks=str(tmp_path / "empty"))
    with pytest.raises(RegionError, match=r"good-0: .*give a mask of the part in synthesize.placement.region_masks"):
        planner(train, {"dent": {"any": 1}}, region="object")


def test_a_users_mask_that_is_not_what_is_seen_is_named(train: Path, tmp_path: Path):
    """A bright part of 40 x 40 pixels; a mask 20 px beside it shares 800 of 2400 pixels with it."""
    folder = tmp_path / "regions"
    part, beside = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    part[40:80, 40:80] = beside[40:80, 60:100] = True
    for n in range(3):
        write_png(train / f"images/good-{n}.png", np.where(part, 200, 40)[..., None].repeat(3, axis=2).astype(np.uint8))
        write_png(folder / f"good-{n}.png", beside if n == 1 else part)
    good = read_real(train, 0).good
    wanted = {"region": "object", "region_masks": str(folder)}

    def check(**changes: object) -> None:
        check_regions(train, good, params(**wanted, **changes).placement)

    with pytest.raises(RegionError, match=r"^good-1: .*good-1\.png .* IoU of 0\.33, expected 0\.5 at least; .*region_agreement"):
        check(region_agreement=0.5)
    check(region_agreement=0.3)
    check(region_agreement=None)
    wanted["region"] = "texture"
    check(region_agreement=0.5)
    wanted["region"] = "object"
    write_png(train / "images/good-1.png", np.full((*SIZE, 3), 90, np.uint8))
    check(region_agreement=0.5)  # nothing is seen: the mask holds
