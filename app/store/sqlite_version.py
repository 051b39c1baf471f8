"""Which version of the tables a file of SQLite has, and how one of an earlier version gets there.

A column that is missing is added by `sqlite_schema`. What SQLite cannot add to a table that exists
(a default that is computed, a check) comes by making the table anew, with its rows in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.store.errors import WrongVersion
from app.store.functions import schema_version
from app.store.records import UNREADABLE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

_TABLE: Final = "create table if not exists actp_schema_version (version integer not null)"

_REPAIRS: Final = (
    "update actp_agent_tasks set id = lower(hex(randomblob(16))) where id is null or id = ''",
    f"""
    update actp_agent_tasks set
        error = '{UNREADABLE}' || why,
        status = 'failed',
        not_before = null,
        finished_at = coalesce(finished_at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
        priority = case when typeof(priority) = 'integer' then priority else 0 end,
        attempts = case when typeof(attempts) = 'integer' then attempts else 0 end,
        created_at = case
            when created_at glob '[0-9][0-9][0-9][0-9]-*' then created_at
            else strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
        end
    from (
        select rowid as place, case
            when status not in
                ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')
                then 'status ''' || status || ''''
            when typeof(priority) <> 'integer' then 'priority ''' || priority || ''''
            when typeof(attempts) <> 'integer' then 'attempts ''' || attempts || ''''
            when not created_at glob '[0-9][0-9][0-9][0-9]-*'
                then 'created_at ''' || created_at || ''''
            when not not_before glob '[0-9][0-9][0-9][0-9]-*'
                then 'not_before ''' || not_before || ''''
        end as why
        from actp_agent_tasks
    ) as looked
    where looked.place = actp_agent_tasks.rowid and why is not null
    """,  # noqa: S608  (no value of another's)
)
"""What rows made by hand need before the checks of today hold of them."""


def is_current(db: sqlite3.Connection) -> bool:
    """Has the file the version of this program?

    Raises:
        WrongVersion: If a newer program has had it.
    """
    return _version(db) == schema_version()


def upgrade(db: sqlite3.Connection, tables: Iterable[str]) -> None:
    """Make tables anew that are not as they would be made today, within a transaction.

    Args:
        db: The database, with all tables and their columns.
        tables: The statements that make them.
    """
    if _version(db) == schema_version():
        return
    for statement in _REPAIRS:
        db.execute(statement)
    for statement in tables:
        _make_anew(db, statement)
    db.execute(_TABLE)
    db.execute("delete from actp_schema_version")
    db.execute("insert into actp_schema_version values (?)", (schema_version(),))


def _version(db: sqlite3.Connection) -> int:
    if not db.execute("select 1 from sqlite_schema where name = 'actp_schema_version'").fetchone():
        return 0
    row = db.execute("select version from actp_schema_version").fetchone()
    version = int(row[0]) if row else 0
    if version > schema_version():
        raise WrongVersion(
            f"was made by a newer version of this program (its tables are of {version}, this "
            f"program knows {schema_version()}): update the program, or give it another file in "
            "WORKER_DB_PATH"
        )
    return version


def _make_anew(db: sqlite3.Connection, statement: str) -> None:
    head, _, body = statement.partition("(")
    table = head.split()[-1]
    anew = f"{table}_anew"
    db.execute(f"create table {anew} ({body}")
    wanted, found = _shape(db, anew), _shape(db, table)
    if wanted == found:
        db.execute(f"drop table {anew}")
        return
    known = {name for name, *_ in wanted}
    for name, *_ in found:  # columns of another's stay
        if name not in known:
            db.execute(f'alter table {anew} add column "{name}"')
    rows = db.execute('select name, "notnull", dflt_value from pragma_table_info(?)', (anew,))
    columns = {
        f'"{name}"': f"coalesce({name}, {default})" if needed and default else f'"{name}"'
        for name, needed, default in rows
    }
    db.execute(
        f"insert into {anew} (rowid, {', '.join(columns)})"  # noqa: S608  (names of ours)
        f" select rowid, {', '.join(columns.values())} from {table}"
    )
    db.execute(f"drop table {table}")
    db.execute(f"alter table {anew} rename to {table}")


def _shape(db: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    return db.execute(
        'select name, "notnull", dflt_value, pk from pragma_table_info(?) order by name', (table,)
    ).fetchall()
