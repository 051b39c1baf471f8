"""The store of a daemon that runs: what was there when it started and is gone is away, not missing.

A table or a function goes for a while when a project is reset or half migrated, or as long as
PostgREST has not read the schema anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from app.store.protocol import Store, StoreUnavailable, TableMissing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.store.schema import TableReport


def steady(store: Store, report: TableReport) -> Store:
    """Return the store; of what is missing from it, only what `report` names is `TableMissing`.

    Where a function was missing no agent runs, nor may it be known which others were: there all
    that is missing is `TableMissing`.

    Args:
        store: Where the tables were looked for.
        report: What was found missing then, to which the daemon has adapted itself.
    """
    if report.lacks_functions:
        return store
    return cast("Store", SteadyStore(store, report))


class SteadyStore:
    """What `steady` returns: every verb of the store."""

    def __init__(self, store: Store, report: TableReport) -> None:
        self._store = store
        self._missing = {
            name for table, columns in report.missing.items() for name in (table, *columns)
        }

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (a verb of the store)
        verb = getattr(self._store, name)
        return self._patient(verb) if callable(verb) else verb

    def _patient(self, verb: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: object, **options: object) -> Any:  # noqa: ANN401  (its answer)
            try:
                return await verb(*args, **options)
            except TableMissing as error:
                if self._missing.intersection(re.findall(r"\w+", str(error))):
                    raise
                raise StoreUnavailable(str(error)) from error

        return call
