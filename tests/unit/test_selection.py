"""Guards of selection, each on a case made by hand; the stage with every candidate's fate; drawing again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline import selection
from pipeline.answering import Draws, Judge, answer
from pipeline.generators.protocol import Dropped, Part, Request, Synthetic
from pipeline.images import Picture, read_mask, read_rgb, write_png
from pipeline.masks.crops import Window
from pipeline.params import SelectParams
from pipeline.records import DatasetCard, Sample, read_manifest, write_card, write_manifest
from pipeline.references import Reference
from pipeline.scenes import Placed
from pipeline.seeds import derive_seed
from pipeline.selection import (
    ARTEFACT,
    KEPT,
    OUTRANKED,
    RANKED_LOW,
    REMEMBERED,
    TOO_LITTLE,
    Guards,
    Memory,
    RealSide,
    Verdict,
    memories,
    open_guards,
    ranked,
    read_real,
    real_score_bound,
    verdicts,
)
from pipeline.shards import Candidates, PartRecord, RequestRecord, read_fates, read_shard, write_shard
from pipeline.similarity.memory import own_detail
from pipeline.similarity.perceptual import Perceptual, choose_perceptual
from pipeline.similarity.quality import JUDGE, look, quality, real_looks
from pipeline.stages import select_candidates as select_candidates_module
from pipeline.stages.select_candidates import NothingKeptError, select_candidates
from tests.diffusion_toy import write_base


def grey_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference in grey levels: a net whose scores can be worked out by hand."""
    return (first - second).abs().mean(dim=1) * 127.5


BY_GREY = Perceptual("grey difference", 8, grey_distance)
STILL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def record_of(name: str, reference: str, side: int, scene: int = 0, clean: str = "good") -> RequestRecord:
    return RequestRecord(name, scene, clean, Window(0, 0, side), (PartRecord("hole", "affine", reference, STILL),))


def flat(value: int, side: int = 8) -> Picture:
    return np.full((side, side, 3), value, np.uint8)


def half() -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    return mask


def candidates(*values: int, changed: np.ndarray | None = None) -> Candidates:
    record = record_of("r", "reference", 8)
    region = half() if changed is None else changed
    return Candidates(record, (half(),), tuple(flat(v) for v in values), (region,) * len(values), True)


def select_params(**changes: object) -> SelectParams:
    values: dict[str, object] = {
        "threads": 1,
        "perceptual": "base",
        "keep_per_request": 1,
        "min_changed_share": 0.1,
        "outlier_quantile": 1.0,
        "remembered_share": {"copy_paste": None, "defectfill": 0.5},
        "quality_neighbours": 2,
    }
    return SelectParams.model_validate(values | changes)


GUARDS = Guards(BY_GREY, artefact_bound=90.0, min_changed_share=0.1, memories=None)


def faults(entry: Candidates, clean: Picture, guards: Guards) -> list[str | None]:
    return [verdict.fault for verdict in verdicts(entry, clean, guards)]


# --- guards ----------------------------------------------------------------------------------------------------------------


def test_the_least_faithful_candidate_below_the_artefact_bound_comes_first():
    found = verdicts(candidates(110, 150, 220, 130), flat(100), GUARDS)
    assert [round(v.score) for v in found] == [10, 50, 120, 30]
    assert [v.fault for v in found] == [None, None, ARTEFACT, None]
    assert ranked(found) == [1, 3, 0]
    assert found[0].changed_share == 1.0 and found[0].label_iou == 1.0


def test_ties_go_to_the_first():
    assert ranked(verdicts(candidates(150, 150, 140), flat(100), GUARDS)) == [0, 1, 2]


def test_a_candidate_that_changed_nothing_or_next_to_nothing_is_refused():
    speck = np.zeros((8, 8), bool)
    speck[0, :2] = True  # 2 of 32 pixels
    assert faults(candidates(150, changed=np.zeros((8, 8), bool)), flat(100), GUARDS) == [TOO_LITTLE]
    assert faults(candidates(150, changed=speck), flat(100), GUARDS) == [TOO_LITTLE]
    assert faults(candidates(150, changed=speck), flat(100), replace(GUARDS, min_changed_share=0.05)) == [None]


def two_parts(*values: int, changed: np.ndarray) -> Candidates:
    """A hole on the left three columns, a dent on the right three."""
    left, right = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    left[:, :3] = right[:, 5:] = True
    parts = (PartRecord("hole", "affine", "hole-0#0", STILL), PartRecord("dent", "drawn", None, None))
    record = RequestRecord("r", 0, "good", Window(0, 0, 8), parts)
    return Candidates(record, (left, right), tuple(flat(v) for v in values), (changed,) * len(values), True)


def test_of_several_parts_each_must_have_changed():
    everywhere, left_only = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    left_only[:, :4] = True
    assert faults(two_parts(150, changed=everywhere), flat(100), GUARDS) == [None]
    (verdict,) = verdicts(two_parts(150, changed=left_only), flat(100), GUARDS)
    assert verdict.fault == TOO_LITTLE and verdict.changed_share == 0.0


# --- remembered references -------------------------------------------------------------------------------------------------

SIDE = 48


def patch(seed: int) -> Picture:
    """Grain a few pixels wide."""
    grain = np.random.default_rng(seed).integers(60, 200, (SIDE // 3, SIDE // 3)).astype(np.uint8)
    return np.repeat(np.kron(grain, np.ones((3, 3), np.uint8))[..., None], 3, axis=2)


def middle() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[12:36, 12:36] = True
    return mask


def references(count: int = 5) -> list[Reference]:
    return [Reference(f"hole-{n}#0", "hole", patch(n), middle()) for n in range(count)]


def real_side(found: list[Reference], parts: list[str]) -> RealSide:
    samples = {
        r.id.split("#")[0]: Sample(r.id.split("#")[0], "x.png", "m.png", "hole", part, "train")
        for r, part in zip(found, parts, strict=True)
    }
    return RealSide(Path(), 0, samples, found)


def painted(*images: Picture) -> Candidates:
    record = record_of("r", "hole-0#0", SIDE)
    return Candidates(record, (middle(),), images, (middle(),) * len(images), True)


def test_own_detail_cancels_brightness_and_contrast_and_tells_other_grain():
    own = own_detail(patch(0), middle())
    paler = (patch(0) * 0.5 + 90).astype(np.uint8)
    assert float(np.linalg.norm(own)) == pytest.approx(1, abs=1e-5)
    assert float((own * own_detail(paler, middle())).sum()) > 0.98
    assert abs(float((own * own_detail(patch(1), middle())).sum())) < 0.3


def test_a_copy_of_any_reference_is_refused_turned_and_pale_too():
    found = references()
    memory = memories(real_side(found, list("abcde")), 0.5)
    guards = replace(GUARDS, artefact_bound=1e9, memories=memory)
    turned = (np.rot90(patch(3)[:, ::-1]) * 0.6 + 70).astype(np.uint8)
    got = verdicts(painted(patch(0), turned, patch(77)), flat(100, SIDE), guards)
    assert [v.fault for v in got] == [REMEMBERED, REMEMBERED, None]
    assert [v.nearest_reference for v in got[:2]] == ["hole-0#0", "hole-3#0"]
    assert got[0].reference_distance == pytest.approx(0, abs=1e-3)
    # Without the guard the same candidates pass: a generator that pastes references is not judged by it.
    assert faults(painted(patch(0)), flat(100, SIDE), replace(guards, memories=None)) == [None]
    # Nor is what shows its reference's detail by design, which only a mask made by a matrix can.
    assert faults(replace(painted(patch(0)), detailed=(0,)), flat(100, SIDE), guards) == [None]
    both = replace(painted(patch(0), patch(0)), detailed=(1,))
    assert faults(both, flat(100, SIDE), guards) == [REMEMBERED, None]
    (part,) = painted(patch(0)).request.parts
    bent = replace(painted(patch(0)).request, parts=(replace(part, affine=None),))
    assert faults(replace(painted(patch(0)), detailed=(0,), request=bent), flat(100, SIDE), guards) == [REMEMBERED]


def test_the_reference_under_the_mask_is_compared_as_it_was_warped():
    """Turned by 20 degrees it fits no box, and only the request's own matrix lays it under the mask."""
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, (SIDE - 1) / 2)
    affine = np.column_stack([turn, centre - turn @ centre])
    copy = cv2.warpAffine(patch(0), affine, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
    entry = painted(copy)
    memory = memories(real_side(references(), list("abcde")), 0.5)["hole"]
    (still,) = entry.request.parts
    warped = replace(still, affine=tuple(map(tuple, affine.tolist())))
    assert memory.nearest(entry.images, entry.mask, warped)[0][1] == pytest.approx(0, abs=1e-3)
    assert memory.nearest(entry.images, entry.mask, still)[0][1] > memory.bound


def test_photos_of_one_part_do_not_narrow_the_bound():
    """Two photos of one part show the same defect; only other parts say how alike different defects are."""
    found = [*references(3), Reference("hole-9#0", "hole", patch(0), middle())]
    assert memories(real_side(found, ["a", "b", "c", "a"]), 1.0)["hole"].bound > 0.5
    assert memories(real_side([found[0], found[3]], ["a", "d"]), 1.0)["hole"].bound == pytest.approx(0, abs=1e-3)


def test_a_type_of_one_part_takes_the_bound_of_all_and_alone_has_none(caplog: pytest.LogCaptureFixture):
    found = references(3)
    lonely = replace(found[2], id="dent-0#0", defect="dent")
    side = real_side([*found[:2], lonely], ["a", "b", "c"])
    bounds = memories(side, 1.0)
    assert bounds["dent"].bound == bounds["hole"].bound > 0.5
    alone = memories(real_side([lonely], ["c"]), 0.5)
    assert alone["dent"].bound == 0.0
    assert "nothing guards against remembered ones" in caplog.text


def test_which_generators_are_guarded_stands_in_the_parameters(tmp_path: Path):
    side = replace(real_side(references(2), ["a", "b"]), train=tmp_path)
    write_png(tmp_path / "good.png", patch(5))
    good = Sample("good", "good.png", None, None, "g", "train")
    side = replace(side, samples={**side.samples, "good": good})
    assert open_guards(BY_GREY, select_params(), "copy_paste", side).memories is None
    assert isinstance(open_guards(BY_GREY, select_params(), "defectfill", side).memories["hole"], Memory)  # type: ignore[index]


# --- the artefact bound ----------------------------------------------------------------------------------------------------


def photos(folder: Path, goods: list[Picture], defect: Picture, mask: np.ndarray) -> RealSide:
    """A train folder with good photos g0, g1, ... and one defect."""
    rows = [Sample(f"g{n}", f"g{n}.png", None, None, f"p{n}", "train") for n in range(len(goods))]
    for row, picture in zip(rows, goods, strict=True):
        write_png(folder / row.image, picture)
    write_png(folder / "d.png", defect)
    write_png(folder / "d.mask.png", mask)
    write_manifest(folder, [*rows, Sample("d", "d.png", "d.mask.png", "hole", "q", "train")])
    return read_real(folder, 0)


def test_the_bound_is_a_quantile_of_what_real_defects_score_on_good_photos(tmp_path: Path):
    """A hole of grey level 40 on good photos of 130 and 150 scores 90 and 110 there."""
    mask = np.zeros((64, 64), bool)
    mask[28:36, 28:36] = True
    defect = flat(100, 64)
    defect[mask] = 40
    real = photos(tmp_path, [flat(130, 64), flat(150, 64)], defect, mask)
    assert real_score_bound(BY_GREY, real, 0.0) == pytest.approx(90, abs=1e-3)
    assert real_score_bound(BY_GREY, real, 1.0) == pytest.approx(110, abs=1e-3)


def test_two_dark_holes_of_one_shape_are_no_copies():
    """Each darker towards its middle, with its own faint grain. As they are they correlate at 0.97."""
    deep = np.minimum(np.abs(np.arange(SIDE) - 12), np.abs(np.arange(SIDE) - 35)) * 8.0
    shade = 150 - np.minimum.outer(deep, deep)
    holes = [
        np.repeat((shade + np.random.default_rng(n).normal(0, 4, shade.shape)).clip(0, 255).astype(np.uint8)[..., None], 3, 2)
        for n in (1, 2)
    ]
    first, second = (own_detail(hole, middle()) for hole in holes)
    assert np.corrcoef(holes[0][middle()].ravel(), holes[1][middle()].ravel())[0, 1] > 0.95
    assert abs(float((first * second).sum())) < 0.5


# --- the judge -------------------------------------------------------------------------------------------------------------


def spot(grain: int, depth: int) -> Picture:
    """Fine grain with a smooth spot in the middle, `depth` grey levels darker."""
    picture = np.random.default_rng(grain).normal(140, 6, (SIDE, SIDE))
    picture[middle()] -= depth
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_quality_is_one_for_a_real_defect_and_falls_with_the_distance_to_its_type():
    real = real_looks(
        [("dark", look(spot(n, 60), middle())) for n in range(4)] + [("faint", look(spot(n, 10), middle())) for n in range(4)]
    )
    same = quality(real.by_type["dark"][:1], "dark", real, 1)
    assert same[0] == pytest.approx(1.0)
    new = np.stack([look(spot(99, depth), middle()) for depth in (60, 35, 0)])
    dark, faint = (quality(new, defect, real, 3) for defect in ("dark", "faint"))
    assert dark[0] > dark[1] > dark[2]
    assert dark[0] > faint[0] and faint[2] > dark[2]


def test_the_judge_does_not_see_brightness_alone():
    paler = np.clip(spot(1, 60).astype(int) + 30, 0, 255).astype(np.uint8)
    assert np.allclose(look(spot(1, 60), middle()), look(paler, middle()), atol=0.02)


def test_a_defect_that_fills_its_photo_can_be_judged():
    assert np.isfinite(look(patch(0), np.ones((SIDE, SIDE), bool))).all()


# --- drawing again ---------------------------------------------------------------------------------------------------------


class Counting:
    """A sampler that answers with its call's number and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic]:
        for request, seed in requests:
            self.asked.append((request.id, seed))
            yield Synthetic(flat(len(self.asked)), half())

    def facts(self) -> dict[str, object]:
        return {}


def placed(*names: str) -> list[Placed]:
    return [
        Placed(
            Request(name, flat(100), (Part("hole", half(), "reference", np.eye(2, 3)),)),
            record_of(name, "reference", 8),
        )
        for name in names
    ]


def said(fault: str | None) -> Judge:
    """A judge that says the same of every candidate."""
    return lambda entry, clean: [Verdict(1.0, 1.0, 1.0, None, None, fault)] * len(entry.images)


def test_a_request_without_an_answer_is_drawn_again_with_new_seeds_and_the_others_are_not():
    sampler, seen = Counting(), Counter[str]()

    def judge(entry: Candidates, clean: Picture) -> list[Verdict]:
        seen[entry.request.id] += 1
        return said(None if entry.request.id == "easy" or seen[entry.request.id] == 2 else TOO_LITTLE)(entry, clean)

    answers = list(answer(sampler, placed("easy", "hard"), Draws(2, 5, judge)))
    entries = [one.entry for one in answers]
    assert [(e.request.id, len(e.images), e.answered) for e in entries] == [("easy", 2, True), ("hard", 4, True)]
    wanted = [("easy", 0), ("easy", 1), ("hard", 0), ("hard", 1), ("hard", 2), ("hard", 3)]
    assert sampler.asked == [(name, derive_seed("candidate", name, number)) for name, number in wanted]
    assert [int(image[0, 0, 0]) for image in entries[1].images] == [3, 4, 5, 6]
    assert [[verdict.fault for verdict in one.verdicts] for one in answers] == [[None] * 2, [TOO_LITTLE] * 2 + [None] * 2]


def test_requests_are_taken_as_the_sampler_asks_for_them():
    taken: list[str] = []

    def waiting() -> Iterator[Placed]:
        for one in placed("a", "b", "c"):
            taken.append(one.request.id)
            yield one

    answers = answer(Counting(), waiting(), Draws(1, 0, said(None)))
    assert next(answers).entry.request.id == "a" and taken == ["a"]
    assert [one.entry.request.id for one in answers] == ["b", "c"]


def test_dropped_candidates_of_every_draw_keep_their_place():
    class Dropping(Counting):
        """Answers every second question without a picture."""

        def __call__(self, requests: Iterable[tuple[Request, int]]) -> Iterator[Synthetic | Dropped]:
            for number, one in enumerate(super().__call__(requests)):
                yield Dropped(float(number)) if number % 2 == 0 else replace(one, early=float(number))

    ((entry, found),) = ((one.entry, one.verdicts) for one in answer(Dropping(), placed("hard"), Draws(3, 1, said(TOO_LITTLE))))
    assert len(found) == len(entry.images)
    assert entry.drawn == 6 and entry.dropped == (0, 2, 3, 5) and entry.numbers == [1, 4]
    assert entry.early == (0.0, 1.0, 2.0, 0.0, 1.0, 2.0)
    assert [int(image[0, 0, 0]) for image in entry.images] == [2, 5]


@pytest.mark.parametrize("redraws", [0, 1, 3])
def test_drawing_again_ends_at_its_bound_and_keeps_every_draw(redraws: int):
    sampler = Counting()
    ((entry, found),) = ((one.entry, one.verdicts) for one in answer(sampler, placed("never"), Draws(3, redraws, said(ARTEFACT))))
    assert len(found) == len(entry.images) == len(sampler.asked) == len(set(sampler.asked)) == 3 * (1 + redraws)
    assert not entry.answered


def test_a_mask_without_reference_or_matrix_is_compared_by_its_box_alone():
    found = references()
    memory = memories(real_side(found, list("abcde")), 0.5)["hole"]
    entry = painted(patch(0), patch(77))
    for part in (PartRecord("hole", "drawn", None, None), PartRecord("hole", "elastic", "hole-0#0", None)):
        (near, away), (other, far) = memory.nearest(entry.images, entry.mask, part)
        assert near == "hole-0#0" and away == pytest.approx(0, abs=1e-3) and far > memory.bound and other
    known = {"hole": memory, "dent": replace(memory, bound=-1.0)}
    both = replace(entry, request=replace(entry.request, parts=(PartRecord("dent", "drawn", None, None),)))
    guards = replace(GUARDS, artefact_bound=1e9, memories=known)
    assert faults(entry, flat(100, SIDE), guards) == [REMEMBERED, None]
    assert faults(both, flat(100, SIDE), guards) == [None, None], "each part is held to the bound of its own type"


# --- the stage -------------------------------------------------------------------------------------------------------------


def surface(seed: int) -> Picture:
    grey = np.random.default_rng(seed).normal(150, 3, (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def with_defect(clean: Picture, source: Picture, level: int) -> Picture:
    """The middle of another picture, toned down and lifted by `level` grey levels, on a clean one."""
    return np.where(middle()[..., None], (source * 0.2 + level).astype(np.uint8), clean).astype(np.uint8)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One request with five candidates: a copy of the reference, noise, nothing, a faint new defect, and a strong one."""
    monkeypatch.setattr(select_candidates_module, "choose_perceptual", lambda wish, vae: replace(BY_GREY, side_px=SIDE))
    data = tmp_path / "data"
    train = data / "prepared" / "train"
    rows = [Sample(f"g{n}", f"images/g{n}.png", None, None, f"p{n}", "train") for n in range(2)]
    for n, row in enumerate(rows):
        write_png(train / row.image, surface(n))
    for n in range(4):
        write_png(train / f"images/hole-{n}.png", with_defect(surface(10 + n), patch(n), 100))
        write_png(train / f"masks/hole-{n}.png", middle())
        rows.append(Sample(f"hole-{n}", f"images/hole-{n}.png", f"masks/hole-{n}.png", "hole", f"q{n}", "train"))
    write_manifest(train, rows)
    write_card(train, DatasetCard("toy", "folder", ("hole",), 4, {}, (0,), "mask"))
    write_base(data / "base" / "fold-0")
    clean = surface(0)
    noise = np.random.default_rng(9).integers(0, 2, (SIDE, SIDE, 3)).astype(np.uint8) * 255
    faint = np.where(middle()[..., None], clean - 12, clean).astype(np.uint8)
    pictures = [
        with_defect(clean, patch(0), 105),
        np.where(middle()[..., None], noise, clean).astype(np.uint8),
        clean,
        faint,
        with_defect(clean, patch(50), 105),
    ]
    changed = tuple((picture != clean).any(axis=2) for picture in pictures)
    record = record_of("fold-0-00000-0-hole", "hole-0#0", SIDE, clean="g0")
    entry = Candidates(record, (middle(),), tuple(pictures), changed, True)
    for generator in ("copy_paste", "defectfill"):
        folder = data / "candidates" / generator / "fold-0"
        folder.mkdir(parents=True)
        write_shard(folder / "shard-0000.tar", [entry])
    return data


def test_every_candidate_has_its_fate_and_scores(stage: Path):
    out = stage / "selected" / "defectfill"
    select_candidates(select_params(), stage, "defectfill", out)
    fates = list(read_fates(out / "fold-0"))
    assert [fate.number for fate in fates] == [0, 1, 2, 3, 4]
    assert [fate.fate for fate in fates] == [REMEMBERED, ARTEFACT, TOO_LITTLE, OUTRANKED, KEPT]
    assert fates[0].nearest_reference == "hole-0#0" and fates[0].reference_distance is not None
    assert fates[0].reference_distance < 0.1 and all(0 < fate.quality <= 1 for fate in fates)
    assert [fate.sample for fate in fates] == [None, None, None, None, "fold-0-00000-0"]
    (sample,) = read_manifest(out / "fold-0")
    assert sample.parents == ("g0", "hole-0") and sample.part_id == "p0" and sample.fold == 0
    assert (read_mask(out / "fold-0" / str(sample.mask)) <= middle()).all()
    card = json.loads((out / "fold-0" / "card.json").read_text())
    assert sum(card["kept"].values()) + sum(card["rejected"].values()) == len(fates)
    assert card["requests_by_candidates"] == {"5": 1} and card["requests_without_answer"] == []
    assert card["judge"] == JUDGE and card["judge"] != card["perceptual"]
    assert 0 < card["remembered_below"]["hole"] < 1


def test_what_pastes_references_by_design_is_not_refused_for_it(stage: Path):
    out = stage / "selected" / "copy_paste"
    select_candidates(select_params(), stage, "copy_paste", out)
    counts = Counter(fate.fate for fate in read_fates(out / "fold-0"))
    assert REMEMBERED not in counts and counts[KEPT] == 1
    assert all(fate.nearest_reference is None for fate in read_fates(out / "fold-0"))
    assert json.loads((out / "fold-0" / "card.json").read_text())["remembered_below"] is None


def test_a_candidate_that_was_not_finished_is_recorded_with_its_early_score(stage: Path):
    """Of the five the second and the third got no picture; the others keep their numbers and fates."""
    for shard in (stage / "candidates" / "defectfill" / "fold-0").glob("*.tar"):
        (entry,) = read_shard(shard)
        keep = [0, 3, 4]
        shown = [tuple(pictures[place] for place in keep) for pictures in (entry.images, entry.changed)]
        write_shard(shard, [replace(entry, images=shown[0], changed=shown[1], early=(0.5, 0.2, 0.1, 0.3, 0.4), dropped=(1, 2))])
    out = stage / "selected" / "defectfill"
    select_candidates(select_params(), stage, "defectfill", out)
    fates = list(read_fates(out / "fold-0"))
    assert [(fate.number, fate.fate, fate.early) for fate in fates] == [
        (0, REMEMBERED, 0.5),
        (1, RANKED_LOW, 0.2),
        (2, RANKED_LOW, 0.1),
        (3, OUTRANKED, 0.3),
        (4, KEPT, 0.4),
    ]
    assert fates[1].score is None and fates[1].quality is None and fates[1].sample is None
    card = json.loads((out / "fold-0" / "card.json").read_text())
    assert card["rejected"][RANKED_LOW] == 2 and card["requests_by_candidates"] == {"5": 1}


def test_the_same_candidates_give_the_same_bytes(stage: Path):
    for name in ("a", "b"):
        select_candidates(select_params(), stage, "defectfill", stage / "selected" / name)
    first, second = (sorted((stage / "selected" / name).rglob("*")) for name in ("a", "b"))
    files = [(a, b) for a, b in zip(first, second, strict=True) if a.is_file()]
    assert len(files) == 5  # card, fates, manifest, picture, mask
    assert all(a.name == b.name and a.read_bytes() == b.read_bytes() for a, b in files)


def test_if_there_is_no_candidate_at_all_no_guard_is_blamed(stage: Path):
    for shard in (stage / "candidates" / "defectfill" / "fold-0").glob("*.tar"):
        shard.unlink()
    with pytest.raises(NothingKeptError, match=r"no candidates.*left_out in \S+candidates/defectfill/fold-0/card\.json"):
        select_candidates(select_params(), stage, "defectfill", stage / "selected" / "defectfill")


def test_if_nothing_survives_the_error_says_what_to_change(stage: Path):
    for shard in (stage / "candidates" / "defectfill" / "fold-0").glob("*.tar"):
        (entry,) = read_shard(shard)
        write_shard(shard, [replace(entry, images=entry.images[:3], changed=entry.changed[:3])])
    wanted = r"none of the candidates survived.*too near.*synthesize\.redraws.*select\.min_changed_share"
    with pytest.raises(NothingKeptError, match=wanted):
        select_candidates(select_params(), stage, "defectfill", stage / "selected" / "defectfill")
    assert not (stage / "selected" / "defectfill").exists()


def test_the_judge_is_never_the_selecting_net(stage: Path, monkeypatch: pytest.MonkeyPatch):
    """LPIPS and the base's encoder are nets; the judge is a bank of filters, whichever of them selects."""
    monkeypatch.setattr(select_candidates_module, "choose_perceptual", choose_perceptual)
    out = stage / "selected" / "defectfill"
    for wish in ("auto", "base"):
        select_candidates(select_params(perceptual=wish), stage, "defectfill", out)
        card = json.loads((out / "fold-0" / "card.json").read_text())
        assert "Gabor" in card["judge"] and "Gabor" not in card["perceptual"]


def test_the_requests_of_a_scene_share_a_photo_with_a_sample_a_type(stage: Path, monkeypatch: pytest.MonkeyPatch):
    """Two crops that overlap by half: a hole on the left, a hole and a dent on the right."""
    monkeypatch.setattr(selection, "real_score_bound", lambda *_: 100.0)  # a random encoder's scores say nothing here
    clean, folder = surface(0), stage / "candidates" / "defectfill" / "fold-0"
    boxes = {"left": (4, 10), "middle": (20, 24), "right": (36, 44)}
    crops: dict[str, tuple[np.ndarray, Picture]] = {}
    for number, (name, (start, stop)) in enumerate(boxes.items()):
        mask = np.zeros((SIDE, SIDE), bool)
        mask[20:28, start:stop] = True
        crops[name] = mask, np.where(mask[..., None], patch(60 + number) * 0.2 + 105, clean).astype(np.uint8)
    part = {
        name: PartRecord(kind, "drawn", None, None) for name, kind in (("left", "hole"), ("middle", "hole"), ("right", "dent"))
    }
    first = RequestRecord("fold-0-00007-0-hole", 7, "g0", Window(0, 0, SIDE), (part["left"],))
    second = RequestRecord("fold-0-00007-1-hole+dent", 7, "g0", Window(0, 0, SIDE), (part["middle"], part["right"]))
    joint = np.where(crops["middle"][0][..., None], crops["middle"][1], crops["right"][1]).astype(np.uint8)
    changed = [(image != clean).any(axis=2) for image in (crops["left"][1], joint)]
    entries = [
        Candidates(first, (crops["left"][0],), (crops["left"][1],), (changed[0],), True),
        Candidates(second, (crops["middle"][0], crops["right"][0]), (joint,), (changed[1],), True),
    ]
    write_shard(folder / "shard-0000.tar", entries)
    dent = Sample("dent-0", "images/hole-0.png", "masks/hole-0.png", "dent", "q0", "train")
    train = stage / "prepared" / "train"
    write_manifest(train, [*read_manifest(train), dent])
    out = stage / "selected" / "defectfill"
    select_candidates(select_params(remembered_share={"copy_paste": None, "defectfill": None}), stage, "defectfill", out)
    samples = read_manifest(out / "fold-0")
    assert [(s.id, s.defect, s.image) for s in samples] == [
        ("fold-0-00007-0-dent", "dent", "images/fold-0-00007-0.png"),
        ("fold-0-00007-0-hole", "hole", "images/fold-0-00007-0.png"),
    ]
    photo = read_rgb(out / "fold-0" / samples[0].image)
    hole, right = read_mask(out / "fold-0" / str(samples[1].mask)), read_mask(out / "fold-0" / str(samples[0].mask))
    assert (hole == (changed[0] | (changed[1] & crops["middle"][0]))).all() and (right == (changed[1] & crops["right"][0])).all()
    assert ((photo != clean).any(axis=2) == (changed[0] | changed[1])).all(), "the second crop left the first defect alone"
    assert [fate.sample for fate in read_fates(out / "fold-0")] == ["fold-0-00007-0"] * 2
    assert samples[0].parents == ("g0",)
