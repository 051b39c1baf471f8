"""When a daily or weekly routine is due: reckoned anew, by Debian's rules, as a model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo


def due_moments(cron: str, begin: datetime, end: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Give the moments after `begin`, up to `end`, at which a routine is due.

    Only what the routines have: a minute, some hours, and every day or one of the week. What falls
    into an hour that the clocks leave out is due when they go on; what comes twice is due once.

    Args:
        cron: Its five fields.
        begin: Aware.
        end: Aware.
        zone: In which the hours are meant.
    """
    minute, hours, _, _, weekday = cron.split()
    day = begin.astimezone(zone).date() - timedelta(days=1)
    while day <= end.astimezone(zone).date():
        # Sunday is 0 in a cron expression and 7 in Python.
        if weekday in ("*", str(day.isoweekday() % 7)):
            for hour in hours.split(","):
                here = datetime(day.year, day.month, day.day, int(hour), int(minute), tzinfo=zone)
                moment = here.astimezone(UTC)
                if begin < moment <= end:
                    yield moment
        day += timedelta(days=1)
