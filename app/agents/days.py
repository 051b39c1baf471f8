"""When a day begins and ends, in a zone."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import tzinfo


def start_of_day(now: datetime, timezone: tzinfo) -> datetime:
    """Return when the day of `now` began in a zone."""
    return datetime.combine(now.astimezone(timezone).date(), time(), timezone)


def start_of_next_day(now: datetime, timezone: tzinfo) -> datetime:
    """Return when the day of `now` ends in a zone."""
    tomorrow = now.astimezone(timezone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), timezone)
