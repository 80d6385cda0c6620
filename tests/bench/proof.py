"""`make bench-proof`: does synthetic data help detectors on real parts nobody has seen?

Writes reports/bench/proof.json, and the table of each study as reports/bench/proof-<study>.md.

Each study is a copy of this project below .work/bench-proof, in which the product's own command runs: profile `proof`, three
folds, `dvc repro`. A killed bench goes on where it was, stage by stage and inside trainings; a copy stays at the commit it was
made from, which the result names, until `--again <study>` makes it anew. Results of studies whose copies are gone stay in the
JSON file with their commit, and which detections were right in reports/bench/records/<study>/, so that what is trained later
can be compared with them. What was not run says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from detectors.arms import parse_arm
from flows.copies import CopyError, log_of, open_copy, reproduce_copy, run
from pipeline.matches import MATCHES, MatchRecord, read_record, record_name
from pipeline.reporting.comparison import BASELINES
from pipeline.reporting.differences import Difference
from pipeline.reporting.verdicts import judge
from tests.bench.bars import FOLDER, bar, work_folder, write_bars
from tests.bench.gaps import CONFIDENCE, gap, paired

COMMAND = "make bench-proof DATA=<folder with magnetic-tile and deep-pcb>"
WORK = work_folder("proof")
MEANT = {
    "magnetic_tile-steps2400": "rtdetr",
    "magnetic_tile-yolo_seg-steps2400": "yolo_seg",
    "deep_pcb-steps2400": "rtdetr",
    "deep_pcb-yolo_seg-steps2400": "yolo_seg",
}
"""Studies the bars are about, and their detector."""
FOLDS = (0, 1, 2)
GAINS = {"real": 0.10, "classical": 0.03}
"""What the best learned arm has to gain, in mAP50, over the baselines."""
REPAINTED = {arm: f"deep_pcb-yolo_seg-{arm}" for arm in ("real", "classical", "copy_paste", "defectfill_classical")}
"""The boards of `deep_pcb-yolo_seg-steps2400` painted anew, an arm at a time: twelve trainings are twelve hours of a core."""
MENDED = {
    "magnetic_tile-steps2400": {"classical": "magnetic_tile-classical"},
    "magnetic_tile-yolo_seg-steps2400": {"classical": "magnetic_tile-yolo_seg-classical"},
    "deep_pcb-yolo_seg-steps2400": REPAINTED,
}
"""Of studies with arms that were trained before something in them was mended, by arm: the study with it as it is now, which the
bars ask for."""
COMPARED = {
    "magnetic_tile-real-all": ("real", "magnetic_tile-real"),
    "magnetic_tile-windows": ("real", "magnetic_tile-real"),
    "magnetic_tile-classical": ("classical", "magnetic_tile-steps2400"),
    "magnetic_tile-yolo_seg-classical": ("classical", "magnetic_tile-yolo_seg-steps2400"),
}
"""Studies one of whose arms is compared with the same of another on the same test photos: more parts, another recipe, a mend."""
RECORDS = "records"
"""Below reports/bench: the match records of a study, as `evaluate` left them in its copy."""
NOTE = "note.txt"
"""In a copy that was brought forward by hand: which of its stages ran at other commits than the one it stands at."""
FAST = {"synthesize.defectfill.autocast": "bf16"}
TRAINED_ON = {"cpu": {"train.autocast": "bf16"}, "cuda": {"train.device": "cuda", "train.autocast": "none"}}
"""Settings by the device the detectors are trained on: bf16 is faster on a CPU that multiplies it, and was not tried on a GPU."""
# Fewer candidates of a request, and so more requests in the same time.
MANY = {"synthesize.defectfill.candidates": "1", "synthesize.redraws.defectfill": "2"}
# More photos take more steps. Val has few parts, too few to choose a checkpoint by: every arm keeps its last one.
RECIPE = {**MANY, "train.steps": "1200", "train.validate_every": "1200"}
# Defects on boards are smaller: 256 px would leave five of them.
BOARDS = {**RECIPE, "train.image_px": "320"}
# On boards beyond K of fold 0 both arms with strong augmentation still rose from 1200 steps to 2400 (docs/results-boards.md).
# YOLO-seg had hardly learned anything but blowholes of tiles after 1200.
LONGER = {"train.steps": "2400", "train.validate_every": "2400"}
# After 150 steps six in ten blowholes of fold 2 came out next to nothing, after 400 one in twenty (docs/results-tiles.md).
TILES = {**RECIPE, **LONGER, "learn_concept.defectfill.steps": "400"}
# At 256 px a tile of 620 px has 0.41 of its size and a crack is below a pixel wide; in windows cut at 512 px it has 0.83.
WINDOWS = {"train.tiling": "{photo_px: 512, overlap: 0.25, whole_share: 0.5}"}
# What the same detector reaches with all the real defects there are, which a user with K parts does not have: a yardstick for
# what synthetic defects could gain.
EVERY_PART = 1000
# Without AMX, and with YOLO-seg at 320 px, bf16 was slower (docs/results-boards.md).
WHOLE = {"train.autocast": "none"}
# As profile `proof` was when these studies were made.
SHORT = {
    "synthesize.defectfill.candidates": "3",
    "synthesize.redraws.defectfill": "1",
    "train.steps": "400",
    "train.validate_every": "100",
}
THREADED = ("learn_base", "learn_concept.defectfill", "synthesize", "select", "train", "evaluate")


@dataclass(frozen=True)
class Study:
    """One run of the whole flow.

    Attributes:
        source: Folder of the data set below DATA.
        layout: How it is read.
        settings: Parameters on top of profile `proof`.
        lists: What `dvc.yaml` runs: its detectors, and its generators where it is not all.
        wanted: Synthetic defects of each type and fold.
        stages: Of `dvc.yaml` that are run before the report, in this order; empty for all.
    """

    source: str
    layout: str
    settings: Mapping[str, str]
    lists: Mapping[str, Sequence[str]]
    wanted: int
    stages: Sequence[str] = ()


def _tiles(k: int, wanted: int, settings: Mapping[str, str], **lists: Sequence[str]) -> Study:
    # Ground surfaces: all photos have their grain upright, and a defect turned by much has not.
    own = {"prepare.k": str(k), "synthesize.warp.rotate_deg": "8", **settings}
    return Study("magnetic-tile", "magnetic_tile", own, lists, wanted)


def _only(arm: str, study: Study) -> Study:
    """One arm of a study of one detector, to be compared with those of other studies."""
    (detector,) = study.lists["detectors"]
    generator = parse_arm(arm).generator
    if generator is None:
        return replace(study, stages=("prepare", f"train@{detector}-{arm}", "evaluate"))
    train = "train_synthetic" if arm == generator else "train_combined"
    painted = (f"{stage}@{generator}" for stage in ("learn_concept", "synthesize", "select", "label"))
    stages = ("prepare", "learn_base", *painted, f"{train}@{detector}-{generator}", "evaluate")
    lists = {**study.lists, "generators": [generator], "learned": [] if generator in BASELINES else [generator]}
    return replace(study, lists=lists, stages=stages)


def _boards(wanted: int, settings: Mapping[str, str], **lists: Sequence[str]) -> Study:
    return Study("deep-pcb", "deep_pcb", {"prepare.k": "10", **settings}, lists, wanted)


STUDIES = {
    "magnetic_tile": _tiles(5, 300, RECIPE, detectors=["rtdetr"]),
    "magnetic_tile-steps2400": _tiles(5, 300, TILES, detectors=["rtdetr"]),
    "magnetic_tile-windows": _tiles(5, 300, {**RECIPE, **WINDOWS}, detectors=["rtdetr"]),
    "magnetic_tile-yolo_seg": _tiles(5, 300, RECIPE, detectors=["yolo_seg"]),
    "magnetic_tile-yolo_seg-steps2400": _tiles(5, 300, TILES, detectors=["yolo_seg"]),
    "magnetic_tile-real": _only("real", _tiles(5, 300, {**RECIPE, **LONGER}, detectors=["rtdetr"])),
    "magnetic_tile-real-all": _only("real", _tiles(EVERY_PART, 300, {**RECIPE, **LONGER}, detectors=["rtdetr"])),
    # Strong augmentation put coloured noise on grey photos when the other studies were made.
    "magnetic_tile-classical": _only("classical", _tiles(5, 300, {**RECIPE, **LONGER}, detectors=["rtdetr"])),
    "magnetic_tile-yolo_seg-classical": _only("classical", _tiles(5, 300, {**RECIPE, **LONGER}, detectors=["yolo_seg"])),
    # A synthetic board has seven defects: 50 a type fill 42 boards, 300 fill 260.
    "deep_pcb": _boards(300, BOARDS, detectors=["rtdetr"]),
    "deep_pcb-steps2400": _boards(300, {**BOARDS, **LONGER}, detectors=["rtdetr"]),
    "deep_pcb-yolo_seg": _boards(300, BOARDS, detectors=["yolo_seg"]),
    "deep_pcb-yolo_seg-steps2400": _boards(300, {**BOARDS, **LONGER}, detectors=["yolo_seg"]),
    **{name: _only(arm, _boards(300, {**BOARDS, **LONGER, **WHOLE}, detectors=["yolo_seg"])) for arm, name in REPAINTED.items()},
    "deep_pcb-share0.25": _boards(300, {**BOARDS, "mix.share": "0.25"}, detectors=["rtdetr"], generators=["defectfill"]),
    "deep_pcb-share0.75": _boards(300, {**BOARDS, "mix.share": "0.75"}, detectors=["rtdetr"], generators=["defectfill"]),
    "magnetic_tile-k2": _tiles(2, 50, SHORT, detectors=["rtdetr"], generators=["defectfill"]),
    "magnetic_tile-k5": _tiles(5, 50, SHORT, detectors=["rtdetr"], generators=["defectfill"]),
    "magnetic_tile-k10": _tiles(10, 50, SHORT, detectors=["rtdetr"], generators=["defectfill"]),
}


def carry_out(name: str, data: Path, threads: int, device: str) -> None:
    """Everything that is missing of a study.

    Raises:
        CopyError: If a stage fails.
    """
    study, folder = STUDIES[name], WORK / name
    values = {**{f"{stage}.threads": str(threads) for stage in THREADED}, **FAST, **TRAINED_ON[device], **study.settings}
    arguments = ["--profile", "proof", "--data", str(data / study.source), "--layout", study.layout, "--skip-invalid"]
    arguments += ["--wanted", str(study.wanted)]
    arguments += [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    open_copy(Path.cwd(), folder, arguments, study.lists)
    reproduce_copy(folder, study.stages)
    if study.stages:
        # As a stage of DVC it would miss the synthetic sets that are not made.
        run([sys.executable, "-m", "pipeline", "report"], folder, log_of(folder))


def commit_of(folder: Path) -> str:
    """What a copy was made from."""
    say = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(say, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def is_finished(name: str) -> bool:
    """Whether a study's copy holds its report."""
    # A copy carries the report of the project; the study's own stands there once it is younger than what `evaluate` put out.
    scores, report = WORK / name / "reports" / "eval" / "metrics.json", WORK / name / "reports" / "comparison.json"
    return scores.exists() and report.exists() and report.stat().st_mtime >= scores.stat().st_mtime


def result(name: str) -> dict[str, Any] | None:
    """What a study found, from its copy; None before its report is written. Reads the match records that are kept.

    Raises:
        CopyError: If the copy was made with other settings than the study has now.
    """
    folder = WORK / name
    if not is_finished(name):
        return None
    comparison = json.loads((folder / "reports" / "comparison.json").read_text(encoding="utf-8"))
    study, params = STUDIES[name], yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    check_settings(name, params)
    about: dict[str, Any] = {"commit": commit_of(folder), "settings": dict(study.settings), "wanted": study.wanted}
    if (folder / NOTE).exists():
        about["note"] = (folder / NOTE).read_text(encoding="utf-8").strip()
    if name in COMPARED:
        (arm, other), detectors = COMPARED[name], comparison["detectors"]
        gaps = {one: gap(records(name, one, arm), records(other, one, arm)) for one in detectors}
        about[f"{arm}_minus"] = {"study": other, **gaps}
    return {**about, "trained_on": params["train"]["device"], "comparison": comparison}


def check_settings(name: str, params: Mapping[str, Any]) -> None:
    """Whether a study's copy has its settings; those of a study may have been edited since.

    Raises:
        CopyError: Naming what differs.
    """
    other: list[str] = []
    for key, value in STUDIES[name].settings.items():
        found: Any = params
        for part in key.split("."):
            found = found[part]
        if found != yaml.safe_load(value):
            other.append(f"{key} {found}, not {value}")
    if other:
        raise CopyError(f"{WORK / name} was made with {'; '.join(other)}; begin it anew with --again {name}")


def keep_records(name: str) -> None:
    """The records of a study's copy, in place of those kept of it before."""
    kept = FOLDER / RECORDS / name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(WORK / name / "reports" / "eval" / MATCHES, kept)


def records(name: str, detector: str, arm: str) -> dict[int, MatchRecord]:
    """By fold, which detections of a study's trainings were right; empty where none are kept."""
    files = {fold: FOLDER / RECORDS / name / record_name(detector, arm, fold) for fold in FOLDS}
    return {fold: read_record(file) for fold, file in files.items() if file.exists()}


def keep_table(name: str) -> None:
    """The study's own table beside the bars."""
    table = WORK / name / "reports" / "comparison.md"
    (FOLDER / f"proof-{name}.md").write_text(table.read_text(encoding="utf-8"), encoding="utf-8")


def past() -> dict[str, Any]:
    """Results of studies that the bench carried out before, by name; each names its commit."""
    file = FOLDER / "proof.json"
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["results"] if file.exists() else {}
    return {name: one for name, one in results.items() if isinstance(one, dict)}


def best_of(name: str, detector: str, study: Mapping[str, Any] | None) -> dict[str, Any]:
    """The best learned arm of a study, chosen on val, against each baseline, and the verdict on it; empty where it has none.

    Arms that were mended since are those of the studies that `of` names.
    """
    scores = study["comparison"]["detectors"].get(detector, {}) if study is not None else {}
    best: str | None = scores.get("best_arm")
    if best is None:
        return {}
    mended = {arm: other for arm, other in MENDED.get(name, {}).items() if arm in (best, *BASELINES)}
    gaps: dict[str, Difference] = {}
    for baseline in BASELINES:
        if mended.keys() & {best, baseline}:
            found = paired(*(records(mended.get(arm, name), detector, arm) for arm in (best, baseline)))
        else:
            told = scores["differences"].get(best, {}).get(baseline)
            found = Difference(**told) if told is not None else None
        if found is not None:
            gaps[baseline] = found
    verdict = judge({best: best}, {best: gaps}, CONFIDENCE)[best]
    return {
        "arm": best,
        "of": mended,
        "minus": {baseline: asdict(one) for baseline, one in gaps.items()},
        "verdict": verdict.word,
        "smallest": verdict.smallest,
    }


def bars(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Gains of the best learned arm of each study, see `best_of`, and the lower ends of their intervals."""
    found: list[dict[str, Any]] = []
    for name, detector in MEANT.items():
        row = rows[name]
        arm, of = row.get("arm"), row.get("of", {})
        for baseline, least in GAINS.items():
            gained = row.get("minus", {}).get(baseline, {"mean": None, "low": None})
            best, against = (f"{one} of {of[one]}" if one in of else one for one in (arm, baseline))
            what = f"{name}, {detector}: box mAP50 of the best learned arm ({best}) minus {baseline}"
            found.append(bar(what, gained["mean"], least, "higher", f"arm {against}, same folds", COMMAND))
            found.append(bar(f"{what}, lower end of the 95 % interval", gained["low"], 0, "higher", f"arm {against}", COMMAND))
    return found


def main() -> int:
    """Carry studies out, several at a time, and write what all of them found so far."""
    parser = argparse.ArgumentParser(description="The proof on real data sets.")
    parser.add_argument("--data", type=Path, required=True, help="folder with magnetic-tile and deep-pcb")
    parser.add_argument("--studies", nargs="*", choices=list(STUDIES), default=list(STUDIES), help="what to run")
    parser.add_argument("--again", nargs="*", choices=list(STUDIES), default=[], help="what to begin anew")
    parser.add_argument("--jobs", type=int, default=2, help="studies at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each; part of the recipe")
    parser.add_argument("--device", choices=list(TRAINED_ON), default="cpu", help="where the detectors of new copies are trained")
    args = parser.parse_args()
    for name in args.again:
        shutil.rmtree(WORK / name, ignore_errors=True)
    with ThreadPoolExecutor(args.jobs) as crew:
        list(crew.map(lambda name: carry_out(name, args.data.resolve(), args.threads, args.device), args.studies))
    for name in filter(is_finished, STUDIES):  # all of them before any is compared with another
        keep_records(name)
    here, before = {name: result(name) for name in STUDIES}, past()
    for name in (name for name, one in here.items() if one is not None):
        keep_table(name)
    found = {name: one or before.get(name) for name, one in here.items()}
    rows = {name: best_of(name, detector, found[name]) for name, detector in MEANT.items()}
    return write_bars("proof", bars(rows), results={name: one or "not run" for name, one in found.items()}, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
