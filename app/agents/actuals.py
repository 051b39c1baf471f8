"""What was taken in: revenue by day, looked up in Stripe and the App Store where keys are there.

No model computes here. What could not be looked up is unknown, and says why; it is never zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from app.hands import HandError

from .direct import call_hand, tool_named, why_lacking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .contract import AgentContext

STRIPE: Final = "stripe"
APP_STORE: Final = "app_store"

TOOLS: Final = {STRIPE: "stripe_revenue", APP_STORE: "app_store_sales"}
"""Source -> the tool of the hand of that name by which it is asked."""

METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "revenue_usd": (STRIPE, APP_STORE),
    "stripe_revenue_usd": (STRIPE,),
    "app_store_revenue_usd": (APP_STORE,),
}
"""Metric of a goal -> the sources whose sum is its actual; those that are set up, of several."""

MOST_DAYS: Final = 31
"""Days that are asked for at once."""


@dataclass(slots=True, kw_only=True)
class Takings:
    """What one source knows."""

    usd: dict[date, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    others: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """What came in other currencies, which is not counted."""
    not_there: list[str] = field(default_factory=list)
    """Days without a report, with the reason that the source gives."""
    problem: str | None = None
    """Why it could not be asked; then it knows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actuals:
    """What the sources know of some days."""

    takings: Mapping[str, Takings]
    """By the sources that are set up."""
    lacking: tuple[str, ...]
    """Why the others are not, a line each."""

    def total(self, metric: str, first: date, last: date) -> float | None:
        """Return what a metric has reached between two days; None where that is not known.

        Args:
            metric: As the goal calls it; case and spaces do not matter.
            first: The first day.
            last: The last day.
        """
        sources = METRICS.get(metric.strip().casefold().replace(" ", "_"), ())
        asked = [self.takings[source] for source in sources if source in self.takings]
        if not asked or any(each.problem is not None for each in asked):
            return None
        days = (day for each in asked for day in each.usd.items())
        return float(sum((usd for day, usd in days if first <= day <= last), Decimal(0)))

    @property
    def notes(self) -> list[str]:
        """What is to be known of the numbers, in words: what is lacking in them."""
        notes = list(self.lacking)
        for source, each in self.takings.items():
            if each.problem is not None:
                notes.append(f"{source}: {each.problem}")
            if each.others:
                amounts = ", ".join(f"{sum_} {name}" for name, sum_ in sorted(each.others.items()))
                notes.append(f"{source}: {amounts} came in besides, which is not counted")
            notes += [f"{source}: {day}" for day in each.not_there[-2:]]
        return notes

    def by_source(self, first: date, last: date) -> dict[str, float]:
        """Return what each source that answered has of some days, by the metric of its own."""
        metrics = {STRIPE: "stripe_revenue_usd", APP_STORE: "app_store_revenue_usd"}
        found = {metrics[source]: self.total(metrics[source], first, last) for source in metrics}
        return {metric: usd for metric, usd in found.items() if usd is not None}


async def look_up(context: AgentContext, first: date, last: date) -> Actuals:
    """Ask the sources that are set up.

    Args:
        context: The agent's.
        first: The first day.
        last: The last one; the App Store's reports come out a day late.
    """
    takings, lacking = {}, []
    for source, tool in TOOLS.items():
        if tool_named(context, tool) is None:
            lacking.append(why_lacking(context, source))
            continue
        until = last if source == STRIPE else last - timedelta(days=1)
        takings[source] = await _ask(context, source, first, until)
    return Actuals(takings=takings, lacking=tuple(lacking))


async def _ask(context: AgentContext, source: str, first: date, last: date) -> Takings:
    takings = Takings()
    read = {STRIPE: _read_stripe, APP_STORE: _read_app_store}[source]
    try:
        for since, until in _pieces(first, last):
            asked = {"since": since.isoformat(), "until": until.isoformat()}
            answer = await call_hand(context, TOOLS[source], asked, about=f"{since} {until}")
            for day in answer["days"]:
                read(takings, day)
    except HandError as error:
        takings.problem = str(error)
    return takings


def _pieces(first: date, last: date) -> Iterator[tuple[date, date]]:
    while first <= last:
        until = min(last, first + timedelta(days=MOST_DAYS - 1))
        yield first, until
        first = until + timedelta(days=1)


def _read_stripe(takings: Takings, day: Mapping[str, Any]) -> None:
    """Add a day of `stripe_revenue`: what was charged, less what went back; fees are a cost."""
    usd = sum((Decimal(day[name]) for name in ("gross", "refunded", "disputed")), Decimal(0))
    if day["currency"] == "usd":
        takings.usd[date.fromisoformat(day["day"])] += usd
    elif usd:
        takings.others[str(day["currency"]).upper()] += usd


def _read_app_store(takings: Takings, day: Mapping[str, Any]) -> None:
    """Add a day of `app_store_sales`."""
    if "not_there" in day:
        takings.not_there.append(f"no report of {day['day']} ({day['not_there']})")
    for app in day.get("apps", ()):
        for currency, amount in app["proceeds"].items():
            if currency == "USD":
                takings.usd[date.fromisoformat(day["day"])] += Decimal(amount)
            else:
                takings.others[currency] += Decimal(amount)
