"""When a day begins and ends, in a zone."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date, tzinfo


def begin_of(day: date, timezone: tzinfo) -> datetime:
    """Return when a day begins in a zone."""
    return datetime.combine(day, time(), timezone)


def start_of_day(now: datetime, timezone: tzinfo) -> datetime:
    """Return when the day of `now` began in a zone."""
    return begin_of(now.astimezone(timezone).date(), timezone)


def start_of_next_day(now: datetime, timezone: tzinfo) -> datetime:
    """Return when the day of `now` ends in a zone."""
    tomorrow = now.astimezone(timezone).date() + timedelta(days=1)
    return begin_of(tomorrow, timezone)
