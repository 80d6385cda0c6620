from pathlib import Path

import numpy as np
import pytest

from pipeline import photo_cache
from pipeline.images import Picture, PictureError, read_rgb, write_png
from pipeline.photo_cache import kept


def read_photo(path: Path) -> Picture:
    return kept(path, lambda: read_rgb(path))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three photos of 192 bytes, room for two, and an empty cache."""
    monkeypatch.setattr(photo_cache, "LIMIT_BYTES", 400)
    monkeypatch.setattr(photo_cache, "_KEPT", type(photo_cache._KEPT)())
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        write_png(path, np.full((8, 8, 3), n, np.uint8))
    return paths


def test_a_photo_is_read_once_while_it_is_among_those_used_last(photos: list[Path]):
    first = read_photo(photos[0])
    assert read_photo(photos[1])[0, 0, 0] == 1 and read_photo(photos[0]) is first
    assert read_photo(photos[2])[0, 0, 0] == 2  # the second goes
    assert list(photo_cache._KEPT) == [photos[0], photos[2]] and read_photo(photos[0]) is first


def test_a_photo_larger_than_the_cache_is_kept_until_the_next(photos: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(photo_cache, "LIMIT_BYTES", 1)
    for path in photos:
        read_photo(path)
    assert list(photo_cache._KEPT) == [photos[2]]


def test_a_torn_file_is_named(photos: list[Path]):
    photos[1].write_bytes(photos[1].read_bytes()[:50])
    with pytest.raises(PictureError, match=r"1\.png cannot be read as a picture"):
        read_photo(photos[1])
    assert photos[1] not in photo_cache._KEPT
