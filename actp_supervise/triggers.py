"""When something is due: `Cron`, `Every`, `At`, `AnyOf`. Pure: a moment in, a moment out.

All moments are aware datetimes, and they are compared as points in time, whatever their zones.
``cronsim`` reads the expressions and says which days they mean; the walk from one moment to the
next is done here, because it has to be right in every zone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final, final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field

_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
_YEARS: Final = 50
"""How far ahead a match is sought, as in cronsim: February has five Mondays once in 28 years."""

_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Trigger(ABC):
    """What says when a job is due. Derive from it for a schedule of your own."""

    __slots__ = ()

    @abstractmethod
    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first moment strictly later than `moment`; None if there is none.

        Args:
            moment: Aware, in any zone. The answer is in the trigger's own zone if it has one, else
                in this one.

        Raises:
            ValueError: If `moment` is naive.
        """

    def upcoming(self, n: int, after: datetime) -> tuple[datetime, ...]:
        """Return the first `n` moments later than `after`; fewer where there are no more."""
        moments: list[datetime] = []
        moment = self.next_after(after)
        while moment is not None and len(moments) < n:
            moments.append(moment)
            moment = self.next_after(moment)
        return tuple(moments)

    def anchored(self, moment: datetime) -> Trigger:
        """Return the same schedule with its start fixed, where it has none of its own."""
        return self


@final
@dataclass(frozen=True, slots=True, init=False)
class Cron(Trigger):
    """A cron expression, read in a time zone.

    Five fields (minute, hour, day of month, month, day of week), or six with seconds first; lists,
    ranges, steps and names; ``L`` and ``LW`` in the day of month; ``5L`` and ``MON#2`` in the day
    of week, where Sunday is 0 and 7; ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``,
    ``@yearly``.

    >>> from datetime import datetime
    >>> from zoneinfo import ZoneInfo
    >>> start = datetime(2026, 3, 7, 12, 0, tzinfo=ZoneInfo("America/New_York"))
    >>> for moment in Cron("30 2 * * *").upcoming(2, after=start):
    ...     print(moment)  # on the 8th there is no half past two
    2026-03-08 03:00:00-04:00
    2026-03-09 02:30:00-04:00

    Two are equal if their text and their zone are, spacing, letter case and nicknames aside.

    Args:
        expression: The fields, or a nickname.
        timezone: An IANA name or a tzinfo; None reads the expression in the zone of the moment
            that is asked about, which for a job is its scheduler's.

    Raises:
        TypeError: If `expression` is no text, or `timezone` neither a name nor a tzinfo.
        ValueError: If a field is bad or the zone unknown; the message names it and its value.

    Source:
        Debian's cron. If the day of month or the day of week starts with a star, both must match;
        else either. If neither minute nor hour starts with a star, then a time that the clocks
        skip runs when they have skipped it, and one that comes twice runs the first time; the
        others follow the wall clock as it is. cronsim has the last rule for five fields only.
    """

    expression: str
    """The fields in capitals, spaced singly."""
    timezone: tzinfo | None
    _fields: _Fields = field(repr=False, compare=False)

    def __init__(self, expression: str, timezone: str | tzinfo | None = None) -> None:
        if not isinstance(expression, str):
            raise TypeError(f"expression must be a str, not {expression!r}")
        fields = _parse(expression)
        object.__setattr__(self, "expression", fields.text)
        object.__setattr__(self, "timezone", None if timezone is None else as_timezone(timezone))
        object.__setattr__(self, "_fields", fields)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first moment strictly later than `moment`; None within 50 years."""
        start = _as_utc(moment)
        zone = self.timezone or moment.tzinfo
        assert zone is not None  # noqa: S101  (_as_utc refuses a naive moment)
        return self._fields.next_moment(start, zone)

    def __str__(self) -> str:
        words = CronSim(self.expression, datetime(2000, 1, 1, tzinfo=UTC)).explain()
        return words if self.timezone is None else f"{words} ({self.timezone})"


@final
@dataclass(frozen=True, slots=True)
class Every(Trigger):
    """Every so many seconds of elapsed time, whatever the wall clocks do in between.

    >>> from datetime import datetime, UTC
    >>> Every(90.0).next_after(datetime(2026, 1, 1, tzinfo=UTC)).isoformat()
    '2026-01-01T00:01:30+00:00'

    Raises:
        ValueError: If `seconds` is not positive and finite, or `anchor` is naive.
    """

    seconds: float
    anchor: datetime | None = None
    """One of the moments, from which the others are counted in both directions. None counts from
    the moment that is asked about, which for a job is when it was added."""

    def __post_init__(self) -> None:
        if not 1e-6 <= self.seconds < math.inf or self.seconds > timedelta.max.total_seconds():
            raise ValueError(f"seconds must be a positive number of seconds, not {self.seconds!r}")
        if self.anchor is not None:
            _as_utc(self.anchor, "anchor")

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first moment strictly later than `moment`."""
        start = _as_utc(moment)
        anchor = start if self.anchor is None else self.anchor.astimezone(UTC)
        period = timedelta(seconds=self.seconds)
        try:
            found = anchor + ((start - anchor) // period + 1) * period
            return found.astimezone(moment.tzinfo)
        except OverflowError:  # the year 9999
            return None

    def anchored(self, moment: datetime) -> Every:
        """Return the same with `moment` as its anchor, where it has none of its own."""
        return self if self.anchor is not None else Every(self.seconds, moment)

    def __str__(self) -> str:
        for unit, size in (("hour", 3600), ("minute", 60), ("second", 1)):
            count = self.seconds / size
            if count == 1:
                return f"Every {unit}"
            if count.is_integer():
                return f"Every {count:.0f} {unit}s"
        return f"Every {self.seconds:g} seconds"


@final
@dataclass(frozen=True, slots=True)
class At(Trigger):
    """Once, at a moment.

    Raises:
        ValueError: If the moment is naive.
    """

    moment: datetime

    def __post_init__(self) -> None:
        _as_utc(self.moment)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return its moment, if that is strictly later than `moment`."""
        return self.moment if self.moment.astimezone(UTC) > _as_utc(moment) else None

    def __str__(self) -> str:
        return f"Once at {self.moment}"


@final
@dataclass(frozen=True, slots=True, init=False)
class AnyOf(Trigger):
    """Whenever any of several triggers says so; a moment that several name counts once.

    Raises:
        ValueError: If no trigger is given.
        TypeError: If one of them is no trigger.
    """

    triggers: tuple[Trigger, ...]

    def __init__(self, *triggers: Trigger) -> None:
        if not triggers:
            raise ValueError("AnyOf needs at least one trigger")
        for trigger in triggers:
            check_trigger(trigger)
        object.__setattr__(self, "triggers", triggers)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first moment of any of them that is strictly later than `moment`."""
        candidates = [trigger.next_after(moment) for trigger in self.triggers]
        found = [candidate for candidate in candidates if candidate is not None]
        # By UTC: two moments in one zone would be compared by what the clocks show.
        return min(found, key=_as_utc, default=None)

    def anchored(self, moment: datetime) -> AnyOf:
        """Return the same with those anchored that have no start of their own."""
        return AnyOf(*(trigger.anchored(moment) for trigger in self.triggers))

    def __repr__(self) -> str:
        return f"AnyOf({', '.join(map(repr, self.triggers))})"

    def __str__(self) -> str:
        return "; ".join(map(str, self.triggers))


def latest_until(trigger: Trigger, moment: datetime, *, after: datetime) -> datetime | None:
    """Return the last moment of an anchored trigger in (`after`, `moment`]; None if there is none.

    It halves the span instead of walking through it: a week has 604,800 seconds.
    """
    low, high = _as_utc(after), _as_utc(moment)
    zone = moment.tzinfo
    latest = trigger.next_after(low.astimezone(zone))
    if latest is None or _as_utc(latest) > high:
        return None
    low = _as_utc(latest)
    while low < high:
        middle = low + (high - low) // 2
        later = trigger.next_after(middle.astimezone(zone))
        if later is None or _as_utc(later) > _as_utc(moment):
            high = middle
        else:
            latest, low = later, _as_utc(later)
    return latest


def as_timezone(value: str | tzinfo) -> tzinfo:
    """Return a zone by its IANA name; a tzinfo is returned as it is.

    Raises:
        ValueError: If there is no such zone, or it is one of pytz's, which answer wrongly.
        TypeError: If it is neither a name nor a zone.
    """
    if isinstance(value, tzinfo):
        if hasattr(value, "localize"):
            raise ValueError(f"timezone {value!r} is pytz's: give its name, {str(value)!r}")
        return value
    if not isinstance(value, str):
        raise TypeError(f"timezone must be an IANA name or a tzinfo, not {value!r}")
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # unknown, malformed, a directory of names
        raise ValueError(
            f"unknown timezone {value!r}: give an IANA name such as 'America/New_York'"
        ) from None


def check_trigger(value: object) -> None:
    """Raise a `TypeError` unless the value is a trigger."""
    if not isinstance(value, Trigger):
        raise TypeError(f"a trigger is a Cron, Every, At or AnyOf, not {value!r}")


# An expression, read. Its parts are shared by all expressions that have them.

_kind_of_month = lru_cache(maxsize=None)(monthrange)


class _Days:
    """Which days three of the fields mean: day of month, month and day of week."""

    __slots__ = ("_known", "_sim")

    def __init__(self, sim: CronSim) -> None:
        self._sim = sim
        self._known: dict[tuple[int, int], tuple[int, ...]] = {}

    def of(self, year: int, month: int) -> tuple[int, ...]:
        """Return the days of a month that match; there are only 28 kinds of month."""
        if month not in self._sim.months:
            return ()
        kind = _kind_of_month(year, month)
        days = self._known.get(kind)
        if days is None:
            _, length = kind
            dates = (date(year, month, day) for day in range(1, length + 1))
            days = self._known[kind] = tuple(d.day for d in dates if self._sim.match_day(d))
        return days


class _Fields:
    """What an expression means."""

    __slots__ = ("_answer", "at_fixed_times", "days", "hours", "minutes", "seconds", "text")

    def __init__(self, parts: list[str], days: _Days) -> None:
        self.text = " ".join(parts)
        second, minute, hour = parts[:-3] if len(parts) == 6 else ["0", *parts[:-3]]
        self.seconds = _numbers(Field.SECOND, second)
        self.minutes = _numbers(Field.MINUTE, minute)
        self.hours = _numbers(Field.HOUR, hour)
        self.days = days
        self.at_fixed_times = not minute.startswith("*") and not hour.startswith("*")
        self._answer: tuple[datetime, tzinfo, datetime | None] | None = None

    def next_moment(self, start: datetime, zone: tzinfo) -> datetime | None:
        """Return the first moment later than `start` (in UTC) at which the clocks show a match.

        The last answer is kept: many jobs with one expression fall due together.
        """
        if self._answer is not None:
            asked, where, found = self._answer
            if asked == start and where is zone:
                return found
        try:
            if isinstance(zone, timezone):
                found = self.next_after(start.astimezone(zone))
            elif self.at_fixed_times:
                found = _next_fixed(self, start, zone)
            else:
                found = _next_literal(self, start, zone)
        except OverflowError:  # the year 9999
            found = None
        self._answer = (start, zone, found)
        return found

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first match on a clock that shows later than `moment`, in the same zone."""
        start = moment + _SECOND
        year, month, zone = start.year, start.month, start.tzinfo
        days = self.days.of(year, month)
        index = bisect_left(days, start.day)
        if index < len(days) and days[index] == start.day:
            time = self._time_from(start.hour, start.minute, start.second)
            if time is not None:
                return datetime(year, month, start.day, *time, tzinfo=zone)
            index += 1
        for _ in range(12 * _YEARS):
            if index < len(days):
                time = (self.hours[0], self.minutes[0], self.seconds[0])
                return datetime(year, month, days[index], *time, tzinfo=zone)
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
            if year > date.max.year:
                break
            days = self.days.of(year, month)
            index = 0
        return None

    def _time_from(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        """Return the first time of day that matches, not before the one given."""
        at = bisect_left(self.hours, hour)
        if at == len(self.hours):
            return None
        if self.hours[at] == hour:
            rest = self._minute_from(minute, second)
            if rest is not None:
                return (hour, *rest)
            at += 1
        if at == len(self.hours):
            return None
        return self.hours[at], self.minutes[0], self.seconds[0]

    def _minute_from(self, minute: int, second: int) -> tuple[int, int] | None:
        at = bisect_left(self.minutes, minute)
        if at < len(self.minutes) and self.minutes[at] == minute:
            index = bisect_left(self.seconds, second)
            if index < len(self.seconds):
                return minute, self.seconds[index]
            at = bisect_right(self.minutes, minute)
        if at == len(self.minutes):
            return None
        return self.minutes[at], self.seconds[0]


@lru_cache(maxsize=4096)
def _parse(expression: str) -> _Fields:
    nickname = expression.strip().lower()
    if nickname.startswith("@") and nickname not in _NICKNAMES:
        known = ", ".join(sorted(_NICKNAMES))
        raise ValueError(f"bad nickname {expression!r} for a cron expression; there are {known}")
    text = _NICKNAMES.get(nickname, expression)
    parts = text.upper().split()
    if len(parts) not in {5, 6}:
        raise ValueError(
            f"cron expression {expression!r} has {len(parts)} fields; it needs 5, or 6 with "
            "seconds first"
        )
    for kind, part, typed in zip(tuple(Field)[-len(parts) :], parts, text.split(), strict=True):
        try:
            _checked(kind, part)
        except (CronSimError, ValueError):  # the latter from a number of thousands of digits
            name = kind.msg().removeprefix("Bad ")
            raise ValueError(f"bad {name} {typed!r} in cron expression {expression!r}") from None
    try:
        days = _days(*parts[-3:])
    except CronSimError:
        raise ValueError(
            f"bad day-of-month {text.split()[-3]!r} in cron expression {expression!r}: "
            "its months have no such day"
        ) from None
    return _Fields(parts, days)


@lru_cache(maxsize=4096)
def _checked(kind: Field, part: str) -> str:
    """Return a field as cronsim is to read it; `CronSimError` if it cannot."""
    kind.parse(part)
    return ",".join(_without_idle_step(kind, term) for term in part.split(","))


@lru_cache(maxsize=4096)
def _numbers(kind: Field, part: str) -> tuple[int, ...]:
    return tuple(sorted(n for n in kind.parse(_checked(kind, part)) if isinstance(n, int)))


@lru_cache(maxsize=1024)
def _days(of_month: str, month: str, of_week: str) -> _Days:
    parts = (_checked(Field.DAY, of_month), _checked(Field.MONTH, month))
    text = f"0 0 {' '.join(parts)} {_checked(Field.DOW, of_week)}"
    return _Days(CronSim(text, datetime(2000, 1, 1, tzinfo=UTC)))


def _without_idle_step(kind: Field, term: str) -> str:
    """Return ``5-5`` for ``5-5/2``, which cronsim would take for ``5/2``."""
    span, _, step = term.partition("/")
    return span if step and "-" in span and len(kind.parse(span)) == 1 else term


# The walk through a zone whose clocks are set forward and back. Two datetimes in one zone are
# compared and subtracted by what the clocks show; here that is what is wanted.


def _next_fixed(fields: _Fields, start: datetime, zone: tzinfo) -> datetime | None:
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


def _next_literal(fields: _Fields, start: datetime, zone: tzinfo) -> datetime | None:
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


def _as_utc(moment: datetime, name: str = "moment") -> datetime:
    if not isinstance(moment, datetime):
        raise TypeError(f"{name} must be a datetime, not {moment!r}")
    if moment.utcoffset() is None:
        raise ValueError(f"{name} must be aware (give it a tzinfo), not {moment!r}")
    return moment.astimezone(UTC)
