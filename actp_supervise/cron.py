"""The scheduler: jobs that run when their triggers say so, as children of a supervisor of its own.

What a user holds: `open_scheduler`, `Scheduler`, and from elsewhere the triggers, the `Job`, what
became of its moments, and the `Journal`. Behind it, `timetable` says what is due, `runner` runs it,
and `bookkeeper` asks and tells the journal, if there is one.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self, TypeVarTuple, Unpack, final

import trio

from .bookkeeper import Bookkeeper
from .checks import check_job_fn, check_name
from .child import current_child
from .clock import SteppedWallClock
from .embedding import Embedding
from .errors import ChildNotFoundError, DuplicateChildError, SupervisorClosedError
from .jobs import Entry, Job
from .journal import Journal, MemoryJournal, RecoveringJournal, RememberingJournal
from .nursery import open_supervisor
from .policies import ShutdownOrder
from .runner import REMOVED, Runner
from .runs import (
    ClockJumped,
    Outcome,
    Overlap,
    Run,
    RunFailed,
    RunFinished,
    RunMissed,
    RunStarted,
)
from .schedule import PAST, Firing, Schedule, moment_at
from .spec import (
    JobOptions,
    JobSpec,
    SchedulerOptions,
    SchedulerSpec,
    check_options,
    free_name,
    job_spec,
    name_of,
    takes_options_of,
)
from .timetable import Timetable
from .triggers import AnyOf, At, Cron, Every, Trigger, as_timezone, check_trigger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import tzinfo
    from types import TracebackType

    from .nursery import Supervisor

__all__ = [
    "AnyOf",
    "At",
    "ClockJumped",
    "Cron",
    "Every",
    "Job",
    "Journal",
    "MemoryJournal",
    "Outcome",
    "Overlap",
    "RecoveringJournal",
    "RememberingJournal",
    "Run",
    "RunFailed",
    "RunFinished",
    "RunMissed",
    "RunStarted",
    "Scheduler",
    "Trigger",
    "open_scheduler",
]

PosArgsT = TypeVarTuple("PosArgsT")

CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which the wall clock and Trio's may drift apart between looks without an event."""

BATCH: Final = 100
"""How many due jobs are dispatched before their runs, and all other tasks, get a turn."""


@takes_options_of(SchedulerSpec)
def open_scheduler(**options: Unpack[SchedulerOptions]) -> SchedulerManager:
    """Open a scheduler, to be used in an ``async with``.

    Leaving the block waits until `Scheduler.shutdown` is called or the block is cancelled. Then
    the runs under way are asked to stop, all at once, and cancelled when they take too long.
    Opened inside a child of a supervisor, it becomes a subtree of that child.

    Example::

        async with open_scheduler(timezone="Europe/Berlin", journal=journal) as scheduler:
            scheduler.add(report, name="daily", trigger=Cron("0 6 * * *"), timeout=600.0)

    Args:
        options: See `SchedulerSpec`: `name`, `timezone`, `wall_clock`, `journal`, `on_event`,
            `shutdown_timeout`, `history`, `rng`.

    Raises:
        TypeError: If an option is of the wrong type, or there is none of that name.
        ValueError: If the zone is unknown, or a number out of its range.
        RestartLimitExceeded: From the block, if the wall clock fails again and again.
    """
    check_options("open_scheduler", SchedulerOptions, options)
    return SchedulerManager(SchedulerSpec(**options))


@final
class Scheduler:
    """A running scheduler; made by `open_scheduler`."""

    _supervisor: Supervisor
    _embedding: Embedding
    _jobs: dict[str, Entry]  # in the order of adding
    _numbers: dict[str, int]  # of unnamed jobs, by their function's name
    _leaving: dict[str, Entry]  # removed jobs that have runs under way
    _timetable: Timetable
    _runner: Runner
    _bookkeeper: Bookkeeper | None  # where there is a journal

    def __init__(self) -> None:
        raise TypeError("use 'async with open_scheduler() as scheduler'")

    @classmethod
    def _make(cls, spec: SchedulerSpec, supervisor: Supervisor, closing: ExitStack) -> Self:
        """Make a scheduler in a supervisor; `closing` is run when that supervisor has stopped."""
        self = object.__new__(cls)
        self._supervisor = supervisor
        self._embedding = embedding = Embedding(supervisor)
        self._jobs, self._numbers, self._leaving = {}, {}, {}
        self._timetable = timetable = Timetable(
            spec.clock,
            spec.zone,
            random.Random() if spec.rng is None else spec.rng,
            self._trigger_failed,
        )
        self._runner = Runner(embedding, timetable, keep=spec.history)
        closing.callback(self._runner.cancel_unstarted)
        self._bookkeeper = None
        supervisor.start_soon(self._dispatch, name="(dispatch)")
        if spec.journal is not None:
            self._bookkeeper = Bookkeeper(
                spec.journal,
                embedding=embedding,
                timetable=timetable,
                runner=self._runner,
                jobs=self._jobs,
            )
            self._bookkeeper.open()
        return self

    # Jobs, by name.

    @takes_options_of(JobSpec)
    def add(
        self,
        fn: Callable[[*PosArgsT], Awaitable[object]],
        *args: *PosArgsT,
        trigger: Trigger,
        name: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Add a job: ``await fn(*args)`` whenever `trigger` says so, from now on.

        With a journal it goes on after the last moment that the journal knows of.

        Args:
            fn: What to run, an async function; use `functools.partial` for keyword arguments.
            args: Positional arguments for `fn`.
            trigger: When; a `Cron`, `Every`, `At`, `AnyOf`, or a `Trigger` of your own.
            name: Unique among the jobs; from `fn` where not given. The journal knows jobs by it.
            options: See `JobSpec`: `misfire_grace`, `coalesce`, `overlap`, `jitter`, `timeout`,
                `rerun_interrupted`.

        Raises:
            DuplicateChildError: If a job of that name exists.
            SupervisorClosedError: If the scheduler has begun to stop.
            TypeError: If an option is of the wrong type or does not exist, or `fn` is no async
                function.
            ValueError: If a number is out of its range.
        """
        self._check_open()
        check_job_fn(fn)
        check_trigger(trigger)
        if name is None:
            name = free_name(name_of(fn), self._jobs, self._numbers)
        else:
            check_name("name", name)
        spec = job_spec(options)
        if name in self._jobs:
            raise DuplicateChildError(f"scheduler {self.name!r} has a job {name!r} already")
        timetable = self._timetable
        now = timetable.now()
        schedule = Schedule(trigger, spec, now, timetable.zone)
        schedule.seek(timetable.zone, timetable.rng)
        entry = Entry(name, fn, args, schedule)
        if (former := self._leaving.pop(name, None)) is not None:
            entry.adopt(former)
            self._runner.skip_waiting(former, REMOVED)
        self._jobs[name] = entry
        if self._bookkeeper is not None:
            self._bookkeeper.add(entry)
        elif isinstance(trigger, At) and schedule.moment is None:
            self._runner.record(Firing(entry, trigger.moment, now), Outcome.MISSED, PAST)
        else:
            timetable.put(entry)
        return entry

    def remove(self, name: str) -> None:
        """Take a job from the list, which frees its name; a run under way goes on to its end.

        Runs that wait for the end of that run are skipped. A job that is added under the same name
        while it goes on counts it as a run of its own, for its `overlap`.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        entry = self._find(name)
        del self._jobs[name]
        entry.removed = True
        self._timetable.drop(entry)
        if self._bookkeeper is not None:
            self._bookkeeper.withdraw(entry, "removed before it began")
        self._leaving = {name: left for name, left in self._leaving.items() if left.under_way}
        if entry.under_way:
            self._leaving[name] = entry

    def pause(self, name: str) -> None:
        """Pause a job: its moments pass without a run until `resume`.

        A run under way goes on. Runs that wait for its end, or for the journal, are skipped.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        entry = self._find(name)
        if entry.paused:
            return
        if self._bookkeeper is None:
            self._fire_if_due(entry)
        else:
            self._bookkeeper.withdraw(entry, "paused before it began")
        entry.set_paused(True)
        self._timetable.drop(entry)

    def resume(self, name: str) -> None:
        """Resume a paused job with its first moment from now on.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        entry = self._find(name)
        if not entry.paused:
            return
        entry.set_paused(False)
        now = self._timetable.now()
        if self._bookkeeper is not None and not self._bookkeeper.is_restored(entry):
            entry.schedule.disregard_until(now)
        self._timetable.skip_to(entry, now)
        self._put(entry, now)

    def reschedule(self, name: str, trigger: Trigger) -> None:
        """Give a job another trigger, from now on; all else stays.

        Raises:
            ChildNotFoundError: If there is no job of that name.
            TypeError: If `trigger` is none.
        """
        check_trigger(trigger)
        entry = self._find(name)
        self._fire_if_due(entry)
        entry.schedule.replan(trigger, self._timetable.now(), self._timetable.zone)
        self._plan_anew(entry)

    def set_timezone(self, timezone: str | tzinfo) -> None:
        """Change the zone of the triggers that name none, from now on.

        A moment is a point in time: none that has run runs again, and those that the old zone would
        have had from now on are gone.

        Raises:
            TypeError: If it is neither a name nor a tzinfo.
            ValueError: If the zone is unknown.
        """
        zone = as_timezone(timezone)
        entries = tuple(self._jobs.values())
        for entry in entries:
            self._fire_if_due(entry)
        self._timetable.zone = zone
        for entry in entries:
            self._plan_anew(entry)

    async def run_now(self, name: str) -> Run:
        """Run a job once, now, even if it is paused, and wait until that run has ended.

        Its `overlap` holds. The schedule is not changed, and the journal is not told. If the caller
        is cancelled, the run goes on.

        Returns:
            The run, whatever its outcome.

        Raises:
            ChildNotFoundError: If there is no job of that name.
            SupervisorClosedError: If the scheduler has begun to stop.
        """
        entry = self._find(name)
        self._check_open()
        now = self._timetable.now()
        firing = Firing(entry, moment_at(now, self._timetable.zone), now, manual=True)
        done = trio.Event()
        firing.on_done = done.set
        self._runner.admit(firing)
        await done.wait()
        assert firing.run is not None  # noqa: S101  (it is recorded)
        return firing.run

    async def shutdown(self) -> None:
        """Stop: ask the runs under way, cancel those that take too long, and leave the block.

        It returns when that is done; called from inside a run, as soon as that is itself asked.
        """
        await self._supervisor.shutdown()

    # What is to be seen.

    @property
    def name(self) -> str:
        """What it is called in events, logs and the printed tree."""
        return self._supervisor.name

    @property
    def timezone(self) -> tzinfo:
        """The zone of triggers that name none."""
        return self._timetable.zone

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in the order in which they were added."""
        return tuple(self._jobs.values())

    def __getitem__(self, name: str) -> Job:
        """Return a job by name; `ChildNotFoundError` if there is none."""
        return self._find(name)

    def __contains__(self, name: object) -> bool:
        return name in self._jobs

    def __repr__(self) -> str:
        return f"<Scheduler {self.name!r}: {len(self._jobs)} jobs>"

    # Moments come due.

    async def _dispatch(self) -> None:
        """Serve all jobs in one task: look at the clock, fire due jobs, sleep until the next one.

        The task waits for nothing but the time. What takes time runs in the child of a run, or in
        the bookkeeper's.
        """
        clock, timetable = self._timetable.clock, self._timetable
        end = clock.on_step(timetable.wake) if isinstance(clock, SteppedWallClock) else _nothing
        try:
            with current_child().cancel_on_stop():
                while True:
                    now = self._look()
                    if self._fire_some(now):
                        await trio.lowlevel.checkpoint()
                    else:
                        await timetable.sleep(now)
        finally:
            end()
            if self._embedding.is_stopping:
                self._runner.cancel_unstarted()

    def _look(self) -> float:
        look = self._timetable.look()
        if look.went_back:
            for entry in tuple(self._jobs.values()):
                self._timetable.set_back(entry, look.now)
        if abs(look.jump) > CLOCK_TOLERANCE:
            self._embedding.emit(ClockJumped, seconds=look.jump)
        return look.now

    def _fire_some(self, now: float) -> bool:
        """Fire due jobs, at most `BATCH` of them; return whether any was due."""
        for fired in range(BATCH):
            entry = self._timetable.first_due(now)
            if entry is None:
                return fired > 0
            self._fire(entry, now)
        return True

    def _fire(self, entry: Entry, now: float) -> None:
        """Take the due moments out of a job's schedule, and start their runs."""
        if self._bookkeeper is not None:
            self._bookkeeper.come_due(entry, now)
            return
        taken = self._timetable.take_due(entry, now)
        self._timetable.put(entry)
        for firing in taken:
            if firing.missed is None:
                self._runner.admit(firing)
            else:
                self._runner.record(firing, Outcome.MISSED, firing.missed)

    def _fire_if_due(self, entry: Entry) -> None:
        """Fire a job that is due, before a change of its schedule drops the due moment."""
        now = self._timetable.now()
        if self._bookkeeper is not None:
            self._bookkeeper.keep_due(entry, now)
        elif entry.place is not None and entry.place[0] <= now:
            self._fire(entry, now)

    def _plan_anew(self, entry: Entry) -> None:
        """Find a job's next moment from now on, after its trigger or the zone has changed."""
        now = self._timetable.now()
        if self._bookkeeper is not None and not self._bookkeeper.is_restored(entry):
            # The journal has not said yet where the job goes on, so it is as if added with this
            # trigger.
            self._timetable.begin(entry, now)
        else:
            self._timetable.skip_to(entry, now)
        self._put(entry, now)

    def _put(self, entry: Entry, now: float) -> None:
        if entry.paused:
            return
        if self._bookkeeper is not None:
            self._bookkeeper.put(entry, now)
        else:
            self._timetable.put(entry)

    def _trigger_failed(self, entry: Entry, error: Exception) -> None:
        firing = Firing(entry, moment_at(entry.schedule.watermark, self._timetable.zone), 0.0)
        self._runner.record(firing, Outcome.FAILED, "its trigger failed", error=error)

    # Small things.

    def _find(self, name: str) -> Entry:
        try:
            return self._jobs[name]
        except KeyError:
            raise ChildNotFoundError(f"scheduler {self.name!r} has no job {name!r}") from None

    def _check_open(self) -> None:
        if self._embedding.is_stopping:
            raise SupervisorClosedError(f"scheduler {self.name!r} has begun to stop")


class SchedulerManager:
    """What `open_scheduler` returns: the manager of its supervisor, and a little around it."""

    def __init__(self, spec: SchedulerSpec) -> None:
        self._spec = spec
        self._closing = ExitStack()
        self._manager = open_supervisor(
            name=spec.name,
            shutdown_timeout=spec.shutdown_timeout,
            shutdown_order=ShutdownOrder.TOGETHER,
            on_event=spec.on_event,
        )

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Scheduler:
        supervisor = await self._manager.__aenter__()
        return Scheduler._make(self._spec, supervisor, self._closing)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        with self._closing:
            return await self._manager.__aexit__(  # noqa: ASYNC102  (it stops in order)
                exc_type, exc, traceback
            )


def _nothing() -> None:
    pass
