from dataclasses import replace

import numpy as np
import pytest

from pipeline.masks import placement
from pipeline.masks.bank import POINTS, Template, area_range, bent, drawn, proportions, size_limits, template_of
from pipeline.masks.composite import distance_to, divided
from pipeline.masks.ground import GRID, Ground, RegionError, estimated_region, footing, mismatch, open_ground, surroundings
from pipeline.masks.habits import Example, density, departs, learn_habits, spot_of
from pipeline.masks.placement import OUTSIDE, TOO_NEAR, UNLIKE, WRONG_SIZE, Rules, Stamp, WarpLimits, find_place

STILL = WarpLimits(rotate_deg=0, scale=(1.0, 1.0), flip=False)
LOOSE = WarpLimits(rotate_deg=30, scale=(0.7, 1.3), flip=True)
ANY = (0.0, np.inf)


def photo(height: int = 80, width: int = 100) -> np.ndarray:
    return np.random.default_rng(0).integers(90, 160, (height, width, 3)).astype(np.uint8)


def ground(region: np.ndarray | None = None) -> Ground:
    return open_ground(photo(), np.ones((80, 100), bool) if region is None else region)


def block(y: slice, x: slice, size: tuple[int, int] = (80, 100)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y, x] = True
    return mask


def rules(warp: WarpLimits = LOOSE, **changes: float) -> Rules:
    return Rules(
        **{
            "inside_share": 0.6,
            "min_distance_px": 5,
            "places": 4,
            "spot_places": 300,
            "spot_mismatch": 0.4,
            "tries": 20,
            "uniform_share": 0.1,
            "warp": warp,
            **changes,
        }
    )


def habits_of(*masks: np.ndarray, flip: bool = False):
    return learn_habits([Example(ground(), mask, f"p{n}", None) for n, mask in enumerate(masks)], 0.1, flip=flip)


SQUARE = block(slice(30, 42), slice(40, 52))


def search(
    template: Template, *, area=ANY, clear=None, on: Ground | None = None, how: Rules | None = None, seed: int = 0
) -> Stamp | str:
    return find_place(
        lambda rng: template, area, habits_of(SQUARE), on or ground(), clear, how or rules(), np.random.default_rng(seed)
    )


# --- places ----------------------------------------------------------------------------------------------------------------


def test_a_mask_lies_inside_the_region_and_its_matrix_made_it():
    disc = np.hypot(*np.ogrid[-40:40, -50:50]) < 30
    for seed in range(20):
        stamp = search(template_of(SQUARE, "r"), on=ground(disc), seed=seed)
        assert isinstance(stamp, Stamp)
        whole = stamp.on(np.zeros((80, 100), bool))
        assert not (whole & ~disc).any()
        assert whole.sum() >= 0.6 * 0.49 * 144 - 5
        # The middle of the square goes where the matrix says, up to what the region cut away.
        middle = stamp.affine @ [6.5, 6.5, 1]
        ys, xs = np.nonzero(whole)
        assert np.hypot(xs.mean() - middle[0], ys.mean() - middle[1]) < 5


def test_same_seed_same_place_other_seed_another():
    first, second, other = (search(template_of(SQUARE, "r"), seed=seed) for seed in (3, 3, 4))
    assert first.corner == second.corner and (first.mask == second.mask).all()
    assert first.corner != other.corner


def test_masks_keep_their_distance():
    taken = block(slice(20, 60), slice(30, 70))
    for seed in range(20):
        stamp = search(template_of(block(slice(4, 10), slice(4, 10)), "r"), clear=distance_to(taken), seed=seed)
        assert isinstance(stamp, Stamp)
        assert distance_to(taken)[stamp.on(np.zeros_like(taken))].min() >= 5


def test_the_search_is_bounded_and_says_why_there_is_no_place():
    asked = []

    def draw(rng: np.random.Generator) -> Template:
        asked.append(1)
        return template_of(SQUARE, "r")

    nowhere = np.zeros((80, 100), np.float32)
    found = find_place(draw, ANY, habits_of(SQUARE), ground(), nowhere, rules(tries=7), np.random.default_rng(0))
    assert found == TOO_NEAR and len(asked) == 7
    assert search(template_of(SQUARE, "r"), area=(1000.0, 2000.0)) == WRONG_SIZE
    small = block(slice(38, 42), slice(48, 52))
    assert search(template_of(SQUARE, "r"), on=ground(small)) == OUTSIDE


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_a_mask_cut_off_by_the_border_goes_to_a_border_and_reaches_it(side: str):
    cut = {
        "left": block(slice(30, 50), slice(0, 8)),
        "top": block(slice(0, 8), slice(30, 50)),
        "right": block(slice(30, 50), slice(92, 100)),
        "bottom": block(slice(72, 80), slice(30, 50)),
    }[side]
    template = template_of(cut, "r")
    assert template.cut == tuple(side == name for name in ("left", "top", "right", "bottom"))
    axis = 1 if side in ("left", "right") else 0
    for seed in range(15):
        whole = search(template, seed=seed).on(np.zeros((80, 100), bool))
        edges = whole.any(axis=1 - axis)[[0, -1]]
        assert edges.any(), "not at the border"
    still = search(template, how=rules(STILL, inside_share=1.0)).on(np.zeros((80, 100), bool))
    assert still.sum() == cut.sum() and (still.any(axis=1 - axis) == cut.any(axis=1 - axis)).all()


def test_of_several_places_the_one_that_looks_like_a_reference_is_taken():
    """Left half dark, right half bright; the reference lies on dark ground, and its twin shows that."""
    halves = np.full((80, 100, 3), 50, np.uint8)
    halves[:, 50:] = 200
    there = open_ground(halves, np.ones((80, 100), bool))
    mask = block(slice(40, 46), slice(46 - 20, 52 - 20))
    known = learn_habits([Example(there, mask, "p", halves)], 0.1, flip=False)
    assert known.looks[0].tolist() == pytest.approx([-1, 0, -1, 0], abs=1e-5)
    for seed in range(10):
        stamp = find_place(
            lambda rng: template_of(mask, "r"), ANY, known, there, None, rules(STILL, places=12), np.random.default_rng(seed)
        )
        assert stamp.corner[0] + 6 <= 50


def test_a_mask_goes_where_the_photo_looks_as_its_spot_did_without_the_defect():
    """Two bright tracks with a dark gap between; a short bridges the gap, and mean and deviation around it say less."""
    tracks = np.full((80, 100, 3), 30, np.uint8)
    tracks[20:30], tracks[38:48] = 220, 220
    board = open_ground(tracks, np.ones((80, 100), bool))
    bridge = block(slice(29, 39), slice(50, 58))
    example = Example(board, bridge, "p", tracks)
    spot = spot_of(example)
    assert spot is not None and spot.shape == (2, POINTS)
    template = replace(template_of(bridge, "r"), spot=spot)
    known = learn_habits([example], 0.1, flip=False)
    rows = [
        find_place(lambda rng: template, ANY, known, board, None, rules(STILL), np.random.default_rng(seed)).corner[1]
        for seed in range(10)
    ]
    assert all(abs(row - 29) <= 2 for row in rows), rows
    assert mismatch(spot, np.stack([spot, spot + 0.5, np.full_like(spot, np.nan)])).tolist() == pytest.approx([0.0, 0.5, 1.0])
    elsewhere = open_ground(tracks, block(slice(60, 80), slice(0, 20)))
    assert spot_of(replace(example, ground=elsewhere)) is None, "no point of it lies in the region"
    across = open_ground(np.ascontiguousarray(tracks.transpose(1, 0, 2)), np.ones((100, 80), bool))
    assert find_place(lambda rng: template, ANY, known, across, None, rules(STILL), np.random.default_rng(0)) == UNLIKE


def test_surroundings_are_a_ring_in_units_of_the_photo():
    picture = np.full((40, 40, 3), 100, np.uint8)
    picture[:, 20:] = 140  # mean 120, deviation 20
    points = template_of(block(slice(16, 24), slice(4, 12), (40, 40)), "r").points
    # On the dark half, in the middle of both, and on the border between the photo and nothing.
    matrices = np.array([[[1, 0, x], [0, 1, 15]] for x in (3, 15, -500)], np.float64)
    there = open_ground(picture, np.ones((40, 40), bool))
    dark, middle, beyond = surroundings(there, footing(there, np.stack([points] * 3), matrices), there.grey)
    assert dark.tolist() == pytest.approx([-1, 0, -1, 0])
    assert middle.tolist() == pytest.approx([0, 1, 0, 1], abs=0.05)
    assert np.isnan(beyond).all()
    assert np.isnan(surroundings(there, footing(there, points[None], matrices[:1]), None)[0, 2:]).all()


def test_points_are_spread_over_the_mask_and_its_ring():
    template = template_of(SQUARE, "r")  # 12 x 12 pixels, a rim of one, a ring of a quarter of 12
    inside, ring = template.points
    assert inside.shape == ring.shape == (POINTS, 2)
    assert len(np.unique(inside, axis=0)) > 96
    assert template.mask[inside[:, 1].astype(int), inside[:, 0].astype(int)].all()
    away = np.hypot(*(np.maximum(np.maximum(1 - ring[:, axis], ring[:, axis] - 12), 0) for axis in (0, 1)))
    assert away.min() >= 1 and away.max() <= 3
    quarters = (inside > 6.5) @ [1, 2]
    assert np.bincount(quarters).tolist() == pytest.approx([32] * 4, abs=3)
    line = template_of(block(slice(5, 70), slice(50, 52)), "r").points[0]
    assert abs((line[:, 0] == 1).mean() - 0.5) < 0.1 and np.ptp(line[:, 1]) >= 63, "not one column of a thin mask alone"
    dot = template_of(block(slice(9, 10), slice(9, 11)), "r").points[0]
    assert sorted(np.unique(dot, axis=0, return_counts=True)[1].tolist()) == [64, 64]


# --- points first, pixels last ---------------------------------------------------------------------------------------------


def test_one_of_the_compared_places_is_put_on_the_photo(monkeypatch: pytest.MonkeyPatch):
    warped = []
    put = placement.put
    monkeypatch.setattr(placement, "put", lambda one, on: warped.append(one) or put(one, on))
    template = template_of(SQUARE, "r")
    for seed in range(10):
        assert isinstance(search(template, how=rules(places=8), seed=seed), Stamp)
    assert len(warped) == 10
    warped.clear()
    unmeasured = template_of(SQUARE, "r")
    assert isinstance(search(unmeasured, how=rules(places=1)), Stamp)
    assert "points" not in vars(unmeasured), "nothing is compared"


def test_pixels_decide_where_points_see_too_little(monkeypatch: pytest.MonkeyPatch):
    """128 points of 1600 pixels miss most single pixels that are taken; what is returned keeps clear of all of them."""
    taken = np.zeros((80, 100), bool)
    taken[np.random.default_rng(1).integers(0, 80, 3), np.random.default_rng(2).integers(0, 100, 3)] = True
    said = []
    stamped = placement._stamped
    monkeypatch.setattr(placement, "_stamped", lambda *given: said.append(stamped(*given)) or said[-1])
    template = template_of(block(slice(20, 60), slice(20, 60)), "r")
    for seed in range(40):
        stamp = search(template, clear=distance_to(taken), how=rules(inside_share=0.9, min_distance_px=2), seed=seed)
        if isinstance(stamp, Stamp):
            assert distance_to(taken)[stamp.on(np.zeros_like(taken))].min() >= 2
            assert stamp.mask.sum() >= 0.9 * 0.7**2 * 1600 - 5
    assert TOO_NEAR in said and any(isinstance(one, Stamp) for one in said)


def test_places_refused_by_their_pixels_count_as_tries(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(placement, "put", lambda one, on: None)
    found = find_place(
        lambda rng: asked.append(1) or template_of(SQUARE, "r"),
        ANY,
        habits_of(SQUARE),
        ground(),
        None,
        rules(tries=11),
        np.random.default_rng(0),
    )
    assert found == OUTSIDE and len(asked) == 11


# --- habits ----------------------------------------------------------------------------------------------------------------


def test_a_habit_needs_more_than_chance():
    assert departs(0.5 - 1.97 / 60**0.5, 5) and not departs(0.5 - 1.95 / 60**0.5, 5)
    assert not departs(0.0, 1), "one part shows nothing"
    # Five parts all over the photo show nothing, five at its border do.
    spread = [block(slice(y, y + 6), slice(x, x + 6)) for y, x in ((5, 80), (20, 20), (37, 47), (55, 70), (66, 10))]
    edge = [block(slice(y, y + 6), slice(x, x + 6)) for y, x in ((3, 10), (70, 30), (30, 3), (60, 92), (3, 60))]
    assert habits_of(*spread).place is None and habits_of(*spread).depth is None
    assert habits_of(*edge).depth is not None
    chances = density(habits_of(*edge), ground(), 0.0)
    rim = ground().depth < 0.3
    assert chances.sum() == pytest.approx(1) and chances[rim].sum() > 0.85 > rim.mean()


def test_photos_of_one_part_count_once():
    same = [Example(ground(), block(slice(3, 9), slice(10 + n, 16 + n)), "one", None) for n in range(9)]
    assert learn_habits(same, 0.1, flip=False).depth is None


def test_a_preferred_corner_is_learned_and_mirrored_where_parts_may_be():
    corner = [block(slice(60 + n, 66 + n), slice(80 + n, 86 + n)) for n in range(5)]
    plain, flipped = (density(habits_of(*corner, flip=flip), ground(), 0.1) for flip in (False, True))
    quarter = np.s_[GRID // 2 :, GRID // 2 :]
    assert plain[quarter].sum() > 0.85
    assert flipped[quarter].sum() == pytest.approx(0.25, abs=0.02)
    assert plain.min() >= 0.1 / GRID**2 * 0.99, "a share is uniform"


# --- the bank --------------------------------------------------------------------------------------------------------------


def test_terciles_are_those_of_the_references_under_the_scales():
    templates = [template_of(block(slice(20, 20 + s), slice(20, 20 + s)), "r") for s in (4, 10, 20)]
    low, high = size_limits(templates, (1.0, 1.0))
    assert 16 < low < 100 < high < 400
    assert area_range("small", (low, high)) == (0.0, low) and area_range("large", (low, high)) == (high, np.inf)
    for size in ("small", "medium", "large"):
        wanted = area_range(size, size_limits([templates[1]], (0.7, 1.3)))
        for seed in range(5):
            stamp = search(templates[1], area=wanted, seed=seed)
            assert isinstance(stamp, Stamp) and wanted[0] <= stamp.mask.sum() <= wanted[1]


def test_a_bent_mask_keeps_its_side_at_the_border_and_about_its_size():
    template = template_of(block(slice(0, 20), slice(30, 60)), "r")
    made = [bent(template, 0.06, 3, np.random.default_rng(seed)) for seed in range(10)]
    for one in made:
        assert one.source == "elastic" and one.reference == "r" and one.cut == template.cut
        assert 0.5 * 600 <= one.area <= 1.7 * 600 and one.mask[0].any()
        assert not one.mask[-1].any() and not one.mask[:, [0, -1]].any(), "the rim ends it on the other sides"
    assert len({one.mask.tobytes() for one in made}) == 10


def test_drawn_shapes_have_the_proportions_of_the_reference():
    blob, line = block(slice(20, 40), slice(20, 50)), block(slice(40, 43), slice(10, 80))
    for like, slender in ((blob, False), (line, True)):
        wanted = proportions(like)
        made = [drawn(template_of(like, "r"), 0.1, np.random.default_rng(seed)) for seed in range(20)]
        assert all(one.reference is None and one.source == "drawn" for one in made)
        areas = np.array([one.area for one in made])
        assert 0.75 * wanted.area < np.median(areas) < 1.25 * wanted.area
        thick = np.array([proportions(one.mask).thickness for one in made])
        assert (thick < 10).all() if slender else (thick > 10).all()


def test_proportions_of_a_rectangle():
    found = proportions(block(slice(10, 14), slice(10, 30)))
    assert (found.area, round(found.length), round(found.breadth)) == (80, 20, 4) and found.thickness == 4


# --- regions ---------------------------------------------------------------------------------------------------------------


def test_the_foreground_is_what_differs_from_the_border_holes_filled():
    picture = np.random.default_rng(1).normal(200, 4, (80, 100, 3)).clip(0, 255).astype(np.uint8)
    part = np.hypot(*np.ogrid[-40:40, -50:50]) < 28
    picture[part] = 70
    picture[36:44, 46:54] = 200
    found = estimated_region(picture)
    assert (found & part).sum() / (found | part).sum() > 0.9 and found[40, 50]


def test_an_implausible_foreground_is_refused_with_the_reason():
    with pytest.raises(RegionError, match=r"largest piece|of the photo"):
        estimated_region(photo())
    scattered = np.full((80, 100, 3), 30, np.uint8)
    for y, x in ((10, 10), (10, 60), (50, 10), (50, 60)):
        scattered[y : y + 20, x : x + 20] = 200
    with pytest.raises(RegionError, match="the largest piece is 25% of the foreground, expected 70% at least"):
        estimated_region(scattered)


# --- parts -----------------------------------------------------------------------------------------------------------------


def test_what_changed_goes_to_the_nearest_part():
    left, right = block(slice(0, 1), slice(1, 3), (1, 10)), block(slice(0, 1), slice(7, 9), (1, 10))
    first, second = divided(np.ones((1, 10), bool), (left, right))
    # 4 is 2 from the left part and 3 from the right one, 5 the other way round.
    assert np.flatnonzero(first).tolist() == [0, 1, 2, 3, 4] and np.flatnonzero(second).tolist() == [5, 6, 7, 8, 9]
    (alone,) = divided(left | right, (left,))
    assert (alone == (left | right)).all()
