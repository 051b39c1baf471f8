"""`--show routines`: which there are, when they run, and how they went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from actp_supervise.service import visible
from app.facts import to_json
from app.status import JobStatus
from app.terminal.api import open_api

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from app.settings import Settings
    from app.terminal.shows import Wanted


async def show_routines(settings: Settings, wanted: Wanted) -> None:
    """Write the routines of the running daemon, in the order in which they run next.

    Raises:
        DaemonError: If none answers: which there are, only a daemon knows.
    """
    async with open_api(settings) as api:
        jobs = await api.get(list[JobStatus], "/scheduler/jobs")
    jobs = [job for job in jobs if wanted.agent_id in (None, job.agent_id)]
    jobs.sort(key=lambda job: (job.next_run_time is None, job.next_run_time, job.name))
    if wanted.as_json:
        print(json.dumps(to_json(jobs[: wanted.limit]), indent=2))
        return
    for job in jobs[: wanted.limit]:
        print(visible(f"{job.name}\n    {'; '.join(_facts(job, settings))}", lines=True))
    if not jobs:
        print("There are no routines.")


def _facts(job: JobStatus, settings: Settings) -> Iterator[str]:
    yield f"{job.schedule} ({job.timezone})"
    if job.cron != job.configured:
        whom = "" if job.changed_by is None else f" by {job.changed_by}"
        yield f"changed{whom}{_at(job.changed_at, settings)}, configured is {job.configured}"
    if job.disabled:
        yield f"never: {job.disabled}"
    elif job.paused:
        whom = "" if job.paused_by is None else f" by {job.paused_by}"
        yield f"paused{whom}{_at(job.paused_at, settings)}, until --resume {job.name}"
    elif job.running:
        yield "runs now"
    elif job.next_run_time is not None:
        yield f"next {job.next_run_time.astimezone(settings.timezone):%a %Y-%m-%d %H:%M}"
    if job.last_run is not None:
        last = job.last_run
        when = last.scheduled_at.astimezone(settings.timezone)
        why = f": {visible(last.error.strip().splitlines()[-1])}" if last.error else ""
        yield f"last {when:%a %Y-%m-%d %H:%M}, {last.outcome or 'runs'}{why}"


def _at(moment: datetime | None, settings: Settings) -> str:
    return "" if moment is None else f" at {moment.astimezone(settings.timezone):%Y-%m-%d %H:%M}"
