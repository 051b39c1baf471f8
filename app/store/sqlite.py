"""The embedded store: one SQLite file, which several processes may share.

Not for a network or a cloud-synced folder: SQLite's locks do not hold there.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from app.store.protocol import (
    JSON,
    AgentRegistration,
    AgentRow,
    CostEntry,
    CostSum,
    Effect,
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
from app.store.records import json_text, moment_text, read_json, read_moment
from app.store.sqlite_connection import SqliteDatabase, open_database
from app.store.sqlite_domain import SqliteDomainTables
from app.store.sqlite_schema import after, before, missing_tables, sql, where_equal
from app.store.sqlite_tasks import SqliteTasks
from app.store.sqlite_workers import WORKER_OF_INSTANCE, SqliteWorkers

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path


@asynccontextmanager
async def open_sqlite_store(path: Path, *, lock_timeout: float = 5.0) -> AsyncIterator[SqliteStore]:
    """Open the store in a file, which is made with its folder (mode 0700) and tables if need be.

    Args:
        path: The database file; new ones are readable by their user only.
        lock_timeout: How many seconds a call waits for other processes' writes.

    Raises:
        StoreUnavailable: If the file stays locked.
        StoreError: If the path cannot be used: one line that says why.
    """
    async with open_database(path, lock_timeout=lock_timeout) as database:
        yield SqliteStore(database)


class SqliteStore(SqliteWorkers, SqliteTasks, SqliteDomainTables):
    """The Store on SQLite. For use from Trio."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._db = database

    # -- the store itself

    async def aclose(self) -> None:
        """Close connections. Safe to call twice."""
        await self._db.aclose()

    async def check_tables(self) -> dict[str, tuple[str, ...]]:
        """Say what is missing: table -> its missing columns, empty for a whole missing table."""
        return await self._db.read(missing_tables)

    async def ping(self) -> datetime:
        """Return the database's time."""
        return await self._db.read(lambda db: read_moment(db.execute(_PING).fetchone()[0]))

    @property
    def where(self) -> str:
        """Where the data is, in words for an operator."""
        return f"SQLite file {self._db.path}"

    # -- registry

    async def register_agents(self, worker_id: str, agents: Sequence[AgentRegistration]) -> None:
        """Upsert a row for every agent and set `last_seen`; an open restart request stays."""
        rows = [{**asdict(agent), "worker_id": worker_id} for agent in agents]
        await self._db.write(lambda db: db.executemany(_REGISTER_AGENT, rows))

    async def set_status(self, agent_id: str, status: str, *, worker_id: str | None = None) -> None:
        """Set an agent's status and `last_seen`."""
        await self._db.execute(
            _SET_STATUS, {"agent_id": agent_id, "status": status, "worker_id": worker_id}
        )

    async def set_needs_restart(self, agent_id: str, *, value: bool) -> bool:
        """Ask for a restart, or take the request back; False if no such agent is registered."""
        return bool(
            await self._db.execute(_SET_NEEDS_RESTART, {"agent_id": agent_id, "value": value})
        )

    async def take_restart_requests(
        self, agent_ids: Sequence[str], *, token: str | None = None
    ) -> list[str]:
        """Return those of `agent_ids` that are to be restarted; each request is returned once."""
        values = {"agent_ids": json_text(list(agent_ids)), "token": token}

        def take(db: sqlite3.Connection) -> list[str]:
            return sorted(row["agent_id"] for row in db.execute(_TAKE_RESTARTS, values).fetchall())

        # Most polls find nothing, and a read waits for no other process.
        if not await self._db.read(lambda db: db.execute(_OPEN_RESTARTS, values).fetchall()):
            return []
        return await self._db.write(take)

    async def record_heartbeat(
        self,
        agent_id: str,
        health: Mapping[str, Any],
        *,
        status: str | None = None,
        worker_id: str | None = None,
    ) -> None:
        """Set `last_heartbeat`, `last_seen`, `health`, and the status where it is given."""
        values = {
            "agent_id": agent_id,
            "health": json_text(dict(health)),
            "status": status,
            "worker_id": worker_id,
        }

        def record(db: sqlite3.Connection) -> None:
            db.execute(_HEARTBEAT, values)
            db.execute(_HEARTBEAT_OF_RUN, values)

        await self._db.write(record)

    async def agents(self) -> list[AgentRow]:
        """Return every registered agent, by agent_id."""
        return await self._db.rows(AgentRow, _AGENTS, {})

    # -- runs of agents

    async def start_run(self, run_id: str, agent_id: str, instance: str) -> None:
        """Record that a run of an agent begins."""
        await self._db.execute(
            _START_RUN, {"id": run_id, "agent_id": agent_id, "instance": instance}
        )

    async def finish_run(
        self, run_id: str, outcome: RunOutcome, *, error: str | None = None
    ) -> None:
        """Record how a run ended; the first answer stands."""
        await self._db.execute(_FINISH_RUN, {"id": run_id, "outcome": outcome, "error": error})

    async def crash_ages(self, agent_id: str, *, within: float) -> list[float]:
        """Return how many seconds ago each crash of the last `within` seconds was, newest first."""
        values = {"agent_id": agent_id, "within": before(within)}
        return await self._db.read(
            lambda db: [max(0.0, age) for (age,) in db.execute(_CRASH_AGES, values)]
        )

    async def runs(self, agent_id: str, *, limit: int = 20) -> list[RunRow]:
        """Return an agent's runs, newest first."""
        return await self._db.rows(RunRow, _RUNS, {"agent_id": agent_id, "limit": max(0, limit)})

    # -- what agents do

    async def record_turn(self, turn: Turn) -> None:
        """Log a step of a conversation."""
        await self._db.execute(_RECORD_TURN, {**asdict(turn), "content": json_text(turn.content)})

    async def turns(
        self, task_id: str, *, after: str | None = None, limit: int = 200
    ) -> list[Turn]:
        """Return the steps of a task's conversation, in order."""
        values = {"task_id": task_id, "after": after, "limit": max(0, limit)}
        return await self._db.rows(Turn, _TURNS, values)

    async def forget_turns(self, *, older_than: float, limit: int) -> None:
        """Delete steps of conversations, the oldest first."""
        values = {"older_than": before(older_than), "limit": max(0, limit)}
        await self._db.execute(_FORGET_TURNS, values)

    async def record_tool_call(self, call: ToolCall) -> None:
        """Log a tool call."""
        values = {**asdict(call), "arguments": json_text(call.arguments)}
        await self._db.execute(_RECORD_TOOL_CALL, values)

    async def tool_calls(
        self, *, agent_id: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[ToolCall]:
        """Return logged calls, newest first."""
        conditions = {"agent_id": agent_id, "task_id": task_id}
        given = {column: value for column, value in conditions.items() if value is not None}
        statement = sql(
            "select * from actp_tool_call_log {where}"
            " order by called_at desc, rowid desc limit :limit",
            where=where_equal(given),
        )
        return await self._db.rows(ToolCall, statement, {**given, "limit": max(0, limit)})

    async def tool_stats(self, agent_id: str, *, within: float = 86_400.0) -> list[ToolStats]:
        """Return statistics by tool over the last `within` seconds, most called first."""
        return await self._db.rows(
            ToolStats, _TOOL_STATS, {"agent_id": agent_id, "within": before(within)}
        )

    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        """Log a usage; in the same step the budget reservation it settles is dropped."""

        def record(db: sqlite3.Connection) -> None:
            db.execute(_RECORD_COST, asdict(entry))
            db.execute(_RELEASE_BUDGET, {"id": reservation})

        await self._db.write(record)

    async def costs(self, *, since: datetime, agent_id: str | None = None) -> list[CostSum]:
        """Return spend by agent, model and UTC day since a moment."""
        given = {} if agent_id is None else {"agent_id": agent_id}
        statement = sql(_COSTS, of_agent="and agent_id = :agent_id" * bool(given))
        return await self._db.rows(CostSum, statement, {**given, "since": moment_text(since)})

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
        values = {
            "id": reservation,
            "agent_id": agent_id,
            "since": moment_text(since),
            "limit": limit,
            "amount": amount,
            "lifetime": after(lifetime),
        }

        def reserve(db: sqlite3.Connection) -> bool:
            db.execute(_DROP_LAPSED, values)
            if db.execute(_RESERVATION, values).fetchone() is not None:
                return True
            return db.execute(_RESERVE, values).rowcount > 0

        return await self._db.write(reserve)

    async def release_budget(self, reservation: str) -> None:
        """Drop a reservation whose call came to nothing."""
        await self._db.execute(_RELEASE_BUDGET, {"id": reservation})

    async def begin_effect(
        self, key: str, *, agent_id: str, task_id: str | None, token: str | None = None
    ) -> EffectState:
        """Ask leave for an effect that must not happen twice, and note that it begins."""
        values = {"key": key, "agent_id": agent_id, "task_id": task_id, "token": token}

        def begin(db: sqlite3.Connection) -> EffectState:
            if db.execute(_BEGIN_EFFECT, values).rowcount:
                return EffectState(state=Effect.NEW)
            row = db.execute(_EFFECT, values).fetchone()
            if row["finished_at"] is not None:
                return EffectState(state=Effect.DONE, result=read_json(row["result"]))
            ours = token is not None and row["token"] == token
            return EffectState(state=Effect.NEW if ours else Effect.UNKNOWN)

        return await self._db.write(begin)

    async def finish_effect(self, key: str, result: JSON) -> None:
        """Note that an effect happened, with what is to be answered if it is asked for again."""
        await self._db.execute(_FINISH_EFFECT, {"key": key, "result": json_text(result)})

    async def drop_effect(self, key: str) -> None:
        """Note that an effect did not happen after all, so that it may be tried again."""
        await self._db.execute(_DROP_EFFECT, {"key": key})

    # -- memory

    async def remember(self, agent_id: str, key: str, value: str) -> None:
        """Keep a value under a key; a known key is overwritten."""
        await self._db.execute(_REMEMBER, {"agent_id": agent_id, "key": key, "value": value})

    async def recall(
        self, agent_id: str, *, key: str | None = None, search: str | None = None, limit: int = 20
    ) -> list[Memory]:
        """Return memories by exact key, or whose key or value contains a text, newest first."""
        values = {
            "agent_id": agent_id,
            "key": key,
            "search": None if search is None else search.casefold(),
            "limit": max(0, limit),
        }
        return await self._db.rows(Memory, _RECALL, values)

    async def forget(self, agent_id: str, key: str) -> bool:
        """Drop a memory; False if there was none."""
        return bool(await self._db.execute(_FORGET, {"agent_id": agent_id, "key": key}))

    # -- the scheduler's journal

    async def claim_fire(self, job_name: str, scheduled_at: datetime, instance: str) -> bool:
        """Claim one moment of one job; exactly one of several daemons gets True."""
        values = {
            "job_name": job_name,
            "scheduled_at": moment_text(scheduled_at),
            "instance": instance,
        }

        def claim(db: sqlite3.Connection) -> bool:
            db.execute(_CLAIM_FIRE, values)
            return db.execute(_OWN_OPEN_FIRE, values).fetchone() is not None

        return await self._db.write(claim)

    async def finish_fire(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record how the run of a claimed moment ended."""
        values = {
            "job_name": job_name,
            "scheduled_at": moment_text(scheduled_at),
            "outcome": outcome,
            "error": error,
        }
        await self._db.execute(_FINISH_FIRE, values)

    async def last_fire(self, job_name: str) -> datetime | None:
        """Return the latest moment of a job that was claimed."""
        fires = await self.fires(job_name, limit=1)
        return fires[0].scheduled_at if fires else None

    async def fires(self, job_name: str, *, limit: int = 20) -> list[Fire]:
        """Return a job's fires, latest moment first."""
        return await self._db.rows(Fire, _FIRES, {"job_name": job_name, "limit": max(0, limit)})


if TYPE_CHECKING:
    _keeps_the_protocol: type[Store] = SqliteStore


_PING = sql("select {now}")

_REGISTER_AGENT = sql("""
    insert into actp_agent_registry
        (agent_id, class_name, model, status, worker_id, health, last_seen, registered_at)
    values (:agent_id, :class_name, :model, :status, :worker_id,
        iif(:why is not null, json_object('why_disabled', :why), null), {now}, {now})
    on conflict (agent_id) do update set
        class_name = excluded.class_name,
        model = excluded.model,
        status = excluded.status,
        worker_id = excluded.worker_id,
        health = coalesce(excluded.health, health),
        last_seen = excluded.last_seen
""")
_SET_STATUS = sql("""
    update actp_agent_registry
    set status = :status, worker_id = coalesce(:worker_id, worker_id), last_seen = {now}
    where agent_id = :agent_id
""")
_SET_NEEDS_RESTART = """
    update actp_agent_registry set needs_restart = :value, restart_token = null
    where agent_id = :agent_id
"""
_ASKED_TO_RESTART = """
    agent_id in (select value from json_each(:agent_ids))
    and (needs_restart or restart_token = :token)
"""
_OPEN_RESTARTS = sql(
    "select agent_id from actp_agent_registry where {asked}", asked=_ASKED_TO_RESTART
)
_TAKE_RESTARTS = sql(
    """
    update actp_agent_registry set needs_restart = 0, restart_token = :token
    where {asked} returning agent_id
    """,
    asked=_ASKED_TO_RESTART,
)
_HEARTBEAT = sql("""
    update actp_agent_registry set
        last_heartbeat = {now}, last_seen = {now}, health = :health,
        status = coalesce(:status, status), worker_id = coalesce(:worker_id, worker_id)
    where agent_id = :agent_id
""")
_HEARTBEAT_OF_RUN = sql("""
    update actp_agent_runs set last_heartbeat = {now}
    where agent_id = :agent_id and finished_at is null
        and worker_id = coalesce(:worker_id, worker_id)
""")
_AGENTS = """
    select *, max(0.0, (julianday('now') - julianday(last_heartbeat)) * 86400.0) as heartbeat_age
    from actp_agent_registry order by agent_id
"""

_START_RUN = sql(
    """
    insert into actp_agent_runs (id, agent_id, worker_id, instance, started_at)
    values (:id, :agent_id, {worker_id}, :instance, {now})
    on conflict (id) do nothing
    """,
    worker_id=WORKER_OF_INSTANCE,
)
_FINISH_RUN = sql("""
    update actp_agent_runs set outcome = :outcome, error = :error, finished_at = {now}
    where id = :id and finished_at is null
""")
_CRASH_AGES = sql("""
    select (julianday('now') - julianday(finished_at)) * 86400.0 as age from actp_agent_runs
    where agent_id = :agent_id and outcome = 'crashed'
        and finished_at >= {now :within}
    order by finished_at desc, rowid desc
""")
_RUNS = """
    select * from actp_agent_runs where agent_id = :agent_id order by rowid desc limit :limit
"""

_RECORD_TURN = sql("""
    insert into actp_task_turns (id, task_id, agent_id, run_id, step, role, content, created_at)
    values (:id, :task_id, :agent_id, :run_id, :step, :role, :content, {now})
    on conflict (id) do nothing
""")
_TURNS = """
    select * from actp_task_turns
    where task_id = :task_id
        and rowid > coalesce((select rowid from actp_task_turns where id = :after), 0)
    order by rowid limit :limit
"""
_FORGET_TURNS = sql("""
    delete from actp_task_turns where id in (
        select id from actp_task_turns where created_at < {now :older_than}
        order by created_at limit :limit
    )
""")

_RECORD_TOOL_CALL = sql("""
    insert into actp_tool_call_log
        (id, agent_id, run_id, task_id, tool, arguments, duration, error, result, called_at)
    values (:id, :agent_id, :run_id, :task_id, :tool, :arguments, :duration, :error, :result, {now})
    on conflict (id) do nothing
""")
_TOOL_STATS = sql("""
    select tool, count(*) as calls, count(error) as errors, avg(duration) as mean_duration,
        max(duration) as max_duration, max(called_at) as last_called_at
    from actp_tool_call_log
    where agent_id = :agent_id
        and called_at >= {now :within}
    group by tool order by calls desc, tool
""")

_RECORD_COST = sql("""
    insert into anthropic_cost_log
        (id, agent_id, run_id, task_id, model, input_tokens, output_tokens, cache_read_tokens,
         cache_write_5m_tokens, cache_write_1h_tokens, cost_usd, priced, request_id, created_at)
    values
        (:id, :agent_id, :run_id, :task_id, :model, :input_tokens, :output_tokens,
         :cache_read_tokens, :cache_write_5m_tokens, :cache_write_1h_tokens, :cost_usd, :priced,
         :request_id, {now})
    on conflict (id) do nothing
""")
_COSTS = """
    select agent_id, model, substr(created_at, 1, 10) as day, count(*) as calls,
        sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens,
        sum(cache_read_tokens) as cache_read_tokens,
        sum(cache_write_5m_tokens + cache_write_1h_tokens) as cache_write_tokens,
        sum(cost_usd) as cost_usd
    from anthropic_cost_log where created_at >= :since {of_agent}
    group by agent_id, model, day order by day, agent_id, model
"""
_DROP_LAPSED = sql("delete from actp_budget_reservations where expires_at < {now}")
_RESERVATION = "select 1 from actp_budget_reservations where id = :id"
# The tolerance is for sums of floats: three tenths are not three times a tenth.
_RESERVE = sql("""
    insert into actp_budget_reservations (id, agent_id, amount_usd, created_at, expires_at)
    select :id, :agent_id, :amount, {now}, {now :lifetime}
    where :amount
        + (select total(cost_usd) from anthropic_cost_log
            where agent_id = :agent_id and created_at >= :since)
        + (select total(amount_usd) from actp_budget_reservations where agent_id = :agent_id)
        <= :limit + 1e-9
""")
_RELEASE_BUDGET = "delete from actp_budget_reservations where id = :id"

_BEGIN_EFFECT = sql("""
    insert into actp_effects (key, agent_id, task_id, token, began_at)
    values (:key, :agent_id, :task_id, :token, {now})
    on conflict (key) do nothing
""")
_EFFECT = "select token, result, finished_at from actp_effects where key = :key"
_FINISH_EFFECT = sql("""
    update actp_effects set result = :result, finished_at = {now}
    where key = :key and finished_at is null
""")
_DROP_EFFECT = "delete from actp_effects where key = :key and finished_at is null"

_REMEMBER = sql("""
    insert into actp_agent_memory (agent_id, key, value, created_at, updated_at)
    values (:agent_id, :key, :value, {now}, {now})
    on conflict (agent_id, key) do update
        set value = excluded.value, updated_at = excluded.updated_at
""")
_RECALL = """
    select * from actp_agent_memory
    where agent_id = :agent_id
        and (:key is null or key = :key)
        and (:search is null or instr(casefold(key), :search) or instr(casefold(value), :search))
    order by updated_at desc, rowid desc limit :limit
"""
_FORGET = "delete from actp_agent_memory where agent_id = :agent_id and key = :key"

_CLAIM_FIRE = sql(
    """
    insert into actp_job_runs (job_name, scheduled_at, worker_id, instance, claimed_at)
    values (:job_name, :scheduled_at, {worker_id}, :instance, {now})
    on conflict (job_name, scheduled_at) do nothing
    """,
    worker_id=WORKER_OF_INSTANCE,
)
_OWN_OPEN_FIRE = """
    select 1 from actp_job_runs where job_name = :job_name and scheduled_at = :scheduled_at
        and instance = :instance and finished_at is null
"""
_FINISH_FIRE = sql("""
    update actp_job_runs set outcome = :outcome, error = :error, finished_at = {now}
    where job_name = :job_name and scheduled_at = :scheduled_at and finished_at is null
""")
_FIRES = """
    select * from actp_job_runs where job_name = :job_name
    order by scheduled_at desc limit :limit
"""
