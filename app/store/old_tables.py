"""What in tables that were there before the migrations must change its type, and how.

Another program, or Supabase's table editor, may have made a table of ours with a key of type uuid,
and others with foreign keys on it. Then the types change together, or not at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.store.functions import migrations

if TYPE_CHECKING:
    import psycopg

_TABLE: Final = re.compile(r"^alter table public\.(\w+)\n(.*?);", re.DOTALL | re.MULTILINE)
_COLUMN: Final = re.compile(r"add column if not exists (\w+) (double precision|\w+)")

_SERVES: Final = {
    "text": ("text", "character varying", "character"),
    "bigint": ("smallint", "integer", "bigint", "numeric"),
    "integer": ("smallint", "integer", "bigint", "numeric"),
    "double precision": ("double precision", "real", "numeric", "bigint", "integer", "smallint"),
    "jsonb": ("jsonb", "json"),
    "boolean": ("boolean",),
    "timestamptz": ("timestamp with time zone", "timestamp without time zone"),
}
"""Type of a column -> the types with which the worker's functions work as well."""


@dataclass(frozen=True, slots=True, order=True)
class _Column:
    """A column as the database names it, quoted where that is needed."""

    table: str
    name: str
    kind: str


def expected_types() -> dict[tuple[str, str], str]:
    """Return the type of each column, as the migrations add it, by table and column."""
    return {
        (table, column): kind
        for path in migrations()
        for table, body in _TABLE.findall(path.read_text(encoding="utf-8"))
        for column, kind in _COLUMN.findall(body)
    }


def type_changes(db: psycopg.Connection) -> tuple[str, str] | None:
    """Return what is wrong with the types of columns, and the SQL that helps; None if nothing is.

    Args:
        db: A connection of a user who owns the tables.
    """
    wrong = _wrong_columns(db)
    if not wrong:
        return None
    keys = _keys_of(db, wrong)
    said = ", ".join(f"{each.table}.{each.name} is of type {each.kind}" for each in sorted(wrong))
    needed = ", ".join(sorted(set(wrong.values())))
    drops = [f"alter table {table} drop constraint {name}" for table, name, _ in keys]
    changes = [_change(column, kind) for column, kind in sorted(wrong.items())]
    adds = [f"alter table {table} add constraint {name} {text}" for table, name, text in keys]
    return f"{said}, and the worker needs {needed}", "; ".join((*drops, *changes, *adds))


def _change(column: _Column, kind: str) -> str:
    name = column.name
    steps = [f"alter column {name} type {kind} using {name}::{kind}"]
    if kind != "text":
        steps.insert(0, f"alter column {name} drop default")
    change = f"alter table {column.table} {', '.join(steps)}"
    if column.kind in ("smallint", "integer", "bigint"):
        # In a statement of its own, because PostgreSQL would do it last.
        return f"alter table {column.table} alter column {name} drop identity if exists; {change}"
    return change


def _wrong_columns(db: psycopg.Connection) -> dict[_Column, str]:
    """Return the columns of ours that are of another type, and the type that they need."""
    rows = db.execute(
        """
        select c.relname, a.attname, c.oid::regclass::text, quote_ident(a.attname),
            format_type(a.atttypid, null)
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
        """
    ).fetchall()
    expected = expected_types()
    wrong = {}
    for table, column, table_name, column_name, kind in rows:
        wanted = expected.get((table, column))
        if wanted is not None and kind not in _SERVES.get(wanted, (kind,)):
            wrong[_Column(table_name, column_name, kind)] = wanted
    return wrong


def _keys_of(db: psycopg.Connection, wrong: dict[_Column, str]) -> list[tuple[str, str, str]]:
    """Return the foreign keys on columns that change; the columns at their other ends change too.

    Returns:
        Table, name and definition of each.
    """
    rows = db.execute(
        """
        select k.conrelid::regclass::text, quote_ident(k.conname), pg_get_constraintdef(k.oid),
            k.confrelid::regclass::text, quote_ident(f.attname), quote_ident(t.attname),
            format_type(f.atttypid, null), format_type(t.atttypid, null)
        from pg_constraint k
        cross join unnest(k.conkey, k.confkey) as ends (here, there)
        join pg_attribute f on f.attrelid = k.conrelid and f.attnum = ends.here
        join pg_attribute t on t.attrelid = k.confrelid and t.attnum = ends.there
        where k.contype = 'f'
        """
    ).fetchall()
    keys: dict[tuple[str, str, str], None] = {}
    grown = True
    while grown:
        grown = False
        for table, name, text, there, column, other, kind, other_kind in rows:
            ends = (_Column(table, column, kind), _Column(there, other, other_kind))
            wanted = next((wrong[end] for end in ends if end in wrong), None)
            if wanted is None:
                continue
            keys[table, name, text] = None
            for end in ends:
                if end not in wrong and end.kind not in _SERVES[wanted]:
                    wrong[end] = wanted
                    grown = True
    return list(keys)
