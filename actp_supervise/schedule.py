"""Which moments of one job are due: a mutable value without Trio, clock or effects.

`timetable` tells it the time. Times are seconds since 1970 by the wall clock; moments are aware
datetimes.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Final, final

from .triggers import At, Trigger, latest_until, moment_near

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from .jobs import Entry
    from .runs import Run
    from .spec import JobSpec

Span = tuple[float, float]
"""From when, exclusive, until when, inclusive."""

BACKLOG: Final = 1000
"""How many moments of one job that are due at once are looked at one by one."""

PAST: Final = "past when the job was added"
"""The reason recorded for an `At` whose moment has passed."""


@final
class Firing:
    """One moment that has come, on its way to becoming a `Run`."""

    __slots__ = (
        "asked",
        "child_name",
        "claimed",
        "entry",
        "holder",
        "is_replaced",
        "manual",
        "missed",
        "moment",
        "on_done",
        "run",
        "started_at",
        "time",
    )

    entry: Entry
    """Whose moment it is."""
    holder: Entry
    """The job that counts it among its runs under way: `entry`, or the job that was added under its
    name after `entry` was removed."""
    moment: datetime
    time: float
    """When it was due, jitter included."""
    missed: str | None
    """Why it must not run; None if it may."""
    manual: bool
    """Whether it comes from `Scheduler.run_now` and not from the schedule."""
    asked: bool
    """Whether the journal was asked for it, with or without an answer."""
    claimed: bool
    """Whether the journal gave it to us."""
    child_name: str
    is_replaced: bool
    """Whether it was stopped for the sake of a later run."""
    started_at: datetime | None
    run: Run | None
    """Its record, once it has ended or will not run."""
    on_done: Callable[[], object] | None
    """Called when `run` is set."""

    def __init__(
        self,
        entry: Entry,
        moment: datetime,
        time: float,
        *,
        missed: str | None = None,
        manual: bool = False,
    ) -> None:
        self.entry = self.holder = entry
        self.moment = moment
        self.time = time
        self.missed = missed
        self.manual = manual
        self.asked = self.claimed = self.is_replaced = False
        self.child_name = ""
        self.started_at = self.run = self.on_done = None


class Schedule:
    """A trigger, and how far it has been followed.

    The *head* is the first moment that has not been dealt with. It is usually ahead of the clock;
    where a journal keeps it waiting, the clock goes past it, and past others behind it.
    """

    __slots__ = (
        "_anchored",
        "_disregarded",
        "_processed",
        "_since",
        "_watermark",
        "due",
        "entry",
        "moment",
        "shown",
        "spec",
        "time",
        "trigger",
    )

    entry: Entry
    """The job, for the firings."""
    trigger: Trigger
    """As it was given."""
    spec: JobSpec
    moment: datetime | None
    """The head; None at the schedule's end."""
    time: float
    """The head's time; ``inf`` at the schedule's end."""
    due: float
    """`time` with the head's jitter."""
    shown: datetime | None
    """The first moment that the clock has not reached: the head, unless the head waits for the
    journal."""

    # All moments in (_since, _watermark], in the spans of _processed, and up to _disregarded have
    # been dealt with.
    _since: float
    _watermark: float
    _processed: tuple[Span, ...]
    _disregarded: float
    _anchored: Trigger  # the trigger, with its start fixed

    def __init__(self, trigger: Trigger, spec: JobSpec, now: float, zone: tzinfo) -> None:
        self.trigger = trigger
        self.spec = spec
        self._anchored = trigger.anchored(moment_at(now, zone))
        self._since = self._watermark = now
        self._processed = ()
        self._disregarded = -math.inf

    @property
    def watermark(self) -> float:
        """The time until which all moments have been dealt with."""
        return self._watermark

    def seek(self, zone: tzinfo, rng: random.Random) -> None:
        """Find the head: the first moment that has not been dealt with."""
        self.moment = self.shown = None  # what remains if the trigger raises
        self.time = self.due = math.inf
        moment, time = self._first_after(self._watermark, zone)
        self.moment = self.shown = moment
        self.time = self.due = time
        if self.spec.jitter and moment is not None:
            self.due += rng.uniform(0.0, self._room(moment, zone))

    def _first_after(self, after: float, zone: tzinfo) -> tuple[datetime | None, float]:
        """Return the first moment later than `after` that has not been dealt with, and its time."""
        while True:
            # A trigger without a zone is read in the scheduler's.
            moment = self._anchored.next_after(datetime.fromtimestamp(after, zone))
            if moment is None:
                return None, math.inf
            if moment.tzinfo is None:
                raise ValueError(f"trigger {self.trigger!r} answered with a naive moment")
            time = moment.timestamp()
            if not time > after:
                raise ValueError(f"trigger {self.trigger!r} answered with no later moment")
            if time <= self._disregarded:
                after = self._disregarded
                continue
            if not self._processed:
                return moment, time
            spans = [high for low, high in self._processed if low < time <= high]
            if not spans:
                return moment, time
            after = max(spans)

    def _room(self, moment: datetime, zone: tzinfo) -> float:
        """Return how much jitter the head may have: less than the time until the moment after it.

        Otherwise the two could be due at once and be coalesced, though neither was late.
        """
        following = self._anchored.next_after(moment.astimezone(zone))
        if following is None:
            return self.spec.jitter
        return min(self.spec.jitter, following.timestamp() - self.time)

    @property
    def waits(self) -> bool:
        """Whether the clock has gone past the head."""
        return self.shown is not self.moment

    def upcoming(self, n: int) -> tuple[datetime, ...]:
        """Return the next `n` moments from `shown` on."""
        if self.shown is None or n == 0:
            return ()
        return (self.shown, *self._anchored.upcoming(n - 1, after=self.shown))

    # Moments come due.

    def take_due(self, now: float, zone: tzinfo, rng: random.Random) -> list[Firing]:
        """Remove the moments that are due by `now`, oldest first; mark those that must not run.

        Those beyond `BACKLOG` are left for the next call, or skipped where they cannot run: then
        one stands for all of them.
        """
        taken: list[Firing] = []
        while self.moment is not None and self.due <= now and len(taken) < BACKLOG:
            taken.append(self._take(zone, rng))
        if self.moment is not None and self.due <= now:
            taken += self._skip_backlog(now, zone, rng)
        for firing in taken:
            if firing.missed is None:
                firing.missed = self.why_too_late(firing.time, now)
            if firing.missed is None and self.spec.coalesce and firing is not taken[-1]:
                firing.missed = f"coalesced into the run of {taken[-1].moment}"
        self.shown = self.moment
        return taken

    def take_too_late(
        self, now: float, zone: tzinfo, rng: random.Random, most: int
    ) -> list[Firing]:
        """Remove moments that are past their `misfire_grace` at `now`, at most `most` of them."""
        taken: list[Firing] = []
        while len(taken) < most and self._is_due(now) and self.why_too_late(self.due, now):
            taken.append(self._take(zone, rng))
        return taken

    def _is_due(self, now: float) -> bool:
        return self.moment is not None and self.due <= now

    def _take(self, zone: tzinfo, rng: random.Random) -> Firing:
        assert self.moment is not None  # noqa: S101
        firing = Firing(self.entry, self.moment, self.due)
        self._watermark = self.time
        self.seek(zone, rng)
        return firing

    def _skip_backlog(self, now: float, zone: tzinfo, rng: random.Random) -> list[Firing]:
        """Jump to the next moment that may have to run, without a walk through those before it."""
        assert self.moment is not None  # noqa: S101
        if self.spec.coalesce:
            goal = latest_until(self._anchored, moment_at(now, zone), after=self.moment)
        elif self.spec.grace < math.inf:
            oldest = moment_at(max(now - self.spec.grace, self.time), zone)
            goal = self._anchored.next_after(oldest - timedelta.resolution)
        else:
            goal = None
        if goal is None or goal.timestamp() <= self.time:
            return []
        why = f"passed over, with all that were due before {goal}"
        skipped = Firing(self.entry, self.moment, self.due, missed=why)
        self.moment = self.shown = goal
        self.time = self.due = goal.timestamp()
        return [skipped, self._take(zone, rng)] if self.spec.coalesce else [skipped]

    def why_too_late(self, time: float, now: float) -> str | None:
        """Return why a moment that was due at `time` must not run at `now`; None if it may."""
        grace = self.spec.grace
        return f"more than {grace:g} s late" if now - time > grace else None

    def look_ahead(self, now: float, zone: tzinfo) -> float:
        """Go past a head that has to wait; return when the next moment after it is due."""
        if not self._is_due(now):
            self.shown = self.moment
            return self.due
        self.shown = None  # what remains if the trigger raises
        self.shown, time = self._first_after(now, zone)
        return time

    # It is changed.

    def replan(self, trigger: Trigger, now: float, zone: tzinfo) -> None:
        """Take another trigger; a call of `skip_to` or `begin` must follow."""
        self.trigger = trigger
        self._anchored = trigger.anchored(moment_at(now, zone))

    def begin(self, now: float, zone: tzinfo, rng: random.Random) -> None:
        """Start at `now`, as if the schedule were new; moments removed before do not come again."""
        self._close_count()
        self._since = self._watermark = now
        self.seek(zone, rng)

    def resume_from(
        self,
        last: datetime | None,
        since: datetime | None,
        zone: tzinfo,
        rng: random.Random,
    ) -> list[Firing]:
        """Go on where a journal says that the job was: moments that passed meanwhile are due.

        A schedule that has changed since the last fire (a deploy moved six o'clock to half past)
        counts from its change on: it had no moments before that. Where the journal does
        not remember when that was, a last fire that is no moment of the schedule tells of a change,
        and then the schedule counts from now on.

        Args:
            last: The latest moment that was claimed; None if there is none.
            since: Since when the job has had this schedule; None if the journal cannot tell.
            zone: The scheduler's.
            rng: Where jitter comes from.

        Returns:
            The moment of an `At` that has passed and comes no more, to be recorded as missed.
        """
        trigger, start = self.trigger, self._since
        if last is None:
            if since is not None:
                start = since.timestamp()
            elif isinstance(trigger, At):  # it has not run, and within its grace it still can
                start = trigger.moment.timestamp() - 1.0
        elif since is not None and last < since:
            start = since.timestamp()
            self._anchored = trigger.anchored(since.astimezone(zone))
        else:
            last = last.astimezone(zone)  # the zone of a trigger without one
            anchored = trigger.anchored(last)
            found = last if since is not None else moment_near(anchored, last)
            if found is not None:
                start = max(found.timestamp(), last.timestamp())
                self._anchored = anchored
        self._close_count()
        # A claim from when the clock was ahead must not hide the moments before it.
        self._since = self._watermark = min(start, self._since)
        self.seek(zone, rng)
        if not isinstance(trigger, At) or self.moment is not None:
            return []
        if last is not None and moment_near(trigger, last) is not None:
            return []  # it has run
        return [Firing(self.entry, trigger.moment, self._since, missed=PAST)]

    def disregard_until(self, now: float) -> None:
        """Drop all moments until `now`, while the journal has not been asked (`resume_from`)."""
        self._disregarded = now

    def skip_to(self, now: float, zone: tzinfo, rng: random.Random) -> None:
        """Drop all moments until `now`, and the one that was next."""
        self._watermark = max(self._watermark, now)
        self.seek(zone, rng)

    def set_back(self, now: float, zone: tzinfo, rng: random.Random) -> bool:
        """Return whether the head changed because the wall clock was set back to `now`.

        Where the clock is still later than the job's first sight of it, nothing has to change: the
        head comes after all that have been dealt with. Else there are moments before those.
        """
        if self._since <= now:
            return False
        self._close_count()
        self._since = self._watermark = now
        # Moments were disregarded because they had passed; the clock now comes to some of them
        # again.
        self._disregarded = min(self._disregarded, now)
        self.seek(zone, rng)
        return True

    def _close_count(self) -> None:
        """Remember which span has been dealt with, before counting begins at another time."""
        if self._watermark > self._since:
            self._processed = _merged((self._since, self._watermark), self._processed)


def _merged(new: Span, spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return spans of time with another one, joined where they overlap."""
    low, high = new
    apart: list[Span] = []
    for span in spans:
        if span[0] <= high and low <= span[1]:
            low, high = min(low, span[0]), max(high, span[1])
        else:
            apart.append(span)
    return ((low, high), *apart)


def moment_at(time: float, zone: tzinfo) -> datetime:
    """Return the moment of a time, in a zone."""
    try:
        return datetime.fromtimestamp(time, zone)
    except (OverflowError, OSError, ValueError):
        raise ValueError(f"no clock in {zone} can show the time {time!r}") from None
