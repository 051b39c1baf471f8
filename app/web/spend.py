"""Spend by day, as numbers and as the geometry of a plot. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

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
