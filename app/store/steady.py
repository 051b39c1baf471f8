"""The store of a daemon that runs: what was there when it started and is gone is away, not missing.

A table or a function goes for a while when a project is reset or half migrated, or as long as
PostgREST has not read the schema anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from typing_extensions import override

from app.store.protocol import Before, Store, StoreUnavailable, TableMissing

if TYPE_CHECKING:
    from app.store.schema import TableReport
    from app.store.verbs import Arguments, R, Verb


def steady(store: Store, report: TableReport) -> Store:
    """Return the store; of what is missing from it, only what `report` names is `TableMissing`.

    Where a function was missing no agent runs, nor may it be known which others were: there all
    that is missing is `TableMissing`.

    Args:
        store: Where the tables were looked for.
        report: What was found missing then, to which the daemon has adapted itself.
    """
    return store if report.lacks_functions else SteadyStore(store, report)


class SteadyStore(Before):
    """What `steady` returns."""

    def __init__(self, store: Store, report: TableReport) -> None:
        super().__init__(store)
        self._missing = {
            name for table, columns in report.missing.items() for name in (table, *columns)
        }

    @override
    async def perform(self, verb: Verb[R], arguments: Arguments) -> R:
        try:
            return await super().perform(verb, arguments)
        except TableMissing as error:
            if self._missing.intersection(re.findall(r"\w+", str(error))):
                raise
            raise StoreUnavailable(str(error)) from error
