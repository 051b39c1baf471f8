"""An agent's budget for a day: set aside before each call of the model, and settled after it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from .outcomes import HandBack, Paused

if TYPE_CHECKING:
    from datetime import tzinfo

    from .contract import AgentContext

LOOK_AGAIN: Final = 2.0
"""Seconds between two looks while other calls of the agent hold what is left."""


def start_of_day(now: datetime, timezone: tzinfo) -> datetime:
    """Return when the day of `now` began in a zone."""
    return datetime.combine(now.astimezone(timezone).date(), time(), timezone)


def start_of_next_day(now: datetime, timezone: tzinfo) -> datetime:
    """Return when the day of `now` ends in a zone."""
    tomorrow = now.astimezone(timezone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), timezone)


class Budget:
    """What an agent may spend on a day of the worker's zone, all daemons together.

    Args:
        context: The agent's.
        lifetime: Seconds after which money that was set aside and never settled is free again.
    """

    def __init__(self, context: AgentContext, *, lifetime: float) -> None:
        self._context = context
        self._store = context.store
        self._lifetime = lifetime

    async def reserve(self, usd: float, now: datetime) -> str | None:
        """Set money aside for one call.

        Args:
            usd: The most that it may cost.
            now: The present moment.

        Returns:
            The reservation, to be settled or released; None where there is no budget.

        Raises:
            HandBack: If other calls of the agent hold too much of it for too long.
            Paused: If it is spent; until the day ends.
        """
        limit = self._context.daily_budget_usd
        if limit is None:
            return None
        reservation = uuid.uuid4().hex
        since = start_of_day(now, self._context.timezone)
        for _ in range(int(self._lifetime / LOOK_AGAIN)):
            if await self._store.reserve_budget(
                reservation,
                self._context.agent_id,
                since=since,
                limit=limit,
                amount=usd,
                lifetime=self._lifetime,
            ):
                return reservation
            costs = await self._store.costs(since=since, agent_id=self._context.agent_id)
            spent = sum(cost.cost_usd for cost in costs)
            if spent + usd > limit:
                raise Paused(
                    f"the daily budget of ${limit:.2f} is spent: ${spent:.2f} is gone, and the "
                    f"next call may cost ${usd:.2f}",
                    until=start_of_next_day(now, self._context.timezone),
                )
            self._context.activity.wait("waiting for budget that other calls hold", LOOK_AGAIN)
            await asyncio.sleep(LOOK_AGAIN)
        raise HandBack("other calls of the agent hold what is left of the daily budget")

    async def release(self, reservation: str | None) -> None:
        """Give back what was set aside for a call that came to nothing."""
        if reservation is not None:
            await self._store.release_budget(reservation)
