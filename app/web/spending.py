"""What was spent on each of the last days, in the worker's zone, as budgets count them."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

from app.agents.days import begin_of, start_of_day
from app.store.protocol import CostSum
from app.web.spend import DAYS, DaySpend, spend_by_day

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime, tzinfo

    from app.store.protocol import Store

SETTLED: Final = timedelta(hours=2)
"""How long after its end a day may still change: a lost call is booked when its time is over."""

_COUNTS: Final = (
    "calls",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
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
        self._over: dict[str | None, dict[date, list[CostSum]]] = defaultdict(dict)

    async def costs(
        self, store: Store, now: datetime, agent_id: str | None = None
    ) -> list[CostSum]:
        """Return spend by agent, model and day of the last `DAYS` days; the oldest first.

        Args:
            store: The store.
            now: The present moment.
            agent_id: Whose; None for that of all agents.
        """
        today = now.astimezone(self._timezone).date()
        days = [today - timedelta(days=back) for back in range(DAYS)]
        known = self._over[agent_id]
        rows_of_later: list[CostSum] = []
        end = now + timedelta(days=1)
        found: dict[date, list[CostSum]] = {}
        for number, day in enumerate(days):
            if all(older in known for older in days[number:]):
                found |= {older: known[older] for older in days[number:]}
                break
            begin = begin_of(day, self._timezone)
            rows = await store.costs(since=begin, agent_id=agent_id)
            # Days of UTC after this one are in both answers, and what is booked on them between the
            # two questions would be in one alone.
            last = (end - timedelta(microseconds=1)).astimezone(UTC).date()
            since = _by_name((cost for cost in rows if cost.day <= last), day)
            later = _by_name((cost for cost in rows_of_later if cost.day <= last), day)
            found[day] = [
                spent for name, total in since.items() if (spent := _less(total, later.get(name)))
            ]
            rows_of_later, end = rows, begin
        # Nor is a day remembered that is of the same day of UTC as what is booked just now.
        until = min(now - SETTLED, start_of_day(now, UTC))
        settled = until.astimezone(self._timezone).date()
        self._over[agent_id] = {day: spent for day, spent in found.items() if day < settled}
        return [spent for day in sorted(found) for spent in found[day]]

    async def by_day(self, store: Store, now: datetime, agent_id: str) -> list[DaySpend]:
        """Return the last days of an agent, the oldest first, those without spend included."""
        costs = await self.costs(store, now, agent_id)
        return spend_by_day(costs, now.astimezone(self._timezone).date())


def _by_name(costs: Iterable[CostSum], day: date) -> dict[tuple[str, str], CostSum]:
    """Add up what was spent since the beginning of a day, by agent and model."""
    sums: dict[tuple[str, str], list[CostSum]] = defaultdict(list)
    for cost in costs:
        sums[cost.agent_id, cost.model].append(cost)
    return {
        (agent_id, model): CostSum(
            agent_id=agent_id,
            model=model,
            day=day,
            cost_usd=sum(cost.cost_usd for cost in parts),
            **{name: sum(getattr(cost, name) for cost in parts) for name in _COUNTS},
        )
        for (agent_id, model), parts in sums.items()
    }


def _less(total: CostSum, later: CostSum | None) -> CostSum | None:
    """Return what was spent until a later moment; None for nothing."""
    if later is None:
        return total
    if total.calls == later.calls:
        return None
    return CostSum(
        agent_id=total.agent_id,
        model=total.model,
        day=total.day,
        # Of floats: what should be nothing is nearly so.
        cost_usd=max(0.0, round(total.cost_usd - later.cost_usd, 9)),
        **{name: getattr(total, name) - getattr(later, name) for name in _COUNTS},
    )
