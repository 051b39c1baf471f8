"""Costs and budgets on SQLite."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from typing_extensions import override

from app.store.records import moment_text
from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import after, sql

from .contract import CostEntry, CostSum, Ledger, first_whole_day

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime


class SqliteLedger(Ledger, OnSqlite):
    """Ledger in a file of SQLite."""

    @override
    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        def record(db: sqlite3.Connection) -> None:
            db.execute(_RECORD_COST, asdict(entry))
            db.execute(_RELEASE_BUDGET, {"id": reservation})

        await self.db.write(record)

    @override
    async def costs(self, *, since: datetime, agent_id: str | None = None) -> list[CostSum]:
        given = {} if agent_id is None else {"agent_id": agent_id}
        statement = sql(_COSTS, of_agent="and agent_id = :agent_id" * bool(given))
        values = {"since": moment_text(since), "first_day": first_whole_day(since).isoformat()}
        return await self.db.rows(CostSum, statement, {**given, **values})

    @override
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

        return await self.db.write(reserve)

    @override
    async def release_budget(self, reservation: str) -> None:
        await self.db.execute(_RELEASE_BUDGET, {"id": reservation})


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
