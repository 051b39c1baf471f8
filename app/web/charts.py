"""Charts of the last days: sums as series, series as the geometry of stacked bars. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from app.agents.days import start_of_day
from app.web.spend import DAYS, HEIGHT
from app.web.words import elapsed, money

if TYPE_CHECKING:
    from datetime import tzinfo

    from app.store.protocol import CostSum, TaskSum

WIDTH: Final = 20.0
"""Units of the plot that a day takes."""

MOST_SERIES: Final = 6
"""Series that are told apart; what is beyond them is added up as *others*."""

OTHERS: Final = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What is counted of one kind, day by day."""

    name: str
    style: str
    """The class by which it has its colour."""
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A day's part of one series in the plot."""

    day: date
    name: str
    style: str
    value: float
    x: float
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart, as a plot, as a sentence and as a table."""

    key: str
    """Its id in the page."""
    title: str
    days: tuple[date, ...]
    """The oldest first."""
    series: tuple[Series, ...]
    words: Callable[[float], str]
    """Says a value."""
    adds_up: bool = True
    """Whether the sum of all days means something, as the mean of waits does not."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not any(value for series in self.series for value in series.values)

    @property
    def totals(self) -> tuple[float, ...]:
        """All series together, by day."""
        return tuple(map(sum, zip(*(series.values for series in self.series), strict=True)))

    @property
    def most(self) -> float:
        """The value of the highest bar."""
        return max(self.totals, default=0.0)

    @property
    def width(self) -> float:
        """Units of the plot that all days take."""
        return WIDTH * len(self.days)

    @property
    def text(self) -> str:
        """What the plot shows, in a sentence."""
        most, today = self.most, self.totals[-1]
        when = self.days[self.totals.index(most)]
        said = [f"most on {when:%a %d %b}: {self.words(most)}", f"today {self.words(today)}"]
        if self.adds_up:
            said.insert(0, f"{self.words(sum(self.totals))} in {len(self.days)} days")
            if len(self.series) > 1:
                of_each = (f"{each.name} {self.words(sum(each.values))}" for each in self.series)
                said.insert(1, ", ".join(of_each))
        return "; ".join(said) + "."

    @property
    def parts(self) -> list[Part]:
        """The bars, of which each stands on the one before it."""
        most, parts = self.most, []
        for number, day in enumerate(self.days):
            below = 0.0
            for series in self.series:
                value = series.values[number]
                if value and most:
                    height = value / most * HEIGHT
                    parts.append(
                        Part(
                            day=day,
                            name=series.name,
                            style=series.style,
                            value=value,
                            x=number * WIDTH,
                            y=round(HEIGHT - below - height, 2),
                            height=round(height, 2),
                        )
                    )
                    below += height
        return parts


def last_days(now: datetime, timezone: tzinfo) -> tuple[date, ...]:
    """Return the last `DAYS` days of a zone, the oldest first and today last."""
    today = now.astimezone(timezone).date()
    return tuple(today - timedelta(days=back) for back in range(DAYS - 1, -1, -1))


def day_edges(days: Iterable[date], timezone: tzinfo) -> list[datetime]:
    """Return when each day begins in a zone."""
    return [start_of_day(datetime.combine(day, time(12), timezone), timezone) for day in days]


def task_charts(
    sums: Iterable[TaskSum], days: Sequence[date], timezone: tzinfo
) -> tuple[Chart, Chart]:
    """Return what became of tasks and how long they waited, day by day."""
    by_day: dict[date, list[TaskSum]] = defaultdict(list)
    for each in sums:
        by_day[each.since.astimezone(timezone).date()].append(each)

    def counted(count: Callable[[TaskSum], float]) -> tuple[float, ...]:
        return tuple(sum(map(count, by_day[day])) for day in days)

    ended = (
        Series(name="done", style="is-good", values=counted(lambda each: each.succeeded)),
        Series(name="failed", style="is-bad", values=counted(lambda each: each.failed)),
        Series(name="cancelled", style="is-off", values=counted(lambda each: each.cancelled)),
    )
    begun = counted(lambda each: each.begun)
    waited = counted(lambda each: each.waited)
    mean = tuple(
        seconds / number if number else 0.0 for seconds, number in zip(waited, begun, strict=True)
    )
    return (
        Chart(key="ended", title="Tasks that ended", days=tuple(days), series=ended, words=_number),
        Chart(
            key="waited",
            title="How long tasks waited for a worker, on average",
            days=tuple(days),
            series=(Series(name="mean wait", style="is-0", values=mean),),
            words=elapsed,
            adds_up=False,
        ),
    )


def spend_charts(costs: Iterable[CostSum], days: Sequence[date]) -> tuple[Chart, Chart]:
    """Return what was spent, day by day, by agent and by model."""
    known = list(costs)
    return (
        _spend("by-agent", "Spend by agent", known, days, lambda cost: cost.agent_id),
        _spend("by-model", "Spend by model", known, days, lambda cost: cost.model),
    )


def _spend(
    key: str,
    title: str,
    costs: Sequence[CostSum],
    days: Sequence[date],
    name_of: Callable[[CostSum], str],
) -> Chart:
    spent: dict[str, dict[date, float]] = defaultdict(lambda: dict.fromkeys(days, 0.0))
    for cost in costs:
        if cost.day in spent[name_of(cost)]:
            spent[name_of(cost)][cost.day] += cost.cost_usd
    names = sorted(spent, key=lambda name: (-sum(spent[name].values()), name))
    shown = names if len(names) <= MOST_SERIES else names[: MOST_SERIES - 1]
    series = [_series(name, number, [spent[name]], days) for number, name in enumerate(shown)]
    if rest := [spent[name] for name in names[len(shown) :]]:
        series.append(_series(OTHERS, MOST_SERIES - 1, rest, days))
    return Chart(key=key, title=title, days=tuple(days), series=tuple(series), words=money)


def _series(
    name: str, number: int, spent: Sequence[Mapping[date, float]], days: Sequence[date]
) -> Series:
    values = tuple(sum(each[day] for each in spent) for day in days)
    return Series(name=name, style=f"is-{number}", values=values)


def _number(value: float) -> str:
    return f"{value:,.0f}"
