import time
from itertools import pairwise

import numpy as np
import pytest

from pipeline.procedural.defects import DEFECTS
from pipeline.procedural.sample_set import DEFECT_TYPES, draw_part, draw_sample_set
from pipeline.procedural.surfaces import SURFACES


@pytest.mark.parametrize("surface", sorted(SURFACES))
@pytest.mark.parametrize("kind", DEFECT_TYPES)
def test_nothing_changes_outside_the_mask_and_nearly_all_inside_does(surface: str, kind: str):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clean = SURFACES[surface](rng, 132)
        altered, mask = DEFECTS[kind](rng, clean)
        assert np.array_equal(altered[~mask], clean[~mask])
        changed = np.abs(altered - clean)[mask]
        assert 12 <= mask.sum() <= 0.12 * mask.size
        assert (changed > 1 / 255).mean() > 0.8
        assert changed.mean() > 0.05


def test_counts_types_and_sizes():
    photos = draw_sample_set(0, 64, 6, 7)
    assert len({photo.part_id for photo in photos}) == 3 * 6 + 7
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


def test_the_default_set_is_fast():
    start = time.monotonic()
    draw_sample_set(0, 128, 12, 60)
    assert time.monotonic() - start < 10
