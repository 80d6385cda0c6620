"""`python -m detectors train|evaluate|predict|pretrain|check`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

# Read when torch loads. Waiting threads otherwise spin, and where cores are busy a step takes a hundred times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from detectors.arms import UnknownNameError, arm_names, check_name, parse_arm
from detectors.params import EvaluateParams, MixParams, PretrainDetectorParams, Recipe, TrainParams, check_share
from detectors.protocol import DETECTORS, EMBEDDED
from pipeline.fan_out import WorkError
from pipeline.params import LabelParams, ParamsError, load_section
from pipeline.single_run import only_run, settled

PARAMS = Path("params.yaml")
PRETRAIN_PARAMS = Path("pretrain.yaml")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m detectors",
        description="Train a detector in one arm, score all on test, run one on new photos, or pre-train what they start from.",
    )
    parser.add_argument("--params", type=Path, help="parameter file; default params.yaml, for pretrain pretrain.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print resolved parameters and counts, then stop")
    # The same options are valid before and after the command; SUPPRESS keeps the sub-parser from resetting them.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--params", type=Path, help="parameter file")
    common.add_argument("--dry-run", action="store_true", help="print resolved parameters and counts, then stop")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|evaluate|predict|pretrain|check")
    train = commands.add_parser("train", parents=[common], help="train one detector in one arm, every fold")
    train.add_argument("--detector", required=True, help=", ".join(DETECTORS))
    train.add_argument("--arm", required=True, help=", ".join(arm_names()))
    train.add_argument("--prepared", type=Path, default=Path("data/prepared"), help="folder with train/ and val/")
    train.add_argument("--labelled", type=Path, help="synthetic images; default data/labelled/<generator>")
    train.add_argument("--out", type=Path, help="default data/models/<detector>/<arm>")
    evaluate = commands.add_parser("evaluate", parents=[common], help="score every trained detector on test")
    evaluate.add_argument("--models", type=Path, default=Path("data/models"), help="folder of trained models")
    evaluate.add_argument("--test", type=Path, default=Path("data/prepared/test"), help="the test set")
    evaluate.add_argument("--out", type=Path, default=Path("reports/eval"), help="where scores go")
    predict = commands.add_parser("predict", parents=[common], help="run one trained detector on photos without labels")
    predict.add_argument("--model", type=Path, required=True, help="data/models/<detector>/<arm>/fold-<f>")
    predict.add_argument("--photos", type=Path, required=True, help="folder of pictures, searched below as well")
    predict.add_argument("--out", type=Path, required=True, help="a new folder; gets detections.json, photos.csv and pictures/")
    predict.add_argument("--score", type=float, help="from which on a detection is a defect; default evaluate.gallery_score")
    predict.add_argument("--white", type=int, help="of photos deeper than 8 bits, e.g. 4095; default: by the brightest of them")
    pretrain = commands.add_parser("pretrain", parents=[common], help="make the weights of `train.start: embedded`")
    pretrain.add_argument("--detector", required=True, help=", ".join(EMBEDDED))
    pretrain.add_argument("--out", type=Path, help="default detectors/weights/<detector>")
    pretrain.add_argument("--work", type=Path, help="checkpoint to resume from; default .work/pretrain-<detector>")
    pretrain.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the network learns")
    commands.add_parser("check", parents=[common], help="refuse parameters of train, mix and evaluate that do not fit")
    return parser


def _say(value: object) -> None:
    print(json.dumps(value, indent=1, sort_keys=True))


def _train(args: argparse.Namespace) -> None:
    check_name(args.detector, DETECTORS, "detector")
    arm = parse_arm(args.arm)
    file = args.params or PARAMS
    train, mix = load_section("train", TrainParams, file), load_section("mix", MixParams, file)
    recipe = Recipe(train, mix, load_section("label", LabelParams, file))
    if arm.generator is not None and arm.real:
        check_share(train, mix)
    labelled = args.labelled or (Path("data/labelled") / arm.generator if arm.generator else None)
    out = args.out or Path("data/models") / args.detector / arm.name
    from detectors.training import image_counts, load_fold, settings, train_arm
    from pipeline.records import fold_name, read_card
    from pipeline.runlog import record_run

    if args.dry_run:
        folds = read_card(args.prepared / "train").folds
        counts = {fold_name(f): image_counts(load_fold(recipe.label, arm, args.prepared, labelled, f)) for f in folds}
        sections = {"train": settings(recipe, arm), "label": recipe.label.model_dump(mode="json")}
        _say({**sections, "images": counts, "out": str(out)})
        return
    with only_run(out.as_posix()), record_run(f"train@{args.detector}-{arm.name}"), settled(file, "train", "mix", "label"):
        train_arm(recipe, args.detector, arm.name, args.prepared, labelled, out)


def _evaluate(args: argparse.Namespace) -> None:
    file = args.params or PARAMS
    params, label = load_section("evaluate", EvaluateParams, file), load_section("label", LabelParams, file)
    from detectors.evaluate import evaluate
    from detectors.lineup import find_models
    from pipeline.runlog import record_run

    if args.dry_run:
        models = [str(m.path) for m in find_models(args.models)]
        _say({"evaluate": params.model_dump(mode="json"), "label": label.model_dump(mode="json"), "models": models})
        return
    with only_run(args.out.as_posix()), record_run("evaluate"), settled(file, "evaluate", "label"):
        evaluate(params, label, args.models, args.test, args.out)


def _check(args: argparse.Namespace) -> None:
    file = args.params or PARAMS
    check_share(load_section("train", TrainParams, file), load_section("mix", MixParams, file))
    load_section("evaluate", EvaluateParams, file)


def _predict(args: argparse.Namespace) -> None:
    params = load_section("evaluate", EvaluateParams, args.params or PARAMS)
    score = params.gallery_score if args.score is None else args.score
    from detectors.inspection import inspect, photo_files

    if args.dry_run:
        _say(
            {
                "evaluate": params.model_dump(mode="json"),
                "score": score,
                "photos": len(photo_files(args.photos)),
                "out": str(args.out),
            }
        )
        return
    if args.white is not None and args.white < 1:
        raise ParamsError(f"--white: expected the full scale of the camera, e.g. 4095, got {args.white}")
    _say(inspect(params, args.model, args.photos, args.out, score, args.white))


def _pretrain(args: argparse.Namespace) -> None:
    check_name(args.detector, EMBEDDED, "detector with embedded weights")
    params = load_section("pretrain_detector", PretrainDetectorParams, args.params or PRETRAIN_PARAMS)
    out = args.out or Path("detectors/weights") / args.detector
    work = args.work or Path(".work") / f"pretrain-{args.detector}"
    if args.dry_run:
        where = {"out": str(out), "work": str(work), "device": args.device}
        _say({"pretrain_detector": params.model_dump(mode="json"), **where})
        return
    # It runs for long, mostly unwatched: its log is the only sign of life.
    logging.getLogger("detectors").setLevel(logging.INFO)
    logging.getLogger("pipeline").setLevel(logging.INFO)
    from detectors.pretraining import pretrain
    from pipeline.runlog import record_run

    with record_run(f"pretrain@{args.detector}"):
        scores = pretrain(params, args.detector, out, work, args.device)
    kinds = {kind: {k: scores[kind][k] for k in ("map50", "map")} for kind in ("box", "mask") if scores[kind]}
    _say({"held_out": kinds, "out": str(out)})


def main(argv: list[str] | None = None) -> int:
    """Run one command; 2 and one sentence on standard error for a fault the user can mend."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        {"train": _train, "evaluate": _evaluate, "predict": _predict, "pretrain": _pretrain, "check": _check}[args.command](args)
    except (UnknownNameError, ParamsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        if not _is_ours(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _is_ours(error: Exception) -> bool:
    """The project's own errors carry a sentence for the user, and so do those of the disk; others are bugs, with a traceback."""
    cause = error.__cause__ if isinstance(error, WorkError) and error.__cause__ is not None else error
    return type(cause).__module__.startswith(("detectors.", "pipeline.")) or isinstance(cause, OSError)


if __name__ == "__main__":
    sys.exit(main())
