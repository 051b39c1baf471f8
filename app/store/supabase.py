"""The shared store: a Supabase project, which any number of daemons may use at once.

Each verb is a function in the project's database, made by `supabase/migrations`, so that it is one
transaction; only the agents' own tables are read and written as tables. Importing this takes most
of a second, because supabase-py does: only where it is used.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec
import trio
from typing_extensions import override

from app.store.errors import StoreError, WrongSettings
from app.store.protocol import Store
from app.store.queue.contract import TaskRow, TaskStatus, check_final
from app.store.records import clean, duration, moment_text, read_answer
from app.store.supabase_connection import (
    ANSWER_WITHIN,
    PATIENCE,
    SupabaseDatabase,
    open_connection,
)
from app.store.supabase_errors import KeyRefused, NotExposed, RoleDenied
from app.store.supabase_schema import check_version, missing_in
from app.store.tables.contract import DomainTable
from app.store.tables.supabase import SupabaseTables
from app.store.tables.values import write_domain_columns
from app.store.verbs import SECONDS, Arguments, R, Verb, verbs_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from app.store.reviews.contract import NewReview, ReviewRow

BELIEVE_AFTER: Final = 10.0
_ASK_AGAIN_AFTER: Final = 0.5

FUNCTIONS: Final = {
    "ping": "now",
    "count_tasks": "task_counts",
    "record_turn": "record_step",
    "tasks": "find_tasks",
    "set_needs_restart": "ask_for_restart",
    "set_routine_time": "change_routine_time",
}
"""Verbs whose function has another name than ``actp_`` and the verb's."""

_SETTLE_UNREADABLE: Final = "actp_settle_unreadable"
"""What ends a claim of a task that cannot be read: no verb, as only a claim does it."""

PARAMETERS: Final[Mapping[str, Mapping[str, str]]] = {
    "start_run": {"run_id": "id"},
    "finish_run": {"run_id": "id"},
    "task": {"task_id": "id"},
    "add_task": {"task_id": "id"},
    "begin_task": {"task_id": "id"},
    "renew_task": {"task_id": "id"},
    "finish_task": {"task_id": "id"},
    "release_task": {"task_id": "id"},
    "cancel_task": {"task_id": "id"},
    "retry_task": {"task_id": "id"},
    "release_budget": {"reservation": "id"},
    "park_task": {"task_id": "id"},
    "approval": {"approval_id": "id"},
    "decide_approval": {"approval_id": "id"},
    "told_approval": {"approval_id": "id"},
}
"""Parameters of functions that have another name than ``p_`` and the verb's."""


@asynccontextmanager
async def open_supabase_store(
    url: str,
    key: str,
    *,
    answer_within: float = ANSWER_WITHIN,
    patience: float = PATIENCE,
    believe_after: float = BELIEVE_AFTER,
) -> AsyncIterator[SupabaseStore]:
    """Open the store in a Supabase project, once the key is shown to be the service role's.

    With another key every table would look empty, because row-level security hides its rows.

    Args:
        url: The project's address.
        key: Its service role key, of the older kind or the newer (``sb_secret_...``).
        answer_within: How many seconds one request may take.
        patience: For how many seconds a call is repeated while the project is away.
        believe_after: For how many seconds a key is tried again that is refused.

    Raises:
        StoreUnavailable: If the project cannot be reached.
        WrongSettings: If the key is refused, or the address cannot be one.
        WrongVersion: If the tables are of another version than the program's.
    """
    async with open_connection(
        url, key, answer_within=answer_within, patience=patience
    ) as database:
        store = SupabaseStore(database)
        await _prove_the_role(store, believe_after)
        yield store


async def _prove_the_role(store: SupabaseStore, believe_after: float) -> None:
    """Look whether the key is the service role's, and the tables are of our version.

    A gateway may refuse a good key for some seconds, as when its clock is behind that of who signs
    them (supabase#49655), so a refusal is not believed at once.
    """
    deadline = trio.current_time() + believe_after
    try:
        while True:
            try:
                if not await check_version(store.db, store.ping):
                    await store.check_tables()  # what is there refuses the key
            except KeyRefused:
                if trio.current_time() >= deadline:
                    raise
                await trio.sleep(min(_ASK_AGAIN_AFTER, believe_after))
            else:
                return
    except NotExposed as error:
        raise WrongSettings(str(error)) from error
    except (KeyRefused, RoleDenied) as error:
        raise WrongSettings(
            "SUPABASE_SERVICE_ROLE_KEY is not the service role's key of this project "
            f"(the anon key will not do): {error}"
        ) from error


class SupabaseStore(SupabaseTables, Store):
    """The store on Supabase. For use from Trio."""

    def __init__(self, database: SupabaseDatabase) -> None:
        self.db = database

    @property
    @override
    def where(self) -> str:
        return self.db.where

    @override
    async def aclose(self) -> None:
        await self.db.aclose()

    @override
    async def check_tables(self) -> dict[str, tuple[str, ...]]:
        return await missing_in(self.db, functions_in_use())

    @override
    async def claim_task(
        self, agent_type: str, *, worker_id: str, instance: str, token: str, lease: float
    ) -> TaskRow | None:
        while True:
            task = await super().claim_task(
                agent_type, worker_id=worker_id, instance=instance, token=token, lease=lease
            )
            if task is None or task.unreadable is None:
                return task
            values = {"p_id": task.id, "p_token": token, "p_error": task.unreadable}
            await self.db.call(_SETTLE_UNREADABLE, values, partial(read_answer, NoneType))

    @override
    async def finish_task(
        self,
        task_id: str,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        check_final(status)
        return await super().finish_task(task_id, token, status, result=result, error=error)

    @override
    async def review_row(
        self, review: NewReview, *, shown: dict[str, Any], changes: dict[str, Any]
    ) -> ReviewRow | None:
        table = DomainTable(review.table_name)
        return await super().review_row(
            review,
            shown=clean(write_domain_columns(table, shown)),
            changes=clean(write_domain_columns(table, changes)),
        )

    @override
    async def perform(self, verb: Verb[R], arguments: Arguments) -> R:
        names = PARAMETERS.get(verb.name, {})
        parameters = {
            f"p_{names.get(name, name)}": _written(value, verb.hints[name])
            for name, value in arguments.items()
        }
        hint = verb.hints["return"]
        answer: R = await self.db.call(
            function_of(verb.name), parameters, lambda answer: read_answer(hint, answer)
        )
        return answer


def function_of(verb: str) -> str:
    """Return the name of the function that does a verb."""
    return f"actp_{FUNCTIONS.get(verb, verb)}"


def functions_in_use() -> tuple[str, ...]:
    """Return the functions of the database that the store calls, by name."""
    as_tables = verbs_of(SupabaseTables)
    of_verbs = {
        function_of(verb)
        for verb in verbs_of(Store)
        if verb not in as_tables and verb != "check_tables"
    }
    return tuple(sorted(of_verbs | {_SETTLE_UNREADABLE}))


def _written(value: object, hint: Any) -> object:  # noqa: ANN401  (a type)
    """Return an argument as JSON."""
    if SECONDS in get_args(hint) and isinstance(value, int | float):
        return duration(value)
    if isinstance(value, datetime):
        return moment_text(value)
    try:
        return msgspec.to_builtins(value)
    except TypeError as error:
        raise StoreError(f"cannot be stored as JSON: {error}") from error
