"""Is everything there in a Supabase project that the store uses?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from app.store.errors import TableMissing
from app.store.sqlite_schema import expected_columns
from app.store.supabase_errors import FunctionMissing

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.store.supabase_connection import SupabaseDatabase
    from app.store.verbs import JSON

_RELOADED_WITHIN: Final = 1.0
"""Seconds that PostgREST may need to see what a migration has just made."""

_COLUMN = re.compile(r"column (?:\w+\.)?\"?(\w+)\"? does not exist|'(\w+)' column")

WITHOUT_SEQ: Final = frozenset(
    {
        "actp_agent_registry",
        "actp_budget_reservations",
        "actp_cost_days",
        "actp_effects",
        "actp_job_runs",
        "actp_leases",
        "actp_task_totals",
        "anthropic_cost_log",
    }
)
"""Tables that are never listed by age; the others have `seq`, the order of insertion."""


def columns_in_use() -> dict[str, tuple[str, ...]]:
    """Return table -> its columns: those of the embedded store, and the order of insertion."""
    return {
        table: (*columns, *(() if table in WITHOUT_SEQ else ("seq",)))
        for table, columns in expected_columns().items()
    }


async def missing_in(
    db: SupabaseDatabase, functions: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Return what is missing: table -> columns, none for a whole table; functions as ``name()``.

    Args:
        db: Where to look.
        functions: Those that are called.
    """
    try:
        found = await _schema(db)
    except FunctionMissing:
        probed = {
            table: lacking
            for table, columns in columns_in_use().items()
            if (lacking := await _probe(db, table, columns)) is not None
        }
        return {**probed, "actp_schema_check()": ()}
    missing: dict[str, tuple[str, ...]] = {}
    for table, columns in columns_in_use().items():
        present = found.tables.get(table)
        if present is None:
            missing[table] = ()
        elif lacking := _without(columns, present):
            missing[table] = lacking
    lacking_functions = _without(functions, found.functions)
    return {**missing, **{f"{function}()": () for function in lacking_functions}}


@dataclass(frozen=True, slots=True)
class _Schema:
    """What is there: the columns of each table, and the names of the functions."""

    tables: dict[str, list[str]]
    functions: list[str]


async def _schema(db: SupabaseDatabase) -> _Schema:
    def read(answer: JSON) -> _Schema:
        return msgspec.convert(answer, _Schema)

    try:
        found: _Schema = await db.call("actp_schema_check", {}, read)
    except FunctionMissing:
        await trio.sleep(_RELOADED_WITHIN)
        found = await db.call("actp_schema_check", {}, read)
    return found


async def _probe(
    db: SupabaseDatabase, table: str, columns: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Ask for no row of a table; return its missing columns, none for all, None if all is there."""
    lacking: tuple[str, ...] = ()
    while columns:
        try:
            await db.ask(lambda client, left=columns: client.table(table).select(*left).limit(0))
        except TableMissing as error:
            named = _COLUMN.search(str(error))
            if named is None:
                return ()
            lacking += (named[1] or named[2],)
            columns = _without(columns, lacking)
        else:
            return lacking or None
    return ()


def _without(wanted: tuple[str, ...], present: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in wanted if name not in present)
