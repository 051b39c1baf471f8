"""Sums that SQLite keeps by triggers, so that no page counts all history.

Tasks by agent and status, and costs by day (UTC), agent and model. The sums of costs stay when
the entries are deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

TABLES: Final = (
    """
    create table if not exists actp_task_totals (
        agent_type text not null,
        status text not null,
        shard integer not null default 0,
        tasks integer not null default 0,
        primary key (agent_type, status, shard)
    )""",
    """
    create table if not exists actp_cost_days (
        agent_id text not null,
        model text not null,
        day text not null,
        calls integer not null default 0,
        input_tokens integer not null default 0,
        output_tokens integer not null default 0,
        cache_read_tokens integer not null default 0,
        cache_write_tokens integer not null default 0,
        cost_usd real not null default 0,
        primary key (day, agent_id, model)
    )""",
)

_ADD_TASK: Final = """
        insert into actp_task_totals (agent_type, status, tasks)
        values (new.agent_type, new.status, 1)
        on conflict (agent_type, status, shard) do update set tasks = tasks + 1;"""
_TAKE_TASK: Final = """
        update actp_task_totals set tasks = tasks - 1
        where agent_type = old.agent_type and status = old.status;"""


def _add_costs(sign: str, row: str, calls: str) -> str:
    return f"""
        insert into actp_cost_days (day, agent_id, model, calls, input_tokens, output_tokens,
            cache_read_tokens, cache_write_tokens, cost_usd)
        values (substr({row}.created_at, 1, 10), {row}.agent_id, {row}.model, {calls},
            {sign}{row}.input_tokens, {sign}{row}.output_tokens, {sign}{row}.cache_read_tokens,
            {sign}({row}.cache_write_5m_tokens + {row}.cache_write_1h_tokens),
            {sign}{row}.cost_usd)
        on conflict (day, agent_id, model) do update set
            calls = calls + excluded.calls,
            input_tokens = input_tokens + excluded.input_tokens,
            output_tokens = output_tokens + excluded.output_tokens,
            cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
            cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
            cost_usd = cost_usd + excluded.cost_usd;"""  # noqa: S608  (our own words)


_TASK_TRIGGERS: Final = {
    "actp_task_totals_insert": f"after insert on actp_agent_tasks begin {_ADD_TASK} end",
    "actp_task_totals_delete": f"after delete on actp_agent_tasks begin {_TAKE_TASK} end",
    "actp_task_totals_update": f"""after update of agent_type, status on actp_agent_tasks
        when new.status <> old.status or new.agent_type <> old.agent_type
        begin {_TAKE_TASK} {_ADD_TASK} end""",
}
_COST_TRIGGERS: Final = {
    "actp_cost_days_insert": (
        f"after insert on anthropic_cost_log begin {_add_costs('', 'new', '1')} end"
    ),
    "actp_cost_days_update": (
        "after update on anthropic_cost_log begin"
        f" {_add_costs('-', 'old', '-1')} {_add_costs('', 'new', '1')} end"
    ),
}
TRIGGERS: Final = frozenset(_TASK_TRIGGERS | _COST_TRIGGERS)
"""The names of all of them."""

_COUNT_TASKS: Final = """
    insert into actp_task_totals (agent_type, status, tasks)
    select agent_type, status, count(*) from actp_agent_tasks group by agent_type, status
"""
_SUM_COSTS: Final = """
    insert into actp_cost_days (day, agent_id, model, calls, input_tokens, output_tokens,
        cache_read_tokens, cache_write_tokens, cost_usd)
    select substr(created_at, 1, 10), agent_id, model, count(*), sum(input_tokens),
        sum(output_tokens), sum(cache_read_tokens),
        sum(cache_write_5m_tokens + cache_write_1h_tokens), sum(cost_usd)
    from anthropic_cost_log group by 1, 2, 3
"""


def ensure_totals(db: sqlite3.Connection, present: set[str]) -> None:
    """Make the triggers that are missing, with the sums of what was there before them.

    Args:
        db: Where; in a transaction.
        present: The names of the triggers that there are.
    """
    if not present >= _TASK_TRIGGERS.keys():
        db.execute("delete from actp_task_totals")
        db.execute(_COUNT_TASKS)
    has_sums = db.execute("select 1 from actp_cost_days limit 1").fetchone() is not None
    if not present >= _COST_TRIGGERS.keys() and not has_sums:  # else of entries that are deleted
        db.execute(_SUM_COSTS)
    for name, body in (_TASK_TRIGGERS | _COST_TRIGGERS).items():
        db.execute(f"create trigger if not exists {name} {body}")
