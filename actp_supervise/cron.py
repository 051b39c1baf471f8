"""The scheduler: jobs that run when their triggers say so, as children of a supervisor of its own.

What a user holds: `open_scheduler`, `Scheduler`, and from elsewhere the triggers, the `Job`, what
became of its moments, and the `Journal`. How it works is in `dispatcher`, when a job is due is
decided in `jobs` and `triggers`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeVarTuple, final

import trio

from .clock import SystemWallClock, WallClock, local_timezone
from .dispatcher import Dispatcher
from .jobs import Job
from .journal import Journal, MemoryJournal, RecoveringJournal
from .nursery import open_supervisor
from .policies import ShutdownOrder
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
from .triggers import AnyOf, At, Cron, Every, Trigger, as_timezone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import tzinfo
    from types import TracebackType

    from .events import Event
    from .nursery import SupervisorManager

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


def open_scheduler(
    *,
    name: str = "scheduler",
    timezone: str | tzinfo | None = None,
    wall_clock: WallClock | None = None,
    journal: Journal | None = None,
    on_event: Callable[[Event], object] | None = None,
    shutdown_timeout: float = 5.0,
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
        shutdown_timeout: Seconds that a run has to stop when asked, before it is cancelled.
        history: How many runs each `Job.history` keeps.
        rng: Where jitter comes from.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If the zone is unknown, or a number out of its range.
        RestartLimitExceeded: From the block, if the wall clock fails again and again.
    """
    if not history >= 1:
        raise ValueError(f"history must be a count from 1, not {history!r}")
    options = {
        "zone": local_timezone() if timezone is None else as_timezone(timezone),
        "clock": SystemWallClock() if wall_clock is None else wall_clock,
        "journal": journal,
        "rng": random.Random() if rng is None else rng,
        "keep": history,
    }
    return _SchedulerManager(
        open_supervisor(
            name=name,
            shutdown_timeout=shutdown_timeout,
            shutdown_order=ShutdownOrder.TOGETHER,
            on_event=on_event,
        ),
        options,
    )


@final
class Scheduler:
    """A running scheduler; made by `open_scheduler`."""

    _dispatcher: Dispatcher

    def __init__(self) -> None:
        raise TypeError("use 'async with open_scheduler() as scheduler'")

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
            fn: What to run; use `functools.partial` for keyword arguments.
            args: Positional arguments for `fn`.
            trigger: When; a `Cron`, `Every`, `At`, `AnyOf`, or a `Trigger` of your own.
            name: Unique among the jobs; from `fn` where not given. The journal knows jobs by it.
            misfire_grace: Seconds by which a run may be late, because the machine slept, the
                daemon was down, or it was busy; a later one is recorded as missed. None for any.
            coalesce: Of several moments that are due at once, run only the latest and record the
                others as missed.
            overlap: What happens when a run is due while the last still runs in this scheduler.
            jitter: Start each run up to this many seconds after its moment, at random.
            timeout: Seconds after which a run is cancelled; None for no limit.
            rerun_interrupted: Run a moment again that a daemon died in, while it is not too late.

        Raises:
            DuplicateChildError: If a job of that name exists.
            SupervisorClosedError: If the scheduler has begun to stop.
            TypeError: If an option is of the wrong type.
            ValueError: If a number is out of its range.
        """
        return self._dispatcher.add(
            fn,
            args,
            name=name,
            trigger=trigger,
            misfire_grace=misfire_grace,
            coalesce=coalesce,
            overlap=overlap,
            jitter=jitter,
            timeout=timeout,
            rerun_interrupted=rerun_interrupted,
        )

    def remove(self, name: str) -> None:
        """Take a job from the list, which frees its name; a run under way goes on to its end.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        self._dispatcher.remove(name)

    def pause(self, name: str) -> None:
        """Let a job's moments pass unnoticed until it is resumed; a run under way goes on.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        self._dispatcher.pause(name)

    def resume(self, name: str) -> None:
        """Let a paused job go on with the first moment from now.

        Raises:
            ChildNotFoundError: If there is no job of that name.
        """
        self._dispatcher.resume(name)

    def reschedule(self, name: str, trigger: Trigger) -> None:
        """Give a job another trigger, from now on; all else stays.

        Raises:
            ChildNotFoundError: If there is no job of that name.
            TypeError: If `trigger` is none.
        """
        self._dispatcher.reschedule(name, trigger)

    def set_timezone(self, timezone: str | tzinfo) -> None:
        """Read the triggers that name no zone in another one, from now on.

        A moment is a point in time: none that has run runs again, and those that the old zone would
        have had from now on are gone.

        Raises:
            TypeError: If it is neither a name nor a tzinfo.
            ValueError: If the zone is unknown.
        """
        self._dispatcher.set_timezone(as_timezone(timezone))

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
        return await self._dispatcher.run_now(name)

    async def shutdown(self) -> None:
        """Stop: ask the runs under way, cancel those that take too long, and leave the block.

        It returns when that is done; called from inside a run, as soon as that is itself asked.
        """
        await self._dispatcher.supervisor.shutdown()

    @property
    def name(self) -> str:
        """What it is called in events, logs and the printed tree."""
        return self._dispatcher.supervisor.name

    @property
    def timezone(self) -> tzinfo:
        """In which zone triggers that name none are read."""
        return self._dispatcher.zone

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in the order in which they were added."""
        return tuple(self._dispatcher.jobs.values())

    def __getitem__(self, name: str) -> Job:
        """Return a job by name; `ChildNotFoundError` if there is none."""
        return self._dispatcher.find(name)

    def __contains__(self, name: object) -> bool:
        return name in self._dispatcher.jobs

    def __repr__(self) -> str:
        return f"<Scheduler {self.name!r}: {len(self._dispatcher.jobs)} jobs>"


class _SchedulerManager:
    """What `open_scheduler` returns: the manager of its supervisor, and a little around it."""

    def __init__(self, supervisor: SupervisorManager, options: dict[str, Any]) -> None:
        self._manager = supervisor
        self._options = options

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Scheduler:
        supervisor = await self._manager.__aenter__()
        self._dispatcher = Dispatcher(supervisor=supervisor, **self._options)
        self._dispatcher.open()
        scheduler = object.__new__(Scheduler)
        scheduler._dispatcher = self._dispatcher
        return scheduler

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            return await self._manager.__aexit__(  # noqa: ASYNC102  (it stops in order)
                exc_type, exc, traceback
            )
        finally:
            await self._dispatcher.close()  # noqa: ASYNC102  (bounded and shielded)
