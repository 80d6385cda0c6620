"""`python -m flows reproduce|schedule|sweep`: parse, set Prefect's environment, run, return a code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a flow."""
    parser = argparse.ArgumentParser(prog="python -m flows", description="The DVC graph under Prefect, with retries and logs.")
    commands = parser.add_subparsers(dest="flow", required=True)
    command = commands.add_parser("reproduce", help="Bring every stage up to date, in order.")
    _add_flow(command)
    command = commands.add_parser("schedule", help="The same at set times, until stopped; needs a Prefect server.")
    command.add_argument("cron", help="five fields, e.g. '0 3 * * 6' for three o'clock on Saturdays")
    command.add_argument("--timezone", default="UTC", help="of the times, e.g. Europe/Berlin (default: UTC)")
    _add_flow(command)
    command = commands.add_parser("sweep", help="The whole flow at several values of one parameter; no Prefect.")
    command.add_argument("parameter", help="dotted name, e.g. prepare.k or mix.share")
    command.add_argument("values", nargs="+", help="as in params.yaml")
    command.add_argument("--project", default=".", help="folder of dvc.yaml (default: this one)")
    command.add_argument("--detectors", nargs="*", default=[], help="train only these")
    command.add_argument("--jobs", type=int, default=1, help="values at a time (default: 1)")
    command.add_argument("--afresh", action="store_true", help="forget what an earlier sweep did")
    return parser


def _add_flow(command: argparse.ArgumentParser) -> None:
    command.add_argument("--project", default=".", help="folder of dvc.yaml (default: this one)")
    command.add_argument("--retries", type=int, default=1, help="how often a failing stage is tried again (default: 1)")
    command.add_argument("--retry-delay", type=float, default=10.0, help="seconds before a retry (default: 10)")


def set_environment(project: Path) -> None:
    """Keep Prefect's state inside the project and its telemetry off; what the user has set stays.

    Must run before Prefect is imported, which reads its settings once.
    """
    defaults = {
        "PREFECT_HOME": str((project / ".prefect").resolve()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # A cold database takes longer than Prefect's own 20 s on a small or busy machine.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _reproduce(args: argparse.Namespace) -> None:
    set_environment(Path(args.project))
    from flows.reproduce import reproduce

    for group, ran in reproduce(args.project, args.retries, args.retry_delay).items():
        print(f"{group}: {', '.join(ran) if ran else 'up to date'}")


def _schedule(args: argparse.Namespace) -> None:
    set_environment(Path(args.project))
    from flows.schedule import Regeneration, serve

    serve(Regeneration(Path(args.project), args.cron, args.timezone, args.retries, args.retry_delay))


def _sweep(args: argparse.Namespace) -> None:
    from flows.sweep import Sweep, sweep

    wanted = Sweep(Path(args.project), args.parameter, args.values, args.detectors)
    print(f"{sweep(wanted, args.jobs, afresh=args.afresh)} is written; `dvc repro report` shows it")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one flow; 0 on success, 1 when a stage failed."""
    args = build_parser().parse_args(argv)
    try:
        {"reproduce": _reproduce, "schedule": _schedule, "sweep": _sweep}[args.flow](args)
    except RuntimeError as error:
        hint = ""
        if "ephemeral Prefect API server" in str(error):
            hint = "; give it longer (PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=300), or run the stages by `dvc repro`"
        elif type(error).__module__.partition(".")[0] != "flows":
            raise
        print(f"error: {error}{hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
