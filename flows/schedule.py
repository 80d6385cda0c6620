"""Regeneration at set times: the flow `reproduce`, served to a Prefect server, which keeps the calendar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.flows import EntrypointType
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL

from flows.reproduce import reproduce

NAME = "regeneration"
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that falls due while another is under way is dropped: it would find the same photos."""


class ScheduleError(RuntimeError):
    """There is no server to keep the calendar, or no such times."""


@dataclass(frozen=True)
class Regeneration:
    """When what is brought up to date.

    Attributes:
        project: Folder of `dvc.yaml`.
        cron: Times, e.g. `0 3 * * 6` for three o'clock on Saturdays.
        timezone: Of the times, e.g. `Europe/Berlin`.
        retries: How often a failing stage is tried again.
        retry_delay_s: Seconds before a retry.
    """

    project: Path
    cron: str
    timezone: str
    retries: int
    retry_delay_s: float


def serve(wanted: Regeneration) -> None:
    """Register the schedule and carry out what falls due, until it is stopped; the schedule is paused then.

    Raises:
        ScheduleError: If no server is named, or the times or their zone are none.
    """
    if PREFECT_API_URL.value() is None:
        raise ScheduleError(
            "a schedule needs a Prefect server that stays: run `make server` in another terminal, and set PREFECT_API_URL to it "
            "(`make schedule` takes http://127.0.0.1:4200/api)"
        )
    try:
        ZoneInfo(wanted.timezone)  # Prefect looks at it later, outside of this
        calendar = Cron(wanted.cron, timezone=wanted.timezone)
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise ScheduleError(
            f"cron {wanted.cron!r} in zone {wanted.timezone!r}: expected five fields, e.g. '0 3 * * 6', and a zone, e.g. "
            f"Europe/Berlin ({error})"
        ) from error
    reproduce.serve(
        NAME,
        schedule=calendar,
        parameters={
            "project": str(wanted.project.resolve()),
            "retries": wanted.retries,
            "retry_delay_s": wanted.retry_delay_s,
        },
        global_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
