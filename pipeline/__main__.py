"""`python -m pipeline <stage>`: load the stage's section of params.yaml, call its function, return a code.

Heavy imports happen inside the stage, so that help answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Read when torch loads. Waiting threads otherwise spin, and where cores are busy a step takes a hundred times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pipeline.params import (
    SECTIONS,
    LabelParams,
    LearnBaseParams,
    LearnConceptParams,
    PrepareParams,
    PretrainBaseParams,
    ReportParams,
    SelectParams,
    SynthesizeParams,
    load_section,
    pairs,
)
from pipeline.runlog import record_run
from pipeline.single_run import only_run, settled

DATA = Path("data")
TRAIN = DATA / "prepared" / "train"
BASE = DATA / "base"


def _prepare(args: argparse.Namespace) -> None:
    from pipeline.stages.prepare import prepare

    prepare(load_section("prepare", PrepareParams), DATA / "prepared")


def _learn_base(args: argparse.Namespace) -> None:
    from pipeline.stages.learn_base import learn_base

    learn_base(load_section("learn_base", LearnBaseParams), TRAIN, BASE)


def _learn_concept(args: argparse.Namespace) -> None:
    from pipeline.stages.learn_concept import learn_concept

    params = load_section("learn_concept", LearnConceptParams)
    learn_concept(args.generator, params, TRAIN, BASE, DATA / "concepts" / args.generator)


def _synthesize(args: argparse.Namespace) -> None:
    from pipeline.stages.synthesize import synthesize

    params, guards = load_section("synthesize", SynthesizeParams), load_section("select", SelectParams)
    synthesize(args.generator, params, guards, DATA, DATA / "candidates" / args.generator)


def _select(args: argparse.Namespace) -> None:
    from pipeline.stages.select_candidates import select_candidates

    params = load_section("select", SelectParams)
    select_candidates(params, DATA, args.generator, DATA / "selected" / args.generator)


def _label(args: argparse.Namespace) -> None:
    from pipeline.stages.label import label

    params = load_section("label", LabelParams)
    label(params, DATA / "selected" / args.generator, TRAIN, DATA / "labelled" / args.generator)


def _report(args: argparse.Namespace) -> None:
    from pipeline.stages.report import report

    report(load_section("report", ReportParams), DATA, Path("reports"))


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "prepare": _prepare,
    "learn_base": _learn_base,
    "learn_concept": _learn_concept,
    "synthesize": _synthesize,
    "select": _select,
    "label": _label,
    "report": _report,
}
OF_GENERATOR = {"learn_concept", "synthesize", "select", "label"}
GENERATOR_NAMES = ("copy_paste", "defectfill")


def _configure(args: argparse.Namespace) -> None:
    from pipeline.configure import configure, want

    said = configure(
        Path("params.yaml"),
        args.profile,
        args.data,
        args.layout,
        skip_invalid=args.skip_invalid,
        settings=pairs("--set", args.set),
    )
    said += want(DATA / "targets.yaml", args.wanted) if args.wanted is not None else []
    for line in said:
        print(line)


def _pretrain(args: argparse.Namespace) -> None:
    from pipeline.diffusion.components import EMBEDDED
    from pipeline.pretraining.base import pretrain_base

    params = load_section("pretrain_base", PretrainBaseParams, args.params)
    pretrain_base(params, args.device, args.out or EMBEDDED, args.work)


def _adopt(args: argparse.Namespace) -> None:
    from pipeline.adopt import adopt

    tokens = {defect: Path(file) for defect, file in pairs("--token", args.token).items()}
    adopt(args.lora, args.base, pairs("--prompt", args.prompt), tokens, args.plain_prompt, args.out)


def _targets(args: argparse.Namespace) -> None:
    from pipeline.records import write_text
    from pipeline.targets import Choice, propose

    choice = Choice(args.models, args.prepared, args.detector, args.arm, args.score, args.total, args.across_folds)
    lines, text = propose(choice, args.targets, Path("params.yaml"))
    print("\n".join(lines))
    if args.only_show:
        print(f"{args.targets} is left as it is")
    else:
        write_text(args.targets, text)
        print(f"{args.targets} is written; commit it, then `dvc repro`")


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a stage, and `pretrain`, `adopt`, `targets` and `configure`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description="Few-shot defect synthesis, one stage a command.")
    commands = parser.add_subparsers(dest="stage", required=True)
    for name, run in STAGES.items():
        command = commands.add_parser(name, help=(SECTIONS[name].__doc__ or "").splitlines()[0])
        if name in OF_GENERATOR:
            command.add_argument("--generator", choices=GENERATOR_NAMES, required=True)
        command.add_argument("--dry-run", action="store_true", help="print the resolved parameters and stop")
        command.set_defaults(run=run)
    command = commands.add_parser("pretrain", help="Train the embedded base on procedural drawings; not a stage.")
    command.add_argument("network", choices=("base",))
    command.add_argument("--params", type=Path, default=Path("pretrain.yaml"), help="file with section pretrain_base")
    command.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<n>")
    command.add_argument("--out", type=Path, help="folder for the pipeline; the one in the repository if not given")
    command.add_argument("--work", type=Path, default=Path(".work/pretrain-base"), help="checkpoints to resume from")
    command.set_defaults(run=_pretrain, dry_run=False)
    _add_adopt(commands.add_parser("adopt", help="Make a concept of a LoRA trained elsewhere; not a stage."))
    _add_targets(commands.add_parser("targets", help="More synthetic samples of what is missed on validation; not a stage."))
    command = commands.add_parser("configure", help="Write data source, layout, profile and single values into params.yaml.")
    command.add_argument("--data", help="folder of the raw data set")
    command.add_argument("--layout", help="sample, mvtec, magnetic_tile, deep_pcb or folder")
    command.add_argument("--profile", help="a file of profiles/, e.g. embedded or proof")
    command.add_argument("--skip-invalid", action="store_true", help="with --data: drop invalid samples and list them")
    command.add_argument("--wanted", type=int, help="into data/targets.yaml: synthetic defects of each type not named there")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter, e.g. prepare.k=10")
    command.set_defaults(run=_configure, dry_run=False)
    return parser


def _add_adopt(command: argparse.ArgumentParser) -> None:
    command.add_argument("--lora", type=Path, required=True, help="LoRA as safetensors, in a format diffusers loads")
    command.add_argument("--base", type=Path, required=True, help="folder of its inpainting pipeline, e.g. data/base/fold-0")
    command.add_argument(
        "--prompt", action="append", required=True, metavar="TYPE=PROMPT", help="prompt of a defect type; once a type"
    )
    command.add_argument(
        "--token", action="append", default=[], metavar="TYPE=FILE", help="textual inversion of a token in that type's prompt"
    )
    command.add_argument("--plain-prompt", default="A photo of a surface", help="prompt without a defect")
    command.add_argument("--out", type=Path, required=True, help="folder of the concept, e.g. data/concepts/defectfill/fold-0")
    command.set_defaults(run=_adopt, dry_run=False)


def _add_targets(command: argparse.ArgumentParser) -> None:
    command.add_argument("--detector", default="rtdetr", help="whose misses count; rtdetr if not given")
    command.add_argument("--arm", help="its arm; defectfill if that is trained, else real, if not given")
    command.add_argument("--score", type=float, default=0.3, help="detections below it find nothing; 0.3 if not given")
    command.add_argument("--total", type=int, help="samples wanted in each fold; as many as now if not given")
    command.add_argument("--across-folds", action="store_true", help="use val parts although another fold tests on them")
    command.add_argument("--models", type=Path, default=DATA / "models", help="folder of the trained models")
    command.add_argument("--prepared", type=Path, default=DATA / "prepared", help="folder with train/ and val/")
    command.add_argument("--targets", type=Path, default=DATA / "targets.yaml", help="file to read and write")
    command.add_argument("--dry-run", action="store_true", dest="only_show", help="say what would change and stop")
    command.set_defaults(run=_targets, dry_run=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage; 0 on success, 2 on an error of the user's input or of the disk."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for chatty in ("httpx", "diffusers", "transformers", "PIL"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        if args.dry_run:
            print(load_section(args.stage, SECTIONS[args.stage]).model_dump_json(indent=1))
        elif args.stage in ("configure", "pretrain", "adopt", "targets"):
            args.run(args)
        else:
            item = f"{args.stage}@{args.generator}" if args.stage in OF_GENERATOR else args.stage
            # A request whose candidates are all refused is drawn again, so `synthesize` reads that section too.
            read = (args.stage, "select") if args.stage == "synthesize" else (args.stage,)
            with only_run(item), record_run(item), settled(Path("params.yaml"), *read):
                args.run(args)
    except (ValueError, OSError) as error:  # of the user's input, or of the disk
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
