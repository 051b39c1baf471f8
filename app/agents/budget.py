"""Budgets: money is set aside before each call of the model, and settled after it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from actp_supervise import current_child
from app.store.protocol import ApprovalStatus, Limits, Reservation, Scope

from .approvals import BUDGET, usd_of
from .days import start_of_day, start_of_next_day
from .outcomes import HandBack, Paused, Refused

if TYPE_CHECKING:
    from datetime import datetime

    from app.store.protocol import Reserved

    from .approvals import Gate
    from .contract import AgentContext

logger = logging.getLogger(__name__)

_HELD_BY_OTHERS: Final = "waiting for budget that other calls hold"

LOOK_AGAIN: Final = 2.0
"""Seconds between two looks while other calls hold what is left."""

ASK_AGAIN: Final = 3600.0
"""Seconds after which a task is looked at again whose own budget is spent."""

_WHOSE: Final = {
    Scope.TASK: ("the budget of this task", "TASK_BUDGET_USD"),
    Scope.AGENT: ("its daily budget", "DAILY_BUDGET_USD"),
    Scope.TOTAL: ("the daily budget of all agents", "WORKER_DAILY_BUDGET_USD"),
}
"""What each budget is called, and the setting that raises it."""


def _dollars(usd: float) -> str:
    return f"${usd:.2f}" if usd == 0 or usd >= 0.01 else f"${usd:.4f}"


class TaskBudgetSpent(HandBack):
    """A task's own budget does not do for its next call."""

    def __init__(self, reason: str, *, needed: float, delay: float, alone: bool) -> None:
        super().__init__(reason, delay=delay, alone=alone)
        self.needed = needed
        """What it would have to be, in USD."""


class Budget:
    """What a conversation may spend: of its task's budget, its agent's and that of all agents.

    The days are those of the worker's zone; all daemons count together.

    Args:
        context: The agent's.
        task_id: The task, if it is one.
        gate: Asks a person where the task's budget is spent.
        lifetime: Seconds after which a call that was never settled counts as lost.
    """

    def __init__(
        self, context: AgentContext, task_id: str | None, gate: Gate, *, lifetime: float
    ) -> None:
        self._context = context
        self._store = context.store
        self._task_id = task_id
        self._lifetime = lifetime
        self._gate = gate
        self._knows_grants = not gate.guards_budget
        options = context.options
        self._limits = Limits(
            task=options.task_budget_usd if task_id is not None else None,
            agent=context.daily_budget_usd,
            total=options.total_budget_usd,
        )

    async def reserve(self, model: str, usd: float, now: datetime, *, least: float) -> Reservation:
        """Set money aside for one call, also where no budget limits it: no call is unknown.

        Args:
            model: The model that is called.
            usd: The most that the call may cost.
            now: The present moment.
            least: What any call, however short, may cost.

        Returns:
            The reservation, to be settled or released.

        Raises:
            HandBack: If the budget of the task is spent, if this call alone is more than a whole
                budget, if others hold too much for too long, or if the agent is asked to stop
                meanwhile. Nothing is lost by it: the conversation goes on where it is.
            Parked: If a person is asked for a higher budget of the task.
            Refused: If a person has denied that.
            Paused: If a day's budget is spent, until the day ends; if it is too small for any
                call, until somebody raises it.
        """
        if not self._knows_grants:
            self._raise_to(await self._gate.granted_usd())
            self._knows_grants = True
        while True:
            try:
                return await self._reserve(model, usd, now, least)
            except TaskBudgetSpent as spent:
                if not self._gate.guards_budget:
                    raise
                await self._ask_for_more(spent)

    async def _ask_for_more(self, spent: TaskBudgetSpent) -> None:
        """Ask a person for a higher budget of the task, and go by it."""
        limit = self._limit(Scope.TASK)
        wanted = round(max(limit * 2, limit + spent.needed), 2)
        approval = await self._gate.decided(
            BUDGET, {"task_budget_usd": wanted}, about=f"budget {limit}", why=spent.reason
        )
        if approval.status is not ApprovalStatus.APPROVED:
            comment = f": {approval.comment}" if approval.comment else ""
            raise Refused(f"no higher budget was approved for this task{comment}")
        self._raise_to(usd_of(approval))
        if self._limit(Scope.TASK) <= limit:
            raise Refused("the budget that was approved for this task is no higher than before")

    def _raise_to(self, usd: float) -> None:
        if self._limits.task is not None:
            self._limits = replace(self._limits, task=max(self._limits.task, usd))

    async def _reserve(self, model: str, usd: float, now: datetime, least: float) -> Reservation:
        self._check(usd, least)
        call = Reservation(
            id=uuid.uuid4().hex,
            agent_id=self._context.agent_id,
            run_id=self._context.run_id,
            task_id=self._task_id,
            model=model,
            amount_usd=usd,
        )
        since = start_of_day(now, self._context.timezone)
        for look in range(int(self._lifetime / LOOK_AGAIN)):
            answer = await self._store.reserve(
                call, since=since, limits=self._limits, lifetime=self._lifetime
            )
            if answer.over is None:
                return call
            if answer.spent + usd > self._limit(answer.over) + 1e-9:
                raise self._spent(answer.over, answer, usd, now)
            if look == 0:
                logger.warning(_HELD_BY_OTHERS, extra={"action": "budget_held"})
            self._context.activity.wait(_HELD_BY_OTHERS, LOOK_AGAIN)
            with current_child().cancel_on_stop() as stop:
                await asyncio.sleep(LOOK_AGAIN)
            if stop.cancelled_caught:
                raise HandBack(f"asked to stop while {_HELD_BY_OTHERS}")
        raise HandBack("other calls hold what is left of the budget")

    async def release(self, call: Reservation) -> None:
        """Release money whose call came to nothing."""
        await self._store.release_budget(call.id)

    def _limit(self, scope: Scope) -> float:
        limit = {
            Scope.TASK: self._limits.task,
            Scope.AGENT: self._limits.agent,
            Scope.TOTAL: self._limits.total,
        }[scope]
        return float("inf") if limit is None else limit

    def _check(self, usd: float, least: float) -> None:
        """Check that this call can be made at all under each of the budgets."""
        for scope, (name, setting) in _WHOSE.items():
            limit = self._limit(scope)
            alone = scope is Scope.TASK
            if least > limit and not alone:
                raise Paused(
                    f"{name} of {_dollars(limit)} is too small: any call of its model may cost "
                    f"{_dollars(least)}. Set a higher {setting} and reload the settings"
                )
            if usd > limit:
                kind = partial(TaskBudgetSpent, needed=usd) if alone else HandBack
                raise kind(
                    f"the next call of this conversation may cost {_dollars(usd)}, which is more "
                    f"than {name} of {_dollars(limit)}. It goes on where it is with a higher "
                    f"{setting}; to give it up, cancel the task",
                    delay=ASK_AGAIN,
                    alone=True,
                )

    def _spent(self, scope: Scope, answer: Reserved, usd: float, now: datetime) -> HandBack:
        name, setting = _WHOSE[scope]
        why = (
            f"{name} is too small for the next call, which may cost {_dollars(usd)}: of "
            f"{_dollars(self._limit(scope))} {_dollars(answer.spent)} is spent"
        )
        if scope is Scope.TASK:
            return TaskBudgetSpent(
                f"{why}. It goes on where it is with a higher {setting}; to give it up, cancel it",
                needed=answer.spent + usd,
                delay=ASK_AGAIN,
                alone=True,
            )
        return Paused(
            f"{why} today. It goes on where it is at midnight, or with a higher {setting}",
            until=start_of_next_day(now, self._context.timezone),
        )
