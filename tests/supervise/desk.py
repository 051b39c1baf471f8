"""What the tests of the scheduler share: a wall clock to set, and jobs that note when they ran."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import trio

from actp_supervise import cron
from actp_supervise.testing import TrioWallClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from actp_supervise.events import Event

NEW_YORK = ZoneInfo("America/New_York")


def at(text: str) -> datetime:
    """Return a moment by what clocks in New York show: ``"2026-03-01 06:00"``."""
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK)


class Desk:
    """A wall clock in New York, and a record of what ran and what was said."""

    def __init__(self, now: str = "2026-03-01 05:00") -> None:
        self.wall = TrioWallClock(at(now))
        self.ran: list[str] = []
        self.events: list[Event] = []

    async def job(self, duration: float = 0.0) -> None:
        """Note the time, then work for some seconds."""
        self.ran.append(self.time)
        await trio.sleep(duration)

    @property
    def time(self) -> str:
        """The day and time that the clock shows."""
        return shown(self.wall.now())

    @asynccontextmanager
    async def scheduler(self, **options) -> AsyncIterator[cron.Scheduler]:
        """Open a scheduler on this desk's clock, and shut it down at the end of the block."""
        options = {"timezone": NEW_YORK, "wall_clock": self.wall, **options}
        async with cron.open_scheduler(on_event=self.events.append, **options) as scheduler:
            yield scheduler
            await scheduler.shutdown()

    def actions(self) -> list[str]:
        """Return the words for what happened to runs."""
        return [e.action for e in self.events if e.action.startswith(("run_", "clock_"))]


class Journal:
    """A journal in memory that can be away, slow, or know of interrupted fires."""

    def __init__(self) -> None:
        self.memory = cron.MemoryJournal(keep=100_000)
        self.away = False
        self.delay = 0.0
        self.away_for: set[str] = set()
        self.delays: dict[str, float] = {}
        self.interrupted: list[tuple[str, datetime]] = []
        self.calls: list[str] = []
        self.asked: list[tuple[float, str]] = []
        """Trio's time and the job of each question."""
        self.at_once = self.peak = 0

    async def _arrive(self, verb: str, job_name: str) -> None:
        self.calls.append(verb)
        self.asked.append((trio.current_time(), job_name))
        self.at_once += 1
        self.peak = max(self.peak, self.at_once)
        try:
            await trio.sleep(self.delays.get(job_name, self.delay))
        finally:
            self.at_once -= 1
        if self.away or job_name in self.away_for:
            raise OSError("connection refused")

    async def claim(self, job_name: str, scheduled_at: datetime) -> bool:
        assert scheduled_at.tzinfo is UTC
        await self._arrive("claim", job_name)
        return await self.memory.claim(job_name, scheduled_at)

    async def finished(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        await self._arrive("finished", job_name)
        await self.memory.finished(job_name, scheduled_at, outcome, error)

    async def last_fire(self, job_name: str) -> datetime | None:
        await self._arrive("last_fire", job_name)
        return await self.memory.last_fire(job_name)

    async def take_interrupted(self, job_names) -> list[tuple[str, datetime]]:
        await self._arrive("take_interrupted", "")
        taken, self.interrupted = self.interrupted, []
        return taken

    def rows(self, job_name: str = "job") -> list[tuple[str, str | None]]:
        """Return the moment and the outcome of each claim."""
        return [(shown(moment), outcome) for moment, outcome, _ in self.memory.fires(job_name)]


def shown(moment: datetime) -> str:
    """Return the day and time that clocks in New York show, seconds only where there are any."""
    text = moment.astimezone(NEW_YORK).strftime("%d %H:%M:%S")
    return text.removesuffix(":00")


def account(job: cron.Job) -> list[tuple[str, str]]:
    """Return the scheduled moment and the outcome of each entry of a job's history."""
    return [(shown(run.scheduled_at), str(run.outcome)) for run in job.history]
