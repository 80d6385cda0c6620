import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.layouts.decoding import UNREADABLE, decode, decode_mask, white_level
from tests.unit.prepare_toys import save, texture

RAMP = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)


def with_orientation(path: Path, array: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, array, exif=exif)


def test_grey_stays_grey(tmp_path: Path):
    found = decode(save(tmp_path / "a.png", RAMP))
    assert found.picture.tolist() == RAMP.tolist()
    assert found.conversions == ()


@pytest.mark.parametrize(("peak", "white"), [(255, 255), (256, 1023), (4000, 4095), (4096, 16383), (60000, 65535)])
def test_white_level_of_cameras(peak: int, white: int):
    assert white_level(peak) == white


def test_sixteen_bits_are_scaled_by_the_white_of_the_set(tmp_path: Path):
    path = save(tmp_path / "a.png", np.array([[0, 819, 4095]], np.uint16))
    assert decode(path).picture.tolist() == [[0, 51, 255]]
    assert decode(path, white=65535).picture.tolist() == [[0, 3, 16]]
    assert decode(path).peak == 4095
    assert decode(path).conversions == ("16-bit to 8-bit",)


DEEP = np.array([[[0, 819, 4095], [15, 255, 256]]], np.uint16)
"""Red, green and blue of two pixels of a 12-bit camera."""


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colour_of_sixteen_bits_keeps_its_low_byte(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), DEEP[..., ::-1])
    found = decode(path)
    assert found.picture.tolist() == [[[0, 51, 255], [1, 16, 16]]]
    assert decode(path, white=65535).picture.tolist() == [[[0, 3, 16], [0, 1, 1]]]
    assert (found.peak, found.conversions) == (4095, ("16-bit to 8-bit",))


def test_transparency_beside_sixteen_bits_is_dropped(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([DEEP[..., ::-1], np.full((1, 2), 65535, np.uint16)]))
    assert decode(tmp_path / "a.png").picture.tolist() == [[[0, 51, 255], [1, 16, 16]]]


def test_colour_of_sixteen_bits_is_turned_upright(tmp_path: Path):
    """Orientation 6: the camera lay on its side; what is on the left of the file is above."""
    cv2.imwrite(str(tmp_path / "a.png"), DEEP[..., ::-1])
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    stored = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(stored[:33] + chunk + stored[33:])  # after the signature and the header
    found = decode(tmp_path / "a.png")
    assert (found.orientation, found.stored_size) == (6, (1, 2))
    assert found.picture.tolist() == [[[0, 51, 255]], [[1, 16, 16]]]


def test_a_tiff_with_colour_of_sixteen_bits_is_turned_once(tmp_path: Path):
    """OpenCV writes no orientation, so the list of tags is written anew behind the file, with one more."""
    cv2.imwrite(str(tmp_path / "a.tif"), DEEP[..., ::-1])
    stored = bytearray((tmp_path / "a.tif").read_bytes())
    start = struct.unpack_from("<I", stored, 4)[0]
    count = struct.unpack_from("<H", stored, start)[0]
    entries = [stored[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    entries = sorted(
        [*map(bytes, entries), struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)], key=lambda one: struct.unpack("<H", one[:2])
    )
    struct.pack_into("<I", stored, 4, len(stored))
    stored += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    (tmp_path / "a.tif").write_bytes(stored)
    found = decode(tmp_path / "a.tif")
    assert (found.orientation, found.stored_size) == (6, (1, 2))
    assert found.picture.tolist() == [[[0, 51, 255]], [[1, 16, 16]]]


def test_pixels_of_sixteen_bits_in_all_are_no_deep_colour(tmp_path: Path):
    """A bitmap with 5, 6 and 5 bits for red, green and blue, which pillow calls BGR;16."""
    header = struct.pack("<IiiHHIIiiIIIII", 52, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0, 0xF800, 0x07E0, 0x001F)
    pixels = struct.pack("<HH", 0b11111_000000_00000, 0)
    start = 14 + len(header)
    (tmp_path / "a.bmp").write_bytes(struct.pack("<2sIHHI", b"BM", start + 4, 0, 0, start) + header + pixels)
    assert decode(tmp_path / "a.bmp").picture.tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize(
    ("mode", "suffix", "phrase"),
    [
        ("P", "png", "palette to RGB"),
        ("RGBA", "png", "alpha channel dropped"),
        ("CMYK", "jpg", "CMYK to RGB"),
        ("LA", "png", "alpha channel dropped"),
        ("1", "png", "1-bit to 8-bit"),
    ],
)
def test_other_modes_are_converted_and_named(tmp_path: Path, mode: str, suffix: str, phrase: str):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(texture(1)).convert("RGB" if mode == "CMYK" else "L").convert(mode).save(path)
    found = decode(path)
    assert found.conversions == (phrase,)
    assert found.picture.dtype == np.uint8
    assert found.picture.ndim == (2 if mode in ("LA", "1") else 3)


UPRIGHT = {1: [[10, 20, 30], [40, 50, 60]], 3: [[60, 50, 40], [30, 20, 10]], 6: [[40, 10], [50, 20], [60, 30]]}
"""RAMP as it is, upside down, and with its left side above."""


@pytest.mark.parametrize("kind", ["uint8", "uint16", "colour"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_tiff_is_turned_once_though_readers_turn_it_themselves(tmp_path: Path, orientation: int, kind: str):
    stored = {"uint8": RAMP, "uint16": RAMP.astype(np.uint16) * 257, "colour": np.dstack([RAMP, RAMP, RAMP])}[kind]
    upright = np.array(UPRIGHT[orientation])
    for name, options in {"plain": {}, "packed": {"compression": "tiff_lzw"}}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / f"{name}.tif", exif=exif, **options)
        photo = decode(tmp_path / f"{name}.tif", white=65535)
        assert (photo.picture if photo.picture.ndim == 2 else photo.picture[..., 0]).tolist() == upright.tolist()
        assert (photo.orientation, photo.stored_size) == (orientation, (2, 3))
        mask = save(tmp_path / "m.png", (RAMP == 30).astype(np.uint8) * 255)
        assert decode_mask(mask, photo).tolist() == (upright == 30).tolist()


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_mask_in_a_turned_tiff_is_turned_once(tmp_path: Path, orientation: int):
    photo = decode(with_orientation(tmp_path / "a.jpg", RAMP, orientation))
    mask = decode_mask(with_orientation(tmp_path / "m.tif", (RAMP == 30).astype(np.uint8), orientation), photo)
    assert mask.tolist() == (np.array(UPRIGHT[orientation]) == 30).tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_without_exif_is_turned_like_its_photo(tmp_path: Path, orientation: int):
    photo = decode(with_orientation(tmp_path / "a.png", RAMP, orientation))
    mask = decode_mask(save(tmp_path / "m.png", (RAMP == 30).astype(np.uint8) * 255), photo)
    assert (photo.picture == 30).tolist() == mask.tolist()
    assert bool(photo.conversions) == (orientation != 1)


def test_mask_of_the_upright_size_is_not_turned(tmp_path: Path):
    photo = decode(with_orientation(tmp_path / "a.png", RAMP, 6))
    assert photo.picture.tolist() == [[40, 10], [50, 20], [60, 30]]
    mask = decode_mask(save(tmp_path / "m.png", np.array([[0, 0], [0, 0], [0, 255]], np.uint8)), photo)
    assert np.argwhere(mask).tolist() == [[2, 1]]


def test_mask_with_its_own_orientation_is_turned_by_it(tmp_path: Path):
    photo = decode(with_orientation(tmp_path / "a.png", RAMP, 3))
    mask = decode_mask(with_orientation(tmp_path / "m.png", (RAMP == 30).astype(np.uint8), 3), photo)
    assert (photo.picture == 30).tolist() == mask.tolist()


def test_mask_of_another_size_is_refused(tmp_path: Path):
    photo = decode(save(tmp_path / "a.png", RAMP))
    with pytest.raises(ValueError, match="mask is 2 x 2, image is 3 x 2"):
        decode_mask(save(tmp_path / "m.png", np.ones((2, 2), np.uint8)), photo)


@pytest.mark.parametrize("kept", [0, 1, 60, 0.5])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_damaged_files_are_refused(tmp_path: Path, kept: float, suffix: str):
    path = save(tmp_path / f"a.{suffix}", texture(1))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(UNREADABLE):
        decode(path)
