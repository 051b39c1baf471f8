"""The shared store: a Supabase project, which any number of daemons may use at once.

Importing this takes most of a second, because supabase-py does: only where it is used.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from app.store.protocol import (
    JSON,
    AgentRegistration,
    AgentRow,
    CostEntry,
    CostSum,
    EffectState,
    Fire,
    Memory,
    RunOutcome,
    RunRow,
    Store,
    ToolCall,
    ToolStats,
    Turn,
)
from app.store.records import duration, moment_text
from app.store.supabase_answers import records
from app.store.supabase_connection import (
    ANSWER_WITHIN,
    PATIENCE,
    SupabaseDatabase,
    equal_to,
    open_connection,
)
from app.store.supabase_domain import SupabaseDomainTables
from app.store.supabase_errors import FunctionMissing, KeyRefused, WrongSettings
from app.store.supabase_schema import missing_in
from app.store.supabase_tasks import SupabaseTasks
from app.store.supabase_workers import SupabaseWorkers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime
    from typing import Any


@asynccontextmanager
async def open_supabase_store(
    url: str, key: str, *, answer_within: float = ANSWER_WITHIN, patience: float = PATIENCE
) -> AsyncIterator[SupabaseStore]:
    """Open the store in a Supabase project, once the key is shown to be the service role's.

    With another key every table would look empty, because row-level security hides its rows.

    Args:
        url: The project's address.
        key: Its service role key, of the older kind or the newer (``sb_secret_...``).
        answer_within: How many seconds one request may take.
        patience: For how many seconds a call is repeated while the project is away.

    Raises:
        StoreUnavailable: If the project cannot be reached.
        WrongSettings: If the key is refused, or the address cannot be one.
    """
    async with open_connection(
        url, key, answer_within=answer_within, patience=patience
    ) as database:
        await _prove_the_role(database)
        yield SupabaseStore(database)


async def _prove_the_role(database: SupabaseDatabase) -> None:
    try:
        try:
            await database.call("actp_now")
        except FunctionMissing:
            await missing_in(database)  # what is there refuses the key; what is not, is told later
    except KeyRefused as error:
        raise WrongSettings(
            "SUPABASE_SERVICE_ROLE_KEY is not the service role's key of this project "
            f"(the anon key will not do): {error}"
        ) from error


class SupabaseStore(SupabaseWorkers, SupabaseTasks, SupabaseDomainTables):
    """The Store on Supabase. For use from Trio."""

    def __init__(self, database: SupabaseDatabase) -> None:
        self._db = database

    # -- the store itself

    async def aclose(self) -> None:
        """Close connections. Safe to call twice."""
        await self._db.aclose()

    async def check_tables(self) -> dict[str, tuple[str, ...]]:
        """Say what is missing: table -> its missing columns, empty for a whole missing table."""
        return await missing_in(self._db)

    async def ping(self) -> datetime:
        """Return the database's time."""
        now: datetime = await self._db.call("actp_now")
        return now

    @property
    def where(self) -> str:
        """Where the data is, in words for an operator."""
        return self._db.where

    # -- registry

    async def register_agents(self, worker_id: str, agents: Sequence[AgentRegistration]) -> None:
        """Upsert a row for every agent and set `last_seen`; an open restart request stays."""
        await self._db.call(
            "actp_register_agents",
            worker_id=worker_id,
            agents=[asdict(agent) for agent in agents],
        )

    async def set_status(self, agent_id: str, status: str, *, worker_id: str | None = None) -> None:
        """Set an agent's status and `last_seen`."""
        await self._db.call(
            "actp_set_status", agent_id=agent_id, status=status, worker_id=worker_id
        )

    async def set_needs_restart(self, agent_id: str, *, value: bool) -> bool:
        """Ask for a restart, or take the request back; False if no such agent is registered."""
        return bool(await self._db.call("actp_set_needs_restart", agent_id=agent_id, value=value))

    async def take_restart_requests(
        self, agent_ids: Sequence[str], *, token: str | None = None
    ) -> list[str]:
        """Return those of `agent_ids` that are to be restarted; each request is returned once."""
        taken = await self._db.call(
            "actp_take_restart_requests", agent_ids=list(agent_ids), token=token
        )
        return sorted(taken)

    async def record_heartbeat(
        self,
        agent_id: str,
        health: Mapping[str, Any],
        *,
        status: str | None = None,
        worker_id: str | None = None,
    ) -> None:
        """Set `last_heartbeat`, `last_seen`, `health`, and the status where it is given."""
        await self._db.call(
            "actp_record_heartbeat",
            agent_id=agent_id,
            health=dict(health),
            status=status,
            worker_id=worker_id,
        )

    async def agents(self) -> list[AgentRow]:
        """Return every registered agent, by agent_id."""
        agents: list[AgentRow] = await self._db.call("actp_agents")
        return agents

    # -- runs of agents

    async def start_run(self, run_id: str, agent_id: str, instance: str) -> None:
        """Record that a run of an agent begins."""
        await self._db.call("actp_start_run", id=run_id, agent_id=agent_id, instance=instance)

    async def finish_run(
        self, run_id: str, outcome: RunOutcome, *, error: str | None = None
    ) -> None:
        """Record how a run ended; the first answer stands."""
        await self._db.call("actp_finish_run", id=run_id, outcome=outcome, error=error)

    async def crash_ages(self, agent_id: str, *, within: float) -> list[float]:
        """Return how many seconds ago each crash of the last `within` seconds was, newest first."""
        ages = await self._db.call("actp_crash_ages", agent_id=agent_id, within=duration(within))
        return [float(age) for age in ages]

    async def runs(self, agent_id: str, *, limit: int = 20) -> list[RunRow]:
        """Return an agent's runs, newest first."""
        which = equal_to({"agent_id": agent_id})
        # A table that was there before may hold runs that ended in other words.
        known = f"outcome.is.null,outcome.in.({','.join(RunOutcome)})"
        return await self._db.rows(
            "actp_agent_runs",
            records(RunRow),
            lambda rows: which(rows.or_(known)),
            limit=limit,
        )

    # -- what agents do

    async def record_turn(self, turn: Turn) -> None:
        """Log a step of a conversation."""
        values = asdict(turn)
        del values["created_at"]
        await self._db.call("actp_record_turn", turn=values)

    async def turns(
        self, task_id: str, *, after: str | None = None, limit: int = 200
    ) -> list[Turn]:
        """Return the steps of a task's conversation, in order."""
        turns: list[Turn] = await self._db.call(
            "actp_turns", task_id=task_id, after=after, limit=max(0, limit)
        )
        return turns

    async def forget_turns(self, *, older_than: float, limit: int) -> None:
        """Delete steps of conversations, the oldest first."""
        await self._db.call("actp_forget_turns", older_than=older_than, limit=max(0, limit))

    async def record_tool_call(self, call: ToolCall) -> None:
        """Log a tool call."""
        values = asdict(call)
        del values["called_at"]
        await self._db.call("actp_record_tool_call", call=values)

    async def tool_calls(
        self, *, agent_id: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[ToolCall]:
        """Return logged calls, newest first."""
        which = equal_to({"agent_id": agent_id, "task_id": task_id})
        return await self._db.rows("actp_tool_call_log", records(ToolCall), which, limit=limit)

    async def tool_stats(self, agent_id: str, *, within: float = 86_400.0) -> list[ToolStats]:
        """Return statistics by tool over the last `within` seconds, most called first."""
        stats: list[ToolStats] = await self._db.call(
            "actp_tool_stats", agent_id=agent_id, within=duration(within)
        )
        return stats

    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        """Log a usage; in the same step the budget reservation it settles is dropped."""
        values = asdict(entry)
        del values["created_at"]
        await self._db.call("actp_record_cost", entry=values, reservation=reservation)

    async def costs(self, *, since: datetime, agent_id: str | None = None) -> list[CostSum]:
        """Return spend by agent, model and UTC day since a moment."""
        costs: list[CostSum] = await self._db.call(
            "actp_costs", since=moment_text(since), agent_id=agent_id
        )
        return costs

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
        """Set `amount` aside if spend, open reservations and it stay within `limit`."""
        return bool(
            await self._db.call(
                "actp_reserve_budget",
                id=reservation,
                agent_id=agent_id,
                since=moment_text(since),
                limit=limit,
                amount=amount,
                lifetime=duration(lifetime),
            )
        )

    async def release_budget(self, reservation: str) -> None:
        """Drop a reservation whose call came to nothing."""
        await self._db.call("actp_release_budget", id=reservation)

    async def begin_effect(
        self, key: str, *, agent_id: str, task_id: str | None, token: str | None = None
    ) -> EffectState:
        """Ask leave for an effect that must not happen twice, and note that it begins."""
        state: EffectState = await self._db.call(
            "actp_begin_effect", key=key, agent_id=agent_id, task_id=task_id, token=token
        )
        return state

    async def finish_effect(self, key: str, result: JSON) -> None:
        """Note that an effect happened, with what is to be answered if it is asked for again."""
        await self._db.call("actp_finish_effect", key=key, result=result)

    async def drop_effect(self, key: str) -> None:
        """Note that an effect did not happen after all, so that it may be tried again."""
        await self._db.call("actp_drop_effect", key=key)

    # -- memory

    async def remember(self, agent_id: str, key: str, value: str) -> None:
        """Keep a value under a key; a known key is overwritten."""
        await self._db.call("actp_remember", agent_id=agent_id, key=key, value=value)

    async def recall(
        self, agent_id: str, *, key: str | None = None, search: str | None = None, limit: int = 20
    ) -> list[Memory]:
        """Return memories by exact key, or whose key or value contains a text, newest first."""
        memories: list[Memory] = await self._db.call(
            "actp_recall", agent_id=agent_id, key=key, search=search, limit=max(0, limit)
        )
        return memories

    async def forget(self, agent_id: str, key: str) -> bool:
        """Drop a memory; False if there was none."""
        return bool(await self._db.call("actp_forget", agent_id=agent_id, key=key))

    # -- the scheduler's journal

    async def claim_fire(self, job_name: str, scheduled_at: datetime, instance: str) -> bool:
        """Claim one moment of one job; exactly one of several daemons gets True."""
        return bool(
            await self._db.call(
                "actp_claim_fire",
                job_name=job_name,
                scheduled_at=moment_text(scheduled_at),
                instance=instance,
            )
        )

    async def finish_fire(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record how the run of a claimed moment ended."""
        await self._db.call(
            "actp_finish_fire",
            job_name=job_name,
            scheduled_at=moment_text(scheduled_at),
            outcome=outcome,
            error=error,
        )

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment of a job that was claimed."""
        fires = await self.fires(job_name, limit=1)
        return fires[0].scheduled_at if fires else None

    async def fires(self, job_name: str, *, limit: int = 20) -> list[Fire]:
        """Return a job's fires, latest moment first."""
        which = equal_to({"job_name": job_name}, newest_first="scheduled_at")
        return await self._db.rows("actp_job_runs", records(Fire), which, limit=limit)


if TYPE_CHECKING:
    _keeps_the_protocol: type[Store] = SupabaseStore
