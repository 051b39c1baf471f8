"""Long stretches in virtual time: a year of daily routines, a week of two daemons."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import trio
from desk import NEW_YORK, Desk, at
from trio.testing import MockClock

from actp_supervise.cron import Cron, MemoryJournal, Overlap, Scheduler, open_scheduler
from actp_supervise.nursery import open_supervisor
from actp_supervise.policies import Backoff
from actp_supervise.testing import TrioWallClock

DAY = 86400.0

ROUTINES = {
    "pipeline": "0 6 * * *",
    "check": "0 8 * * *",
    "advance": "0 9 * * *",
    "prospecting": "0 11,15 * * *",
    "audit": "0 23 * * *",
    "report": "0 20 * * SUN",
}


def moments(expression: str, start: datetime, end: datetime) -> list[datetime]:
    """Return all moments in (start, end]."""
    found = []
    moment = Cron(expression, NEW_YORK).next_after(start)
    while moment is not None and moment <= end:
        found.append(moment)
        moment = Cron(expression, NEW_YORK).next_after(moment)
    return found


async def test_a_year_of_daily_routines_with_crashes_overlaps_and_steps_is_accounted_for(
    autojump_clock,
) -> None:
    desk, rng = Desk("2026-01-01 00:00"), random.Random(5)

    async def routine() -> None:
        kind = rng.random()
        if kind < 0.05:
            raise RuntimeError("crashed")
        await trio.sleep(30 * 3600 if kind < 0.1 else rng.uniform(1, 1800))

    async with desk.scheduler(history=1000) as scheduler:
        for name, expression in ROUTINES.items():
            overlap = rng.choice(list(Overlap))
            scheduler.add(routine, trigger=Cron(expression), name=name, overlap=overlap)
        start = desk.wall.now()
        for _ in range(40):
            await trio.sleep(rng.uniform(0, 18 * DAY))
            desk.wall.step(rng.choice([3600.0, -3600.0, 5 * 3600.0, -20.0, 2 * DAY, -DAY]))
            await trio.sleep(60)
        await trio.sleep(10 * 3600)
        end = desk.wall.now()
        jobs = scheduler.jobs
        await scheduler.shutdown()

    assert end - start > timedelta(days=330)
    outcomes: Counter[str] = Counter()
    for job in jobs:
        ran = [run.scheduled_at for run in job.history]
        assert sorted(ran) == moments(ROUTINES[job.name], start, end)
        outcomes.update(run.outcome for run in job.history)
        for run in job.history:
            if run.started_at is not None and job.overlap is Overlap.SKIP:
                assert run.started_at - run.scheduled_at <= timedelta(hours=1)
    assert set(outcomes) == {"succeeded", "failed", "skipped", "missed", "cancelled"}
    assert outcomes["succeeded"] > 1500


class FlakyJournal:
    """A shared journal whose calls take a while and sometimes come to nothing."""

    def __init__(self, rng: random.Random) -> None:
        self.memory = MemoryJournal(keep=100_000)
        self._rng = rng

    async def _call(self, verb, *args):
        await trio.sleep(self._rng.uniform(0, 0.2))
        if self._rng.random() < 0.05:
            raise OSError("connection reset")
        return await verb(*args)

    async def claim(self, *args):
        return await self._call(self.memory.claim, *args)

    async def finished(self, *args):
        return await self._call(self.memory.finished, *args)

    async def last_fire(self, *args):
        return await self._call(self.memory.last_fire, *args)


class Week:
    """What two daemons share, each a supervised scheduler that now and then crashes."""

    JOBS: ClassVar = {"quarters": "*/15 * * * *", "hours": "0 * * * *"}

    def __init__(self, start: datetime) -> None:
        self.rng = random.Random(11)
        self.start = start
        self.ran: Counter[tuple[str, datetime]] = Counter()
        self.crashes = 0

    async def job(self, scheduler: Scheduler, name: str) -> None:
        run = scheduler[name].running[-1]
        self.ran[name, run.scheduled_at.astimezone(UTC)] += 1
        await trio.sleep(self.rng.uniform(0, 600))

    async def daemon(self, wall: TrioWallClock, journal: FlakyJournal) -> None:
        async with open_scheduler(
            wall_clock=wall, timezone=NEW_YORK, journal=journal, rng=self.rng
        ) as scheduler:
            for name, expression in self.JOBS.items():
                scheduler.add(
                    self.job,
                    scheduler,
                    name,
                    trigger=Cron(expression),
                    name=name,
                    misfire_grace=None,
                    coalesce=False,
                    overlap=Overlap.ALLOW,
                    jitter=30.0,
                )
            await trio.sleep(self.rng.uniform(3600, 2 * DAY))
            self.crashes += 1
            raise RuntimeError("the daemon crashed")

    async def main(self) -> None:
        wall, journal = TrioWallClock(self.start), FlakyJournal(self.rng)
        for name in self.JOBS:
            await journal.memory.claim(name, self.start.astimezone(UTC))
        async with open_supervisor(limit=None, backoff=Backoff(initial=600.0)) as supervisor:
            for name in ("here", "there"):
                supervisor.start_soon(self.daemon, wall, journal, name=name)
            await trio.sleep(7 * DAY)
            await supervisor.shutdown()


def test_two_daemons_on_one_journal_fire_each_moment_of_a_week_once() -> None:
    week = Week(at("2026-03-06 12:00"))  # the clocks are set on the 8th

    trio.run(week.main, clock=MockClock(autojump_threshold=0))

    # What was due just before the end may be left undone.
    settled = week.start.astimezone(UTC) + timedelta(days=7, hours=-1)
    for name, expression in week.JOBS.items():
        expected = [m.astimezone(UTC) for m in moments(expression, week.start, settled)]
        fired = sorted(moment for job, moment in week.ran if job == name and moment <= settled)
        assert fired == expected
    assert set(week.ran.values()) == {1}
    assert week.crashes >= 6
