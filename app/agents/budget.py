"""An agent's budget for a day: set aside before each call of the model, and settled after it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from actp_supervise import current_child

from .outcomes import HandBack, Paused, Refused

if TYPE_CHECKING:
    from datetime import tzinfo

    from .contract import AgentContext

logger = logging.getLogger(__name__)

_HELD_BY_OTHERS: Final = "waiting for budget that other calls hold"

LOOK_AGAIN: Final = 2.0
"""Seconds between two looks while other calls of the agent hold what is left."""


def start_of_day(now: datetime, timezone: tzinfo) -> datetime:
    """Return when the day of `now` began in a zone."""
    return datetime.combine(now.astimezone(timezone).date(), time(), timezone)


def start_of_next_day(now: datetime, timezone: tzinfo) -> datetime:
    """Return when the day of `now` ends in a zone."""
    tomorrow = now.astimezone(timezone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), timezone)


def _dollars(usd: float) -> str:
    return f"${usd:.2f}" if usd == 0 or usd >= 0.01 else f"${usd:.4f}"


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

    async def reserve(
        self, usd: float, now: datetime, *, least: float, spent_on_this: float
    ) -> str | None:
        """Set money aside for one call.

        Args:
            usd: The most that it may cost.
            now: The present moment.
            least: What any call, however short, may cost.
            spent_on_this: What the conversation has cost so far.

        Returns:
            The reservation, to be settled or released; None where there is no budget.

        Raises:
            HandBack: If other calls of the agent hold too much of it for too long, or if the agent
                is asked to stop meanwhile.
            Paused: If it is spent, until the day ends; if it is too small for any call, until
                somebody raises it. A conversation that has cost something then begins anew, so it
                counts as an attempt, or it would cost as much on every day.
            Refused: If it is too small for this call alone.
        """
        limit = self._context.daily_budget_usd
        if limit is None:
            return None
        if least > limit:
            raise Paused(
                f"its daily budget of {_dollars(limit)} is too small: any call of its model may "
                f"cost {_dollars(least)}. Set a higher DAILY_BUDGET_USD and reload the settings"
            )
        if usd > limit:
            raise Refused(
                f"the next call of this conversation may cost {_dollars(usd)}, which is more than "
                f"the agent's daily budget of {_dollars(limit)}"
            )
        reservation = uuid.uuid4().hex
        since = start_of_day(now, self._context.timezone)
        for look in range(int(self._lifetime / LOOK_AGAIN)):
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
                    f"its daily budget is too small for the next call, which may cost "
                    f"{_dollars(usd)}: of {_dollars(limit)} it has spent {_dollars(spent)} today. "
                    "It goes on at midnight, or with a higher DAILY_BUDGET_USD",
                    until=start_of_next_day(now, self._context.timezone),
                    count_attempt=spent_on_this > 0,
                )
            if look == 0:
                logger.warning(_HELD_BY_OTHERS, extra={"action": "budget_held"})
            self._context.activity.wait(_HELD_BY_OTHERS, LOOK_AGAIN)
            with current_child().cancel_on_stop() as stop:
                await asyncio.sleep(LOOK_AGAIN)
            if stop.cancelled_caught:
                raise HandBack(f"asked to stop while {_HELD_BY_OTHERS}")
        raise HandBack("other calls of the agent hold what is left of the daily budget")

    async def release(self, reservation: str | None) -> None:
        """Give back what was set aside for a call that came to nothing."""
        if reservation is not None:
            await self._store.release_budget(reservation)
