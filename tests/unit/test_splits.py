from collections import Counter

import pytest

from pipeline.splits import SplitError, SplitPlan, assign_folds, choose_references, count_by_type, split_fold


def parts(**counts: int) -> dict[str, frozenset[str]]:
    """`parts(dent=2)`: parts dent-0 and dent-1 of type dent; `good` has no type, `a_and_b` has two."""
    return {
        f"{name}-{index}": frozenset() if name == "good" else frozenset(name.split("_and_"))
        for name, count in counts.items()
        for index in range(count)
    }


TYPES = parts(dent=12, crack=9, dent_and_crack=3, good=30)
PLAN = SplitPlan(fold_count=3, k=3, val_parts=2, val_good_fraction=0.1)


def plan(k: int) -> SplitPlan:
    return SplitPlan(3, k, 2, 0.1)


def on(side: str, fold: int = 0, k: int = 3) -> set[str]:
    return {part for part, where in split_fold(TYPES, plan(k), fold).side.items() if where == side}


def test_every_part_is_tested_exactly_once():
    tested = Counter(part for fold in range(3) for part in on("test", fold))
    assert tested == dict.fromkeys(TYPES, 1)


def test_folds_are_stratified_by_type():
    assert [count_by_type(on("test", fold), TYPES) for fold in range(3)] == [{"crack": 4, "dent": 5}] * 3
    assert [sum(not TYPES[part] for part in on("test", fold)) for fold in range(3)] == [10, 10, 10]


def test_each_part_has_exactly_one_side():
    assert set(split_fold(TYPES, PLAN, 1).side) == set(TYPES)


def test_test_and_val_do_not_depend_on_k():
    assert [(on("test", 1, k), on("val", 1, k)) for k in (1, 3, 8)] == [(on("test", 1, 1), on("val", 1, 1))] * 3


def test_references_are_nested_and_k_counts_parts_a_type():
    for smaller, larger in ((1, 2), (2, 3), (3, 5)):
        assert on("train", 0, smaller) <= on("train", 0, larger)
    assert split_fold(TYPES, plan(3), 0).references["crack"] >= 3
    assert split_fold(parts(dent=12, good=6), plan(3), 0).references == {"dent": 3}


def test_the_order_of_parts_does_not_matter():
    backwards = dict(reversed(TYPES.items()))
    assert split_fold(TYPES, PLAN, 2).side == split_fold(backwards, PLAN, 2).side


def test_a_part_with_two_types_counts_for_both():
    both = parts(a_and_b=5)
    assert len(choose_references(sorted(both), both, 2, 0)) == 2


def test_k_is_capped_where_parts_run_out():
    split = split_fold(parts(dent=12, rare=4, good=6), plan(5), 0)
    # Of 4 parts, fold 0 tests at most 2; one reference is always kept back from validation.
    left = split.references["rare"]
    assert split.capped == {"rare": left}
    assert left in (1, 2)


def test_validation_never_takes_the_last_reference():
    split = split_fold(parts(rare=3, good=6), PLAN, 0)
    assert Counter(split.side[part] for part in parts(rare=3)) == {"test": 1, "val": 1, "train": 1}
    assert split.notes == ("fold 0: val has 1 part(s) of rare, asked for 2",)


def test_a_type_without_reference_is_named_with_its_count():
    with pytest.raises(SplitError, match="lonely has 1 part"):
        for fold in range(3):
            split_fold(parts(dent=9, lonely=1, good=6), PLAN, fold)


@pytest.mark.parametrize(("fold", "side"), [(0, "val"), (1, "val"), (2, "test")])
def test_two_defective_parts_are_too_few_for_three_folds(fold: int, side: str):
    with pytest.raises(SplitError, match=rf"fold {fold}: no defective part is left for {side}: 2 in all"):
        split_fold(parts(dent=2, good=6), PLAN, fold)


def test_parts_beyond_k_are_unused_and_good_parts_never_are():
    assert all(TYPES[part] for part in on("unused"))
    assert len(on("val") - {part for part in TYPES if TYPES[part]}) == 2  # a tenth of the 20 good parts outside test


def test_two_types_in_one_fold_do_not_crowd_a_fold():
    assert sorted(Counter(assign_folds(parts(a=3, b=3), 3).values()).values()) == [2, 2, 2]
