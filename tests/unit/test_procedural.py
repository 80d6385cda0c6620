from itertools import pairwise

import numpy as np
import pytest

from pipeline.procedural.defects import DEFECT_TYPES, DEFECTS, defects_on
from pipeline.procedural.factory import DrawingError, add_defect, draw
from pipeline.procedural.sample_set import DEFECT_TYPES as SAMPLE_TYPES
from pipeline.procedural.sample_set import draw_part, draw_sample_set
from pipeline.procedural.surfaces import SURFACES, with_edge

PAIRS = [(family, kind) for family in SURFACES for kind in defects_on(family)]


def test_twelve_surfaces_and_twelve_defects_at_least():
    assert len(SURFACES) >= 12
    assert len(DEFECT_TYPES) >= 12
    assert all(DEFECTS[kind][1] <= set(SURFACES) for kind in DEFECT_TYPES)
    assert all(len(defects_on(family)) >= 5 for family in SURFACES)


@pytest.mark.parametrize(("family", "kind"), PAIRS)
@pytest.mark.parametrize("size_px", [64, 128])
def test_a_defect_changes_what_its_mask_says_and_nothing_else(family: str, kind: str, size_px: int):
    drawn = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scene = SURFACES[family](rng, size_px)
        added = add_defect(rng, scene, kind, np.zeros((size_px, size_px), np.bool_))
        if added is None:
            continue
        changed, mask = added
        drawn += 1
        assert np.array_equal(changed.tone[~mask], scene.tone[~mask])
        assert (changed.tone[mask] != scene.tone[mask]).all()
        assert np.abs(changed.tone - scene.tone)[mask].mean() > 0.03
        assert 8 <= mask.sum() <= 0.35 * mask.size
        assert all(not weight[~mask].any() for weight, _ in changed.tints)
    assert drawn >= 6, "this defect hardly ever finds room"


@pytest.mark.parametrize("family", sorted(SURFACES))
def test_surfaces_are_reflectances_of_the_size_asked_for(family: str):
    for size_px in (33, 64, 129, 320):
        tone = SURFACES[family](np.random.default_rng(size_px), size_px).tone
        assert tone.shape == (size_px, size_px)
        assert tone.dtype == np.float32
        assert np.isfinite(tone).all()
        assert 0.0 < np.quantile(tone, 0.05) < np.quantile(tone, 0.95) < 1.1
        assert tone.std() > 0.004


def test_defects_stay_on_a_part_that_ends_inside_the_picture():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = with_edge(rng, SURFACES["ground_steel"](rng, 96))
        assert scene.inside is not None
        assert scene.inside.any()
        assert not scene.inside.all()
        for kind in ("edge_break", "stain", "scratch"):
            added = add_defect(rng, scene, kind, np.zeros((96, 96), np.bool_))
            assert added is None or not (added[1] & ~scene.inside).any()


def test_a_drawing_is_its_seed():
    first, again, other = (draw(np.random.default_rng(seed), 96) for seed in (5, 5, 6))
    assert np.array_equal(first.picture, again.picture)
    assert [(kind, mask.tobytes()) for kind, mask in first.instances] == [
        (kind, mask.tobytes()) for kind, mask in again.instances
    ]
    assert not np.array_equal(first.picture, other.picture)


def test_a_drawing_holds_what_was_asked_for():
    good = draw(np.random.default_rng(0), 64, "wood", [])
    assert good.instances == ()
    two = draw(np.random.default_rng(0), 128, "twill", ["hole", "missing_thread"])
    assert [kind for kind, _ in two.instances] == ["hole", "missing_thread"]
    assert two.picture.shape == (128, 128, 3)
    assert two.picture.dtype == np.uint8
    masks = [mask for _, mask in two.instances]
    assert not (masks[0] & masks[1]).any()


def test_a_defect_that_does_not_occur_on_a_surface_is_refused():
    with pytest.raises(DrawingError, match="'short' does not occur on wood; expected one of"):
        draw(np.random.default_rng(0), 64, "wood", ["short"])


def test_every_type_is_drawn_sooner_or_later():
    rng = np.random.default_rng(0)
    seen = {kind for _ in range(600) for kind, _ in draw(rng, 64).instances}
    assert seen == set(DEFECT_TYPES)


def test_counts_types_and_sizes():
    photos = draw_sample_set(0, 64, 6, 7)
    assert len({photo.part_id for photo in photos}) == 3 * 6 + 7
    assert {photo.defect for photo in photos} == {None, *SAMPLE_TYPES}
    assert all(photo.picture.shape == (64, 64) and photo.picture.dtype == np.uint8 for photo in photos)
    assert all((photo.mask is None) == (photo.defect is None) for photo in photos)
    assert all(photo.mask.any() for photo in photos if photo.mask is not None)


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others():
    first, again, other = (draw_sample_set(seed, 64, 6, 6) for seed in (3, 3, 4))
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].picture, other[0].picture)


def test_a_part_does_not_depend_on_how_many_there_are():
    part = draw_part(0, 64, "hole-002", "hole")
    among = [photo for photo in draw_sample_set(0, 64, 8, 6) if photo.part_id == "hole-002"]
    assert [photo.picture.tobytes() for photo in part] == [photo.picture.tobytes() for photo in among]


def test_some_parts_have_two_photos_and_they_differ():
    photos = draw_sample_set(0, 64, 12, 20)
    pairs = [(a, b) for a, b in pairwise(photos) if a.part_id == b.part_id]
    assert 10 < len(pairs) < 40
    assert all(not np.array_equal(a.picture, b.picture) for a, b in pairs)
