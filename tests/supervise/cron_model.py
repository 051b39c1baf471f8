"""A second reading of cron expressions, minute by minute, to hold the triggers against.

Written from the manual page; it shares no line with cronsim or `triggers`, and is as slow as it
looks. Five fields.
"""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
MINUTE = timedelta(minutes=1)


def numbers(text: str, low: int, high: int, names: list[str], first_name: int) -> set[int]:
    """Read lists, ranges, steps and names of one field."""

    def number(word: str) -> int:
        return names.index(word.lower()) + first_name if word.lower() in names else int(word)

    found: set[int] = set()
    for term in text.split(","):
        span, _, step = term.partition("/")
        if span == "*":
            start, end = low, high
        elif "-" in span:
            start, end = (number(word) for word in span.split("-"))
        else:
            start = number(span)
            end = high if step else start
        found.update(range(start, end + 1, int(step or 1)))
    return found


def day_of_month_matches(text: str, day: date) -> bool:
    last = calendar.monthrange(day.year, day.month)[1]
    for term in text.split(","):
        if term == "L":
            if day.day == last:
                return True
        elif term == "LW":
            working = [n for n in range(1, last + 1) if day.replace(day=n).isoweekday() <= 5]
            if day.day == working[-1]:
                return True
        elif day.day in numbers(term, 1, 31, [], 0):
            return True
    return False


def day_of_week_matches(text: str, day: date) -> bool:
    weekday = day.isoweekday() % 7  # Sunday is 0
    for term in text.split(","):
        if term.endswith("L"):
            is_last = (day + timedelta(days=7)).month != day.month
            if is_last and weekday in {int(n) % 7 for n in [term[:-1]]}:
                return True
        elif "#" in term:
            name, _, nth = term.partition("#")
            wanted = {n % 7 for n in numbers(name, 0, 7, DAYS, 0)}
            if weekday in wanted and (day.day + 6) // 7 == int(nth):
                return True
        elif weekday in {n % 7 for n in numbers(term, 0, 7, DAYS, 0)}:
            return True
    return False


@cache
def day_matches(expression: str, day: date) -> bool:
    _, _, of_month, month, of_week = expression.split()
    if day.month not in numbers(month, 1, 12, MONTHS, 1):
        return False
    by_month, by_week = day_of_month_matches(of_month, day), day_of_week_matches(of_week, day)
    if of_month.startswith("*") or of_week.startswith("*"):
        return by_month and by_week
    return by_month or by_week


@cache
def times(expression: str) -> frozenset[tuple[int, int]]:
    minute, hour, *_ = expression.split()
    return frozenset(
        (h, m) for h in numbers(hour, 0, 23, [], 0) for m in numbers(minute, 0, 59, [], 0)
    )


def shows_match(expression: str, clock: datetime) -> bool:
    """Whether what a clock shows (naive, on the minute) matches."""
    return (clock.hour, clock.minute) in times(expression) and day_matches(expression, clock.date())


def is_fixed(expression: str) -> bool:
    minute, hour, *_ = expression.split()
    return not minute.startswith("*") and not hour.startswith("*")


def moments(expression: str, zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """Return all moments of an expression in (`after`, `until`], in UTC, by Debian's rules."""
    found = []
    # A day earlier, to know what the clocks have shown already.
    moment = after.astimezone(UTC).replace(second=0, microsecond=0) - timedelta(hours=26)
    latest_shown = (moment - MINUTE).astimezone(zone).replace(tzinfo=None)
    while moment <= until:
        clock = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        if is_fixed(expression):
            fires = False
            while latest_shown < clock:  # more than once where the clocks skip something
                latest_shown += MINUTE
                fires = shows_match(expression, latest_shown) or fires
        else:
            fires = shows_match(expression, clock)
        if fires and moment > after:
            found.append(moment)
        moment += MINUTE
    return found
