"""Where synthetic images come from and what detectors learned from: a planted photo or models of other data stop the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.images import Picture, read_rgb
from pipeline.masks.crops import Window, put_back
from pipeline.records import Sample
from pipeline.runlog import digest
from pipeline.shards import CandidateFate, read_scenes


class ProvenanceError(ValueError):
    """A synthetic sample was not made from training photos of its fold."""


@dataclass(frozen=True)
class Folders:
    """What three stages wrote of one generator and fold: `selected` holds the manifest, detectors read `labelled`."""

    candidates: Path
    selected: Path
    labelled: Path


def check_parents(name: str, made: Sequence[Sample], samples: Sequence[Sample]) -> int:
    """How many synthetic samples of one fold there are, after a look that each says it was made from training photos alone.

    Raises:
        ProvenanceError: Naming a sample with another parent.
    """
    known = {sample.id for sample in samples if sample.split == "train"}
    for sample in made:
        strange = [parent for parent in sample.parents if parent not in known]
        if strange or not sample.parents:
            raise ProvenanceError(
                f"{name}, {sample.id}: {strange[0] if strange else 'nothing'!r} it was made from is not in train's manifest; "
                "run `select` again"
            )
    return len(made)


def check_pixels(
    name: str, made: Sequence[Sample], fates: Iterable[CandidateFate], folders: Folders, clean: Mapping[str, Path]
) -> None:
    """Whether each synthetic image is, to the last pixel, its training photo with the candidates in it that `select` kept.

    So a test photo planted among them stops the report under whatever name, however much of a photo the labels cover; one
    planted beside them is none that `select` wrote. That candidates are what `synthesize` painted is not looked at here.

    Args:
        name: Of the generator.
        made: Synthetic samples of one fold.
        fates: What became of the fold's candidates.
        folders: Of the fold.
        clean: Training photos by id.

    Raises:
        ProvenanceError: Naming an image that is something else.
    """
    parents = {sample.image: sample.parents[0] for sample in made}
    selected, labelled = folders.selected, folders.labelled
    way_out = f"delete {selected} and {labelled} and run `dvc repro`"
    document = json.loads((labelled / "annotations.json").read_text(encoding="utf-8"))
    if strange := sorted({image["file_name"] for image in document["images"]} - parents.keys()):
        raise ProvenanceError(f"{name}: {labelled / strange[0]} is none of the images that `select` kept; {way_out}")
    for image in sorted(parents):
        if (selected / image).read_bytes() != (labelled / image).read_bytes():
            raise ProvenanceError(f"{name}: {labelled / image} is not the file that `select` wrote; {way_out}")
    expected = {Path(image).stem: image for image in parents}
    for stem, photo, image in _put_together(fates, folders.candidates, clean):
        if stem not in expected:
            continue
        file = expected.pop(stem)
        differing = _differing(read_rgb(selected / file), image)
        if photo != parents[file] or differing:
            raise ProvenanceError(
                f"{name}: {selected / file} is not {parents[file]}, the training photo it names, with the candidates that were "
                f"kept: {differing:.3g}% of the pixels differ, expected none; {way_out}"
            )
    if expected:
        missing = sorted(expected.values())[0]
        raise ProvenanceError(f"{name}: no candidate was kept for {selected / missing}; {way_out}")


def check_learned_from(read: Mapping[str, str], data: Path) -> None:
    """Whether the detectors learned from what lies in `data` now, and so not from parts that were on another side then.

    Args:
        read: Digests by name, as `evaluate` says: `train`, `labelled/<generator>`; `val` is not looked at.
        data: Folder of the stages' outputs.

    Raises:
        ProvenanceError: Naming the folders that changed since.
    """
    folders = {"train": data / "prepared" / "train", **{name: data / name for name in read if name.startswith("labelled/")}}
    changed = [str(folder) for name, folder in folders.items() if not folder.is_dir() or read[name] != digest(folder)]
    if changed:
        raise ProvenanceError(
            f"detectors were trained before {', '.join(changed)} changed; run `dvc repro`, and train arms that are not in "
            f"dvc.yaml again, or delete their folders below {data / 'models'}"
        )


def _put_together(
    fates: Iterable[CandidateFate], candidates: Path, clean: Mapping[str, Path]
) -> Iterator[tuple[str, str, Picture]]:
    """Stem, id of the clean photo and pixels of every image that kept candidates make, one scene in memory at a time."""
    kept: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for fate in fates:
        if fate.sample is not None:
            kept.setdefault(fate.shard, {}).setdefault(fate.request, []).append((fate.sample, fate.number))
    for shard, of_request in sorted(kept.items()):
        for scene in read_scenes(candidates / shard):
            crops: dict[str, list[tuple[Picture, Window]]] = {}
            for entry in scene:
                for stem, number in of_request.get(entry.request.id, ()):
                    crops.setdefault(stem, []).append((entry.images[entry.numbers.index(number)], entry.request.window))
            photo = scene[0].request.clean
            for stem, found in sorted(crops.items()):
                yield stem, photo, put_back(read_rgb(clean[photo]), found)


def _differing(one: Picture, other: Picture) -> float:
    """Percentage of the pixels that differ; 100 where the sizes do."""
    return 100.0 if one.shape != other.shape else 100 * float((one != other).any(axis=2).mean())
