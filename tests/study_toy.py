"""Studies without detectors: match records of three arms on three folds, drawn with known effects at real part counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.matches import Matches, MatchRecord
from pipeline.reporting.differences import Difference, box_map50, difference, resampled
from pipeline.reporting.verdicts import judge

# Test parts of magnetic-tile a type and fold, as `prepare` splits it; the last row are good parts.
PARTS = {
    "Blowhole": (7, 6, 7),
    "Break": (5, 5, 6),
    "Crack": (3, 3, 3),
    "Fray": (3, 2, 2),
    "Uneven": (6, 6, 5),
    "": (51, 49, 52),
}
CLASSES = tuple(name for name in PARTS if name)
PHOTOS, GOOD_PHOTOS = 5, 6
FOLDS = (0, 1, 2)


@dataclass(frozen=True)
class World:
    """What a study is drawn from; skills are log-odds of finding a defect of middling difficulty.

    Attributes:
        skill: By arm.
        seed_sd: Of the skill between folds, by arm's own draw.
        part_sd: Of the difficulty of a part, the same for every arm.
        taste_sd: Of what a part is to one arm besides.
        alarms: False alarms a photo, of all scores.
    """

    skill: dict[str, float]
    seed_sd: float
    part_sd: float = 1.0
    taste_sd: float = 0.5
    alarms: float = 4.0


def _logistic(value):
    return 1 / (1 + np.exp(-value))


@dataclass(frozen=True)
class Scene:
    """The photos of one fold, equal in every arm: part and type of each photo, and of each defect its photo."""

    photo_part: np.ndarray
    photo_class: np.ndarray
    defect_photo: np.ndarray
    difficulty: np.ndarray


def draw_scene(world: World, fold: int, rng: np.random.Generator) -> Scene:
    kinds = [place for place, name in enumerate(PARTS) for _ in range(PARTS[name][fold])]
    photos = [GOOD_PHOTOS if kind == len(CLASSES) else PHOTOS for kind in kinds]
    photo_part = np.repeat(np.arange(len(kinds)), photos)
    photo_class = np.repeat(kinds, photos)
    defects = np.where(photo_class < len(CLASSES), 1 + (rng.random(len(photo_class)) < 0.25), 0)
    return Scene(
        photo_part, photo_class, np.repeat(np.arange(len(photo_part)), defects), rng.normal(0, world.part_sd, len(kinds))
    )


def draw_record(world: World, arm: str, scene: Scene, rng: np.random.Generator) -> MatchRecord:
    """Detections of one model: each defect is found or not, more surely on easy parts; some parts attract false alarms."""
    parts = len(scene.difficulty)
    skill = world.skill[arm] + rng.normal(0, world.seed_sd)
    ease = skill + scene.difficulty + rng.normal(0, world.taste_sd, parts)
    defect_ease = ease[scene.photo_part[scene.defect_photo]]
    found = rng.random(len(defect_ease)) < _logistic(defect_ease)
    sure = _logistic(-0.5 + 0.7 * defect_ease[found] + rng.normal(0, 1, found.sum()))
    lure = np.exp(rng.normal(0, 0.7, parts))[scene.photo_part]
    alarm_photo = np.repeat(np.arange(len(lure)), rng.poisson(world.alarms * lure))
    alarm_score = _logistic(-2.2 - 0.5 * skill + rng.normal(0, 1.2, len(alarm_photo)))
    photo = np.concatenate([scene.defect_photo[found], alarm_photo])
    category = np.concatenate([scene.photo_class[scene.defect_photo[found]], rng.integers(0, len(CLASSES), len(alarm_photo))])
    score = np.concatenate([sure, alarm_score])
    right = np.arange(len(photo)) < found.sum()
    order = np.argsort(photo, kind="stable")
    truths = np.zeros((len(scene.photo_part), len(CLASSES)), dtype=np.int64)
    np.add.at(truths, (scene.defect_photo, scene.photo_class[scene.defect_photo]), 1)
    best = np.zeros(len(truths))
    np.maximum.at(best, photo, score)
    matches = Matches(photo[order], category[order], score[order], right[order, None], truths)
    names = np.array([f"part-{place:03}" for place in scene.photo_part])
    return MatchRecord(CLASSES, np.array([0.5]), np.arange(1, len(truths) + 1), names, best, matches, None)


def draw_study(world: World, seed: int) -> dict[int, dict[str, MatchRecord]]:
    """Records by fold and arm."""
    study: dict[int, dict[str, MatchRecord]] = {}
    for fold in FOLDS:
        rng = np.random.default_rng([seed, fold])
        scene = draw_scene(world, fold, rng)
        study[fold] = {arm: draw_record(world, arm, scene, rng) for arm in world.skill}
    return study


def judge_study(world: World, seed: int, resamples: int, confidence: float = 0.95) -> tuple[str, dict[str, Difference]]:
    """Verdict on the arm `learned` of one study, and its differences, as the report makes them."""
    scores: dict[str, dict[int, np.ndarray]] = {}
    for fold, records in draw_study(world, seed).items():
        for arm, values in resampled(box_map50, records, resamples, fold).items():
            scores.setdefault(arm, {})[fold] = values
    gaps = {name: difference(scores["learned"], scores[name], confidence) for name in ("real", "classical")}
    found = {name: gap for name, gap in gaps.items() if gap is not None}
    return judge({"learned": "learned"}, {"learned": found}, confidence)["learned"].word, found
