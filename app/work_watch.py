"""What comes of the work: gathered from the events and, twice a minute, from the store.

`app.health` judges it. While the store is away what was known stays.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.clock import SystemWallClock, WallClock
from app.agents.days import start_of_day
from app.event_kinds import EventKind
from app.health import Ended, Flagged, Spend, WorkFacts, served_by
from app.looks import USUAL
from app.store.protocol import DomainTable, Query, StoreError, TableMissing, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from app.event_log import EventLog, LoggedEvent
    from app.logged_errors import ErrorsOfAgents
    from app.settings import Settings
    from app.status import JobStatus
    from app.store.protocol import Row, Store
    from app.waiting_approvals import WaitingApprovals

RECALLED: Final = 200
"""How many tasks are read at the start, to know how the last ones ended."""

FLAGS_EVERY: Final = 600.0
"""Seconds between two looks at the reports; what ends or is decided in this daemon is seen at once.
"""

AUDITOR: Final = "revenue"
"""The agent that audits costs, where no row says another."""

MOST_AUDITS: Final = 20
"""Cost audits that are looked through for the last one of each agent."""

KEPT: Final = 500
"""How many tasks that ended are kept of an agent: those of an hour, where they are many."""


class WorkWatch:
    """What is known of the work.

    Args:
        store: Where the tasks are.
        events: Where it is told which task has ended.
        errors: The errors that agents log.
        approvals: What waits for a person.
        instance: This start of the daemon.
        wall_clock: Tells the time of day.
    """

    def __init__(
        self,
        store: Store,
        events: EventLog,
        errors: ErrorsOfAgents,
        approvals: WaitingApprovals,
        *,
        instance: str,
        wall_clock: WallClock | None = None,
    ) -> None:
        self._store = store
        self._errors = errors
        self._approvals = approvals
        self._instance = instance
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self._ended: dict[str, deque[Ended]] = {}
        self._waiting: Mapping[str, float] = {}
        self._waited_before: Mapping[str, float] = {}
        self._elsewhere: frozenset[str] = frozenset()
        self._spend: Sequence[Spend] = ()
        self._flagged: Sequence[Flagged] = ()
        self._flags_due = 0.0
        """When to look at the reports again, by Trio's clock."""
        self._auditors = {AUDITOR}
        """Agents that audit costs."""
        events.listeners.append(self._note)

    def facts(self, jobs: Sequence[JobStatus] = ()) -> WorkFacts:
        """Return what is known.

        Args:
            jobs: How the routines are.
        """
        return WorkFacts(
            ended=self._ended,
            # What was only just queued again is as old as before, so it is looked at twice.
            waiting={
                agent_id: min(waits, self._waited_before[agent_id])
                for agent_id, waits in self._waiting.items()
                if agent_id in self._waited_before
            },
            elsewhere=self._elsewhere,
            jobs=jobs,
            spend=self._spend,
            approvals=self._approvals.waiting(),
            flagged=self._flagged,
            errors=self._errors.of_agents(),
        )

    async def watch(self, settings: Callable[[], Settings], every: float = USUAL.work) -> None:
        """Look now and then, until cancelled.

        Args:
            settings: Returns those in force.
            every: Seconds between two looks, once it has looked a few times: at first it looks more
                often, as people do who have just started the daemon.
        """
        is_recalled, pause = False, every / 16
        while True:
            is_recalled = is_recalled or await self._recall()
            await self.look(settings())
            await trio.sleep(pause)
            pause = min(every, 2 * pause)

    def note_unserved(self, agent_id: str) -> None:
        """Take in that a task was just queued which nobody does, as things are.

        So it is told at once; the next look judges anew.
        """
        self._waiting = {agent_id: 0.0, **self._waiting}
        self._waited_before = {agent_id: 0.0, **self._waited_before}

    async def look(self, settings: Settings) -> None:
        """Look at the store once."""
        try:
            waiting = await self._store.oldest_queued()
            if waiting:
                self._elsewhere = await self._run_by_others()
            spend = await self._spent(settings)
            await self._look_at_reports()
        except StoreError:
            return
        self._waited_before, self._waiting = self._waiting, waiting
        self._spend = spend

    async def _run_by_others(self) -> frozenset[str]:
        workers = await self._store.live_workers()
        others = [worker for worker in workers if worker.instance != self._instance]
        known = {agent_id for worker in others for agent_id in worker.agents}
        return frozenset(agent_id for agent_id in known if served_by(agent_id, others))

    async def _look_at_reports(self) -> None:
        """Look whether the last cost audit of an agent needs a look of a person's."""
        if trio.current_time() < self._flags_due:
            return
        query = Query(equal={"kind": "cost_audit"}, limit=MOST_AUDITS)
        try:
            rows = await self._store.select(DomainTable.REPORTS, query)
        except TableMissing:
            rows = []
        last: dict[str, Row] = {}
        for row in rows:
            last.setdefault(row["agent_id"] or AUDITOR, row)
        self._flagged = [
            Flagged(agent_id, row["created_at"], row["flag"])
            for agent_id, row in last.items()
            if row["flag"] is not None and row["status"] is None
        ]
        self._auditors |= last.keys()
        self._flags_due = trio.current_time() + FLAGS_EVERY

    async def _spent(self, settings: Settings) -> list[Spend]:
        limits: dict[str | None, float] = {
            agent.agent_id: agent.daily_budget_usd
            for agent in settings.agents
            if agent.enabled and agent.daily_budget_usd is not None
        }
        if settings.daily_budget_usd is not None:
            limits[None] = settings.daily_budget_usd
        if not limits:
            return []
        since = start_of_day(self._wall_clock.now(), settings.timezone)
        costs = await self._store.costs(since=since)
        return [
            Spend(
                agent_id,
                sum(cost.cost_usd for cost in costs if agent_id in {None, cost.agent_id}),
                limit,
            )
            for agent_id, limit in limits.items()
        ]

    async def _recall(self) -> bool:
        """Look up how the last tasks ended before this daemon began; whether that was possible."""
        try:
            tasks = await self._store.tasks(limit=RECALLED)
        except StoreError:
            return False
        known: dict[str, list[Ended]] = {}
        for task in reversed(tasks):  # from the oldest on
            if task.finished_at is not None and task.status in _COUNTED:
                is_failed = task.status is TaskStatus.FAILED
                ended = Ended(task.finished_at, is_failed, task.error or "")
                known.setdefault(task.agent_type, []).append(ended)
        for agent_id, earlier in known.items():
            # What has ended here meanwhile was told, and may be among them too.
            first = min((each.at for each in self._ended.get(agent_id, ())), default=None)
            before = [each for each in earlier if first is None or each.at < first]
            before.sort(key=lambda each: each.at)
            self._of(agent_id).extendleft(reversed(before))
        return True

    def _note(self, event: LoggedEvent) -> None:
        outcome = event.fields.get("outcome")
        is_audited = event.kind is EventKind.TASK_FINISHED and event.agent_id in self._auditors
        if is_audited or event.kind is EventKind.ITEM_REVIEWED:
            self._flags_due = 0.0
        if event.kind is EventKind.TASK_FINISHED and event.agent_id and outcome in _COUNTED:
            is_failed = outcome == TaskStatus.FAILED
            error = event.text.removeprefix(f"{event.agent_id}: task failed").removeprefix(": ")
            ended = Ended(event.time, is_failed, error if is_failed else "")
            self._of(event.agent_id).append(ended)

    def _of(self, agent_id: str) -> deque[Ended]:
        return self._ended.setdefault(agent_id, deque(maxlen=KEPT))


_COUNTED: Final = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED})
