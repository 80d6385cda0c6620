from pathlib import Path

import numpy as np
import pytest

from pipeline.images import Mask, Picture
from pipeline.layouts.decoding import decode
from pipeline.layouts.deep_pcb import difference_mask, parse_boxes, read
from tests.unit.prepare_toys import params, real, save


def board_set(root: Path, labels: str = "20 20 40 40 6\n") -> Path:
    clean = np.zeros((64, 64), np.uint8)
    clean[:, 32:] = 255
    board = clean.copy()
    board[25:31, 24:30] = 255
    board[22, 33] = 0  # one pixel of scanner noise
    board[50:56, 10:16] = 255  # a difference nobody drew a box around
    folder = root / "group1/g1"
    save(folder / "77_temp.png", clean)
    save(folder / "77_test.png", board)
    (root / "group1/g1_not").mkdir()
    (root / "group1/g1_not/77.txt").write_text(labels)
    return root


def test_boxes_by_type():
    assert parse_boxes("1 2 3 4 6\n\n5,6,7,8,5\n9 9 12 12 6") == {
        "pinhole": ((1.0, 2.0, 3.0, 4.0), (9.0, 9.0, 12.0, 12.0)),
        "copper": ((5.0, 6.0, 7.0, 8.0),),
    }


@pytest.mark.parametrize("text", ["1 2 3 4", "1 2 3 4 7", "3 2 3 4 1", "", "a b c d e"])
def test_lines_that_are_no_boxes_are_refused(text: str):
    with pytest.raises(ValueError, match=r"expected|no box"):
        parse_boxes(text)


def test_the_mask_is_the_template_difference_inside_the_box(tmp_path: Path):
    raw = read(board_set(tmp_path), params())
    good, board = raw.photos
    assert (good.id, good.defects, board.id, good.part_id) == ("77_temp", (), "77_test", board.part_id)
    mask = difference_mask(decode(board.picture).picture, template=good.picture, boxes=board.defects[0].boxes)
    ys, xs = np.nonzero(mask)
    # The opening rounds the corners of the 6 x 6 square; noise and the unboxed square are not part of it.
    assert (ys.min(), ys.max(), xs.min(), xs.max(), mask.sum()) == (25, 30, 24, 29, 32)


def test_a_template_that_lies_beside_its_board_is_moved_first(tmp_path: Path):
    clean = np.zeros((64, 64), np.uint8)
    clean[:, 32:] = 255
    clean[40:, 40:] = 0
    board = np.roll(clean, -5, axis=1)
    board[:, -5:] = clean[:, -1:]
    board[25:31, 20:26] = 255
    moved = _against(tmp_path, board, clean, (10, 20, 40, 40))
    ys, xs = np.nonzero(moved)
    # Without the move the strip between the two edges, columns 27 to 31, would be part of it.
    assert (ys.min(), ys.max(), xs.min(), xs.max(), moved.sum()) == (25, 30, 20, 25, 32)


def test_a_defect_as_thin_as_jitter_is_one_where_its_box_has_nothing_else(tmp_path: Path):
    clean = np.zeros((64, 64), np.uint8)
    board = clean.copy()
    board[30:32, 30:32] = 255
    assert np.argwhere(_against(tmp_path, board, clean, (20, 20, 40, 40))).tolist() == [[30, 30], [30, 31], [31, 30], [31, 31]]


def _against(folder: Path, board: Picture, template: Picture, box: tuple[int, int, int, int]) -> Mask:
    save(folder / "temp.png", template)
    return difference_mask(board, folder / "temp.png", (box,))


@pytest.mark.parametrize(("box", "reason"), [((2, 2, 8, 8), "equals its template"), ((50, 50, 70, 60), "leaves the picture")])
def test_boxes_without_a_difference_are_faults(tmp_path: Path, box: tuple[int, ...], reason: str):
    good, board = read(board_set(tmp_path), params()).photos
    with pytest.raises(ValueError, match=reason):
        difference_mask(decode(board.picture).picture, template=good.picture, boxes=(box,))


def test_boards_without_template_or_boxes_are_faults(tmp_path: Path):
    board_set(tmp_path)
    (tmp_path / "group1/g1_not/77.txt").unlink()
    raw = read(tmp_path, params())
    assert raw.photos == ()
    assert [str(fault) for fault in raw.faults] == [
        "group1/g1/77_test.png: board without its box file; expected group1/g1_not/77.txt"
    ]


def test_the_real_set():
    raw = read(real("deep-pcb"), params())
    assert len(raw.photos) == 2 * 557
    assert len({photo.part_id for photo in raw.photos}) == 557
    assert sum(len(defect.boxes or ()) for photo in raw.photos for defect in photo.defects) == 3753
    assert raw.box_truth == "annotation"


@pytest.mark.parametrize("part", ["13000010", "13000012", "13000014"])
def test_masks_of_real_boards_whose_template_lies_beside_them_stay_clear_of_their_boxes_edges(part: str):
    board = next(photo for photo in read(real("deep-pcb"), params()).photos if photo.defects and photo.part_id == part)
    picture = decode(board.picture).picture
    for defect in board.defects:
        for x0, y0, x1, y1 in defect.boxes:
            # Annotators leave a margin; edges of moved tracks run through the whole box.
            assert not defect.mask(picture)[int(y0) : int(y1), int(x0) : int(x1)][[0, -1]].any()


@pytest.mark.slow
def test_every_real_box_has_a_difference():
    boards = [photo for photo in read(real("deep-pcb"), params()).photos if photo.defects]
    for board in boards[::4]:
        picture = decode(board.picture).picture
        assert all(defect.mask(picture).any() for defect in board.defects)
