"""A job: what it shows of itself, and which of its moments are due. No Trio, no clock, no effects.

`dispatcher` keeps the jobs, tells them the time and does what they say. All times in here are
seconds since 1970 by the wall clock, all moments aware datetimes.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Final, final

from .runs import Overlap, Run
from .triggers import At, Trigger, check_trigger, latest_until

if TYPE_CHECKING:
    import random
    from collections import deque
    from collections.abc import Awaitable, Callable

BACKLOG: Final = 1000
"""How many moments of one job that are due at once are looked at one by one."""


class Firing:
    """One moment that has come, on its way to becoming a `Run`."""

    __slots__ = (
        "by_hand",
        "child_name",
        "claimed",
        "done",
        "job",
        "missed",
        "moment",
        "run",
        "started_at",
        "time",
    )

    def __init__(self, job: Job, moment: datetime, time: float, *, by_hand: bool = False) -> None:
        self.job = job
        self.moment = moment
        self.time = time  # when it was due, jitter included
        self.by_hand = by_hand
        self.missed: str | None = None  # why it is not to run
        self.claimed = False  # the journal knows of it
        self.child_name = ""
        self.started_at: datetime | None = None
        self.run: Run | None = None  # once it is settled
        self.done: Callable[[], object] | None = None  # called then


@final
class Job:
    """A function and its schedule; made by `Scheduler.add`."""

    __slots__ = (
        "_args",
        "_due",
        "_entry",
        "_fn",
        "_handled",
        "_history",
        "_keep",
        "_moment",
        "_plan",
        "_restoring",
        "_running",
        "_since",
        "_time",
        "_upto",
        "_waiting",
        "coalesce",
        "jitter",
        "misfire_grace",
        "name",
        "overlap",
        "paused",
        "rerun_interrupted",
        "timeout",
        "trigger",
    )

    name: str
    trigger: Trigger
    """The schedule, as it was given; ``str(job.trigger)`` says it in words."""
    misfire_grace: float
    """Seconds by which a run may be late; ``inf`` for any."""
    coalesce: bool
    overlap: Overlap
    jitter: float
    timeout: float | None
    rerun_interrupted: bool
    paused: bool

    _fn: Callable[..., Awaitable[object]]
    _args: tuple[object, ...]
    _plan: Trigger  # the trigger, with its start fixed
    _moment: datetime | None  # the next one
    _time: float  # of the next moment
    _due: float  # the same with jitter
    # Every moment in (_since, _upto] and in the spans of _handled has been dealt with.
    _since: float
    _upto: float
    _handled: tuple[tuple[float, float], ...]
    _entry: tuple[float, int, Job] | None  # in the scheduler's heap
    _restoring: bool  # the journal has not yet said when it last fired
    _running: tuple[Firing, ...]
    _waiting: deque[Firing] | None  # accepted, until the one under way has ended
    _history: list[Run] | None
    _keep: int

    def __init__(self) -> None:
        raise TypeError("jobs are made by Scheduler.add")

    @property
    def next_run_time(self) -> datetime | None:
        """The next moment of its schedule, without jitter; None if there is none or it is paused.

        In the trigger's zone, or else the scheduler's.
        """
        return None if self.paused else self._moment

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
        """The runs under way, oldest first."""
        return tuple(
            Run(scheduled_at=firing.moment, started_at=firing.started_at)
            for firing in self._running
        )

    def upcoming(self, n: int) -> tuple[datetime, ...]:
        """Return its next `n` moments, as if it were not paused."""
        if self._moment is None:
            return ()
        return (self._moment, *self._plan.upcoming(n - 1, after=self._moment))[:n]

    def __repr__(self) -> str:
        state = "paused" if self.paused else f"next {self._moment}"
        return f"<Job {self.name!r}: {self.trigger}, {state}>"

    @classmethod
    def _make(
        cls,
        fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        *,
        name: str,
        trigger: Trigger,
        misfire_grace: float | None,
        coalesce: bool,
        overlap: Overlap,
        jitter: float,
        timeout: float | None,
        rerun_interrupted: bool,
        keep: int,
        now: float,
        zone: tzinfo,
    ) -> Job:
        check_trigger(trigger)
        if misfire_grace is not None and not misfire_grace >= 0:  # so that NaN is refused too
            raise ValueError(
                f"misfire_grace must be a number of seconds from 0, or None, not {misfire_grace!r}"
            )
        if not isinstance(overlap, Overlap):
            raise TypeError(f"overlap must be an Overlap, not {overlap!r}")
        if not 0 <= jitter < math.inf:
            raise ValueError(f"jitter must be a number of seconds from 0, not {jitter!r}")
        if timeout is not None and not timeout > 0:
            raise ValueError(
                f"timeout must be a positive number of seconds, or None, not {timeout!r}"
            )
        job = object.__new__(cls)
        job.name = name
        job.trigger = trigger
        job.misfire_grace = math.inf if misfire_grace is None else misfire_grace
        job.coalesce = coalesce
        job.overlap = overlap
        job.jitter = jitter
        job.timeout = timeout
        job.rerun_interrupted = rerun_interrupted
        job.paused = job._restoring = False
        job._fn = fn
        job._args = args
        job._plan = trigger.anchored(datetime.fromtimestamp(now, zone))
        job._since = job._upto = now
        job._handled = ()
        job._entry = job._history = job._waiting = None
        job._running = ()
        job._keep = keep
        return job

    def _seek(self, zone: tzinfo, rng: random.Random) -> None:
        """Find the first moment that has not been dealt with."""
        self._moment = None
        after = self._upto
        while True:
            # In the scheduler's zone, in which a trigger without one is read.
            moment = self._plan.next_after(datetime.fromtimestamp(after, zone))
            if moment is None:
                return
            if moment.tzinfo is None:
                raise ValueError(f"trigger {self.trigger!r} answered with a naive moment")
            time = moment.timestamp()
            if not time > after:
                raise ValueError(f"trigger {self.trigger!r} answered with no later moment")
            if not self._handled:
                break
            spans = [high for low, high in self._handled if low < time <= high]
            if not spans:
                break
            after = max(spans)
        self._moment = moment
        self._time = time
        self._due = time + rng.uniform(0.0, self.jitter) if self.jitter else time

    def _take_due(self, now: float, zone: tzinfo, rng: random.Random) -> list[Firing]:
        """Take off the moments that are due by `now`, oldest first; say which are not to run.

        Those beyond `BACKLOG` are left for the next call, or passed over where they cannot run:
        then one firing stands for all of them.
        """
        taken: list[Firing] = []
        while self._moment is not None and self._due <= now and len(taken) < BACKLOG:
            taken.append(self._take(zone, rng))
        if self._moment is not None and self._due <= now:
            taken += self._pass_over(now, zone, rng)
        latest = taken[-1] if self.coalesce else None
        for firing in taken:
            if firing.missed is None:
                firing.missed = self._why_missed(firing, now, latest)
        return taken

    def _take(self, zone: tzinfo, rng: random.Random) -> Firing:
        assert self._moment is not None  # noqa: S101
        firing = Firing(self, self._moment, self._due)
        self._upto = self._time
        self._seek(zone, rng)
        return firing

    def _pass_over(self, now: float, zone: tzinfo, rng: random.Random) -> list[Firing]:
        """Go on, without a walk through all between, to the next moment that may have to run."""
        assert self._moment is not None  # noqa: S101
        if self.coalesce:
            until = datetime.fromtimestamp(now - self.jitter, zone)
            goal = latest_until(self._plan, until, after=self._moment)
        elif self.misfire_grace < math.inf:
            oldest = datetime.fromtimestamp(now - self.misfire_grace, zone)
            goal = self._plan.next_after(oldest - timedelta.resolution)
        else:
            goal = None
        if goal is None or goal.timestamp() <= self._time:
            return []
        passed = Firing(self, self._moment, self._due)
        passed.missed = f"passed over, with all that were due before {goal}"
        self._moment = goal
        self._time = self._due = goal.timestamp()
        return [passed, self._take(zone, rng)] if self.coalesce else [passed]

    def _why_missed(self, firing: Firing, now: float, latest: Firing | None = None) -> str | None:
        """Return why a firing is not to run at `now`; None if it is.

        Args:
            firing: What is due.
            now: The time.
            latest: The one into which older ones are coalesced, if they are.
        """
        if now - firing.time > self.misfire_grace:
            return f"more than {self.misfire_grace:g} s late"
        if latest is not None and firing is not latest:
            return f"coalesced into the run of {latest.moment}"
        return None

    def _skip_to(self, now: float, zone: tzinfo, rng: random.Random) -> None:
        """Let go of all moments until `now`, and of the one that was next."""
        self._upto = max(self._upto, now)
        self._seek(zone, rng)

    def _clock_set_back(self, now: float, zone: tzinfo, rng: random.Random) -> bool:
        """Say whether the next moment changed because the wall clock was set back to `now`.

        Where the clock is still later than the job's first sight of it, nothing has to change: the
        next moment comes after all that have been dealt with. Else there are moments before those.
        """
        if self._since <= now:
            return False
        older = tuple(span for span in self._handled if span[1] > self._upto)
        self._handled = ((self._since, self._upto), *older)
        self._since = self._upto = now
        self._seek(zone, rng)
        return True

    def _restore(self, last: float, zone: tzinfo, rng: random.Random) -> None:
        """Go on after the last moment that the journal knows of; ``inf`` if it knows of none."""
        self._restoring = False
        if last < math.inf:
            self._plan = self.trigger.anchored(datetime.fromtimestamp(last, zone))
            # A claim from when the clock was ahead must not hide the moments before it.
            self._since = self._upto = min(last, self._since)
        elif isinstance(self.trigger, At):
            self._since = self._upto = min(self.trigger.moment.timestamp() - 1.0, self._since)
        self._seek(zone, rng)

    def _note(self, run: Run) -> None:
        if self._history is None:
            self._history = []
        self._history.append(run)
        if len(self._history) > self._keep:
            del self._history[0]
