"""Is everything there in a Supabase project that the store uses?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from app.store.errors import TableMissing, WrongVersion
from app.store.functions import schema_version, wanted_functions
from app.store.schema import AFTER_A_MIGRATION, MIGRATION_COMMAND
from app.store.sqlite_schema import expected_columns
from app.store.supabase_errors import FunctionMissing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

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
        "actp_requests",
        "actp_routine_pauses",
        "actp_routine_times",
        "actp_task_history",
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


async def check_version(db: SupabaseDatabase, released: Callable[[], Awaitable[object]]) -> bool:
    """Compare the version of the tables with the program's.

    Args:
        db: Where to look.
        released: Calls a function that every release has had.

    Returns:
        True if it is the program's; False if nothing was migrated.

    Raises:
        WrongVersion: If it is another: one line that says what to do.
    """
    wanted = schema_version()
    try:
        found = await _patiently(db, "actp_schema_version", _a_number)
    except FunctionMissing:
        try:
            await released()
        except FunctionMissing:
            return False
        found = 0
    if found < wanted:
        of = f"of version {found}" if found else "of an earlier release"
        raise WrongVersion(
            f"{db.where}: its tables are {of}, and this program needs {wanted}. To bring them "
            f"there, run: {MIGRATION_COMMAND}{AFTER_A_MIGRATION}"
        )
    if found > wanted:
        raise WrongVersion(
            f"{db.where}: its tables are of version {found}, newer than the {wanted} of this "
            "program: update the program"
        )
    return True


def _a_number(answer: JSON) -> int:
    return msgspec.convert(answer, int)


async def missing_in(
    db: SupabaseDatabase, functions: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """Return what is missing: table -> columns, none for a whole table; functions as ``name()``.

    Args:
        db: Where to look.
        functions: Those that are called, by name; they are compared by what they take and answer.
    """
    try:
        found = await _schema(db)
    except FunctionMissing:  # nothing was migrated, or this one was dropped
        probed = {
            table: lacking
            for table, columns in columns_in_use().items()
            if (lacking := await _probe(db, table, columns)) is not None
        }
        return {**probed, "actp_schema()": ()}
    missing: dict[str, tuple[str, ...]] = {}
    for table, columns in columns_in_use().items():
        present = found.tables.get(table)
        if present is None:
            missing[table] = ()
        elif lacking := _without(columns, present):
            missing[table] = lacking
    known = {signature.lower().replace("public.", "") for signature in found.functions}
    lacking_functions = {
        wanted.name
        for wanted in wanted_functions().values()
        if wanted.name in functions and wanted.signature not in known
    }
    return {**missing, **{f"{function}()": () for function in sorted(lacking_functions)}}


@dataclass(frozen=True, slots=True)
class _Schema:
    """The columns of each table that is there, and what each function takes and answers."""

    tables: dict[str, list[str]]
    functions: list[str]


async def _schema(db: SupabaseDatabase) -> _Schema:
    def read(answer: JSON) -> _Schema:
        return msgspec.convert(answer, _Schema)

    found: _Schema = await _patiently(db, "actp_schema", read)
    return found


async def _patiently(db: SupabaseDatabase, function: str, read: Callable[[JSON], object]) -> Any:  # noqa: ANN401  (as it is read)
    """Call a function that a migration may have just made."""
    try:
        return await db.call(function, {}, read)
    except FunctionMissing:
        await trio.sleep(_RELOADED_WITHIN)
        return await db.call(function, {}, read)


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
