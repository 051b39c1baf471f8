"""When each job is next due: one heap for all jobs, and the wall clock that it is compared with."""

from __future__ import annotations

import heapq
import logging
import math
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple, ParamSpec, TypeVar

import trio

from .checks import shown
from .clock import SteppedWallClock
from .errors import ErrorText
from .events import log
from .schedule import moment_at

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from datetime import tzinfo

    from .clock import WallClock
    from .jobs import Entry
    from .schedule import Firing

P = ParamSpec("P")
T = TypeVar("T")

LOOK_INTERVAL: Final = 30.0
"""Seconds after which the wall clock is looked at afresh: Trio's clock stands still while a machine
sleeps, and nothing tells when a wall clock is set."""

MOST_STALE: Final = 100
"""How many entries of the heap may be out of date before they are cleared away."""


class Look(NamedTuple):
    """What a look at the clocks showed."""

    now: float
    jump: float
    """Seconds by which the wall clock and Trio's went apart since the last look."""
    went_back: bool


class Timetable:
    """All jobs, ordered by when they are due. It gives schedules their zone, time and randomness.

    Args:
        clock: What tells the time of day.
        zone: The zone of triggers that name none.
        rng: Where jitter comes from.
        on_broken: Called with a job whose trigger failed, and the error.
    """

    def __init__(
        self,
        clock: WallClock,
        zone: tzinfo,
        rng: random.Random,
        on_broken: Callable[[Entry, Exception], None],
    ) -> None:
        self.clock = clock
        self.zone = zone
        self.rng = rng
        self._on_broken = on_broken
        # An entry for each job that has a next moment. An entry that is out of date is skipped.
        self._heap: list[tuple[float, int, Entry]] = []
        self._stale = 0
        self._serial = count()
        self._wake = trio.Event()
        self._wakes_at = -math.inf  # of the wall's time
        self._seen: tuple[float, float] | None = None  # the wall's time and Trio's, last looked at

    # The clock.

    def now(self) -> float:
        """Return the wall's time."""
        moment: object = self.clock.now()
        if not isinstance(moment, datetime):
            raise TypeError(f"the wall clock answered with no moment, {shown(moment)}")
        if moment.utcoffset() is None:
            raise ValueError(f"the wall clock answered with a naive moment, {moment!r}")
        now = moment.timestamp()
        if self._seen is None:  # a job is added before the first look, and the clock set then
            self._seen = (now, trio.current_time())
        return now

    def now_if_any(self) -> float | None:
        """Return the wall's time; None where the clock fails, which must lose no record."""
        try:
            return self.now()
        except Exception as error:  # noqa: BLE001  (a clock of the user's)
            log_clock_failure(error)
            return None

    def now_here(self) -> datetime:
        """Return the present moment, in the scheduler's zone."""
        return moment_at(self.now(), self.zone)

    def look(self) -> Look:
        """Read the wall clock, and compare the time that passed on it with Trio's."""
        before = self._seen
        now, steady = self.now(), trio.current_time()
        wall_then, steady_then = before or (now, steady)
        self._seen = (now, steady)
        return Look(now, (now - wall_then) - (steady - steady_then), now < wall_then)

    async def sleep(self, now: float) -> None:
        """Wait for the next moment in the table, or for a change, or for the next look."""
        interval = math.inf if isinstance(self.clock, SteppedWallClock) else LOOK_INTERVAL
        next_due = self._heap[0][0] if self._heap else math.inf
        self._wake = trio.Event()
        pause = min(interval, next_due - now)
        self._wakes_at = now + pause
        with trio.move_on_after(pause):
            await self._wake.wait()

    def wake(self) -> None:
        """End the wait under way, because the clock was set."""
        self._wake.set()

    # The heap.

    def first_due(self, now: float) -> Entry | None:
        """Return the job that is due first, if one is by now."""
        heap = self._heap
        while heap and heap[0][2].place is not heap[0]:
            heapq.heappop(heap)
            self._stale -= 1
        return heap[0][2] if heap and heap[0][0] <= now else None

    def put(self, entry: Entry, time: float | None = None) -> None:
        """Put a job in the table, in place of where it was.

        Args:
            entry: The job.
            time: When it is to be looked at; when it is due, where not given.
        """
        if time is None:
            time = entry.schedule.due
        if time == math.inf:
            self.drop(entry)
            return
        old = entry.place
        new = entry.place = (time, next(self._serial), entry)
        if old is not None and self._heap[0] is old:
            heapq.heapreplace(self._heap, new)
        else:
            heapq.heappush(self._heap, new)
            if old is not None:
                self._note_stale()
        if time < self._wakes_at:
            self.wake()

    def drop(self, entry: Entry) -> None:
        """Take a job out of the table."""
        if entry.place is not None:
            entry.place = None
            self._note_stale()

    def __len__(self) -> int:
        """Return how many entries the heap has, those out of date included."""
        return len(self._heap)

    def _note_stale(self) -> None:
        """Count an entry that is out of date; clear the heap when most entries are."""
        self._stale += 1
        if self._stale > MOST_STALE and self._stale > len(self._heap) / 2:
            self._heap[:] = [place for place in self._heap if place[2].place is place]
            heapq.heapify(self._heap)
            self._stale = 0

    # The schedules. A trigger of the user's may fail in each of these; then its job has no more
    # moments, and the others go on.

    def take_due(self, entry: Entry, now: float) -> list[Firing]:
        """Remove the due moments of one job and return them, oldest first."""
        try:
            return entry.schedule.take_due(now, self.zone, self.rng)
        except Exception as error:  # noqa: BLE001  (as in `_planned`, spelt out for its speed)
            self._broken(entry, error)
            return []

    def take_too_late(self, entry: Entry, now: float, most: int) -> list[Firing]:
        """Remove up to `most` moments that are past their `misfire_grace`, and return them."""
        change = entry.schedule.take_too_late
        return self._planned(entry, change, now, self.zone, self.rng, most) or []

    def look_ahead(self, entry: Entry, now: float) -> float:
        """Go past a moment that has to wait; return when to look at the job again."""
        again = self._planned(entry, entry.schedule.look_ahead, now, self.zone)
        return math.inf if again is None else again

    def resume_from(
        self, entry: Entry, last: datetime | None, since: datetime | None
    ) -> list[Firing]:
        """Go on where a journal says that a job was; return an `At` that has passed meanwhile."""
        change = entry.schedule.resume_from
        return self._planned(entry, change, last, since, self.zone, self.rng) or []

    def why_too_late(self, firing: Firing) -> str | None:
        """Return why a moment must not run now; None if it may, and where the clock fails."""
        now = self.now_if_any()
        return None if now is None else firing.entry.schedule.why_too_late(firing.time, now)

    def identity(self, entry: Entry) -> str | None:
        """Return the text by which a journal knows a job's schedule again, if it has one."""
        try:
            return entry.trigger.identity(self.zone)
        except Exception:  # noqa: BLE001  (of a user's trigger)
            return None

    def begin(self, entry: Entry, now: float) -> None:
        """Count a job's moments from now on, as if it had just been added."""
        self._planned(entry, entry.schedule.begin, now, self.zone, self.rng)

    def skip_to(self, entry: Entry, now: float) -> None:
        """Drop a job's moments until now."""
        self._planned(entry, entry.schedule.skip_to, now, self.zone, self.rng)

    def set_back(self, entry: Entry, now: float) -> None:
        """Find the next moment of a job anew, the wall clock having been set back."""
        place, schedule = entry.place, entry.schedule
        changed = self._planned(entry, schedule.set_back, now, self.zone, self.rng)
        if place is None or entry.place is None:
            return
        if changed:
            self.put(entry)
        elif schedule.waits:
            self.put(entry, self.look_ahead(entry, now))

    def _planned(
        self, entry: Entry, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        try:
            return change(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  (a trigger of the user's)
            self._broken(entry, error)
            return None

    def _broken(self, entry: Entry, error: Exception) -> None:
        self.drop(entry)
        self._on_broken(entry, error)


def log_clock_failure(error: Exception) -> None:
    """Log that the wall clock failed, where the scheduler can go on without its time."""
    text = ErrorText(error)
    log(logging.ERROR, "the wall clock failed\n%s", text, action="wall_clock_failed")
