"""The walk of a cron expression from one moment to the next, through clocks that are set.

What New York's clocks show in 2026::

    UTC                   shown                 Debian's cron
    8 March    06:59:59   01:59:59 (-05:00)
               07:00:00   03:00:00 (-04:00)     runs what was fixed for 02:00 to 02:59
    1 November 05:00:00   01:00:00 (-04:00)     runs what was fixed for 01:00
               05:59:59   01:59:59 (-04:00)
               06:00:00   01:00:00 (-05:00)     does not run it again
               07:00:00   02:00:00 (-05:00)

A schedule is *at fixed times* if neither its minute nor its hour starts with a star. The others
follow what the clocks show: in March nothing between 02:00 and 02:59, in November all of 01:00 to
01:59 twice.

Two datetimes in one zone are compared and subtracted by what the clocks show (PEP 495). Here that
is often what is wanted; where it is not, the moment is in UTC.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final

from .cronfields import CronFields, read_expression

_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)

_BEGIN: Final = datetime(1, 1, 1, tzinfo=UTC)

_CYCLE: Final = timedelta(days=146_097)
"""400 years, after which the calendar repeats itself, weekdays and rules of zones included."""
_FIRST_SAFE_YEAR: Final = 3
_LAST_SAFE_YEAR: Final = 9996
"""Between these years the walk can look some days back and ahead without an OverflowError."""


class CronWalk(CronFields):
    """A cron expression that is followed from moment to moment; it caches its last answer only."""

    __slots__ = ("_asked", "_found", "_where")

    def __init__(self, expression: str) -> None:
        super().__init__(*read_expression(expression))
        # Many jobs with one expression fall due together, and all ask the same.
        self._asked: datetime | None = None
        self._where: tzinfo | None = None
        self._found: datetime | None = None

    def next_moment(self, start: datetime, zone: tzinfo) -> datetime | None:
        """Return the first moment later than `start` (in UTC) at which the clocks show a match."""
        if self._asked == start and self._where is zone:
            return self._found
        if not _FIRST_SAFE_YEAR <= start.year <= _LAST_SAFE_YEAR:
            return _next_at_the_edge(self, start, zone)
        if isinstance(zone, timezone):  # a fixed offset: its clocks are never set
            found = self.next_after(start.astimezone(zone))
        elif self.at_fixed_times:
            found = _next_fixed(self, start, zone)
        else:
            found = _next_literal(self, start, zone)
        self._asked, self._where, self._found = start, zone, found
        return found


@lru_cache(maxsize=4096)
def walk_of(expression: str) -> CronWalk:
    """Return the walk of an expression or nickname; the same for the same text."""
    return CronWalk(expression)


def _next_at_the_edge(walk: CronWalk, start: datetime, zone: tzinfo) -> datetime | None:
    """Return the next moment near year 1 or 9999, by a walk 400 years away, where dates repeat."""
    if start.year < _FIRST_SAFE_YEAR:
        shift = _CYCLE
        # West of Greenwich the clocks still show the year 0 then, which no datetime can.
        year_1 = (_BEGIN + shift).replace(tzinfo=zone).astimezone(UTC)
        start = max(start + shift, year_1 - timedelta.resolution)
    else:
        shift = -_CYCLE
        start += shift
    found = walk.next_moment(start, zone)
    if found is None:
        return None
    try:
        _ = found.astimezone(UTC) - shift
        return (found.replace(tzinfo=None) - shift).replace(tzinfo=zone, fold=found.fold)
    except OverflowError:  # after the year 9999, by the clocks of the zone or in UTC
        return None


def _next_fixed(fields: CronFields, start: datetime, zone: tzinfo) -> datetime | None:
    """Return the next moment by Debian's rule for jobs at fixed times."""
    found = fields.next_after(start.astimezone(zone))
    while found is not None:
        instant = found.astimezone(UTC)
        shown = instant.astimezone(zone)
        if shown != found:  # clocks skip it: once they have
            before = found.replace(fold=1).astimezone(UTC)  # read by the offset after the gap
            instant = _transition(zone, before, instant)
            shown = instant.astimezone(zone)
        if instant > start:
            return shown
        found = fields.next_after(found)  # this was the second pass of a time that comes twice
    return None


def _next_literal(fields: CronFields, start: datetime, zone: tzinfo) -> datetime | None:
    """Return the next moment at which the clocks of a zone really show a match.

    It goes on in steps within which the offset from UTC changes at most once. A long step is safe
    where no match lies ahead, but for the day after `start`: clocks set back by less than a day may
    show again what they showed before it.
    """
    shown = start.astimezone(zone)
    offset = shown.utcoffset()
    while (found := fields.next_after(shown)) is not None:
        instant = start + (found - shown)  # if the clocks are not set until then
        horizon = min(instant, start + _DAY)
        ahead = horizon.astimezone(zone)
        if ahead.utcoffset() != offset:
            turn = _transition(zone, start, horizon)
            shown = turn.astimezone(zone)
            offset = shown.utcoffset()
            start, shown = turn - _SECOND, shown - _SECOND  # the turn itself may match
        elif horizon == instant:
            return ahead
        else:
            start = max(horizon, instant - _DAY - _SECOND)  # a turn just there may match
            shown = start.astimezone(zone)
            offset = shown.utcoffset()
    return None


def _transition(zone: tzinfo, low: datetime, high: datetime) -> datetime:
    """Return the first whole second after `low` at which the offset is that of `high`."""
    low = low.replace(microsecond=0)
    after = high.astimezone(zone).utcoffset()
    below, above = 0, math.ceil((high - low) / _SECOND)
    while above - below > 1:
        middle = (below + above) // 2
        if (low + middle * _SECOND).astimezone(zone).utcoffset() == after:
            above = middle
        else:
            below = middle
    return low + above * _SECOND
