import numpy as np
import pytest

from pipeline.images import Picture
from pipeline.registration import MOST_PX, align


def photo(size: int = 80) -> Picture:
    return np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (5, 0), (-3, 4), (MOST_PX, -MOST_PX)])
def test_a_clean_photo_is_moved_to_where_the_other_one_lies(right: int, down: int):
    clean = photo()
    other = np.roll(clean, (down, right), axis=(0, 1))
    moved = align(clean, other)
    inside = slice(MOST_PX, -MOST_PX)
    assert np.array_equal(moved[inside, inside], other[inside, inside])


def test_what_a_move_leaves_open_repeats_the_nearest_column():
    clean = photo()
    moved = align(clean, np.roll(clean, 5, axis=1))
    assert np.array_equal(moved[:, :5], np.repeat(clean[:, :1], 5, axis=1))


def test_a_photo_stays_where_it_is_without_a_gain():
    clean = photo()
    assert align(clean, clean) is clean
    assert align(clean, clean // 2) is clean
    flat = np.full_like(clean, 7)
    assert align(flat, clean) is flat
    assert align(clean, flat) is clean


def test_a_photo_of_few_pixels_is_left_alone():
    tiny = photo(3)
    assert align(tiny, tiny[::-1].copy()) is tiny


def test_tracks_are_not_moved_along_themselves():
    tracks = np.zeros((80, 80), np.uint8)
    tracks[:, ::10] = 255
    broken = tracks.copy()
    broken[30:34, 40] = 0
    assert align(tracks, broken) is tracks
