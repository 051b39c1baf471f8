"""The days of the plots are those of the budget: of the worker's zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from store_calls import cost

from app.store.protocol import CostSum
from app.web.spending import Spending

AT = {  # of three calls: an hour before midnight in New York, after it, and long before
    datetime(2026, 11, 28, 4, 30, tzinfo=UTC): 1.0,
    datetime(2026, 11, 28, 5, 30, tzinfo=UTC): 2.0,
    datetime(2026, 11, 20, 12, 0, tzinfo=UTC): 4.0,
}
NOW = datetime(2026, 11, 28, 16, 0, tzinfo=UTC)


@dataclass
class Costs:
    """A ledger of these calls, which counts how often it is asked."""

    asked: int = 0

    async def costs(self, *, since, agent_id):
        self.asked += 1
        return [
            CostSum(
                agent_id=agent_id,
                model="m",
                day=at.date(),
                calls=1,
                input_tokens=10,
                output_tokens=1,
                cache_read_tokens=0,
                cache_write_tokens=0,
                cost_usd=usd,
            )
            for at, usd in AT.items()
            if at >= since
        ]


def spent(days):
    return {day.day: day.cost_usd for day in days if day.calls}


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", {date(2026, 11, 20): 4.0, date(2026, 11, 28): 3.0}),
        (
            "America/New_York",
            {date(2026, 11, 20): 4.0, date(2026, 11, 27): 1.0, date(2026, 11, 28): 2.0},
        ),
        ("Asia/Kolkata", {date(2026, 11, 20): 4.0, date(2026, 11, 28): 3.0}),
    ],
)
async def test_a_day_is_that_of_the_workers_zone(zone, expected):
    days = await Spending(ZoneInfo(zone)).by_day(Costs(), NOW, "content")
    assert spent(days) == expected
    assert len(days) == 14
    assert [day.day for day in days] == sorted(day.day for day in days)


async def test_days_that_are_over_are_looked_up_once():
    ledger = Costs()
    spending = Spending(ZoneInfo("Europe/Berlin"))
    first = await spending.by_day(ledger, NOW, "content")
    asked = ledger.asked
    assert await spending.by_day(ledger, NOW, "content") == first
    assert ledger.asked == asked + 1  # for today

    later = await spending.by_day(ledger, NOW + timedelta(days=2), "content")
    assert spent(later) == spent(first)
    assert ledger.asked == asked + 1 + 3  # of the two days that are new, and of the one before


async def test_the_last_day_may_change_for_a_while_after_its_end():
    ledger = Costs()
    spending = Spending(ZoneInfo("UTC"))
    midnight = datetime(2026, 11, 29, tzinfo=UTC)
    await spending.by_day(ledger, midnight + timedelta(hours=1), "content")
    AT[datetime(2026, 11, 28, 23, 59, tzinfo=UTC)] = 8.0
    try:
        days = await spending.by_day(ledger, midnight + timedelta(hours=3), "content")
    finally:
        AT.popitem()
    assert spent(days)[date(2026, 11, 28)] == 11.0


async def test_it_is_so_over_a_real_store(store):
    """What was spent now is today's in each zone, by the store's own sums."""
    await store.record_cost(cost("c1", agent_id="content"))
    now = await store.ping()
    for zone in ("UTC", "Pacific/Kiritimati", "America/New_York"):
        days = await Spending(ZoneInfo(zone)).by_day(store, now, "content")
        today = now.astimezone(ZoneInfo(zone)).date()
        assert [day.day for day in days if day.calls] == [today]
