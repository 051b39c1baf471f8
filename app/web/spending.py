"""What an agent spent on each of the last days, in the worker's zone, as its budget counts them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

from app.agents.days import begin_of
from app.web.spend import DAYS, DaySpend

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, tzinfo

    from app.store.protocol import CostSum, Store

SETTLED: Final = timedelta(hours=2)
"""How long after its end a day may still change: a lost call is booked when its time is over."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """What was spent since a moment."""

    cost_usd: float = 0.0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def less(self, later: _Sum, day: date) -> DaySpend:
        """Return what was spent until another moment."""
        return DaySpend(
            day=day,
            # Sums of floats: two that should be equal are nearly so.
            cost_usd=max(0.0, round(self.cost_usd - later.cost_usd, 9)),
            calls=self.calls - later.calls,
            input_tokens=self.input_tokens - later.input_tokens,
            output_tokens=self.output_tokens - later.output_tokens,
        )


class Spending:
    """Looks up the spend of days, and remembers days that are over.

    The store sums up costs by days of UTC, and tells what was spent since any moment: a day of
    another zone is the difference between two such sums.

    Args:
        timezone: The worker's zone.
    """

    def __init__(self, timezone: tzinfo) -> None:
        self._timezone = timezone
        self._over: dict[str, dict[date, DaySpend]] = defaultdict(dict)

    async def by_day(self, store: Store, agent_id: str, now: datetime) -> list[DaySpend]:
        """Return the last `DAYS` days of an agent, the oldest first, those without spend included.

        Args:
            store: The store.
            agent_id: The agent.
            now: The present moment.
        """
        today = now.astimezone(self._timezone).date()
        days = [today - timedelta(days=back) for back in range(DAYS)]
        known = self._over[agent_id]
        later, found = _Sum(), []
        for number, day in enumerate(days):
            if all(older in known for older in days[number:]):
                found += [known[older] for older in days[number:]]
                break
            begin = begin_of(day, self._timezone)
            since = _sum(await store.costs(since=begin, agent_id=agent_id))
            found.append(since.less(later, day))
            later = since
        settled = (now - SETTLED).astimezone(self._timezone).date()
        self._over[agent_id] = {spend.day: spend for spend in found if spend.day < settled}
        return found[::-1]


def _sum(costs: Iterable[CostSum]) -> _Sum:
    known = list(costs)
    return _Sum(
        cost_usd=sum(cost.cost_usd for cost in known),
        calls=sum(cost.calls for cost in known),
        input_tokens=sum(
            cost.input_tokens + cost.cache_read_tokens + cost.cache_write_tokens for cost in known
        ),
        output_tokens=sum(cost.output_tokens for cost in known),
    )
