"""What a scheduler may do while its journal is away, its clock is set and its job is paused.

`World` plays a list of commands in virtual time and writes down which moments passed, and how;
`World.faults` says what was recorded against the rules of the reference, "Late and missed" and
"The journal". Nothing of the library's own decisions is used.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock

from actp_supervise.cron import Job, Overlap, Run, Scheduler, Trigger, open_scheduler
from actp_supervise.testing import TrioWallClock

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SETTLING = 300.0
"""Seconds within which all is made up for once the journal is back: a probe comes each minute."""

Command = tuple[str, float]


class OwnedJournal:
    """The journal of one daemon: asked again for a claim that it has, it says so."""

    def __init__(self, delay: float) -> None:
        self.mode = (
            "there"  # or "away", or "lost": it does what it is asked, and the answer is lost
        )
        self.delay = delay
        self.fires: dict[datetime, str | None] = {START: "succeeded"}
        self.asked_at: list[float] = []
        self.latest_asked = START
        self.failing_since = math.inf

    async def _arrive(self) -> None:
        self.asked_at.append(trio.current_time())
        await trio.sleep(self.delay)
        if self.mode == "away":
            self._fail()

    def _leave(self) -> None:
        if self.mode == "lost":
            self._fail()
        self.failing_since = math.inf

    def _fail(self) -> None:
        self.failing_since = min(self.failing_since, trio.current_time())
        raise OSError("connection lost")

    async def claim(self, job_name: str, scheduled_at: datetime) -> bool:
        self.latest_asked = max(self.latest_asked, scheduled_at)
        await self._arrive()
        is_open = self.fires.setdefault(scheduled_at, None) is None
        self._leave()
        return is_open

    async def finished(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        await self._arrive()
        self.fires[scheduled_at] = outcome
        self._leave()

    async def last_fire(self, job_name: str) -> datetime | None:
        await self._arrive()
        self._leave()
        return max(self.fires)


@dataclass
class Options:
    """What the job is added with, how long it runs, and how slow its journal is."""

    trigger: Trigger
    misfire_grace: float | None = 3600.0
    coalesce: bool = True
    overlap: Overlap = Overlap.SKIP
    duration: float = 0.0
    delay: float = 0.0


@dataclass
class World:
    """One job, its journal, a clock, and what passed."""

    options: Options
    active: set[datetime] = field(default_factory=set)
    """Moments that the clock passed while the job was not paused."""
    paused: set[datetime] = field(default_factory=set)
    """Those that it passed while it was."""
    forgiven: set[datetime] = field(default_factory=lambda: {START})
    """Those that may have a record or not: what passed before a daemon that starts is news to it
    until the journal has told it, and then a pause may hide it."""
    earlier: set[datetime] = field(default_factory=set)
    """What passed before the present daemon."""
    is_told: bool = False
    """Whether the journal was there for so long that this daemon knows what it knows."""
    runs: list[Run] = field(default_factory=list)
    recorded: Counter[tuple[int, datetime]] = field(default_factory=Counter)
    """How often each moment stands in the history of each job that was added. What the first of two
    skipped, because it was paused or removed, the second may make up for."""
    absences: list[set[datetime]] = field(default_factory=list)
    """What passed in each time without a journal in which nothing else happened."""
    is_plain: bool = True
    is_all_told: bool = True
    former: list[Job] = field(default_factory=list)
    jobs: int = 0
    eager: list[int] = field(default_factory=list)
    """How often the journal was asked in five minutes of a long absence."""
    at_once: int = 0
    peak: int = 0

    def play(self, commands: list[Command]) -> None:
        """Play the commands; then the journal is there, and has time to be told all."""
        trio.run(self._main, commands, clock=MockClock(autojump_threshold=0))

    async def _main(self, commands: list[Command]) -> None:
        self.journal = OwnedJournal(self.options.delay)
        # A quarter of a second, so that nothing falls due just as something else happens.
        self.wall = TrioWallClock(START + timedelta(seconds=0.25))
        todo = [*commands, ("there", 0.0), ("settle", 0.0)]
        while todo:
            await self._live(todo)

    async def _live(self, todo: list[Command]) -> None:
        """Be one daemon, until it is to be started again."""
        async with open_scheduler(
            timezone="UTC", wall_clock=self.wall, journal=self.journal, history=10**6
        ) as scheduler:
            self.job = self._add(scheduler)
            self.journal.failing_since = math.inf
            self.earlier, self.is_told = self.active | self.paused, False
            down = None
            while todo and down is None:
                name, value = todo.pop(0)
                if name == "restart":
                    down = value
                else:
                    await self._do(scheduler, name, value)
            if down is not None:
                self.journal.mode = "there"  # else no end of a run could be told
                self._forgive_pauses()
            before = self.wall.now()
            await scheduler.shutdown()
        self._collect()
        if down is not None:  # the next daemon makes up for it
            self._forgive_missed()
            await trio.sleep(down)
            self.active.update(between(self.options.trigger, before, self.wall.now()))

    def _add(self, scheduler: Scheduler) -> Job:
        options = self.options
        return scheduler.add(
            self._work,
            name="job",
            trigger=options.trigger,
            misfire_grace=options.misfire_grace,
            coalesce=options.coalesce,
            overlap=options.overlap,
        )

    def _add_anew(self, scheduler: Scheduler) -> None:
        """Remove the job and add it again, perhaps while it runs."""
        self._forgive_pauses()
        # The new job counts from the last fire, of which the claim may be under way; or from now on
        # where the clock was ahead then.
        last = max(self.journal.latest_asked, max(self.journal.fires))
        ahead = last > self.wall.now()
        self.forgiven |= {moment for moment in self.active if ahead or moment < last}
        self.journal.failing_since = math.inf  # the new job may ask once, at once
        scheduler.remove("job")
        self.former.append(self.job)
        self.job = self._add(scheduler)
        self.earlier, self.is_told = self.active | self.paused, False
        self._spoil()

    async def _work(self) -> None:
        self.at_once += 1
        self.peak = max(self.peak, self.at_once)
        try:
            await trio.sleep(self.options.duration)
        finally:
            self.at_once -= 1

    def _collect(self) -> None:
        """Keep the records of jobs that are gone."""
        for job in (*self.former, self.job):
            self.runs += job.history
            self.recorded.update((self.jobs, run.scheduled_at) for run in job.history)
            self.jobs += 1
        self.former = []

    async def _do(self, scheduler: Scheduler, name: str, value: float) -> None:
        match name:
            case "go":
                await self._wait(value)
            case "settle":
                await self._settle()
            case "away" | "lost" | "there":
                self._set_journal(name)
            case "step":
                before = self.wall.now()
                self.wall.step(value)
                self._pass_by(before)
                self._spoil()
            case "readd":
                self._add_anew(scheduler)
            case "pause" | "resume":
                self._pause(scheduler, name)
        await trio.testing.wait_all_tasks_blocked()

    async def _wait(self, seconds: float) -> None:
        passed = await self._go(seconds)
        if self.journal.mode == "there":
            self.is_told |= seconds > 90
            return
        if self.is_plain:
            self.absences[-1] |= passed
        now = trio.current_time()
        if now - self.journal.failing_since > 900:
            self.eager.append(sum(time > now - 300 for time in self.journal.asked_at))

    async def _settle(self) -> None:
        """Give the scheduler the time to make up for all: missed moments are told one by one."""
        todo = len(self.active | self.paused)
        await self._go(SETTLING + 6 * todo * self.options.delay)
        last_few = self.wall.now() - timedelta(seconds=1 + 6 * self.options.delay)
        self.forgiven |= {moment for moment in self.active if moment > last_few}

    def _set_journal(self, mode: str) -> None:
        if mode != "there" and self.journal.mode == "there":
            self.absences.append(set())
            self.is_plain = True
        self.journal.mode = mode
        # Where a claim is made and its answer lost, a job that is withdrawn leaves it so.
        self.is_all_told &= mode != "lost"

    def _pause(self, scheduler: Scheduler, verb: str) -> None:
        getattr(scheduler, verb)("job")
        self._spoil()
        if verb == "pause" and not self.is_told:
            self.forgiven |= self.earlier

    def _spoil(self) -> None:
        """The absence under way is not a plain one: more than time passes in it."""
        if self.is_plain and self.absences:
            self.absences[-1].clear()
        self.is_plain = False

    def _forgive_pauses(self) -> None:
        """The next job of the name does not know that this one was paused, or is."""
        self.forgiven |= self.paused
        if self.job.paused:
            self.forgiven |= self.active

    def _forgive_missed(self) -> None:
        """What could not run need not be recorded by a daemon that stops while it does so."""
        grace = self.options.misfire_grace
        now, last = self.wall.now(), max(self.journal.fires)
        for moment in self.active:
            too_late = grace is not None and now - moment > timedelta(seconds=grace)
            if moment < last and (too_late or self.options.coalesce):
                self.forgiven.add(moment)

    async def _go(self, seconds: float) -> set[datetime]:
        """Let time pass; return the moments that came for the first time."""
        before, known = self.wall.now(), self.active | self.paused
        await trio.sleep(seconds)
        return self._pass_by(before) - known

    def _pass_by(self, low: datetime) -> set[datetime]:
        passed = set(between(self.options.trigger, low, self.wall.now()))
        (self.paused if self.job.paused else self.active).update(passed)
        return passed

    def faults(self) -> list[str]:
        """Say what is not as the reference has it."""
        return [*self._wrong_moments(), *self._wrong_runs(), *self._wrong_questions()]

    def _wrong_moments(self) -> Iterator[str]:
        """No moment runs twice, none is lost without a record, and a paused job takes nothing."""
        records = {run.scheduled_at.astimezone(UTC) for run in self.runs}
        for moment, times in (*self.recorded.items(), *Counter(self._started()).items()):
            if times > 1:
                yield f"{moment} is there {times} times"
        for moment in records - self.active - self.paused:
            yield f"{moment} never was"
        for moment in self.active - self.paused - self.forgiven - records:
            yield f"{moment} is lost"
        for moment in (self.paused - self.active - self.forgiven) & records:
            yield f"{moment} was noticed though the job was paused"

    def _wrong_runs(self) -> Iterator[str]:
        """Runs obey grace, overlap and, after an absence, coalesce."""
        grace = self.options.misfire_grace
        for run in self.runs if grace is not None else ():
            if run.started_at and run.started_at - run.scheduled_at > timedelta(seconds=grace):
                yield f"{run} was too late"
        if self.peak > 1 and self.options.overlap is not Overlap.ALLOW:
            yield f"{self.peak} ran at once"
        for passed in self.absences if self.options.coalesce else ():
            ran = passed.intersection(self._started())
            if len(ran) > 1:
                yield f"{len(ran)} of {len(passed)} ran after an absence"

    def _wrong_questions(self) -> Iterator[str]:
        """The journal is told each end, and is left in peace while it is away."""
        for moment, outcome in self.journal.fires.items():
            if outcome is None and self.is_all_told:
                yield f"the journal was not told the end of {moment}"
        for asked in self.eager:
            if asked > 7:
                yield f"the journal was asked {asked} times in five minutes of absence"

    def _started(self) -> list[datetime]:
        return [run.scheduled_at.astimezone(UTC) for run in self.runs if run.started_at]


def between(trigger: Trigger, low: datetime, high: datetime) -> Iterator[datetime]:
    """Return all moments in (low, high]."""
    moment = trigger.next_after(low)
    while moment is not None and moment <= high:
        yield moment.astimezone(UTC)
        moment = trigger.next_after(moment)
