"""What the comparison stands on: parts and photos, what was dropped or capped, and on which terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.records import DatasetCard, Sample

GOOD = "good"
TERMS: dict[str, str] = {
    "sample": "Drawn by this project's own code; free of third-party rights.",
    "mvtec": "Photos remain under their owner's terms; MVTec AD itself is CC BY-NC-SA 4.0, not for commercial use.",
    "magnetic_tile": "Magnetic-tile photos (Huang et al., 2020) remain under their authors' terms; not redistributed here.",
    "deep_pcb": "DeepPCB scans (Tang et al., 2019) remain under their authors' terms; not redistributed here.",
    "folder": "Photos remain under their owner's terms.",
}
"""By layout; synthetic pictures are made from the photos and carry the same terms."""


def count_parts(samples: Sequence[Sample], classes: Sequence[str], fold: int) -> list[dict[str, Any]]:
    """Parts and photos of each type, and of good photos, on the train side of one fold.

    A photo with several types counts for each of them. `unused` samples are real ones beyond the budget K.
    """
    rows: list[dict[str, Any]] = []
    for name in (*classes, None):
        row: dict[str, Any] = {"type": GOOD if name is None else name}
        for split in ("train", "unused"):
            own = [s for s in samples if s.fold == fold and s.split == split and s.defect == name]
            row[f"{split}_parts"] = len({s.part_id for s in own})
            row[f"{split}_photos"] = len({s.image for s in own})
        rows.append(row)
    return rows


def count_tested(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the scores of each fold rest on, as `evaluate` counted it."""
    return {
        str(row["fold"]): {
            "photos": row["images"],
            "good_photos": row["good_images"],
            "good_parts": row["good_parts"],
            "parts": {name: row["parts_per_type"].get(name, 0) for name in classes},
            "defects": {name: row["defects_per_type"].get(name, 0) for name in classes},
        }
        for row in sorted(rows, key=lambda row: int(row["fold"]))
    }


def data_card(card: DatasetCard, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything the report says about the data, as plain values."""
    return {
        "name": card.name,
        "layout": card.layout,
        "classes": list(card.classes),
        "k": card.k,
        "capped": dict(sorted(card.capped.items())),
        "train": {str(fold): count_parts(samples, card.classes, fold) for fold in card.folds},
        "test": count_tested(rows, card.classes),
        "box_truth": {"annotation": "boxes drawn by the data set's annotators", "mask": "tight boxes of mask components"}[
            card.box_truth
        ],
        # Annotators who drew boxes drew no masks: the masks were found inside the boxes.
        "derived_masks": card.box_truth == "annotation",
        "dropped": list(card.dropped),
        "notes": list(card.notes),
        "terms": TERMS[card.layout],
    }


def check_sides(samples: Sequence[Sample], tested: Mapping[int, Iterable[str]]) -> list[dict[str, int]]:
    """Parts on either side of each fold, after a look that none is on both.

    Args:
        samples: Train's manifest, with what lies beyond the budget K.
        tested: Parts that were tested, by fold, as `evaluate` recorded them.

    Raises:
        ValueError: Naming a part that was trained on and tested.
    """
    found: list[dict[str, int]] = []
    for fold, parts in sorted(tested.items()):
        train, test = {s.part_id for s in samples if s.fold == fold}, set(parts)
        if both := sorted(train & test):
            raise ValueError(
                f"fold {fold}: part {both[0]!r} is on train's side and was tested; run `prepare` and all after it again"
            )
        found.append({"fold": fold, "train_parts": len(train), "test_parts": len(test)})
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted name and text of every value of a card, in the card's order."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += flatten(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", plain_text(value)))
    return found


def plain_text(value: Any) -> str:
    """A value as a person writes it: short numbers, commas between items."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(plain_text(item) for item in value) if value else "none"
    return str(value)
