"""Is everything there in a Supabase project that the store uses?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import trio

from app.store.protocol import TableMissing
from app.store.sqlite_schema import expected_columns
from app.store.supabase_errors import FunctionMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from app.store.supabase_connection import SupabaseDatabase


def are_rows(answer: object) -> bool:
    """Say whether an answer can be rows of a table."""
    return isinstance(answer, list) and all(isinstance(row, dict) for row in answer)


def _are_numbers(answer: object) -> bool:
    return isinstance(answer, list) and all(isinstance(each, int | float) for each in answer)


def _are_texts(answer: object) -> bool:
    return isinstance(answer, list) and all(isinstance(each, str) for each in answer)


def _is_truth(answer: object) -> bool:
    return isinstance(answer, bool)


def _is_text(answer: object) -> bool:
    return isinstance(answer, str)


def _is_nothing(answer: object) -> bool:
    return answer in (None, [])  # a list is supabase-py's word for an empty answer


def _object(*keys: str) -> Callable[[object], bool]:
    return lambda answer: isinstance(answer, dict) and answer.keys() >= set(keys)


FUNCTIONS: Final[dict[str, Callable[[object], bool]]] = {
    "actp_add_task": are_rows,
    "actp_agents": are_rows,
    "actp_begin_effect": _object("state"),
    "actp_cancel_task": are_rows,
    "actp_claim_fire": _is_truth,
    "actp_claim_task": are_rows,
    "actp_costs": are_rows,
    "actp_count_tasks": are_rows,
    "actp_crash_ages": _are_numbers,
    "actp_drop_effect": _is_nothing,
    "actp_drop_lease": _is_nothing,
    "actp_finish_effect": _is_nothing,
    "actp_finish_fire": _is_nothing,
    "actp_finish_run": _is_nothing,
    "actp_finish_task": _is_truth,
    "actp_forget": _is_truth,
    "actp_forget_turns": _is_nothing,
    "actp_forget_worker": _is_nothing,
    "actp_hand_back": _is_nothing,
    "actp_hold_lease": _object("instance", "worker_id"),
    "actp_live_workers": are_rows,
    "actp_now": _is_text,
    "actp_oldest_queued": _object(),
    "actp_recall": are_rows,
    "actp_record_cost": _is_nothing,
    "actp_record_heartbeat": _is_nothing,
    "actp_record_tool_call": _is_nothing,
    "actp_record_turn": _is_nothing,
    "actp_register_agents": _is_nothing,
    "actp_release_budget": _is_nothing,
    "actp_release_task": _is_truth,
    "actp_remember": _is_nothing,
    "actp_renew_task": _is_text,
    "actp_reserve_budget": _is_truth,
    "actp_retry_task": are_rows,
    "actp_schema_check": _object("tables", "functions"),
    "actp_set_needs_restart": _is_truth,
    "actp_set_status": _is_nothing,
    "actp_start_run": _is_nothing,
    "actp_take_restart_requests": _are_texts,
    "actp_tool_stats": are_rows,
    "actp_touch_worker": _are_texts,
    "actp_turns": are_rows,
    "actp_worker_of": _is_text,
}
"""What `supabase/migrations` makes, with what tells whether an answer can be that function's."""

_RELOADED_WITHIN: Final = 1.0
"""Seconds that PostgREST may need to see what a migration has just made."""

_COLUMN = re.compile(r"column (?:\w+\.)?\"?(\w+)\"? does not exist|'(\w+)' column")

WITHOUT_SEQ: Final = frozenset(
    {
        "actp_agent_registry",
        "actp_budget_reservations",
        "actp_effects",
        "actp_job_runs",
        "actp_leases",
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


async def missing_in(db: SupabaseDatabase) -> dict[str, tuple[str, ...]]:
    """Return what is missing: table -> columns, none for a whole table; functions as ``name()``."""
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
        present = found["tables"].get(table)
        if present is None:
            missing[table] = ()
        elif lacking := _without(columns, present):
            missing[table] = lacking
    functions = _without(tuple(FUNCTIONS), found["functions"])
    return {**missing, **{f"{function}()": () for function in functions}}


async def _schema(db: SupabaseDatabase) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]]
    try:
        found = await db.call("actp_schema_check")
    except FunctionMissing:
        await trio.sleep(_RELOADED_WITHIN)
        found = await db.call("actp_schema_check")
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
