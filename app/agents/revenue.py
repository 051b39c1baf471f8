"""The revenue agent: goals against actuals, what the agents cost, a snapshot of each week."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from typing_extensions import override

from app.hands import HandError
from app.hands.telegram import MOST_TEXT as MOST_SENT
from app.store.protocol import CostSum, DomainTable, Query, Row, TableMissing

from .actuals import Actuals, look_up
from .base import Cursor, DomainAgent, most_of, part_of
from .direct import NoSuchHandError, call_hand, why_lacking
from .tools import JSON, ToolError, tool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.store.protocol import TaskRow

    from .outcomes import Outcome

Period = Annotated[str, Field(pattern=r"^\d{4}-(\d\d|W\d\d|\d\d-\d\d)$")]
Week = Annotated[str, Field(pattern=r"^\d{4}-W\d\d$")]
Metric = Annotated[str, Field(min_length=1, max_length=100)]
Amount = Annotated[float, Field(ge=-1e12, le=1e12)]
Notes = Annotated[str, Field(min_length=1, max_length=2_000)]

GOALS = DomainTable.REVENUE_GOALS
SNAPSHOTS = DomainTable.WEEKLY_SNAPSHOTS

REPORTS = DomainTable.REPORTS

UNUSUAL = 2.0
"""How many times the mean of the days before a day costs that is unusual."""

FLAGGED_FROM = 1.0
"""US dollars from which an unusual day is a reason for the health: less is nobody's trouble."""

DAILY_CHECK, WEEKLY_REPORT, COST_AUDIT = "daily_check", "weekly_report", "cost_audit"
"""What kinds of reports there are."""


class RevenueAnalyticsDomainAgent(DomainAgent):
    """Compares goals with actuals, audits what the agents cost, and reports the week."""

    prompt: ClassVar[str] = """\
You are the revenue agent of EverReach. You compare goals with actuals, watch what the agents spend
on the model, and report on each week.

A period is a month such as 2026-11, an ISO week such as 2026-W47, or a day such as 2026-11-23. All
amounts are in US dollars. Compute with the numbers that the tools give, and with no others: an
actual that nobody recorded is unknown, and not zero. Actuals of the metrics revenue_usd,
stripe_revenue_usd and app_store_revenue_usd are looked up for you where that is possible; say what
is lacking in them. Say of each goal whether it will be reached at the present pace, and what stands
in the way. Your last answer is sent to the operator as it is: write plain sentences without markup,
the most important one first."""

    @tool(effect="read")
    async def compare_goals(self, period: Period | None = None) -> JSON:
        """List goals with their actuals and how far they are reached.

        Args:
            period: Only those of this period; by default the day, week and month of today.
        """
        periods = [period] if period else _periods((await self.now()).date())
        return {"source": GOALS, "goals": await self._goals(periods)}

    @tool(effect="keyed", target="call")
    async def set_revenue_goal(
        self, period: Period, metric: Metric, target: Amount, notes: Notes | None = None
    ) -> JSON:
        """Set a goal; one that is there already for that period and metric gets the new target.

        Args:
            period: A month, an ISO week or a day.
            metric: What is counted, such as "revenue_usd" or "new customers".
            target: What it is to reach.
            notes: What is worth knowing about it.
        """
        goal_id = _id("goal", period, metric)
        there = await self.store.select(GOALS, Query(equal={"id": goal_id, "status": "rejected"}))
        if there:
            raise ToolError("metric: a person has rejected this goal for this period")
        values: dict[str, Any] = {"target": target, **({"notes": notes} if notes else {})}
        await self.store.insert(GOALS, goal_id, {"period": period, "metric": metric, **values})
        return {"goal": await self.store.update(GOALS, goal_id, values)}

    @tool(effect="keyed", target="call")
    async def record_actual(self, goal_id: str, actual: Amount) -> JSON:
        """Record what a goal's metric has actually reached so far.

        Args:
            goal_id: The id of the goal.
            actual: The value up to now, for the whole period.
        """
        goal = await self.store.update(GOALS, goal_id, {"actual": actual})
        if goal is None:
            raise ToolError(f"goal_id: there is no goal {goal_id!r}")
        return {"goal": _compared(goal)}

    @tool(effect="read")
    async def audit_costs(self, days: Annotated[int, Field(ge=1, le=31)] = 7) -> JSON:
        """Sum up what the agents spent on the model, by agent, by model and by day.

        Args:
            days: How many days back, today included.
        """
        return await self._audit(days)

    @tool(effect="read")
    async def list_weekly_snapshots(
        self, limit: Annotated[int, Field(ge=1, le=52)] = 4, cursor: Cursor = None
    ) -> JSON:
        """List the snapshots of past weeks, the latest first.

        Args:
            limit: The most to return.
            cursor: Where to go on, from next_cursor of the answer before.
        """
        query = Query(order_by="week", limit=most_of(cursor, limit))
        rows = await self.store.select(SNAPSHOTS, query)
        return {"source": SNAPSHOTS, **part_of("snapshots", rows, cursor, limit)}

    @tool(effect="keyed", target="call")
    async def save_weekly_snapshot(
        self,
        week: Week,
        summary: Notes,
        metrics: Annotated[dict[str, float], Field(max_length=50)] | None = None,
    ) -> JSON:
        """Save the report of a week; further metrics are added to those that are there.

        Args:
            week: The ISO week, such as 2026-W47.
            summary: The report, in a few sentences.
            metrics: Further numbers by name.
        """
        return {"snapshot": await self._save_snapshot(week, metrics or {}, summary)}

    async def run_daily_check(self) -> dict[str, Any]:
        """Compare the goals that run today with their actuals, which are looked up first."""
        today = (await self.now()).date()
        actuals = await look_up(self.context, _first_day(today), today)
        goals = await self._with_actuals(await self._goals(_periods(today)), actuals, today)
        if not goals:
            return await self._check_without_goals(actuals, today)
        return await self.routine(
            "run_daily_check",
            "Check the goals in the context, which run today. Compare each with its actual and "
            "with how much of its period is over, remember those that are in danger under the key "
            "'goals in danger', and report, also what is lacking in the numbers.",
            context={
                "goals": goals,
                "yesterday": actuals.by_source(*_yesterday(today)),
                "lacking": actuals.notes,
            },
        )

    async def _check_without_goals(self, actuals: Actuals, today: date) -> dict[str, Any]:
        """Report what was taken in; without the model, for there is nothing to compare."""
        text = "No goal is set for today, this week or this month."
        taken = actuals.by_source(*_yesterday(today))
        if taken:
            amounts = ", ".join(f"{name} {usd:.2f}" for name, usd in taken.items())
            text += f" Yesterday: {amounts}."
        text = " ".join((text, *(f"Lacking: {note}." for note in actuals.notes)))
        if taken:
            await self._report(DAILY_CHECK, today.isoformat(), text, metrics=taken)
        return {"text": text, "turns": 0}

    async def run_cost_audit(self) -> dict[str, Any]:
        """Audit what the agents cost; without the model, for it is arithmetic."""
        audit = await self._audit(8)
        today = (await self.now()).date().isoformat()
        *before, spent = audit["by_day"].values()
        mean = sum(before) / len(before)
        text = f"${spent:.2f} today; ${mean:.2f} a day in the week before."
        flag = None
        if spent > UNUSUAL * mean:
            times = f"{spent / mean:.1f} times as much as usual" if mean else "unusual"
            text += f" That is {times}."
            if spent >= FLAGGED_FROM:
                flag = f"the agents cost {text[0].lower()}{text[1:]}".rstrip(".")
        await self.store.remember(self.agent_id, f"cost audit {today}", text)
        await self._keep_report(
            COST_AUDIT, today, text, metrics={"usd": spent, "usd_a_day_before": mean}, flag=flag
        )
        return {"text": text, "turns": 0, "flag": flag, **audit}

    async def run_weekly_report(self) -> dict[str, Any]:
        """Save the week's snapshot: its numbers first, then what Claude has to say of them."""
        today = (await self.now()).date()
        week = _week(today)
        actuals = await look_up(self.context, _monday(today), today)
        await self._with_actuals(await self._goals([week]), actuals, today)
        metrics = await self._metrics(today) | actuals.by_source(_monday(today), today)
        await self._save_snapshot(week, metrics, None)
        return await self.routine(
            "run_weekly_report",
            f"Write the report of week {week}. Its numbers are in the context and saved already. "
            "Compare them with the snapshots of the weeks before and with the goals, save the "
            f"report with save_weekly_snapshot for week {week}, and answer with it.",
            context={"week": week, "metrics": metrics, "lacking": actuals.notes},
            needs_tool=True,
        )

    @override
    async def routine_ended(self, name: str, task: TaskRow, outcome: Outcome) -> None:
        if outcome.failure is not None or task.routine is None:
            return
        day = date.fromisoformat(task.routine.rpartition("/")[2])
        facts, text = task.context, str(outcome.result["text"])
        if name == "run_daily_check":
            numbers = facts.get("yesterday") or {}
            await self._report(DAILY_CHECK, day.isoformat(), text, metrics=numbers, task=task.id)
        elif name == "run_weekly_report":
            numbers = facts.get("metrics") or {}
            await self._report(WEEKLY_REPORT, _week(day), text, metrics=numbers, task=task.id)

    # What the operator is told.

    async def _report(
        self,
        kind: str,
        period: str,
        text: str,
        *,
        metrics: dict[str, float],
        task: str | None = None,
    ) -> None:
        """Keep a report, and send it to the operator where Telegram is set up.

        Args:
            kind: What it is.
            period: Of which day or week.
            text: What it says.
            metrics: Its numbers by name.
            task: The task that wrote it.
        """
        row = await self._keep_report(kind, period, text, metrics=metrics, flag=None)
        if row["sent_at"] is not None and row["text"] == text:
            return
        title = f"{kind.replace('_', ' ').capitalize()} of {period}"
        try:
            await call_hand(
                self.context,
                "telegram_send",
                {"text": f"{title}\n\n{text}"[:MOST_SENT]},
                about=f"report {row['id']} {hashlib.sha256(text.encode()).hexdigest()}",
                task_id=task,
            )
        except NoSuchHandError:
            sent: dict[str, Any] = {"not_sent": why_lacking(self.context, "telegram")}
        except HandError as error:
            sent = {"not_sent": str(error)}
        else:
            now = await self.store.ping()
            sent = {"sent_by": "telegram", "sent_at": now, "not_sent": None}
        await self.store.update(REPORTS, row["id"], sent)

    async def _keep_report(
        self, kind: str, period: str, text: str, *, metrics: dict[str, float], flag: str | None
    ) -> Row:
        """Keep a report, of which there is one for each kind and period; as it was before."""
        row_id = _id("report", self.agent_id, kind, period)
        values: dict[str, Any] = {"text": text, "metrics": metrics, "flag": flag}
        row = await self.store.insert(REPORTS, row_id, {"kind": kind, "period": period, **values})
        if row["text"] != text:
            # It is another report by now, at which nobody has looked.
            await self.store.update(REPORTS, row_id, {**values, "status": None})
        return row

    # What the numbers are made of.

    async def _goals(self, periods: list[str]) -> list[dict[str, Any]]:
        found: list[Row] = []
        for period in periods:
            query = Query(
                equal={"period": period},
                one_of={"status": [None, "approved"]},
                order_by="metric",
                descending=False,
                limit=100,
            )
            found += await self.store.select(GOALS, query)
        return [_compared(goal) for goal in found]

    async def _with_actuals(
        self, goals: list[dict[str, Any]], actuals: Actuals, today: date
    ) -> list[dict[str, Any]]:
        """Record the actuals that were looked up, and return the goals with them."""
        compared = []
        for goal in goals:
            actual = actuals.total(goal["metric"], _begin(goal["period"], today), today)
            row = None
            if actual is not None:
                row = await self.store.update(GOALS, goal["id"], {"actual": actual})
            compared.append(goal if row is None else {**_compared(row), "looked_up": True})
        return compared

    async def _audit(self, days: int) -> dict[str, Any]:
        today = (await self.now()).date()
        by_day: dict[str, float] = {}
        costs: list[CostSum] = []
        later = 0.0
        for day in (today - timedelta(days=back) for back in range(days)):
            # The log sums up by days of UTC; the days of the worker's zone are differences.
            midnight = datetime.combine(day, time(), self.context.timezone)
            costs = await self.store.costs(since=midnight)
            since = sum(cost.cost_usd for cost in costs)
            by_day[day.isoformat()] = _rounded(since - later)
            later = since
        return {
            "source": "anthropic_cost_log",
            "since": min(by_day),
            "total_usd": _rounded(later),
            "calls": sum(cost.calls for cost in costs),
            "cache_share": _cache_share(costs),
            "by_agent": _dollars((cost.agent_id, cost) for cost in costs),
            "by_model": _dollars((cost.model, cost) for cost in costs),
            "by_day": dict(sorted(by_day.items())),
        }

    async def _metrics(self, today: date) -> dict[str, float]:
        """Return the numbers of the week that ends with today."""
        audit = await self._audit(7)
        metrics = {"model_spend_usd": audit["total_usd"], "model_calls": float(audit["calls"])}
        for goal in await self._goals([_week(today)]):
            if goal.get("actual") is not None:
                metrics[f"goal: {goal['metric']}"] = goal["actual"]
        try:
            deals = await self.store.select(DomainTable.DEAL_LOG, Query(limit=10_000))
        except TableMissing:
            return metrics
        still_open = [deal for deal in deals if deal["stage"] not in {"won", "lost"}]
        metrics["open_deals"] = float(len(still_open))
        metrics["open_deals_usd"] = _rounded(sum(deal["value_usd"] or 0.0 for deal in still_open))
        return metrics

    async def _save_snapshot(
        self, week: str, metrics: dict[str, float], summary: str | None
    ) -> Row | None:
        row_id = _id("week", week)
        there = await self.store.insert(SNAPSHOTS, row_id, {"week": week, "metrics": metrics})
        values: dict[str, Any] = {"metrics": {**(there["metrics"] or {}), **metrics}}
        if summary is not None:
            values["summary"] = summary
        return await self.store.update(SNAPSHOTS, row_id, values)


def _compared(goal: Row) -> dict[str, Any]:
    names = ("id", "period", "metric", "target", "actual", "notes", "from_outside")
    compared = {name: goal[name] for name in names if goal[name] is not None}
    if goal["actual"] is not None and goal["target"]:
        compared["reached_percent"] = round(100 * goal["actual"] / goal["target"], 1)
        compared["missing"] = _rounded(goal["target"] - goal["actual"])
    return compared


def _periods(day: date) -> list[str]:
    return [day.isoformat(), _week(day), f"{day:%Y-%m}"]


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _yesterday(day: date) -> tuple[date, date]:
    return day - timedelta(days=1), day - timedelta(days=1)


def _first_day(today: date) -> date:
    """Return the first day of what runs today: the month, the week, and yesterday."""
    return min(today.replace(day=1), _monday(today), today - timedelta(days=1))


def _begin(period: str, today: date) -> date:
    """Return the first day of a period that runs today."""
    if "W" in period:
        return _monday(today)
    return today if len(period) > len("2026-11") else today.replace(day=1)


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


def _id(*parts: str) -> str:
    """Return the id of the one row that these parts name."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def _cache_share(costs: list[CostSum]) -> float:
    """Return which part of all prompts was read from the cache."""
    read = sum(cost.cache_read_tokens for cost in costs)
    prompt = read + sum(cost.input_tokens + cost.cache_write_tokens for cost in costs)
    return round(read / prompt, 3) if prompt else 0.0


def _dollars(costs: Iterable[tuple[str, CostSum]]) -> dict[str, float]:
    """Return what each name cost, the dearest first."""
    sums: defaultdict[str, float] = defaultdict(float)
    for name, cost in costs:
        sums[name] += cost.cost_usd
    return {name: _rounded(sums[name]) for name in sorted(sums, key=lambda name: -sums[name])}


def _rounded(usd: float) -> float:
    return round(usd, 4)
