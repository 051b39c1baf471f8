"""A cron expression, read: which days, hours, minutes and seconds it means.

``cronsim`` reads the fields and says which days they mean. It exports `CronSim` and `CronSimError`
only; `Field`, ``months`` and ``match_day`` are insides of it, and this is the one file that uses
them. ``pyproject.toml`` bounds its version, and ``tests/supervise/test_cronsim.py`` says what we
rely on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final

from cronsim import CronSim, CronSimError
from cronsim.cronsim import RANGES, Field

_SECOND: Final = timedelta(seconds=1)
_ANY_DAY: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""A start for `CronSim`, which asks for one; only the fields that it has read are used."""

YEARS: Final = 50
"""How far ahead a match is sought, as in cronsim: February has five Mondays once in 28 years."""

NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_kind_of_month = lru_cache(maxsize=None)(monthrange)


class CronFields:
    """The fields of a cron expression, as the sets of values that match."""

    __slots__ = ("at_fixed_times", "days", "hours", "minutes", "seconds", "text")

    def __init__(self, parts: list[str], days: CronDays) -> None:
        self.text = " ".join(parts)
        second, minute, hour = parts[:-3] if len(parts) == 6 else ["0", *parts[:-3]]
        self.seconds = _numbers(Field.SECOND, second)
        self.minutes = _numbers(Field.MINUTE, minute)
        self.hours = _numbers(Field.HOUR, hour)
        self.days = days
        self.at_fixed_times = not minute.startswith("*") and not hour.startswith("*")

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first match on a clock that shows later than `moment`, in the same zone.

        The clock is one that is never set: what a zone does to it is `cronwalk`'s affair.
        """
        start = moment + _SECOND
        year, month, zone = start.year, start.month, start.tzinfo
        days = self.days.of(year, month)
        index = bisect_left(days, start.day)
        if index < len(days) and days[index] == start.day:
            time = self._time_from(start.hour, start.minute, start.second)
            if time is not None:
                return datetime(year, month, start.day, *time, tzinfo=zone)
            index += 1
        for _ in range(12 * YEARS):
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
        """Return the first matching time of day that is not before the one given."""
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


class CronDays:
    """Which days three of the fields mean: day of month, month and day of week."""

    __slots__ = ("_known", "_sim")

    def __init__(self, sim: CronSim) -> None:
        self._sim = sim
        self._known: dict[tuple[int, int], tuple[int, ...]] = {}

    def of(self, year: int, month: int) -> tuple[int, ...]:
        """Return the days of a month that match; cached, as there are only 28 kinds of month."""
        if month not in self._sim.months:
            return ()
        kind = _kind_of_month(year, month)
        days = self._known.get(kind)
        if days is None:
            _, length = kind
            dates = (date(year, month, day) for day in range(1, length + 1))
            days = self._known[kind] = tuple(d.day for d in dates if self._sim.match_day(d))
        return days


def read_expression(expression: str) -> tuple[list[str], CronDays]:
    """Return the fields of an expression or nickname, in capitals, and the days that they mean.

    A `ValueError` names the bad field and its value.
    """
    nickname = expression.strip().lower()
    if nickname.startswith("@") and nickname not in NICKNAMES:
        known = ", ".join(sorted(NICKNAMES))
        raise ValueError(f"bad nickname {expression!r} for a cron expression; there are {known}")
    text = NICKNAMES.get(nickname, expression)
    parts = text.upper().split()
    if len(parts) not in {5, 6}:
        raise ValueError(
            f"cron expression {expression!r} has {len(parts)} fields; it needs 5, or 6 with "
            "seconds first"
        )
    for kind, part, typed in zip(tuple(Field)[-len(parts) :], parts, text.split(), strict=True):
        try:
            _checked(kind, part)
        except _StepTooLargeError as error:
            raise ValueError(f"{_bad(kind, typed, expression)}: {error}") from None
        except (CronSimError, ValueError):  # a ValueError for a number of thousands of digits
            raise ValueError(_bad(kind, typed, expression)) from None
    try:
        days = _days(*parts[-3:])
    except CronSimError:
        reason = "its months have no such day"
        raise ValueError(f"{_bad(Field.DAY, text.split()[-3], expression)}: {reason}") from None
    return parts, days


@lru_cache(maxsize=1024)
def explain(expression: str) -> str:
    """Return in words when an expression runs, as in ``At 06:00 every day``."""
    return CronSim(expression, _ANY_DAY).explain()


class _StepTooLargeError(Exception):
    pass


def _bad(kind: Field, typed: str, expression: str) -> str:
    name = kind.msg().removeprefix("Bad ")
    return f"bad {name} {typed!r} in cron expression {expression!r}"


@lru_cache(maxsize=4096)
def _checked(kind: Field, part: str) -> str:
    """Return a field as cronsim is to read it; an error if it makes no sense."""
    kind.parse(part)
    for term in part.split(","):
        _, _, step = term.partition("/")
        if step and int(step) > max(RANGES[kind]):
            # Debian's cron takes */90, and then runs once an hour: not what its author meant.
            raise _StepTooLargeError(f"its step is above {max(RANGES[kind])}")
    return ",".join(_without_idle_step(kind, term) for term in part.split(","))


@lru_cache(maxsize=4096)
def _numbers(kind: Field, part: str) -> tuple[int, ...]:
    return tuple(sorted(n for n in kind.parse(_checked(kind, part)) if isinstance(n, int)))


@lru_cache(maxsize=1024)
def _days(of_month: str, month: str, of_week: str) -> CronDays:
    parts = (_checked(Field.DAY, of_month), _checked(Field.MONTH, month))
    text = f"0 0 {' '.join(parts)} {_checked(Field.DOW, of_week)}"
    return CronDays(CronSim(text, _ANY_DAY))


def _without_idle_step(kind: Field, term: str) -> str:
    """Return ``5-5`` for ``5-5/2``, which cronsim would take for ``5/2``."""
    span, _, step = term.partition("/")
    return span if step and "-" in span and len(kind.parse(span)) == 1 else term
