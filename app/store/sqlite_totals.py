"""Sums that SQLite keeps by triggers, so that no page counts all history.

Tasks by agent and status, what became of tasks by the quarter of an hour, and costs by day (UTC),
agent and model. The last two stay when the tasks and entries are deleted.
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
    create table if not exists actp_task_history (
        agent_type text not null,
        quarter text not null,
        shard integer not null default 0,
        succeeded integer not null default 0,
        failed integer not null default 0,
        cancelled integer not null default 0,
        begun integer not null default 0,
        waited real not null default 0,
        primary key (quarter, agent_type, shard)
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

_ENDS: Final = ("succeeded", "failed", "cancelled")
_ENDED: Final = str(_ENDS)

_ADD_TASK: Final = """
        insert into actp_task_totals (agent_type, status, tasks)
        values (new.agent_type, new.status, 1)
        on conflict (agent_type, status, shard) do update set tasks = tasks + 1;"""
_TAKE_TASK: Final = """
        update actp_task_totals set tasks = tasks - 1
        where agent_type = old.agent_type and status = old.status;"""


def _quarter(moment: str) -> str:
    """Return SQL for the quarter of an hour in which a moment is, as text; now if it is none."""
    sound = f"coalesce(strftime('%Y-%m-%dT%H:%M', {moment}), strftime('%Y-%m-%dT%H:%M', 'now'))"
    minutes = f"cast(substr({sound}, 15, 2) as integer) / 15 * 15"
    return f"substr({sound}, 1, 14) || printf('%02d:00.000000Z', {minutes})"


def _waited() -> str:
    """Return SQL for the seconds for which a task that is begun has waited for a worker.

    None where that cannot be told: rows are made and changed by hand, too.
    """
    ready_at = "coalesce(new.ready_at, new.created_at)"
    waited = f"(julianday(new.started_at) - julianday({ready_at})) * 86400.0"
    return f"coalesce(max(0.0, {waited}), 0.0)"


def _add_history(moment: str, begun: str, waited: str) -> str:
    """Return SQL that adds a task to the history: its end, or its beginning with its wait."""
    ended = [f"new.status = '{status}'" for status in _ENDS]
    return f"""
        insert into actp_task_history (agent_type, quarter, succeeded, failed, cancelled, begun,
            waited)
        values (new.agent_type, {_quarter(moment)}, {", ".join(ended)}, {begun}, {waited})
        on conflict (quarter, agent_type, shard) do update set
            succeeded = succeeded + excluded.succeeded, failed = failed + excluded.failed,
            cancelled = cancelled + excluded.cancelled, begun = begun + excluded.begun,
            waited = waited + excluded.waited;"""  # noqa: S608  (our own words)


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
_NOW: Final = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"
_HISTORY_TRIGGERS: Final = {
    "actp_task_history_ended": f"""after update of status on actp_agent_tasks
        when new.status in {_ENDED} and old.status not in {_ENDED}
        begin {_add_history("new.finished_at", "0", "0.0")} end""",
    "actp_task_history_begun": f"""after update of status on actp_agent_tasks
        when new.status = 'running' and old.status = 'queued'
        begin {_add_history("new.started_at", "1", _waited())} end""",
    # Since when each waits for a worker: a wait on purpose is none, nor is one for a person.
    "actp_task_ready_later": """after insert on actp_agent_tasks when new.not_before is not null
        begin update actp_agent_tasks set ready_at = new.not_before where id = new.id; end""",
    "actp_task_ready_again": f"""after update of status on actp_agent_tasks
        when new.status = 'queued' and old.status <> 'queued'
        begin update actp_agent_tasks set ready_at = coalesce(new.not_before, {_NOW})
            where id = new.id; end""",  # noqa: S608  (our own words)
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
_ALL: Final = _TASK_TRIGGERS | _HISTORY_TRIGGERS | _COST_TRIGGERS
TRIGGERS: Final = frozenset(_ALL)
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


_SUM_HISTORY: Final = f"""
    insert into actp_task_history (agent_type, quarter, succeeded, failed, cancelled)
    select agent_type, {_quarter("finished_at")}, sum(status = 'succeeded'),
        sum(status = 'failed'), sum(status = 'cancelled')
    from actp_agent_tasks
    where finished_at glob '[0-9][0-9][0-9][0-9]-*' and status in {_ENDED} group by 1, 2
"""  # noqa: S608  (our own words)


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
    has_history = db.execute("select 1 from actp_task_history limit 1").fetchone() is not None
    if not present >= _HISTORY_TRIGGERS.keys() and not has_history:
        db.execute(_SUM_HISTORY)
    for name, body in _ALL.items():
        db.execute(f"create trigger if not exists {name} {body}")
