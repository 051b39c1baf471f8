"""What was done, on SQLite: turns, calls of tools, effects, and fires of the scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from app.store.records import json_text, moment_text, read_json, values_of
from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import WORKER_OF_INSTANCE, before, sql, where_equal

from .contract import Effect, EffectState, Fire, Journal, Kept, ToolCall, ToolStats, Turn

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime

    from app.store.verbs import JSON


class SqliteJournal(Journal, OnSqlite):
    """Journal in a file of SQLite."""

    @override
    async def record_turn(self, turn: Turn, *, token: str | None = None) -> bool:
        values = _turn_values(turn, token)
        return await self.db.write(lambda db: _record_turn(db, values))

    @override
    async def record_answer(
        self, turn: Turn, *, call: ToolCall, effect: str | None = None, token: str | None = None
    ) -> bool:
        values = _turn_values(turn, token)
        logged = {**values_of(call), "arguments": json_text(call.arguments)}

        def record(db: sqlite3.Connection) -> bool:
            db.execute(_RECORD_TOOL_CALL, logged)
            db.execute(_FINISH_EFFECT, {"key": effect, "result": values["content"]})
            return _record_turn(db, values)

        return await self.db.write(record)

    @override
    async def turns(
        self, task_id: str, *, after: str | None = None, limit: int = 200
    ) -> list[Turn]:
        values = {"task_id": task_id, "after": after, "limit": max(0, limit)}
        return await self.db.rows(Turn, _TURNS, values)

    @override
    async def forget_old(self, what: Kept, *, older_than: float, limit: int) -> int:
        values = {"older_than": before(older_than), "limit": max(0, limit)}

        def forget(db: sqlite3.Connection) -> int:
            rows = [tuple(row) for row in db.execute(_OLD[what], values)]
            if what is Kept.TASKS:
                db.executemany("delete from actp_task_turns where task_id = ?", _ids(db, rows))
            db.executemany(f"delete from {_TABLES[what]} where rowid = ?", rows)  # noqa: S608  (ours)
            return len(rows)

        return await self.db.write(forget)

    @override
    async def record_tool_call(self, call: ToolCall) -> None:
        values = {**values_of(call), "arguments": json_text(call.arguments)}
        await self.db.execute(_RECORD_TOOL_CALL, values)

    @override
    async def tool_calls(
        self, *, agent_id: str | None = None, task_id: str | None = None, limit: int = 50
    ) -> list[ToolCall]:
        conditions = {"agent_id": agent_id, "task_id": task_id}
        given = {column: value for column, value in conditions.items() if value is not None}
        statement = sql(
            "select * from actp_tool_call_log {where}"
            " order by called_at desc, rowid desc limit :limit",
            where=where_equal(given),
        )
        return await self.db.rows(ToolCall, statement, {**given, "limit": max(0, limit)})

    @override
    async def tool_stats(self, agent_id: str, *, within: float = 86_400.0) -> list[ToolStats]:
        return await self.db.rows(
            ToolStats, _TOOL_STATS, {"agent_id": agent_id, "within": before(within)}
        )

    @override
    async def begin_effect(
        self, key: str, *, agent_id: str, task_id: str | None, token: str | None = None
    ) -> EffectState:
        values = {"key": key, "agent_id": agent_id, "task_id": task_id, "token": token}

        def begin(db: sqlite3.Connection) -> EffectState:
            if db.execute(_BEGIN_EFFECT, values).rowcount:
                return EffectState(state=Effect.NEW)
            row = db.execute(_EFFECT, values).fetchone()
            if row["finished_at"] is not None:
                return EffectState(state=Effect.DONE, result=read_json(row["result"]))
            ours = token is not None and row["token"] == token
            return EffectState(state=Effect.NEW if ours else Effect.UNKNOWN)

        return await self.db.write(begin)

    @override
    async def finish_effect(self, key: str, result: JSON) -> None:
        await self.db.execute(_FINISH_EFFECT, {"key": key, "result": json_text(result)})

    @override
    async def drop_effect(self, key: str) -> None:
        await self.db.execute(_DROP_EFFECT, {"key": key})

    @override
    async def claim_fire(self, job_name: str, scheduled_at: datetime, instance: str) -> bool:
        values = {
            "job_name": job_name,
            "scheduled_at": moment_text(scheduled_at),
            "instance": instance,
        }

        def claim(db: sqlite3.Connection) -> bool:
            db.execute(_CLAIM_FIRE, values)
            return db.execute(_OWN_OPEN_FIRE, values).fetchone() is not None

        return await self.db.write(claim)

    @override
    async def finish_fire(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        values = {
            "job_name": job_name,
            "scheduled_at": moment_text(scheduled_at),
            "outcome": outcome,
            "error": error,
        }
        await self.db.execute(_FINISH_FIRE, values)

    @override
    async def last_fire(self, job_name: str) -> datetime | None:
        fires = await self.fires(job_name, limit=1)
        return fires[0].scheduled_at if fires else None

    @override
    async def fires(self, job_name: str, *, limit: int = 20) -> list[Fire]:
        return await self.db.rows(Fire, _FIRES, {"job_name": job_name, "limit": max(0, limit)})


def _ids(db: sqlite3.Connection, rows: list[tuple[int]]) -> list[tuple[str]]:
    found = "select id from actp_agent_tasks where rowid = ?"
    return [tuple(db.execute(found, row).fetchone()) for row in rows]


def _turn_values(turn: Turn, token: str | None) -> dict[str, Any]:
    meta = None if turn.meta is None else json_text(turn.meta)
    return {**values_of(turn), "content": json_text(turn.content), "meta": meta, "token": token}


def _record_turn(db: sqlite3.Connection, values: dict[str, Any]) -> bool:
    """Insert a step if its task is held; True also of one that is there already."""
    db.execute(_RECORD_TURN, values)
    return db.execute(_TURN, values).fetchone() is not None


_RECORD_TURN = sql("""
    insert into actp_task_turns
        (id, task_id, agent_id, run_id, step, role, content, meta, created_at)
    select :id, :task_id, :agent_id, :run_id, :step, :role, :content, :meta, {now}
    where :token is null or exists (
        select 1 from actp_agent_tasks
        where id = :task_id and lease_token = :token and status = 'running'
    )
    on conflict (id) do nothing
""")
_TURN = "select 1 from actp_task_turns where id = :id"
_TURNS = """
    select * from actp_task_turns
    where task_id = :task_id
        and rowid > coalesce((select rowid from actp_task_turns where id = :after), 0)
    order by rowid limit :limit
"""
_TABLES: Final = {
    Kept.TURNS: "actp_task_turns",
    Kept.TASKS: "actp_agent_tasks",
    Kept.RUNS: "actp_agent_runs",
    Kept.TOOL_CALLS: "actp_tool_call_log",
    Kept.COSTS: "anthropic_cost_log",
    Kept.FIRES: "actp_job_runs",
    Kept.EFFECTS: "actp_effects",
    Kept.APPROVALS: "actp_approvals",
    Kept.WORKERS: "actp_workers",
    Kept.HISTORY: "actp_task_history",
    Kept.REQUESTS: "actp_requests",
}
_TIMES: Final = {
    Kept.TURNS: "created_at",
    Kept.TASKS: "finished_at",
    Kept.RUNS: "finished_at",
    Kept.TOOL_CALLS: "called_at",
    Kept.COSTS: "created_at",
    Kept.FIRES: "finished_at",
    Kept.EFFECTS: "began_at",
    Kept.APPROVALS: "decided_at",
    Kept.WORKERS: "ended_at",
    Kept.HISTORY: "quarter",
    Kept.REQUESTS: "done_at",
}
"""Since when it is over; null for what is not."""
_OF_TASK_OVER: Final = """and not exists (
    select 1 from actp_agent_tasks t
    where t.id = task_id and t.status in ('queued', 'running', 'waiting')
)"""
_MORE: Final = {
    **dict.fromkeys((Kept.TURNS, Kept.EFFECTS, Kept.APPROVALS), _OF_TASK_OVER),
    Kept.TASKS: "and status in ('succeeded', 'failed', 'cancelled')",
    # By the latest one the scheduler knows from when on moments were missed.
    Kept.FIRES: """and scheduled_at < (
        select max(scheduled_at) from actp_job_runs later
        where later.job_name = actp_job_runs.job_name
    )""",
}
_ORDERS: Final = {Kept.REQUESTS: "rowid"}
"""The order where it is not that of the times: an index for it would cost each claim."""
_INDEXES: Final = {Kept.TASKS: "indexed by actp_agent_tasks_over"}
"""The index where SQLite takes another one, by which it looks at all tasks that are over."""
_OLD: Final = {
    what: sql(
        "select rowid from {table} {index} where {time} < {now :older_than} {more} order by {order}"
        " limit :limit",
        table=table,
        index=_INDEXES.get(what, ""),
        order=_ORDERS.get(what, _TIMES[what]),
        time=_TIMES[what],
        more=_MORE.get(what, ""),
    )
    for what, table in _TABLES.items()
}
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
_CLAIM_FIRE = sql(
    """
    insert into actp_job_runs (job_name, scheduled_at, worker_id, instance, claimed_at)
    select :job_name, :scheduled_at, {worker_id}, :instance, {now}
    where not exists (select 1 from actp_routine_pauses where job_name = :job_name)
    on conflict (job_name, scheduled_at) do nothing
    """,
    worker_id=WORKER_OF_INSTANCE,
)
_OWN_OPEN_FIRE = """
    select 1 from actp_job_runs where job_name = :job_name and scheduled_at = :scheduled_at
        and instance = :instance and (finished_at is null or outcome = 'interrupted')
"""
_FINISH_FIRE = sql("""
    update actp_job_runs set outcome = :outcome, error = :error, finished_at = {now}
    where job_name = :job_name and scheduled_at = :scheduled_at
        and (finished_at is null or outcome = 'interrupted')
""")
_FIRES = """
    select * from actp_job_runs where job_name = :job_name
    order by scheduled_at desc limit :limit
"""
