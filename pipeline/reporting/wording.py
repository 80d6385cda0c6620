"""The verdict in the words of somebody who runs a line, not of somebody who trains networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.charts import gain, points
from pipeline.reporting.comparison import COMBINED, ONLY
from pipeline.reporting.data_card import GOOD
from pipeline.reporting.operating_points import MAIN_ALARMS, MAIN_REJECTED

_ARMS = {
    "real": "the real photos alone, what you have today",
    "classical": "the real photos under strong augmentation (turned, shifted, brighter, blurred copies), which costs nothing",
    "copy_paste": "the real photos, and real defects cut out and pasted elsewhere",
}
_SHORT = {"real": "the real photos alone", "classical": "strong augmentation"}
_ANSWERS = {"helps": "Yes", "hurts": "No, it does harm", "no evidence": "No evidence", "not tested": "Not tested"}


@dataclass(frozen=True, slots=True)
class Statement:
    """What may be concluded of one generator and one detector: one word, what it means, and the numbers."""

    detector: str
    generator: str
    word: str
    text: str
    sure: str


READ_OFF = (
    "The scores are read off these test photos, which is fair between arms; a score set beforehand need not do as well. "
    "The answer above does not rest on it."
)
"""Said at every table of `operating_points`."""


def secondary(name: str) -> str:
    """What a table of differences that no verdict rests on compares; a name of `comparison.SECONDARY`."""
    return {
        "box_map": "box mAP50-95",
        "image_auroc": "image AUROC",
        "found": f"the share of defects found at {MAIN_ALARMS:g} false alarm a photo at most",
        "escapes": "the share of bad photos that escape (a minus is a gain), where of the good ones at most "
        f"{100 * MAIN_REJECTED:g} % are rejected",
    }[name]


def _made(arm: str) -> str:
    """An arm with synthetic defects in a few words.

    >>> _made("defectfill_classical")
    'defects made by defectfill and strong augmentation'
    """
    also = " and strong augmentation" if arm.endswith(COMBINED) else ""
    return f"defects made by {arm.removesuffix(COMBINED)}{also}"


def percent(share: float) -> str:
    """A share in percent, with as many digits as it has."""
    return f"{100 * share:.10g}\u00a0%"


def arm_words(arm: str) -> str:
    """What a detector was trained on in an arm."""
    if arm in _ARMS:
        return _ARMS[arm]
    if arm.endswith(COMBINED):
        return f"both: defects made by {arm.removesuffix(COMBINED)}, and strong augmentation"
    if arm.endswith(ONLY):
        return f"defects made by {arm.removesuffix(ONLY)}, and no real ones"
    return f"the real photos, and defects made by {arm}"


def headline(comparison: Mapping[str, Any]) -> str:
    """The answer in one line, for all detectors."""
    if len(comparison["folds"]) == 1:
        return "Quick look: no verdict yet"
    by_word: dict[str, list[str]] = {}
    for one in statements(comparison):
        by_word.setdefault(one.word, []).append(f"{one.generator} with {one.detector}")
    found = [f"{_ANSWERS[word]}: {' and '.join(by_word[word])}." for word in _ANSWERS if word in by_word]
    return " ".join(found) or "No learned generator was tested."


def tested(data: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """What the answer rests on."""
    folds = data["test"].values()
    photos, good = sum(one["photos"] for one in folds), sum(one["good_photos"] for one in folds)
    defects = sum(sum(one["defects"].values()) for one in folds)
    good_parts = sum(one["good_parts"] for one in folds)
    detectors = " and ".join(comparison["detectors"])
    most = max(row["train_parts"] for rows in data["train"].values() for row in rows if row["type"] != GOOD)
    return (
        f"{detectors} learned from at most {most} real parts of each defect type, with and without synthetic defects, "
        f"and then had to find {defects} real defects on {photos - good} photos, among {good} photos of {good_parts} good parts. "
        "In each split no detector, generator or threshold had seen the parts that were tested. Nothing here accounts for "
        "settings that somebody changed after a look at such scores."
    )


def quick_look(comparison: Mapping[str, Any]) -> list[str]:
    """Scores of a run on one fold, a sentence a detector."""
    found: list[str] = []
    for detector, result in comparison["detectors"].items():
        arms = [name for name in ("real", "classical", result["best_arm"]) if name in result["arms"]]
        names = {name: _SHORT.get(name, _made(name)) for name in arms}
        scores = [f"{points(result['arms'][name]['box_map50'])} with {words}" for name, words in names.items()]
        found.append(f"{detector} scored {', '.join(scores)}.")
    return found


def statements(comparison: Mapping[str, Any]) -> list[Statement]:
    """A statement for each detector and learned generator; none for a run on one fold."""
    if len(comparison["folds"]) == 1:
        return []
    return [
        _statement(detector, generator, found, result, comparison["confidence"])
        for detector, result in comparison["detectors"].items()
        for generator, found in result["verdicts"].items()
    ]


def _statement(
    detector: str, generator: str, found: Mapping[str, Any], result: Mapping[str, Any], confidence: float
) -> Statement:
    word, arm = found["word"], found["arm"]
    gaps = result["differences"].get(arm, {})
    if word == "not tested":
        return Statement(detector, generator, word, "An arm is missing: it needs the arms real and classical beside its own.", "")
    scores = {name: points(result["arms"][name]["box_map50"]) for name in (arm, "real", "classical")}
    text = (
        f"{detector} scores {scores[arm]} with {_made(arm)}, {scores['real']} with the real photos alone and "
        f"{scores['classical']} with strong augmentation. {_gains(gaps, confidence)} "
    )
    smallest = points(found["smallest"])
    meaning = {
        "helps": "It beats both, by more than chance explains.",
        "hurts": "It falls below the real photos alone, by more than chance explains.",
        "no evidence": f"That may be chance. It does not show that there is no gain: with so few parts and trainings, a gain "
        f"over both of less than about {smallest} points would often go unseen.",
    }[word]
    own = [name for name in (generator, generator + COMBINED) if name in result["arms"]]
    how = "chosen on val" if len(own) > 1 else "the only one of this generator that was trained"
    note = f"Judged by arm {arm}, {how}. Smallest gain over both that this test finds four times in five: {smallest} points."
    return Statement(detector, generator, word, text + meaning, note)


def _gains(gaps: Mapping[str, Mapping[str, Any]], confidence: float) -> str:
    """Gains over what a generator has to beat, and how sure they are."""
    ends = {name: f"{gain(gaps[name]['low'])} to {gain(gaps[name]['high'])}" for name in _SHORT}
    return " ".join(
        f"Gain over {_SHORT[name]}: {gain(gaps[name]['mean'])} points ({percent(confidence)} sure: {ends[name]})."
        for name in _SHORT
    )


def smallest_gain(gaps: Mapping[str, Mapping[str, Any]]) -> str:
    """Smallest gain over `real` and over `classical` that the test finds four times in five, as far as both were tested."""
    found = [gaps[name]["smallest"] for name in ("real", "classical") if name in gaps]
    known = [one for one in found if one is not None]
    return points(max(known)) if known else "–"
