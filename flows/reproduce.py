"""A Prefect flow that chains the stages of `dvc.yaml`: one task a stage, whose work is `dvc repro --single-item`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import deque
from contextlib import suppress
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.graph import dvc_command, dvc_environment, stage_groups

COMPARISON = Path("reports/comparison.md")
ARTIFACT_KEY = "comparison"
_RUNNING = re.compile(r"^Running stage '(?P<stage>[^']+)'")
_TAIL_LINES = 15


class StageFailedError(RuntimeError):
    """`dvc repro` of one stage ended with an error."""


# NO_CACHE: DVC owns the cache, and a second one beside it would go stale.
@task(task_run_name="{group}", cache_policy=NO_CACHE)
def run_stage(group: str, project: str) -> list[str]:
    """Bring one stage (all items of its matrix) up to date, streaming its output into the log.

    Returns:
        The items that ran; none when everything was up to date.

    Raises:
        StageFailedError: With the last lines of the stage's output.
    """
    logger = get_run_logger()
    ran: list[str] = []
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        dvc_command("repro", "--single-item", group),
        cwd=project,
        env=dvc_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            for raw in process.stdout or ():
                line = raw.rstrip()
                tail.append(line)
                logger.info("%s", line)
                if match := _RUNNING.match(line):
                    ran.append(match["stage"])
        except BaseException:
            # The stage as well: DVC alone would leave it running, beside the next one.
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode != 0:
        raise StageFailedError(f"stage {group!r} failed with exit code {process.returncode}:\n" + "\n".join(tail))
    return ran


@flow(name="reproduce", validate_parameters=True)
def reproduce(project: str = ".", retries: int = 1, retry_delay_s: float = 10.0) -> dict[str, list[str]]:
    """Bring every stage up to date in the order of the graph, then publish the comparison table.

    Args:
        project: Folder of `dvc.yaml`.
        retries: How often a failing stage is tried again. Stages resume, so a retry repeats no finished work.
        retry_delay_s: Seconds before a retry.

    Returns:
        For each stage the items that ran.
    """
    done: dict[str, list[str]] = {}
    for group in stage_groups(Path(project)):
        stage = run_stage.with_options(retries=retries, retry_delay_seconds=retry_delay_s)
        done[group] = stage(group, project)
    table = Path(project) / COMPARISON
    if table.is_file():
        create_markdown_artifact(table.read_text(encoding="utf-8"), key=ARTIFACT_KEY, description="Arms side by side")
    return done
