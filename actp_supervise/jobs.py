"""A job, as a user sees it (`Job`) and as the scheduler works with it (`Entry`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from .checks import check_count
from .runs import Overlap, Run

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from .claims import Claims
    from .schedule import Firing, Schedule
    from .spec import JobSpec
    from .triggers import Trigger


class Job:
    """A function and its schedule; made by `Scheduler.add`."""

    __slots__ = ("_history", "_paused", "_running", "_schedule", "name")

    name: str
    """Unique among the scheduler's jobs; the journal knows the job by it."""

    _schedule: Schedule
    _paused: bool
    _history: list[Run] | None  # None until the first
    _running: tuple[Firing, ...]

    def __init__(self) -> None:
        raise TypeError("jobs are made by Scheduler.add")

    # What it was added with.

    @property
    def trigger(self) -> Trigger:
        """The schedule, as it was given; ``str(job.trigger)`` says it in words."""
        return self._schedule.trigger

    @property
    def misfire_grace(self) -> float:
        """Seconds by which a run may be late; ``inf`` for any."""
        return self._schedule.spec.grace

    @property
    def coalesce(self) -> bool:
        """Whether only the latest of several moments that are due at once runs."""
        return self._schedule.spec.coalesce

    @property
    def overlap(self) -> Overlap:
        """What happens when a run is due while the last still runs."""
        return self._schedule.spec.overlap

    @property
    def jitter(self) -> float:
        """Seconds by which the start of a run is spread at most."""
        return self._schedule.spec.jitter

    @property
    def timeout(self) -> float | None:
        """Seconds after which a run is cancelled."""
        return self._schedule.spec.timeout

    @property
    def rerun_interrupted(self) -> bool:
        """Whether a moment whose daemon died during the run is run again."""
        return self._schedule.spec.rerun_interrupted

    # What it is doing.

    @property
    def paused(self) -> bool:
        """Whether it is paused, so that its moments pass without a run."""
        return self._paused

    @property
    def next_run_time(self) -> datetime | None:
        """The next moment of its schedule, without jitter; None if there is none or it is paused.

        In the trigger's zone, or else the scheduler's.
        """
        return None if self._paused else self._schedule.shown

    def upcoming(self, n: int) -> tuple[datetime, ...]:
        """Return its next `n` moments, as if it were not paused.

        Raises:
            TypeError: If `n` is no whole number.
            ValueError: If it is negative.
        """
        check_count("n", n, minimum=0)
        return self._schedule.upcoming(n)

    @property
    def history(self) -> tuple[Run, ...]:
        """What became of its last moments, in the order in which they ended."""
        return tuple(self._history or ())

    @property
    def last_run(self) -> Run | None:
        """The newest entry of `history`."""
        return self._history[-1] if self._history else None

    @property
    def running(self) -> tuple[Run, ...]:
        """The runs under way, oldest first; those of a removed job of the same name included."""
        return tuple(
            Run(scheduled_at=firing.moment, started_at=firing.started_at)
            for firing in self._running
        )

    def __repr__(self) -> str:
        state = "paused" if self._paused else f"next {self._schedule.shown}"
        return f"<Job {self.name!r}: {self.trigger}, {state}>"


@final
class Entry(Job):
    """A job as the scheduler works with it."""

    __slots__ = ("args", "claims", "fn", "place", "removed", "schedule", "waiting")

    def __init__(
        self,
        name: str,
        fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        schedule: Schedule,
    ) -> None:
        self.name = name
        self.fn = fn
        self.args = args
        self.schedule = self._schedule = schedule
        schedule.entry = self
        self._paused = False
        self._history = None
        self._running = ()
        self.removed = False
        self.place: tuple[float, int, Entry] | None = None
        """Where it stands in the timetable."""
        self.waiting: deque[Firing] | None = None
        """Runs that have been accepted and wait until the one under way has ended."""
        self.claims: Claims | None = None
        """What the journal is to be asked and told, where there is one."""

    @property
    def spec(self) -> JobSpec:
        """The options that it was added with."""
        return self._schedule.spec

    @property
    def under_way(self) -> tuple[Firing, ...]:
        """The runs that its name has under way, oldest first."""
        return self._running

    def set_paused(self, paused: bool) -> None:  # noqa: FBT001  (it is what is set)
        """Pause the job, or resume it."""
        self._paused = paused

    def begin(self, firing: Firing) -> None:
        """Add a run to those under way."""
        firing.holder = self
        self._running += (firing,)

    def end(self, firing: Firing) -> None:
        """Take a run from those under way."""
        if self._running == (firing,):
            self._running = ()
        elif self._running:
            self._running = tuple(other for other in self._running if other is not firing)

    def adopt(self, former: Entry) -> None:
        """Take over the runs that a removed job of the same name has under way.

        `overlap` follows the name: a job that is removed and added again does not run twice.
        """
        for firing in former.under_way:
            former.end(firing)
            self.begin(firing)

    def remember(self, run: Run, keep: int) -> None:
        """Add to the history, which holds `keep` runs."""
        if self._history is None:
            self._history = []
        self._history.append(run)
        if len(self._history) > keep:
            del self._history[0]
