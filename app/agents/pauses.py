"""How long an agent waits that is paused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from app.store.protocol import Store

    from .activity import Activity

BEATS_PER_LOOK: Final = 20
"""A look whether a pause is over is a request to the store, so it is made with every 20th sign of
life, once a minute: a machine that slept meanwhile is this much late, one that did not is in time.
"""


async def until_over(until: datetime | None, store: Store, activity: Activity) -> None:
    """Wait until a moment by the store's clock; None for as long as nobody cancels it."""
    longest = BEATS_PER_LOOK * activity.beat_interval
    seconds = longest
    while seconds > 0:
        if until is not None:
            seconds = min((until - await store.ping()).total_seconds(), longest)
        await asyncio.sleep(seconds)
