"""The scheduler: jobs that run when their triggers say so, as children of a supervisor of its own.

What a user holds: `open_scheduler`, `Scheduler`, and from elsewhere the triggers, the `Job`, what
became of its moments, and the `Journal`. Behind it, `timetable` says what is due, `runner` runs it,
and `keeper` asks and tells the journal, if there is one.
"""

from __future__ import annotations

import math
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self, TypeVarTuple, final

import trio

from .checks import check_async_fn
from .child import current_child, free_name, name_of
from .clock import SteppedWallClock, SystemWallClock, WallClock, local_timezone
from .embedding import Embedding
from .errors import ChildNotFoundError, DuplicateChildError, SupervisorClosedError
from .jobs import Entry, Job
from .journal import Journal, MemoryJournal, RecoveringJournal, RememberingJournal
from .keeper import Keeper
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
from .spec import SchedulerSpec, check_name, job_spec
from .timetable import Timetable
from .triggers import AnyOf, At, Cron, Every, Trigger, as_timezone, check_trigger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import tzinfo
    from types import TracebackType

    from .events import Event
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
"""Seconds by which the wall clock and Trio's may drift apart from one look to the next unsaid."""

BATCH: Final = 100
"""How many jobs are dispatched before their runs, and everything else, get a turn."""


def open_scheduler(
    *,
    name: str = "scheduler",
    timezone: str | tzinfo | None = None,
    wall_clock: WallClock | None = None,
    journal: Journal | None = None,
    on_event: Callable[[Event], object] | None = None,
    shutdown_timeout: float | None = None,
    history: int = 20,
    rng: random.Random | None = None,
) -> _SchedulerManager:
    """Open a scheduler, to be used in an ``async with``.

    Leaving the block waits until `Scheduler.shutdown` is called or the block is cancelled. Then
    the runs under way are asked to stop, all at once, and cancelled when they take too long.
    Opened inside a child of a supervisor, it becomes a subtree of that child.

    Args:
        name: What it is called in events, logs and the printed tree.
        timezone: In which zone triggers that name none are read, an IANA name or a tzinfo; the
            machine's where not given.
        wall_clock: What tells the time of day; the machine's clock where not given.
        journal: Where fires are remembered. With it, moments that passed while no scheduler ran
            are made up for, and of several daemons that share it one fires each moment.
        on_event: Called at once with each event of the scheduler and of its supervisor. An
            exception in it is logged and harms nobody.
        shutdown_timeout: Seconds that a run has to stop when asked, before it is cancelled. None
            gives 5 s to a run that listens (that has looked at ``current_child().stopping``, or
            entered ``cancel_on_stop()``), and cancels any other at once.
        history: How many runs each `Job.history` keeps.
        rng: Where jitter comes from.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If the zone is unknown, or a number out of its range.
        RestartLimitExceeded: From the block, if the wall clock fails again and again.
    """
    return _SchedulerManager(
        SchedulerSpec(
            name=name,
            timezone=local_timezone() if timezone is None else as_timezone(timezone),
            wall_clock=SystemWallClock() if wall_clock is None else wall_clock,
            journal=journal,
            on_event=on_event,
            shutdown_timeout=shutdown_timeout,
            history=history,
            rng=random.Random() if rng is None else rng,
        )
    )


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
    _keeper: Keeper | None  # where there is a journal

    def __init__(self) -> None:
        raise TypeError("use 'async with open_scheduler() as scheduler'")

    @classmethod
    def _make(cls, spec: SchedulerSpec, supervisor: Supervisor, closing: ExitStack) -> Self:
        """Open a scheduler in a supervisor; `closing` does what remains when that has stopped."""
        self = object.__new__(cls)
        self._supervisor = supervisor
        self._embedding = embedding = Embedding(supervisor)
        self._jobs, self._numbers, self._leaving = {}, {}, {}
        self._timetable = timetable = Timetable(
            spec.wall_clock, spec.timezone, spec.rng, self._trigger_failed
        )
        self._runner = Runner(embedding, timetable, keep=spec.history)
        closing.callback(self._runner.cancel_unstarted)
        self._keeper = None
        supervisor.start_soon(self._dispatch, name="(dispatch)")
        if spec.journal is not None:
            self._keeper = Keeper(
                spec.journal,
                embedding=embedding,
                timetable=timetable,
                runner=self._runner,
                jobs=self._jobs,
            )
            self._keeper.open()
        return self

    # Jobs, by name.

    def add(
        self,
        fn: Callable[[*PosArgsT], Awaitable[object]],
        *args: *PosArgsT,
        trigger: Trigger,
        name: str | None = None,
        misfire_grace: float | None = 3600.0,
        coalesce: bool = True,
        overlap: Overlap = Overlap.SKIP,
        jitter: float = 0.0,
        timeout: float | None = None,
        rerun_interrupted: bool = False,
    ) -> Job:
        """Add a job: ``await fn(*args)`` whenever `trigger` says so, from now on.

        With a journal it goes on after the last moment that the journal knows of.

        Args:
            fn: What to run, an async function; use `functools.partial` for keyword arguments.
            args: Positional arguments for `fn`.
            trigger: When; a `Cron`, `Every`, `At`, `AnyOf`, or a `Trigger` of your own.
            name: Unique among the jobs; from `fn` where not given. The journal knows jobs by it.
            misfire_grace: Seconds by which a run may be late, because the machine slept, the
                daemon was down, or it was busy; a later one is recorded as missed. At least 1;
                None for any.
            coalesce: Of several moments that are due at once, run only the latest and record the
                others as missed.
            overlap: What happens when a run is due while the last still runs in this scheduler.
            jitter: Start each run up to this many seconds after its moment, at random, but before
                the next moment.
            timeout: Seconds after which a run is cancelled; None for no limit.
            rerun_interrupted: Run a moment again that a daemon died in, while it is not too late.

        Raises:
            DuplicateChildError: If a job of that name exists.
            SupervisorClosedError: If the scheduler has begun to stop.
            TypeError: If an option is of the wrong type, or `fn` no async function.
            ValueError: If a number is out of its range.
        """
        self._check_open()
        check_async_fn("a job", fn)
        check_trigger(trigger)
        if name is None:
            name = free_name(name_of(fn), self._jobs, self._numbers)
        check_name(name)
        spec = job_spec(
            misfire_grace=math.inf if misfire_grace is None else misfire_grace,
            coalesce=coalesce,
            overlap=overlap,
            jitter=jitter,
            timeout=timeout,
            rerun_interrupted=rerun_interrupted,
        )
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
        if self._keeper is not None:
            self._keeper.add(entry)
        elif isinstance(trigger, At) and schedule.moment is None:
            self._runner.record(Firing(entry, trigger.moment, now), Outcome.MISSED, PAST)
        else:
            timetable.put(entry)
        return entry

    def remove(self, name: str) -> None:
        """Take a job from the list, which frees its name; a run under way goes on to its end.

        Runs that wait for that end are skipped. A job that is added under the same name before it
        counts the run as its own last one, for its `overlap`.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        entry = self._find(name)
        del self._jobs[name]
        entry.removed = True
        self._timetable.drop(entry)
        if self._keeper is not None:
            self._keeper.withdraw(entry, "removed before it began")
        self._leaving = {name: left for name, left in self._leaving.items() if left.under_way}
        if entry.under_way:
            self._leaving[name] = entry

    def pause(self, name: str) -> None:
        """Let a job's moments pass unnoticed until it is resumed; a run under way goes on.

        Runs that wait for that end, or for the journal, are skipped.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        entry = self._find(name)
        if entry.paused:
            return
        if self._keeper is None:
            self._fire_if_due(entry)
        else:
            self._keeper.withdraw(entry, "paused before it began")
        entry.set_paused(True)
        self._timetable.drop(entry)

    def resume(self, name: str) -> None:
        """Let a paused job go on with the first moment from now.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        entry = self._find(name)
        if not entry.paused:
            return
        entry.set_paused(False)
        now = self._timetable.now()
        if self._keeper is not None and not self._keeper.is_restored(entry):
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
        """Read the triggers that name no zone in another one, from now on.

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
        """Run a job once at once, whether paused or not, and wait until that has ended.

        Its `overlap` holds. The schedule goes on as if nothing had been, and the journal is not
        told. If the caller is cancelled, the run goes on.

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
        """In which zone triggers that name none are read."""
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
        """Be the one task for all jobs: look at the clock, fire what is due, sleep until the next.

        It waits for nothing but the time: whatever else takes any is a run's child, or the keeper.
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
        """Fire up to a batch of what is due; return whether anything was."""
        for fired in range(BATCH):
            entry = self._timetable.first_due(now)
            if entry is None:
                return fired > 0
            self._fire(entry, now)
        return True

    def _fire(self, entry: Entry, now: float) -> None:
        """Take off what is due of one job, and set the runs going."""
        if self._keeper is not None:
            self._keeper.come_due(entry, now)
            return
        taken = self._timetable.take_due(entry, now)
        self._timetable.put(entry)
        for firing in taken:
            if firing.missed is None:
                self._runner.admit(firing)
            else:
                self._runner.record(firing, Outcome.MISSED, firing.missed)

    def _fire_if_due(self, entry: Entry) -> None:
        """Do what the dispatcher has not come to, before a change makes it forget."""
        now = self._timetable.now()
        if self._keeper is not None:
            self._keeper.keep_due(entry, now)
        elif entry.place is not None and entry.place[0] <= now:
            self._fire(entry, now)

    def _plan_anew(self, entry: Entry) -> None:
        """Seek the first moment from now on, as trigger or zone have changed."""
        now = self._timetable.now()
        if self._keeper is not None and not self._keeper.is_restored(entry):
            # As if it had been added so: the journal has yet to say where it goes on.
            self._timetable.begin(entry, now)
        else:
            self._timetable.skip_to(entry, now)
        self._put(entry, now)

    def _put(self, entry: Entry, now: float) -> None:
        if entry.paused:
            return
        if self._keeper is not None:
            self._keeper.put(entry, now)
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


class _SchedulerManager:
    """What `open_scheduler` returns: the manager of its supervisor, and a little around it."""

    def __init__(self, spec: SchedulerSpec) -> None:
        self._spec = spec
        self._closing = ExitStack()
        self._manager = open_supervisor(
            name=spec.name,
            # UNTIL MERGED: open_supervisor is to take None itself.
            shutdown_timeout=5.0 if spec.shutdown_timeout is None else spec.shutdown_timeout,
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
