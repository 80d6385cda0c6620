"""Which part is on which side: by part, test first, then validation, then K references a type. Pure functions of part ids.

Order comes from hashes of part ids, never from the order of files, so another file in the folder moves few other parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.records import Split
from pipeline.seeds import derive_seed

PartTypes = Mapping[str, frozenset[str]]
"""Defect types seen on each part; empty for a part that only has good photos."""


class SplitError(ValueError):
    """There are too few parts for the split asked for."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How much goes where, in parts.

    Attributes:
        fold_count: Number of test sides; over all of them every part is tested exactly once.
        k: References a type.
        val_parts: Validation parts a type.
        val_good_fraction: Share of the good parts outside test that validates.
    """

    fold_count: int
    k: int
    val_parts: int
    val_good_fraction: float


@dataclass(frozen=True, slots=True)
class FoldSplit:
    """One fold.

    Attributes:
        side: Side of every part; "unused" parts lend their good photos to train, and nothing else.
        references: Train parts a type, which is `k` or less where parts ran out.
        capped: Types with fewer than `k` references.
        notes: Where validation had to be smaller than asked.
    """

    side: dict[str, Split]
    references: dict[str, int]
    capped: dict[str, int]
    notes: tuple[str, ...]


def shuffled(parts: Iterable[str], *key: object) -> list[str]:
    """`parts` in an order that depends on `key` and each part's id only."""
    return sorted(parts, key=lambda part: (derive_seed(*key, part), part))


def count_by_type(parts: Iterable[str], types: PartTypes) -> dict[str, int]:
    """Parts a type; a part counts for each of its types."""
    counts = {name: 0 for name in sorted({name for names in types.values() for name in names})}
    for part in parts:
        for name in types[part]:
            counts[name] += 1
    return counts


def _rarest_first(parts: Collection[str], types: PartTypes) -> list[str]:
    counts = count_by_type(parts, types)
    return sorted((name for name in counts if counts[name]), key=lambda name: (counts[name], name))


def assign_folds(types: PartTypes, fold_count: int) -> dict[str, int]:
    """The fold in which each part is tested, stratified by type; good parts are dealt out as a stratum of their own.

    Rare types are placed first, each part into the fold that has least of its type, then least parts at all.
    """
    fold: dict[str, int] = {}
    filled = [{name: 0 for name in count_by_type(types, types)} for _ in range(fold_count)]
    sizes = [0] * fold_count
    for name in _rarest_first(list(types), types):
        for part in shuffled((p for p in types if name in types[p] and p not in fold), "folds", name):
            chosen = min(range(fold_count), key=lambda index: (filled[index][name], sizes[index], index))
            fold[part] = chosen
            sizes[chosen] += 1
            for other in types[part]:
                filled[chosen][other] += 1
    for position, part in enumerate(shuffled((p for p in types if not types[p]), "folds", "good")):
        fold[part] = position % fold_count
    return fold


def choose_val(rest: Sequence[str], types: PartTypes, wanted: int, fold: int) -> list[str]:
    """Validation parts: `wanted` a type, fewer where that would leave a type without any reference. Does not know of K."""
    left = count_by_type(rest, types)
    chosen: list[str] = []
    have = {name: 0 for name in left}
    for name in _rarest_first(rest, types):
        for part in shuffled((p for p in rest if name in types[p] and p not in chosen), "val", fold):
            if have[name] >= wanted:
                break
            if any(left[other] <= 1 for other in types[part]):
                continue
            chosen.append(part)
            for other in types[part]:
                have[other] += 1
                left[other] -= 1
    return chosen


def choose_references(rest: Sequence[str], types: PartTypes, k: int, fold: int) -> list[str]:
    """Reference parts: greedy until each type has `k`, level by level, so that the choice for k is a prefix of that for k + 1."""
    order = shuffled(rest, "train", fold)
    names = _rarest_first(rest, types)
    chosen: list[str] = []
    have = {name: 0 for name in names}
    for level in range(1, k + 1):
        for name in names:
            if have[name] >= level:
                continue
            part = next((p for p in order if name in types[p] and p not in chosen), None)
            if part is None:
                continue
            chosen.append(part)
            for other in types[part]:
                have[other] += 1
    return chosen


def split_fold(types: PartTypes, plan: SplitPlan, fold: int) -> FoldSplit:
    """Sides of all parts in `fold`; test and validation are the same for every K.

    Raises:
        SplitError: If a type has no part left to learn from, or no defective part is left to validate or test on.
    """
    tested = assign_folds(types, plan.fold_count)
    rest = [part for part in sorted(types) if tested[part] != fold]
    defective = [part for part in rest if types[part]]
    val = choose_val(defective, types, plan.val_parts, fold)
    pool = [part for part in defective if part not in set(val)]
    _require_references(types, pool, plan.fold_count, fold)
    references = choose_references(pool, types, plan.k, fold)
    good = shuffled((part for part in rest if not types[part]), "val", fold)
    val_good = good[: max(1, round(plan.val_good_fraction * len(good)))] if len(good) > 1 else []
    side: dict[str, Split] = {part: "test" for part in types if tested[part] == fold}
    side.update(dict.fromkeys(pool, "unused"))
    side.update(dict.fromkeys((*good, *references), "train"))
    side.update(dict.fromkeys((*val, *val_good), "val"))
    _require_sides(types, side, plan, fold)
    counts = count_by_type(references, types)
    capped = {name: count for name, count in counts.items() if count < plan.k}
    return FoldSplit(side, counts, capped, _short_sides(types, side, plan, fold))


def _require_references(types: PartTypes, pool: Sequence[str], fold_count: int, fold: int) -> None:
    left, total = count_by_type(pool, types), count_by_type(types, types)
    missing = [f"{name} has {total[name]}" for name in total if not left[name]]
    if missing:
        raise SplitError(
            f"fold {fold}: no reference is left beside test: {'; '.join(missing)} part(s), near-duplicates counted once; a type "
            f"needs at least 2, and {fold_count + 2} to be tested, validated and learned in each of {fold_count} folds. "
            "Add photos of other parts or leave the type out"
        )


def _require_sides(types: PartTypes, side: Mapping[str, Split], plan: SplitPlan, fold: int) -> None:
    defective = [part for part in types if types[part]]
    for name in ("val", "test"):
        if not any(side[part] == name for part in defective):
            raise SplitError(
                f"fold {fold}: no defective part is left for {name}: {len(defective)} in all, near-duplicates counted once; "
                f"{plan.fold_count} folds need one each to test, and beside it some to learn from and one to validate on. "
                "Add photos of other parts"
            )


def _short_sides(types: PartTypes, side: Mapping[str, Split], plan: SplitPlan, fold: int) -> tuple[str, ...]:
    notes: list[str] = []
    for where, wanted in (("val", plan.val_parts), ("test", 1)):
        counts = count_by_type((part for part in side if side[part] == where), types)
        notes += [
            f"fold {fold}: {where} has {n} part(s) of {name}, asked for {wanted}" for name, n in counts.items() if n < wanted
        ]
    return tuple(notes)
