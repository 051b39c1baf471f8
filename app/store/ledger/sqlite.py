"""Costs and budgets on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from app.store.records import moment_text, read_record, values_of
from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import after, sql

from .contract import (
    CostEntry,
    CostSum,
    Ledger,
    Limits,
    Reservation,
    Reserved,
    Scope,
    TaskCost,
    first_whole_day,
)

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime


class SqliteLedger(Ledger, OnSqlite):
    """Ledger in a file of SQLite."""

    @override
    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        def record(db: sqlite3.Connection) -> None:
            db.execute(_RECORD_COST, values_of(entry))
            db.execute(_RELEASE_BUDGET, {"id": reservation})

        await self.db.write(record)

    @override
    async def costs(self, *, since: datetime, agent_id: str | None = None) -> list[CostSum]:
        given = {} if agent_id is None else {"agent_id": agent_id}
        statement = sql(_COSTS, of_agent="and agent_id = :agent_id" * bool(given))
        values = {"since": moment_text(since), "first_day": first_whole_day(since).isoformat()}
        return await self.db.rows(CostSum, statement, {**given, **values})

    @override
    async def reserve(
        self, call: Reservation, *, since: datetime, limits: Limits, lifetime: float
    ) -> Reserved:
        values = {**values_of(call), "since": moment_text(since), "lifetime": after(lifetime)}

        def reserve(db: sqlite3.Connection) -> Reserved:
            _book(db, sql("expires_at < {now}"), {})
            if db.execute(_RESERVATION, values).fetchone() is not None:
                return Reserved()
            for scope, limit in zip(Scope, (limits.task, limits.agent, limits.total), strict=True):
                if limit is None:
                    continue
                spent = db.execute(_SPENT[scope], values).fetchone()[0]
                held = db.execute(_HELD[scope], values).fetchone()[0]
                # The tolerance is for sums of floats: three tenths are not three times a tenth.
                if spent + held + call.amount_usd > limit + 1e-9:
                    return Reserved(over=scope, spent=spent, held=held)
            db.execute(_RESERVE, values)
            db.execute(_NOTE_RESERVATION, values)
            return Reserved()

        return await self.db.write(reserve)

    @override
    async def release_budget(self, reservation: str) -> None:
        await self.db.execute(_RELEASE_BUDGET, {"id": reservation})

    @override
    async def settle_task(self, task_id: str) -> TaskCost:
        values = {"task_id": task_id}

        def settle(db: sqlite3.Connection) -> TaskCost:
            _book(db, "task_id = :task_id", values)
            return read_record(TaskCost, dict(db.execute(_TASK_COST, values).fetchone()))

        return await self.db.write(settle)


def _book(db: sqlite3.Connection, which: str, values: dict[str, Any]) -> None:
    """Book open reservations at what their calls may have cost."""
    db.execute(sql(_BOOK, which=which), values)
    db.execute(sql("delete from actp_budget_reservations where {which}", which=which), values)


_RECORD_COST = sql("""
    insert into anthropic_cost_log
        (id, agent_id, run_id, task_id, model, input_tokens, output_tokens, cache_read_tokens,
         cache_write_5m_tokens, cache_write_1h_tokens, cost_usd, priced, estimated, request_id,
         created_at)
    values
        (:id, :agent_id, :run_id, :task_id, :model, :input_tokens, :output_tokens,
         :cache_read_tokens, :cache_write_5m_tokens, :cache_write_1h_tokens, :cost_usd, :priced,
         :estimated, :request_id, {now})
    on conflict (id) do update set
        model = excluded.model, input_tokens = excluded.input_tokens,
        output_tokens = excluded.output_tokens, cache_read_tokens = excluded.cache_read_tokens,
        cache_write_5m_tokens = excluded.cache_write_5m_tokens,
        cache_write_1h_tokens = excluded.cache_write_1h_tokens, cost_usd = excluded.cost_usd,
        priced = excluded.priced, estimated = 0, request_id = excluded.request_id
    where estimated and not excluded.estimated
""")
# Whole days from the sums that are kept; of the day in which the moment is, what came after it.
_COSTS = """
    select agent_id, model, day, sum(calls) as calls, sum(input_tokens) as input_tokens,
        sum(output_tokens) as output_tokens, sum(cache_read_tokens) as cache_read_tokens,
        sum(cache_write_tokens) as cache_write_tokens, sum(cost_usd) as cost_usd
    from (
        select agent_id, model, day, calls, input_tokens, output_tokens, cache_read_tokens,
            cache_write_tokens, cost_usd
        from actp_cost_days where day >= :first_day {of_agent}
        union all
        select agent_id, model, substr(created_at, 1, 10), 1, input_tokens, output_tokens,
            cache_read_tokens, cache_write_5m_tokens + cache_write_1h_tokens, cost_usd
        from anthropic_cost_log
        where created_at >= :since and created_at < :first_day {of_agent}
    ) group by agent_id, model, day order by day, agent_id, model
"""
_BOOK = """
    insert into anthropic_cost_log
        (id, agent_id, run_id, task_id, model, input_tokens, output_tokens, cost_usd, estimated,
         created_at)
    select id, agent_id, run_id, task_id, coalesce(model, 'unknown'), 0, 0, amount_usd, 1,
        created_at
    from actp_budget_reservations where {which}
    on conflict (id) do nothing
"""
# Reserved once: a copy of the request may arrive when its call is over, and the money would be
# held, and booked at last, for a call that is none.
_RESERVATION = """
    select 1 from actp_requests where key = 'reserve ' || :id
    union all
    select 1 from actp_budget_reservations where id = :id
"""
_NOTE_RESERVATION = sql(
    "insert into actp_requests (key, done_at) values ('reserve ' || :id, {now})"
)
_RESERVE = sql("""
    insert into actp_budget_reservations
        (id, agent_id, run_id, task_id, model, amount_usd, created_at, expires_at)
    values (:id, :agent_id, :run_id, :task_id, :model, :amount_usd, {now}, {now :lifetime})
""")
_OF = {
    Scope.TASK: "task_id = :task_id",
    Scope.AGENT: "agent_id = :agent_id",
    Scope.TOTAL: "true",
}
_SPENT = {
    scope: sql(
        "select total(cost_usd) from anthropic_cost_log where {of} {today}",
        of=of,
        today="and created_at >= :since" * (scope is not Scope.TASK),
    )
    for scope, of in _OF.items()
}
_HELD = {
    scope: sql("select total(amount_usd) from actp_budget_reservations where {of}", of=of)
    for scope, of in _OF.items()
}
_TASK_COST = """
    select count(*) as calls, coalesce(sum(input_tokens), 0) as input_tokens,
        coalesce(sum(output_tokens), 0) as output_tokens,
        coalesce(sum(cache_read_tokens), 0) as cache_read_tokens,
        coalesce(sum(cache_write_5m_tokens + cache_write_1h_tokens), 0) as cache_write_tokens,
        total(cost_usd) as cost_usd,
        total(case when estimated then cost_usd else 0 end) as estimated_usd
    from anthropic_cost_log where task_id = :task_id
"""
_RELEASE_BUDGET = "delete from actp_budget_reservations where id = :id"
