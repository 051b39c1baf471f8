"""The Store: what the daemon keeps, in the domain's own verbs and rows. No SQL in here.

Two implementations keep this protocol, `SqliteStore` and `SupabaseStore`, and one suite of
contract tests runs on both. The rules that every verb keeps:

- Ids and tokens are made by the caller, so that any verb may be repeated after a lost answer and
  has its effect once.
- Time is the database's. No verb takes "now"; ages and leases are compared over there.
- What cannot be reached raises `StoreUnavailable` and may be tried again; anything else that goes
  wrong raises `StoreError`. No driver's exception leaves the package.
- Moments are aware datetimes in UTC, durations float seconds, money float USD.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.store.domain import DomainTable, Query, Row

JSON = Any
"""Whatever `json.dumps` accepts."""

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


class StoreError(Exception):
    """The store refused, or answered what makes no sense. Repeating will not help."""


class StoreUnavailable(StoreError):
    """The store cannot be reached just now. Nothing is lost: try again later."""


class TableMissing(StoreError):
    """A table or column that the verb needs is not there; the message names it."""


class TaskStatus(StrEnum):
    """Where a task stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATUSES = (TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED)
"""How a task may be finished."""


class RunOutcome(StrEnum):
    """How a run of an agent ended."""

    STOPPED = "stopped"
    """Asked to end, and did."""
    CRASHED = "crashed"
    """Ended by an error, or found stale. R7 counts these."""
    INTERRUPTED = "interrupted"
    """Its daemon died without a word."""


class Lease(StrEnum):
    """What renewing a lease found."""

    HELD = "held"
    LOST = "lost"
    """Another has it, or it is over: the worker must stop and may not finish."""
    CANCEL_REQUESTED = "cancel_requested"
    """Still held, but somebody asked for the task to be cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    """One agent in the registry (`actp_agent_registry`)."""

    agent_id: str
    class_name: str
    """The import path of its class, to be shown only, never to be imported from here."""
    model: str
    status: str
    worker_id: str | None
    """The daemon that last said something of it."""
    needs_restart: bool
    health: dict[str, Any] | None
    last_seen: datetime | None
    last_heartbeat: datetime | None
    heartbeat_age: float | None
    """Seconds since `last_heartbeat` by the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRegistration:
    """What is written of an agent at start-up."""

    agent_id: str
    class_name: str
    model: str
    status: str = "starting"
    why: str | None = None
    """Why it is disabled, if it is: in its health, where a heartbeat would replace it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One daemon that is not known to have ended (`actp_workers`)."""

    worker_id: str
    instance: str
    """Which start of it."""
    started_at: datetime
    last_seen: datetime
    seen_age: float
    """Seconds since `last_seen` by the database's clock."""
    agents: dict[str, str]
    """agent_id -> what the agent's status is in this daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """Who has a named lease (`actp_leases`)."""

    instance: str
    worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of an agent, from start to end (`actp_agent_runs`)."""

    id: str
    agent_id: str
    worker_id: str
    started_at: datetime
    last_heartbeat: datetime | None
    """When it was last heard of: of an interrupted run, the only sign of how long it lived."""
    finished_at: datetime | None
    outcome: RunOutcome | None
    """None while it runs."""
    error: str | None
    """The formatted traceback of a crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One task of the queue (`actp_agent_tasks`)."""

    id: str
    agent_type: str
    """The agent_id that is to do it."""
    goal: str
    context: dict[str, Any]
    priority: int
    """Higher first."""
    status: TaskStatus
    attempts: int
    max_attempts: int
    result: dict[str, Any] | None
    error: str | None
    worker_id: str | None
    lease_until: datetime | None
    not_before: datetime | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One step of the conversation about a task (`actp_task_turns`)."""

    id: str
    task_id: str
    agent_id: str
    run_id: str | None
    step: int
    """Which reply of the model it belongs to, from 1; 0 is the opening."""
    role: str
    """user (the opening), assistant, or tool (what the tools of that step answered)."""
    content: JSON
    """A list of blocks, as the model's API has them."""
    created_at: datetime | None = None
    """Set by the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool (`actp_tool_call_log`)."""

    id: str
    agent_id: str
    run_id: str | None
    task_id: str | None
    tool: str
    arguments: dict[str, Any]
    duration: float
    """Seconds."""
    error: str | None = None
    """What the model was told went wrong; None where it went well."""
    result: str | None = None
    """What the model was told, cut to a bounded length."""
    called_at: datetime | None = None
    """Set by the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStats:
    """How one tool of an agent has done in a time span."""

    tool: str
    calls: int
    errors: int
    mean_duration: float
    max_duration: float
    last_called_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEntry:
    """The usage of one call of the model and its price (`anthropic_cost_log`)."""

    id: str
    agent_id: str
    run_id: str | None
    task_id: str | None
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cost_usd: float
    priced: bool = True
    """False where no row of the price table named the model, and the dearest was taken."""
    request_id: str | None = None
    duration: float | None = None
    """Seconds that the call took; for those who watch the daemon, as no store keeps it."""
    created_at: datetime | None = None
    """Set by the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSum:
    """Spend of one agent with one model on one day (UTC)."""

    agent_id: str
    model: str
    day: date
    calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One thing that an agent remembers (`actp_agent_memory`)."""

    agent_id: str
    key: str
    value: str
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """One moment of one scheduled job, claimed by one daemon (`actp_job_runs`)."""

    job_name: str
    scheduled_at: datetime
    worker_id: str
    claimed_at: datetime
    finished_at: datetime | None
    outcome: str | None
    """One of the scheduler's outcomes; None while it runs."""
    error: str | None


class Effect(StrEnum):
    """What is known of an effect that a tool is about to have."""

    NEW = "new"
    """Never begun: go on, then call `finish_effect`."""
    DONE = "done"
    """Done before; its stored result is to be handed back instead of doing it again."""
    UNKNOWN = "unknown"
    """Begun and never finished: whoever began it was killed in the middle. Verify by reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectState:
    """The answer to `begin_effect`."""

    state: Effect
    result: JSON = None


class Store(Protocol):
    """Everything that the daemon asks of a database. See the module for the rules."""

    # -- the store itself

    async def aclose(self) -> None:
        """Close connections. Safe to call twice."""

    async def check_tables(self) -> dict[str, tuple[str, ...]]:
        """Say what is missing: table -> its missing columns, empty for a whole missing table.

        An empty dict means that all is there.
        """

    async def ping(self) -> datetime:
        """Return the database's time."""

    @property
    def where(self) -> str:
        """Where the data is, in words for an operator; never a secret."""

    # -- registry (R10 to R14)

    async def register_agents(self, worker_id: str, agents: Sequence[AgentRegistration]) -> None:
        """Upsert a row for every agent and set `last_seen`; an open restart request stays."""

    async def set_status(self, agent_id: str, status: str, *, worker_id: str | None = None) -> None:
        """Set an agent's status and `last_seen`."""

    async def set_needs_restart(self, agent_id: str, *, value: bool) -> bool:
        """Ask for a restart, or take the request back; False if no such agent is registered."""

    async def take_restart_requests(
        self, agent_ids: Sequence[str], *, token: str | None = None
    ) -> list[str]:
        """Return those of `agent_ids` that are to be restarted; each request is returned once.

        Repeated with the `token` that took a request, it is returned again: so a lost answer
        loses no request.
        """

    async def record_heartbeat(
        self,
        agent_id: str,
        health: Mapping[str, Any],
        *,
        status: str | None = None,
        worker_id: str | None = None,
    ) -> None:
        """Set `last_heartbeat`, `last_seen`, `health`, and the status where it is given.

        `last_heartbeat` of its open runs too: of those in that daemon, where it is given.
        """

    async def agents(self) -> list[AgentRow]:
        """Return every registered agent, by agent_id."""

    # -- daemons

    async def touch_worker(
        self, worker_id: str, instance: str, agents: Mapping[str, str], *, silent_after: float
    ) -> list[str]:
        """Note that a daemon is there, and forget those that have been silent for too long.

        `instance` is new at every start, `worker_id` may stay. One that was forgotten and comes
        back is simply there again.

        Args:
            worker_id: What the daemon is called.
            instance: This start of it.
            agents: agent_id -> status of its agents.
            silent_after: Seconds of silence after which another daemon counts as dead.

        Returns:
            The worker_ids of those that this call has forgotten.
        """

    async def live_workers(self) -> list[WorkerRow]:
        """Return all daemons that are not known to have ended, the oldest first."""

    async def forget_worker(self, instance: str) -> None:
        """Note that a daemon has ended, well or by a kill.

        Its tasks go back to the queue at once, their attempt counted (so after `max_attempts` they
        fail); its open runs and fires are marked interrupted, and its leases are free.
        """

    async def hold_lease(self, name: str, instance: str, *, lease: float) -> LeaseHolder:
        """Take a named lease that is free, or prolong one's own, to `lease` seconds from now.

        Returns:
            Who has it now.
        """

    async def drop_lease(self, name: str, instance: str) -> None:
        """Hand a lease back, if it is this daemon's."""

    # -- runs of agents (R7)

    async def start_run(self, run_id: str, agent_id: str, instance: str) -> None:
        """Record that a run of an agent begins."""

    async def finish_run(
        self, run_id: str, outcome: RunOutcome, *, error: str | None = None
    ) -> None:
        """Record how a run ended; the first answer stands."""

    async def crash_ages(self, agent_id: str, *, within: float) -> list[float]:
        """Return how many seconds ago each crash of the last `within` seconds was, newest first."""

    async def runs(self, agent_id: str, *, limit: int = 20) -> list[RunRow]:
        """Return an agent's runs, newest first."""

    # -- tasks

    async def add_task(
        self,
        task_id: str,
        agent_type: str,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        priority: int = 0,
        max_attempts: int = 3,
    ) -> TaskRow:
        """Queue a task; with an id that is there already, return that task unchanged."""

    async def task(self, task_id: str) -> TaskRow | None:
        """Return a task."""

    async def tasks(
        self,
        *,
        status: TaskStatus | None = None,
        agent_type: str | None = None,
        limit: int = 50,
    ) -> list[TaskRow]:
        """Return tasks, newest first."""

    async def count_tasks(self) -> dict[str, dict[TaskStatus, int]]:
        """Return agent_type -> status -> how many (statuses with none are left out)."""

    async def oldest_queued(self) -> dict[str, float]:
        """Return agent_type -> how many seconds its oldest task that is queued has waited."""

    async def claim_task(
        self, agent_type: str, *, worker_id: str, instance: str, token: str, lease: float
    ) -> TaskRow | None:
        """Claim the next task of an agent: priority first, then age.

        Expired leases of that agent go back to the queue first, or to failed after
        `max_attempts`. Claiming counts an attempt. A `token` that already holds a task gets that
        one again.
        """

    async def renew_task(self, task_id: str, token: str, *, lease: float) -> Lease:
        """Prolong a lease to `lease` seconds from now.

        A lease that ran out is held until another claim of that agent takes the task back.
        """

    async def finish_task(
        self,
        task_id: str,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """End a task as succeeded, failed or cancelled; False if the lease was lost.

        Repeated with the token that ended it, it is True again and changes nothing.
        """

    async def release_task(
        self,
        task_id: str,
        token: str,
        *,
        count_attempt: bool = False,
        delay: float = 0.0,
        error: str | None = None,
    ) -> bool:
        """Hand a task back to the queue, not to be claimed for `delay` seconds.

        Unless `count_attempt`, the attempt is taken back (a drain, a rate limit). If it counts
        and was the last, the task fails with `error`; if its cancelling was asked for, it is
        cancelled. False if the lease was lost.
        """

    async def cancel_task(self, task_id: str) -> TaskRow | None:
        """Cancel a queued task at once; of a running one, ask its worker to. None if not there.

        A running one whose lease ran out has no worker to ask and is cancelled at once.
        """

    async def retry_task(self, task_id: str) -> TaskRow | None:
        """Put a failed or cancelled task back in the queue with all its attempts before it.

        Any other is returned as it is. None if not there.
        """

    # -- what agents do

    async def record_turn(self, turn: Turn) -> None:
        """Log a step of a conversation."""

    async def turns(
        self, task_id: str, *, after: str | None = None, limit: int = 200
    ) -> list[Turn]:
        """Return the steps of a task's conversation, in order.

        Args:
            task_id: The task.
            after: The id of the last one that is known already; of one that is not there, from
                the beginning.
            limit: The most to return.
        """

    async def forget_turns(self, *, older_than: float, limit: int) -> None:
        """Delete steps of conversations, the oldest first.

        Args:
            older_than: Seconds that they are there at least.
            limit: The most to delete at once, for that takes time.
        """

    async def record_tool_call(self, call: ToolCall) -> None:
        """Log a tool call."""

    async def tool_calls(
        self, *, agent_id: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[ToolCall]:
        """Return logged calls, newest first."""

    async def tool_stats(self, agent_id: str, *, within: float = 86_400.0) -> list[ToolStats]:
        """Return statistics by tool over the last `within` seconds, most called first."""

    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        """Log a usage; in the same step the budget reservation it settles is dropped."""

    async def costs(self, *, since: datetime, agent_id: str | None = None) -> list[CostSum]:
        """Return spend by agent, model and UTC day since a moment."""

    async def reserve_budget(
        self,
        reservation: str,
        agent_id: str,
        *,
        since: datetime,
        limit: float,
        amount: float,
        lifetime: float,
    ) -> bool:
        """Set `amount` aside if spend since `since`, open reservations and it stay within `limit`.

        A reservation that is never settled lapses after `lifetime` seconds.
        """

    async def release_budget(self, reservation: str) -> None:
        """Drop a reservation whose call came to nothing."""

    async def begin_effect(
        self, key: str, *, agent_id: str, task_id: str | None, token: str | None = None
    ) -> EffectState:
        """Ask leave for an effect that must not happen twice, and note that it begins.

        Repeated with the `token` that began it, it is new again: so a lost answer is not taken
        for a kill in the middle.
        """

    async def finish_effect(self, key: str, result: JSON) -> None:
        """Note that an effect happened, with what is to be answered if it is asked for again."""

    async def drop_effect(self, key: str) -> None:
        """Note that an effect did not happen after all, so that it may be tried again."""

    # -- memory

    async def remember(self, agent_id: str, key: str, value: str) -> None:
        """Keep a value under a key; a known key is overwritten."""

    async def recall(
        self, agent_id: str, *, key: str | None = None, search: str | None = None, limit: int = 20
    ) -> list[Memory]:
        """Return memories by exact key, or whose key or value contains a text, newest first."""

    async def forget(self, agent_id: str, key: str) -> bool:
        """Drop a memory; False if there was none."""

    # -- the scheduler's journal

    async def claim_fire(self, job_name: str, scheduled_at: datetime, instance: str) -> bool:
        """Claim one moment of one job; exactly one of several daemons gets True.

        Repeated by the daemon that has it, it is True again until the fire is finished.
        """

    async def finish_fire(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record how the run of a claimed moment ended."""

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment of a job that was claimed."""

    async def fires(self, job_name: str, *, limit: int = 20) -> list[Fire]:
        """Return a job's fires, latest moment first."""

    # -- the agents' own tables

    async def select(self, table: DomainTable, query: Query) -> list[Row]:
        """Return rows; unknown columns are a `StoreError`."""

    async def insert(self, table: DomainTable, row_id: str, values: Mapping[str, Any]) -> Row:
        """Add a row under an id of the caller's; if that id is there, return it unchanged."""

    async def update(
        self, table: DomainTable, row_id: str, values: Mapping[str, Any]
    ) -> Row | None:
        """Change columns of a row and its `updated_at`; None if there is no such row."""
