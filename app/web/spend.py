"""Spend by day, as numbers and as the geometry of a plot. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.store.protocol import CostSum

DAYS: Final = 14
"""Days that are looked back on, today included."""

HEIGHT: Final = 100.0
"""Units of the plot that the highest bar has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySpend:
    """What an agent spent on one day of the worker's zone."""

    day: date
    cost_usd: float
    calls: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A day's bar in the plot."""

    spend: DaySpend
    x: float
    y: float
    height: float


def spend_by_day(costs: Iterable[CostSum], today: date) -> list[DaySpend]:
    """Return the last `DAYS` days, the oldest first, those without spend included."""
    by_day: dict[date, list[CostSum]] = defaultdict(list)
    for cost in costs:
        by_day[cost.day].append(cost)
    return [
        DaySpend(
            day=day,
            cost_usd=sum(cost.cost_usd for cost in by_day[day]),
            calls=sum(cost.calls for cost in by_day[day]),
            input_tokens=sum(
                cost.input_tokens + cost.cache_read_tokens + cost.cache_write_tokens
                for cost in by_day[day]
            ),
            output_tokens=sum(cost.output_tokens for cost in by_day[day]),
        )
        for day in (today - timedelta(days=back) for back in range(DAYS - 1, -1, -1))
    ]


def bars(days: list[DaySpend], width: float) -> list[Bar]:
    """Return a bar for each day, each `width` wide with its gap; the highest is `HEIGHT` high."""
    most = max((day.cost_usd for day in days), default=0.0)
    return [
        Bar(
            spend=day,
            x=number * width,
            height=round(day.cost_usd / most * HEIGHT, 1) if most else 0.0,
            y=round(HEIGHT - day.cost_usd / most * HEIGHT, 1) if most else HEIGHT,
        )
        for number, day in enumerate(days)
    ]
