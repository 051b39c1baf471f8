"""The Store: what the daemon keeps, in the domain's own verbs and rows. No SQL in here.

Its verbs stand in a package for each noun, with what carries them out: `contract`, `sqlite`, and
`postgres.sql` for the functions of a Supabase project. Two stores keep the contract, and one suite
of tests runs on both. The rules that every verb keeps:

- Ids and tokens are made by the caller, so that any verb may be repeated after a lost answer and
  has its effect once.
- Time is the database's. No verb takes "now"; ages and leases are compared over there.
- What cannot be reached raises `StoreUnavailable` and may be tried again; anything else that goes
  wrong raises `StoreError`. No driver's exception leaves the package.
- Moments are aware datetimes in UTC, durations float seconds, money float USD.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.store.approvals.contract import ApprovalRow, Approvals, ApprovalStatus, Question
from app.store.errors import StoreError, StoreUnavailable, TableMissing
from app.store.journal.contract import (
    Effect,
    EffectState,
    Fire,
    Journal,
    Kept,
    ToolCall,
    ToolStats,
    Turn,
)
from app.store.ledger.contract import (
    CostEntry,
    CostSum,
    Ledger,
    Limits,
    Reservation,
    Reserved,
    Scope,
    TaskCost,
)
from app.store.memory.contract import Memory, MemoryRow
from app.store.queue.contract import (
    FINAL_STATUSES,
    NOT_OVER,
    TO_BE_RETRIED,
    Lease,
    Queue,
    TaskFilter,
    TaskRow,
    TaskStatus,
    TaskSum,
)
from app.store.registry.contract import (
    OBEYED,
    AgentBeat,
    AgentRegistration,
    AgentRow,
    Beat,
    EndedClaim,
    LeaseHolder,
    NamedLease,
    Pause,
    Presence,
    Registry,
    RoutinePause,
    RoutineTime,
    RunOutcome,
    RunRow,
    WorkerRow,
)
from app.store.reviews.contract import NewReview, ReviewRow, Reviews, Verdict
from app.store.tables.contract import DomainTable, Obstacle, Query, Row, Tables
from app.store.verbs import JSON, Arguments, R, Verb, verb

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = [
    "FINAL_STATUSES",
    "JSON",
    "NOT_OVER",
    "OBEYED",
    "REQUIRED_TABLES",
    "TO_BE_RETRIED",
    "AgentBeat",
    "AgentRegistration",
    "AgentRow",
    "ApprovalRow",
    "ApprovalStatus",
    "Approvals",
    "Arguments",
    "Beat",
    "Before",
    "CostEntry",
    "CostSum",
    "DomainTable",
    "Effect",
    "EffectState",
    "EndedClaim",
    "Fire",
    "Journal",
    "Kept",
    "Lease",
    "LeaseHolder",
    "Ledger",
    "Limits",
    "Memory",
    "MemoryRow",
    "NamedLease",
    "NewReview",
    "Obstacle",
    "Pause",
    "Presence",
    "Query",
    "Question",
    "Queue",
    "Registry",
    "Reservation",
    "Reserved",
    "ReviewRow",
    "Reviews",
    "RoutinePause",
    "RoutineTime",
    "Row",
    "RunOutcome",
    "RunRow",
    "Scope",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "TableMissing",
    "Tables",
    "TaskCost",
    "TaskFilter",
    "TaskRow",
    "TaskStatus",
    "TaskSum",
    "ToolCall",
    "ToolStats",
    "Turn",
    "Verb",
    "Verdict",
    "WorkerRow",
]

REQUIRED_TABLES = (
    "actp_agent_registry",
    "actp_agent_runs",
    "actp_agent_memory",
    "actp_agent_tasks",
    "actp_tool_call_log",
    "actp_engagement_actions",
    "actp_viral_templates",
    "actp_deal_log",
    "actp_revenue_goals",
    "actp_weekly_snapshots",
    "anthropic_cost_log",
)
"""The tables of R39, in the order of the requirement."""


class Store(Registry, Queue, Journal, Ledger, Memory, Approvals, Reviews, Tables):
    """Everything that the daemon asks of a database. See the module for the rules."""

    @property
    def where(self) -> str:
        """Where the data is, in words for an operator; never a secret."""
        raise NotImplementedError

    @verb
    async def ping(self) -> datetime:
        """Return the database's time."""

    @verb
    async def check_tables(self) -> dict[str, tuple[str, ...]]:
        """Return what is missing: table -> its missing columns, empty for a whole missing table.

        An empty dict means that all is there.
        """

    @verb
    async def obstacles(self) -> list[Obstacle]:
        """Return what in tables that were there before would refuse the worker's rows."""

    async def aclose(self) -> None:
        """Close connections. Safe to call twice."""
        raise NotImplementedError


class Before(Store):
    """What stands before a store: every verb passes through `perform`.

    Args:
        store: The store behind it.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def where(self) -> str:
        """Where the data is, in words for an operator."""
        return self.store.where

    async def aclose(self) -> None:
        """Close the store behind it."""
        await self.store.aclose()

    def perform(self, verb: Verb[R], arguments: Arguments) -> Coroutine[Any, Any, R]:
        """Pass a verb on to the store behind it; to be awaited."""
        return verb.ask(self.store, arguments)
