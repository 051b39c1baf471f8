"""How long an agent waits that is paused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from app.store.protocol import Store

LOOK_AT_CLOCK: Final = 600.0
"""Seconds between two looks whether a pause is over, each a request to the store: a machine that
slept meanwhile is this much late at most, and one that did not is in time."""


async def until_over(until: datetime | None, store: Store) -> None:
    """Wait until a moment by the store's clock; None for as long as nobody cancels it."""
    while (seconds := await _left(until, store)) > 0:  # noqa: ASYNC110  (no event tells)
        await asyncio.sleep(seconds)


async def _left(until: datetime | None, store: Store) -> float:
    """Return the seconds to sleep before the next look whether a pause is over."""
    if until is None:
        return LOOK_AT_CLOCK
    return min((until - await store.ping()).total_seconds(), LOOK_AT_CLOCK)
