"""What is not kept for ever, or an unattended database fills up.

It is deleted in small steps, so that nobody waits long for one, and until nothing is left that is
old enough. The sums of costs are kept.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from app.crashes import DAY, HOUR
from app.looks import USUAL
from app.store.protocol import Kept, StoreError, StoreUnavailable
from app.web.spend import DAYS as CHARTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.settings import Settings
    from app.store.protocol import Store

logger = logging.getLogger(__name__)

STEP: Final = 1_000
"""How much is deleted at once, at most."""

SMALLEST_STEP: Final = 50
"""Where even this takes too long, it is left for the next look."""

BETWEEN_STEPS: Final = 0.05
"""Seconds that others have the database for themselves between two steps."""

_IN_WORDS: Final = {
    Kept.TURNS: "conversations",
    Kept.TASKS: "finished tasks",
    Kept.RUNS: "runs of agents",
    Kept.TOOL_CALLS: "calls of tools",
    Kept.COSTS: "costs of calls",
    Kept.FIRES: "runs of routines",
    Kept.EFFECTS: "effects",
    Kept.APPROVALS: "approvals",
    Kept.WORKERS: "daemons that ended",
    Kept.HISTORY: "sums of tasks",
    Kept.REQUESTS: "requests",
}

REQUESTS_KEPT: Final = HOUR
"""Seconds for which a request is remembered: by then no copy of it is still on its way."""


def kept_for(settings: Settings) -> dict[Kept, float]:
    """Return for how many seconds each kind of record is kept; what is not there, for ever."""
    days = dict.fromkeys(Kept, settings.retention_days)
    days[Kept.TURNS] = settings.transcript_days
    if settings.retention_days:
        # What a chart shows is there, however short the rest is kept.
        days[Kept.HISTORY] = max(settings.retention_days, CHARTED + 1.0)
    ages = {what: kept * DAY for what, kept in days.items() if kept}
    return {**ages, Kept.REQUESTS: REQUESTS_KEPT}


async def forget_old_turns(store: Store, older_than: float) -> None:
    """Delete conversations that are that many seconds old, and again every hour, for ever."""
    await forget_old(store, {Kept.TURNS: older_than})


async def forget_old(store: Store, ages: Mapping[Kept, float], every: float = USUAL.old) -> None:
    """Delete what is over for long, and again and again, for ever.

    Args:
        store: Where it is.
        ages: For how many seconds each kind is kept; what is not named is kept for ever.
        every: Seconds between two looks at what is old enough.
    """
    while True:
        for what, older_than in ages.items():
            await _forget(store, what, older_than)
        await trio.sleep(every)


async def _forget(store: Store, what: Kept, older_than: float) -> None:
    step = STEP
    while True:
        try:
            deleted = await store.forget_old(what, older_than=older_than, limit=step)
        except StoreError as error:
            step = step // 4 if isinstance(error, StoreUnavailable) else 0
            if step < SMALLEST_STEP:
                extra = {"action": "not_forgotten", "what": str(what)}
                logger.warning(
                    "Old %s could not be deleted: %s", _IN_WORDS[what], error, extra=extra
                )
                return
        else:
            if deleted < step:
                return
        await trio.sleep(BETWEEN_STEPS)
