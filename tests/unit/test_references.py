import numpy as np

from pipeline.images import write_png
from pipeline.records import Sample
from pipeline.references import instances, read_references, sample_of


def spots(*places: tuple[int, int]) -> np.ndarray:
    """Squares of 4 x 4 pixels at (y, x)."""
    mask = np.zeros((60, 80), bool)
    for y, x in places:
        mask[y : y + 4, x : x + 4] = True
    return mask


def test_far_spots_are_two_defects_and_near_ones_are_one():
    first, second = instances(spots((5, 5), (5, 40)), None)
    assert (first == spots((5, 5))).all() and (second == spots((5, 40))).all()
    # 6 pixels lie between them, less than twice the joining radius.
    (both,) = instances(spots((5, 5), (5, 15)), None)
    assert both.sum() == 32


def test_drawn_boxes_decide_where_there_are_any():
    one, other = instances(spots((5, 5), (5, 15)), ((4.0, 4.0, 10.0, 10.0), (14.0, 4.0, 20.0, 10.0)))
    assert (one == spots((5, 5))).all() and (other == spots((5, 15))).all()


def test_specks_are_left_out_unless_they_are_all_there_is():
    mask = spots((5, 5))
    mask[40, 40] = True
    assert len(instances(mask, None)) == 1
    speck = np.zeros((60, 80), bool)
    speck[40, 40] = True
    assert [one.sum() for one in instances(speck, None)] == [1]


def test_fragments_beside_a_large_defect_are_left_out_where_no_boxes_were_drawn():
    mask = np.zeros((60, 80), bool)
    mask[:30, :40] = True  # 1200 px, of which 2 % are 24
    mask[50:55, 60:64] = True  # 20 px
    (large,) = instances(mask, None)
    assert large.sum() == 1200
    mask[50:55, 60:65] = True  # 25 px
    assert [one.sum() for one in instances(mask, None)] == [1200, 25]
    mask[50:55, 64] = False
    drawn = instances(mask, ((0.0, 0.0, 40.0, 30.0), (60.0, 50.0, 64.0, 55.0)))
    assert [one.sum() for one in drawn] == [1200, 20]


def test_references_are_single_defects_of_train_samples(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((60, 80, 3), np.uint8))
    write_png(tmp_path / "m.png", spots((5, 5), (5, 40)))
    used = Sample("a", "a.png", "m.png", "hole", "p", "train")
    beyond = Sample("b", "a.png", "m.png", "hole", "q", "unused")
    found = read_references(tmp_path, [used, beyond, Sample("g", "a.png", None, None, "r", "train")])
    assert [r.id for r in found] == ["a#0", "a#1"] and sample_of("a#1") == "a"
    assert found[0].image is found[1].image
