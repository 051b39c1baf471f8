"""When something is due: `Cron`, `Every`, `At`, `AnyOf`. Pure: a moment in, a moment out.

All moments are aware datetimes, and they are compared as points in time, whatever their zones. How
a cron expression is read is in `cronfields`, and how it is followed through clocks that are set in
`cronwalk`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final, final
from zoneinfo import ZoneInfo

from .checks import as_utc, check_count, check_seconds, shown
from .cronfields import explain
from .cronwalk import CronWalk, walk_of

SHORTEST_PERIOD: Final = 1e-6
"""Seconds; a datetime knows nothing shorter."""

SAME_MOMENT: Final = timedelta(milliseconds=1)
"""The most by which a journal may have rounded a moment, as a database may."""


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
        check_count("n", n, minimum=0)
        moments: list[datetime] = []
        moment = self.next_after(after)
        while moment is not None and len(moments) < n:
            moments.append(moment)
            moment = self.next_after(moment)
        return tuple(moments)

    def anchored(self, moment: datetime) -> Trigger:
        """Return the same schedule with its start fixed, where it has none of its own.

        A trigger whose moments depend on the moment that is asked about has to override it.
        Otherwise a restarted scheduler does not find the last run among the moments, and takes the
        trigger for a changed one.
        """
        return self

    def identity(self, zone: tzinfo) -> str | None:
        """Return a text that tells this schedule from others, the same in every process.

        None where there is none: by default the text is the ``repr``, if it has one of its own.

        Args:
            zone: In which the schedule is read where it names none.
        """
        return None if type(self).__repr__ is object.__repr__ else repr(self)


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
    _walk: CronWalk = field(repr=False, compare=False)

    def __init__(self, expression: str, timezone: str | tzinfo | None = None) -> None:
        if not isinstance(expression, str):
            raise TypeError(f"expression must be a str, not {shown(expression)}")
        walk = walk_of(expression)
        object.__setattr__(self, "expression", walk.text)
        object.__setattr__(self, "timezone", None if timezone is None else as_timezone(timezone))
        object.__setattr__(self, "_walk", walk)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first moment strictly later than `moment`; None within 50 years."""
        start = as_utc(moment)
        zone = self.timezone or moment.tzinfo
        assert zone is not None  # noqa: S101  (as_utc refuses a naive moment)
        return self._walk.next_moment(start, zone)

    def identity(self, zone: tzinfo) -> str | None:
        """Return the expression and the zone in which it is read."""
        where = _zone_text(self.timezone or zone)
        return None if where is None else f"cron {self.expression} in {where}"

    def __reduce__(self) -> tuple[object, ...]:
        return Cron, (self.expression, self.timezone)

    def __str__(self) -> str:
        words = explain(self.expression)
        return words if self.timezone is None else f"{words} ({self.timezone})"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Every(Trigger):
    """Every so many seconds of elapsed time, whatever the wall clocks do in between.

    >>> from datetime import datetime, UTC
    >>> Every(90.0).next_after(datetime(2026, 1, 1, tzinfo=UTC)).isoformat()
    '2026-01-01T00:01:30+00:00'

    Raises:
        TypeError: If `seconds` is no number, or `anchor` no datetime.
        ValueError: If `seconds` is not positive and finite, or `anchor` is naive.
    """

    seconds: float
    anchor: datetime | None = None
    """One of the moments, from which the others are counted in both directions. None counts from
    the moment that is asked about, which for a job is when it was added."""

    def __post_init__(self) -> None:
        seconds = check_seconds("seconds", self.seconds, positive=True, finite=True)
        try:
            timedelta(seconds=seconds)
        except OverflowError:
            seconds = 0.0
        if seconds < SHORTEST_PERIOD:
            raise ValueError(
                f"seconds must be a positive number of seconds, from a millionth to "
                f"{timedelta.max.days} days, not {shown(self.seconds)}"
            )
        object.__setattr__(self, "seconds", seconds)
        if self.anchor is not None:
            as_utc(self.anchor, "anchor")

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first moment strictly later than `moment`."""
        start = as_utc(moment)
        anchor = start if self.anchor is None else self.anchor.astimezone(UTC)
        period = timedelta(seconds=self.seconds)
        try:
            found = anchor + ((start - anchor) // period + 1) * period
            return found.astimezone(moment.tzinfo)
        except OverflowError:  # after the year 9999
            return None

    def anchored(self, moment: datetime) -> Every:
        """Return the same with `moment` as its anchor, where it has none of its own."""
        return self if self.anchor is not None else Every(self.seconds, moment)

    def identity(self, zone: tzinfo) -> str | None:
        """Return the seconds and the anchor; the zone does not matter."""
        return f"every {self.seconds!r} s from {_instant(self.anchor)}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Every):
            return NotImplemented
        return (self.seconds, _instant(self.anchor)) == (other.seconds, _instant(other.anchor))

    def __hash__(self) -> int:
        return hash((self.seconds, _instant(self.anchor)))

    def __str__(self) -> str:
        for unit, size in (("hour", 3600), ("minute", 60), ("second", 1)):
            count = self.seconds / size
            if count == 1:
                return f"Every {unit}"
            if count.is_integer():
                return f"Every {count:.0f} {unit}s"
        return f"Every {self.seconds:g} seconds"


@final
@dataclass(frozen=True, slots=True, eq=False)
class At(Trigger):
    """Once, at a moment. Two are equal if they are the same point in time, in whatever zones.

    Raises:
        TypeError: If the moment is no datetime.
        ValueError: If the moment is naive.
    """

    moment: datetime

    def __post_init__(self) -> None:
        as_utc(self.moment)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return its moment, if that is strictly later than `moment`."""
        return self.moment if self.moment.astimezone(UTC) > as_utc(moment) else None

    def identity(self, zone: tzinfo) -> str | None:
        """Return the moment in UTC; the zone does not matter."""
        return f"at {_instant(self.moment)}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, At):
            return NotImplemented
        return _instant(self.moment) == _instant(other.moment)

    def __hash__(self) -> int:
        return hash(_instant(self.moment))

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
        return min(found, key=as_utc, default=None)

    def anchored(self, moment: datetime) -> AnyOf:
        """Return the same with those anchored that have no start of their own."""
        return AnyOf(*(trigger.anchored(moment) for trigger in self.triggers))

    def identity(self, zone: tzinfo) -> str | None:
        """Return the texts of all its triggers; None if one of them has none."""
        texts = [trigger.identity(zone) for trigger in self.triggers]
        return None if None in texts else f"any of {texts!r}"

    def __repr__(self) -> str:
        return f"AnyOf({', '.join(map(repr, self.triggers))})"

    def __str__(self) -> str:
        return "; ".join(map(str, self.triggers))


def latest_until(trigger: Trigger, moment: datetime, *, after: datetime) -> datetime | None:
    """Return the last moment of an anchored trigger in (`after`, `moment`]; None if there is none.

    It halves the span instead of walking through it: a week has 604,800 seconds.
    """
    low, high = as_utc(after), as_utc(moment)
    zone = moment.tzinfo
    latest = trigger.next_after(low.astimezone(zone))
    if latest is None or as_utc(latest) > high:
        return None
    low = as_utc(latest)
    while low < high:
        middle = low + (high - low) // 2
        later = trigger.next_after(middle.astimezone(zone))
        if later is None or as_utc(later) > as_utc(moment):
            high = middle
        else:
            latest, low = later, as_utc(later)
    return latest


def moment_near(trigger: Trigger, moment: datetime) -> datetime | None:
    """Return the moment of an anchored trigger that was rounded to this one; None if there is none.

    A database may keep a moment to the millisecond only.
    """
    try:
        found = trigger.next_after(moment - SAME_MOMENT)
    except OverflowError:  # `moment` is within the calendar's first millisecond
        return None
    if found is None or as_utc(found) - as_utc(moment) > SAME_MOMENT:
        return None
    return found


def as_timezone(value: str | tzinfo) -> tzinfo:
    """Return a zone by its IANA name; a tzinfo is returned as it is.

    Raises:
        ValueError: If there is no such zone, or it is one of pytz's, which answer wrongly, or it
            does not tell its offset from UTC.
        TypeError: If it is neither a name nor a zone.
    """
    if isinstance(value, tzinfo):
        if hasattr(value, "localize"):
            raise ValueError(f"timezone {value!r} is pytz's: give its name, {str(value)!r}")
        try:
            offset = datetime(2000, 1, 1, tzinfo=value).utcoffset()
        except NotImplementedError:  # of `tzinfo` itself, which is to be derived from
            offset = None
        if offset is None:
            raise ValueError(f"timezone {shown(value)} does not tell its offset from UTC")
        return value
    if not isinstance(value, str):
        raise TypeError(f"timezone must be an IANA name or a tzinfo, not {shown(value)}")
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # unknown, malformed, a directory of names
        raise ValueError(
            f"unknown timezone {value!r}: give an IANA name such as 'America/New_York'"
        ) from None


def check_trigger(value: object) -> None:
    """Raise a `TypeError` unless the value is a trigger."""
    if not isinstance(value, Trigger):
        raise TypeError(f"a trigger is a Cron, Every, At or AnyOf, not {shown(value)}")


def _instant(moment: datetime | None) -> str:
    """Return a moment in UTC as text, which tells the two passes of an hour apart."""
    return "its first sight" if moment is None else moment.astimezone(UTC).isoformat()


def _zone_text(zone: tzinfo) -> str | None:
    """Return a zone's name, or None where it has none that is the same in every process."""
    if isinstance(zone, ZoneInfo):
        return zone.key
    return str(zone) if isinstance(zone, timezone) else None
