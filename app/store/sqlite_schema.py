"""The tables of the embedded store, and how a file comes to have them.

Moments are UTC text of one width, so they sort; booleans are 0 and 1; JSON is text. Where rows are
listed by age, SQLite's own `rowid` gives the order of insertion, which no clock can disturb.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING

from app.store import sqlite_totals, sqlite_version
from app.store.records import duration
from app.store.tables.contract import DomainTable, domain_columns

if TYPE_CHECKING:
    from collections.abc import Collection


def sql(text: str, **parts: str) -> str:
    """Fill named parts into a statement, in their order. Values are bound, never filled in.

    `{now}` is SQLite's clock in the text form of `records.moment_text` (it counts milliseconds),
    and `{now :lease}` that many seconds from now, where the bound value is made by `after` or
    `before`.
    """
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    return re.sub(r"\{now(?: (:\w+))?\}", _now, text)


def _now(found: re.Match[str]) -> str:
    offset = f", {found[1]}" if found[1] else ""
    return f"strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'{offset})"


def after(seconds: float) -> str:
    """Write a duration as SQLite's `strftime` adds it.

    Raises:
        ValueError: If it is negative, or too long for SQLite's calendar.
    """
    return f"+{duration(seconds):.3f} seconds"


def before(seconds: float) -> str:
    """Write a duration as SQLite's `strftime` takes it off. Raises as `after`."""
    return after(seconds).replace("+", "-")


WORKER_OF_INSTANCE = """
    coalesce((select worker_id from actp_workers where instance = :instance), :instance)
"""
"""SQL for the worker_id of the daemon whose `instance` is bound."""


def where_equal(columns: Collection[str]) -> str:
    """Write the condition that columns have the values that are bound under their names."""
    return "where " * bool(columns) + " and ".join(f"{name} = :{name}" for name in columns)


_MADE_ID = "text primary key not null check (id <> '') default (lower(hex(randomblob(16))))"
_MADE_NOW = sql("text not null default ({now})")
"""Columns that a row made by hand may leave out."""

STATUSES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
"""What a task may be in; another word would be a task that nothing ever sees."""


def _domain_table(table: DomainTable) -> str:
    types = {"number": "real", "integer": "integer"}
    columns = [
        f"{name} {types.get(kind, 'text')}"
        for name, kind in domain_columns(table).items()
        if name not in ("id", "created_at", "updated_at")
    ]
    lines = [f"id {_MADE_ID}", *columns, f"created_at {_MADE_NOW}", f"updated_at {_MADE_NOW}"]
    return f"create table if not exists {table} (" + ", ".join(lines) + ")"


_TABLES = (
    """
    create table if not exists actp_workers (
        instance text primary key,
        worker_id text not null,
        started_at text not null,
        last_seen text,
        agents text not null default '{}',
        ended_at text
    )""",
    """
    create table if not exists actp_leases (
        name text primary key,
        instance text not null,
        worker_id text not null,
        expires_at text not null
    )""",
    """
    create table if not exists actp_agent_registry (
        agent_id text primary key,
        class_name text not null,
        model text not null,
        status text not null,
        worker_id text,
        needs_restart integer not null default 0,
        restart_token text,
        health text,
        last_seen text,
        last_heartbeat text,
        registered_at text not null,
        paused_by text,
        paused_at text,
        restart_asked_at text,
        restart_asked_by text,
        restart_answered_at text,
        restart_answer text,
        restart_answered_by text
    )""",
    """
    create table if not exists actp_agent_runs (
        id text primary key,
        agent_id text not null,
        worker_id text not null,
        instance text not null,
        started_at text not null,
        last_heartbeat text,
        finished_at text,
        outcome text,
        error text
    )""",
    sql(
        """
    create table if not exists actp_agent_tasks (
        id {made_id},
        agent_type text not null,
        goal text not null,
        context text not null default '{}',
        priority integer not null default 0 check (typeof(priority) = 'integer'),
        status text not null default 'queued' check (status in {statuses}),
        attempts integer not null default 0 check (typeof(attempts) = 'integer'),
        max_attempts integer not null default 3,
        result text,
        error text,
        worker_id text,
        instance text,
        lease_token text,
        lease_until text,
        settled_token text,
        not_before text check (not_before glob '[0-9][0-9][0-9][0-9]-*'),
        cancel_requested integer not null default 0,
        routine text,
        created_at {made_now} check (created_at glob '[0-9][0-9][0-9][0-9]-*'),
        started_at text,
        finished_at text,
        timeout real,
        unique_key text,
        ready_at text
    )""",
        made_id=_MADE_ID,
        made_now=_MADE_NOW,
        statuses=str(STATUSES),
    ),
    """
    create table if not exists actp_requests (
        key text primary key,
        done_at text not null
    )""",
    """
    create table if not exists actp_agent_memory (
        agent_id text not null,
        key text not null,
        value text not null,
        created_at text not null,
        updated_at text not null,
        primary key (agent_id, key)
    )""",
    """
    create table if not exists actp_task_turns (
        id text primary key,
        task_id text not null,
        agent_id text not null,
        run_id text,
        step integer not null,
        role text not null,
        content text not null,
        meta text,
        created_at text not null
    )""",
    """
    create table if not exists actp_tool_call_log (
        id text primary key,
        agent_id text not null,
        run_id text,
        task_id text,
        tool text not null,
        arguments text not null,
        duration real not null,
        error text,
        result text,
        called_at text not null
    )""",
    """
    create table if not exists anthropic_cost_log (
        id text primary key,
        agent_id text not null,
        run_id text,
        task_id text,
        model text not null,
        input_tokens integer not null,
        output_tokens integer not null,
        cache_read_tokens integer not null default 0,
        cache_write_5m_tokens integer not null default 0,
        cache_write_1h_tokens integer not null default 0,
        cost_usd real not null,
        priced integer not null default 1,
        estimated integer not null default 0,
        request_id text,
        created_at text not null
    )""",
    """
    create table if not exists actp_budget_reservations (
        id text primary key,
        agent_id text not null,
        run_id text,
        task_id text,
        model text,
        amount_usd real not null,
        created_at text not null,
        expires_at text not null
    )""",
    """
    create table if not exists actp_effects (
        key text primary key,
        agent_id text not null,
        task_id text,
        token text,
        result text,
        began_at text not null,
        finished_at text
    )""",
    """
    create table if not exists actp_approvals (
        id text primary key,
        task_id text not null,
        agent_id text not null,
        about text,
        tool text not null,
        arguments text not null,
        asked text,
        why text,
        status text not null default 'waiting'
            check (status in ('waiting', 'approved', 'denied', 'expired')),
        comment text,
        decided_at text,
        decided_by text,
        told_at text,
        expires_at text,
        created_at text not null,
        unique (task_id, about)
    )""",
    """
    create table if not exists actp_reviews (
        id text primary key,
        table_name text not null,
        row_id text not null,
        verdict text not null check (verdict in ('approved', 'rejected', 'edited', 'done')),
        comment text,
        before text not null default '{}',
        after text not null default '{}',
        reviewed_by text not null,
        reviewed_at text not null
    )""",
    """
    create table if not exists actp_job_runs (
        job_name text not null,
        scheduled_at text not null,
        worker_id text not null,
        instance text not null,
        claimed_at text not null,
        finished_at text,
        outcome text,
        error text,
        primary key (job_name, scheduled_at)
    )""",
    """
    create table if not exists actp_routine_times (
        job_name text primary key,
        cron text not null,
        instead_of text not null,
        changed_at text not null,
        changed_by text
    )""",
    """
    create table if not exists actp_routine_pauses (
        job_name text primary key,
        paused_by text not null,
        paused_at text not null
    )""",
    *sqlite_totals.TABLES,
    *(_domain_table(table) for table in DomainTable),
)

# Every index ends in rowid by itself, so "of this agent, newest first" needs no sort.
_INDEXES = (
    # The claim: priority first, then age. Without it a claim reads the whole queue.
    """create index if not exists actp_agent_tasks_ready
        on actp_agent_tasks (agent_type, priority desc)
        where status = 'queued' and not_before is null""",
    # Apart from those that can be claimed, or each claim would pass by all that wait.
    """create index if not exists actp_agent_tasks_later
        on actp_agent_tasks (agent_type, not_before)
        where status = 'queued' and not_before is not null""",
    """create index if not exists actp_agent_tasks_age
        on actp_agent_tasks (agent_type, created_at)
        where status = 'queued' and not_before is null""",
    """create index if not exists actp_agent_tasks_tokens
        on actp_agent_tasks (lease_token) where status = 'running'""",
    """create unique index if not exists actp_agent_tasks_unique
        on actp_agent_tasks (agent_type, unique_key)
        where unique_key is not null and status in ('queued', 'running', 'waiting')""",
    """create index if not exists actp_agent_tasks_leases
        on actp_agent_tasks (agent_type, lease_until) where status = 'running'""",
    """create index if not exists actp_agent_tasks_by_status
        on actp_agent_tasks (status)""",
    """create index if not exists actp_agent_tasks_over
        on actp_agent_tasks (finished_at) where status in ('succeeded', 'failed', 'cancelled')""",
    """create index if not exists actp_agent_runs_over
        on actp_agent_runs (finished_at) where finished_at is not null""",
    """create index if not exists actp_job_runs_over
        on actp_job_runs (finished_at) where finished_at is not null""",
    """create index if not exists actp_effects_by_time
        on actp_effects (began_at)""",
    """create index if not exists actp_agent_tasks_by_agent
        on actp_agent_tasks (agent_type)""",
    """create index if not exists actp_agent_tasks_by_agent_and_status
        on actp_agent_tasks (agent_type, status)""",
    """create index if not exists actp_agent_runs_by_agent
        on actp_agent_runs (agent_id)""",
    # Two columns, or the planner would take the index above for open runs too.
    """create index if not exists actp_agent_runs_open
        on actp_agent_runs (agent_id, finished_at) where finished_at is null""",
    """create index if not exists actp_agent_runs_crashes
        on actp_agent_runs (agent_id, finished_at) where outcome = 'crashed'""",
    """create index if not exists actp_task_turns_by_task
        on actp_task_turns (task_id)""",
    """create index if not exists actp_task_turns_by_time
        on actp_task_turns (created_at)""",
    """create index if not exists actp_tool_call_log_by_agent
        on actp_tool_call_log (agent_id, called_at)""",
    """create index if not exists actp_tool_call_log_by_task
        on actp_tool_call_log (task_id, called_at)""",
    """create index if not exists actp_tool_call_log_by_time
        on actp_tool_call_log (called_at)""",
    """create index if not exists anthropic_cost_log_by_agent
        on anthropic_cost_log (agent_id, created_at)""",
    """create index if not exists anthropic_cost_log_by_time
        on anthropic_cost_log (created_at)""",
    """create index if not exists anthropic_cost_log_by_task
        on anthropic_cost_log (task_id)""",
    """create index if not exists actp_budget_reservations_by_agent
        on actp_budget_reservations (agent_id)""",
    """create index if not exists actp_approvals_waiting
        on actp_approvals (expires_at) where status = 'waiting'""",
    """create index if not exists actp_reviews_by_row
        on actp_reviews (table_name, row_id)""",
    """create index if not exists actp_job_runs_open
        on actp_job_runs (instance) where finished_at is null""",
)


_OUTDATED = ("drop index if exists actp_agent_tasks_to_claim",)
"""What indexes of earlier versions others stand in for."""


def ensure_schema(db: sqlite3.Connection) -> None:
    """Make what is missing: tables, columns of tables of an earlier version, indexes.

    A file that has it all is only read, so that opening it waits for nobody.
    """
    indexes, triggers = _names(db, "index"), _names(db, "trigger")
    is_current = sqlite_version.is_current(db) and triggers >= sqlite_totals.TRIGGERS
    if is_current and not missing_tables(db) and indexes >= _INDEX_NAMES:
        return
    db.execute("begin immediate")
    try:
        for statement in _TABLES:
            db.execute(statement)
        for table, columns in missing_tables(db).items():
            for column in columns:
                db.execute(f"alter table {table} add column {expected_columns()[table][column]}")
        sqlite_version.upgrade(db, _TABLES)
        for statement in (*_OUTDATED, *_INDEXES):
            db.execute(statement)
        sqlite_totals.ensure_totals(db, _names(db, "trigger"))
        db.execute("commit")
    finally:
        if db.in_transaction:
            db.execute("rollback")


def missing_tables(db: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the tables that lack columns with those; with none named, the whole table lacks."""
    missing: dict[str, tuple[str, ...]] = {}
    for table, columns in expected_columns().items():
        present = {name for name, _ in _columns(db, table)}
        if not present:
            missing[table] = ()
        elif lacking := tuple(column for column in columns if column not in present):
            missing[table] = lacking
    return missing


@cache
def expected_columns() -> dict[str, dict[str, str]]:
    """Return table -> column -> its definition, read off a database made in memory."""
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in _TABLES:
            db.execute(statement)
        return {table: dict(_columns(db, table)) for table in sorted(_names(db, "table"))}


def _columns(db: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    """Return a table's columns with a definition that `alter table` takes: no bare `not null`."""
    rows = db.execute(
        'select name, type, "notnull", dflt_value from pragma_table_info(?)', (table,)
    )
    return [
        (name, f"{name} {kind}" + (f" not null default {default}" if default else ""))
        for name, kind, _, default in rows
    ]


def _names(db: sqlite3.Connection, kind: str) -> set[str]:
    rows = db.execute("select name from sqlite_schema where type = ?", (kind,))
    return {name for (name,) in rows}


_INDEX_NAMES = {statement.split()[5] for statement in _INDEXES}
