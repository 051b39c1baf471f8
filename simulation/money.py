"""Rules of money: what was spent, what is booked, and what no budget allows.

What was spent is reckoned from the replies themselves, what is booked from the rows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from app.agents.prices import Usage, load_prices

from .plan import What
from .promises import Rule

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping
    from datetime import date

    from .world import World

CENT: Final = 1e-6
"""Dollars by which sums of floats may differ."""

_TRIGGERS: Final = (
    "after insert on anthropic_cost_log begin select observe_cost(new.agent_id, new.cost_usd,"
    " new.cost_usd * (not new.estimated), new.estimated); end",
    "after update on anthropic_cost_log begin select observe_cost(new.agent_id,"
    " new.cost_usd - old.cost_usd, new.cost_usd * (not new.estimated)"
    " - old.cost_usd * (not old.estimated), new.estimated - old.estimated); end",
)


@dataclass(slots=True)
class _Spent:
    delivered: float = 0.0
    """By replies of which all arrived."""
    all: float = 0.0
    booked: float = 0.0
    known: float = 0.0
    """What is booked of that, and not as estimated."""
    estimates: int = 0
    """How many calls are booked as estimated."""


class Money:
    """What the agents of one world spend.

    Args:
        world: The world.
        break_: Told of a rule that did not hold, and why.
    """

    def __init__(self, world: World, break_: Callable[[Rule, str], object]) -> None:
        self._world = world
        self._break = break_
        self._prices = load_prices()
        self._zone = ZoneInfo(world.plan.zone)
        self._spent: defaultdict[str, _Spent] = defaultdict(_Spent)
        self._of_day: defaultdict[tuple[str, date], float] = defaultdict(float)
        """By agent; that of all under an empty name."""
        self._of_task: defaultdict[str, float] = defaultdict(float)

    def watch(self, db: sqlite3.Connection) -> None:
        """See each change of a database from now on."""
        db.create_function("observe_cost", 4, self._saw_cost)
        for number, trigger in enumerate(_TRIGGERS):
            db.execute(f"create temp trigger seen_cost_{number} {trigger}")

    def sent(
        self, agent_id: str, task_id: str | None, usage: Mapping[str, Any], *, whole: bool
    ) -> None:
        """See a reply of Claude, whether all of it arrived or not."""
        now, plan = self._world.true_clock.now(), self._world.plan
        usd = self._prices.price(usage["model"], _usage(usage), now.date()).usd
        spent, day = self._spent[agent_id], now.astimezone(self._zone).date()
        spent.all += usd
        if whole:
            spent.delivered += usd
        self._judge(f"{agent_id} on {day}", self._of_day[agent_id, day], plan.budget, usd)
        self._judge(f"all agents on {day}", self._of_day["", day], plan.total_budget, usd)
        self._of_day[agent_id, day] += usd
        self._of_day["", day] += usd
        if task_id is not None:
            self._judge(f"task {task_id}", self._of_task[task_id], plan.task_budget, usd)
            self._of_task[task_id] += usd

    def _judge(self, whose: str, before: float, budget: float | None, usd: float) -> None:
        if budget is not None and before > budget:
            self._break(
                Rule.BUDGET,
                f"{whose}: {before:.4f} of {budget} were spent, and {usd:.4f} by one more call",
            )

    def _saw_cost(self, agent_id: str, usd: float, known: float, estimates: int) -> None:
        self._world.note("store", f"cost of {agent_id} {usd:.6f}")
        spent = self._spent[agent_id]
        spent.booked += usd
        spent.known += known
        spent.estimates += estimates

    def judge_books(self, db: sqlite3.Connection) -> None:
        """Judge what is booked in the end."""
        for agent_id, spent in sorted(self._spent.items()):
            (held,) = db.execute(
                "select total(amount_usd) from actp_budget_reservations where agent_id = ?",
                [agent_id],
            ).fetchone()
            (twice,) = db.execute(
                "select count(*) from actp_budget_reservations where agent_id = ?"
                " and id in (select id from anthropic_cost_log)",
                [agent_id],
            ).fetchone()
            if twice:
                self._break(Rule.BOOKED, f"{agent_id}: {twice} calls are booked and set aside")
            for why in _why_wrong(spent, held):
                self._break(Rule.BOOKED, f"{agent_id}: {why}")
        if not self._world.plan.has_faults:
            self._judge_without_faults()

    def _judge_without_faults(self) -> None:
        """Judge that each reply is booked as it was, and a call without one only if cut off."""
        for agent_id, spent in sorted(self._spent.items()):
            if abs(spent.known - spent.delivered) > CENT:
                why = f"{spent.delivered:.6f} were used, and {spent.known:.6f} are booked as known"
                self._break(Rule.BOOKED, f"{agent_id}: {why}")
        estimates = sum(spent.estimates for spent in self._spent.values())
        cancelled = self._world.happened[What.CANCEL]
        if estimates > cancelled:
            why = f"{estimates} calls are booked as estimated, and {cancelled} tasks were cancelled"
            self._break(Rule.BOOKED, why)


def _why_wrong(spent: _Spent, held: float) -> list[str]:
    """Return what is wrong with an agent's books; `held` is set aside for calls still open."""
    wrong = []
    if spent.booked + held < spent.all - CENT:
        wrong.append(f"{spent.all:.6f} were spent, and {spent.booked + held:.6f} are booked")
    if spent.known > spent.delivered + CENT:
        wrong.append(f"{spent.known:.6f} are booked as known, of {spent.delivered:.6f} used")
    return wrong


def _usage(usage: Mapping[str, Any]) -> Usage:
    creation = usage.get("cache_creation") or {}
    hour = creation.get("ephemeral_1h_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    return Usage(
        input_tokens=usage.get("input_tokens") or 0,
        output_tokens=usage.get("output_tokens") or 0,
        cache_read_tokens=usage.get("cache_read_input_tokens") or 0,
        cache_write_5m_tokens=written - hour,
        cache_write_1h_tokens=hour,
    )
