"""What was spent on each of the last days, in the worker's zone, by agent and by model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from app.web.charts import day_edges, last_days

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import tzinfo

    from app.store.protocol import CostSum, Store

SETTLED: Final = timedelta(hours=2)
"""How long after its end a day may still change: a lost call is booked when its time is over."""

Spent = Mapping[tuple[str, str], float]
"""Agent and model -> US dollars."""


class DailyCosts:
    """Looks up what was spent on days, and remembers the days that are over.

    The store sums up costs by days of UTC, and tells what was spent since any moment: a day of
    another zone is the difference between two such answers.

    Args:
        timezone: The worker's zone.
    """

    def __init__(self, timezone: tzinfo) -> None:
        self._timezone = timezone
        self._over: dict[date, Spent] = {}

    async def of_last_days(self, store: Store, now: datetime) -> dict[date, Spent]:
        """Return what was spent on each of the last days, the oldest first.

        Args:
            store: The store.
            now: The present moment.
        """
        days = last_days(now, self._timezone)
        asked = [number for number, day in enumerate(days) if day not in self._over]
        edges = day_edges(days[asked[0] :], self._timezone) if asked else []
        answers = await _since_each(store, edges)
        ends = [*edges[1:], now + timedelta(days=1)]
        found = {day: self._over[day] for day in days if day in self._over}
        for number, day in enumerate(days[len(days) - len(edges) :]):
            later = answers[number + 1] if number + 1 < len(answers) else ()
            found[day] = _difference(answers[number], later, ends[number])
        self._over = {
            day: found[day]
            for day, end in zip(days[len(days) - len(edges) :], ends, strict=True)
            if end + SETTLED < now
        } | {day: self._over[day] for day in days if day in self._over}
        return {day: found[day] for day in days}


async def _since_each(store: Store, edges: Sequence[datetime]) -> list[Sequence[CostSum]]:
    """Ask for the costs since each of these moments, side by side."""
    answers: list[Sequence[CostSum]] = [() for _ in edges]

    async def ask(number: int, edge: datetime) -> None:
        answers[number] = await store.costs(since=edge)

    async with trio.open_nursery() as nursery:
        for number, edge in enumerate(edges):
            nursery.start_soon(partial(ask, number, edge))
    return answers


def _difference(since: Iterable[CostSum], later: Iterable[CostSum], end: datetime) -> Spent:
    """Return what was spent until the second answer begins.

    Days of UTC that begin after that are in both answers; what is booked on them between the two
    questions would be in one alone.
    """
    last_day = (end - timedelta(microseconds=1)).astimezone(UTC).date()
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for sign, costs in ((1, since), (-1, later)):
        for cost in costs:
            if cost.day <= last_day:
                spent[cost.agent_id, cost.model] += sign * cost.cost_usd
    # Sums of floats: two that should be equal are nearly so.
    return {name: round(usd, 9) for name, usd in spent.items() if usd > 1e-9}
