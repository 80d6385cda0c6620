from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.near_duplicates import find_near_duplicates, frame, merge_parts
from pipeline.procedural.sample_set import draw_sample_set
from tests.unit.prepare_toys import real, texture

MIN = 0.75


def photographed_again(picture: np.ndarray, crop: int = 3) -> np.ndarray:
    """Cropped by a few pixels, a little brighter, noisier."""
    noise = np.random.default_rng(5).normal(0, 2, picture.shape)
    return np.clip(picture * 1.1 + 4 + noise, 0, 255).astype(np.uint8)[crop:, crop:]


@pytest.mark.parametrize("count", [2, 12, 40, 130])
def test_only_the_planted_pair_is_found(count: int):
    pictures = [texture(seed, 200, 220) for seed in range(count - 1)]
    frames = [frame(picture) for picture in (*pictures, photographed_again(pictures[0]))]
    assert [hit[:2] for hit in find_near_duplicates(frames, MIN)] == [(0, count - 1)]


def test_identical_photos_correlate_at_one():
    frames = [frame(texture(seed)) for seed in (1, 2, 1)]
    ((i, j, value),) = find_near_duplicates(frames, MIN)
    assert (i, j, round(value, 4)) == (0, 2, 1.0)


def test_flat_photos_are_nobodys_duplicate():
    assert find_near_duplicates([frame(np.full((50, 50), 90, np.uint8))] * 3, MIN) == []


def test_no_photo_and_one_photo():
    assert find_near_duplicates([], MIN) == []
    assert find_near_duplicates([frame(texture(1))], MIN) == []


def test_rgb_and_grey_of_one_picture_agree():
    grey = texture(3)
    assert np.array_equal(frame(grey), frame(np.repeat(grey[..., None], 3, axis=2)))


def test_merging_is_transitive_and_keeps_the_first_name():
    after, groups = merge_parts(["c", "b", "a", "d", "b"], [(0, 1, 0.9), (4, 2, 0.8)])
    assert after == ["a", "a", "a", "d", "a"]
    assert groups == (("a", "b", "c"),)


def test_parts_of_the_sample_set_are_not_merged():
    photos = draw_sample_set(0, 128, 12, 60)
    hits = find_near_duplicates([frame(photo.picture) for photo in photos], MIN)
    assert [hit for hit in hits if photos[hit[0]].part_id != photos[hit[1]].part_id] == []


def test_aligned_photos_of_one_kind_of_object_are_not_merged():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:256, :256]
    shape = cv2.GaussianBlur(np.where(np.hypot(rows - 128, columns - 128) < 90, 60.0, 220.0), (0, 0), 1.5)
    frames = []
    for _ in range(100):
        moved = np.roll(shape, tuple(rng.integers(-2, 3, size=2)), axis=(0, 1))
        grain = cv2.GaussianBlur(rng.standard_normal(shape.shape), (0, 0), 3)
        frames.append(frame(np.clip(moved + 4 * grain / grain.std() + rng.normal(0, 3, shape.shape), 0, 255).astype(np.uint8)))
    assert find_near_duplicates(frames, MIN) == []


@pytest.mark.parametrize(
    ("one", "two"),
    [("Break/Imgs/exp1_num_304290", "Break/Imgs/exp2_num_304305"), ("Crack/Imgs/exp4_num_85602", "Crack/Imgs/exp4_num_85998")],
)
def test_real_tiles_that_came_back_to_the_camera(one: str, two: str):
    root = real("magnetic-tile")
    others = sorted((root / "MT_Free/Imgs").glob("*.jpg"))[:800:8]
    paths = [root / f"MT_{name}.jpg" for name in (one, two)] + others
    frames = [frame(np.array(Image.open(Path(path)).convert("L"))) for path in paths]
    assert (0, 1) in [hit[:2] for hit in find_near_duplicates(frames, MIN)]
