"""Are the tables there (R39, R40)? What is missing, and what the operator should do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.store.protocol import Store

MIGRATION_COMMAND = "python -m app.main --migrate"
"""What makes the tables that are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """What `check_required_tables` found."""

    where: str
    """Where the tables should be, in words."""
    missing: Mapping[str, tuple[str, ...]]
    """Table -> the columns it lacks, none for a table that is missing itself.

    A function of the database is here as ``name()``; without it no agent can work.
    """

    @property
    def complete(self) -> bool:
        """Is everything there?"""
        return not self.missing

    @property
    def lacks_functions(self) -> bool:
        """Is a function of the database missing?"""
        return any(name.endswith("()") for name in self.missing)

    def lacking(self, tables: Iterable[str]) -> str | None:
        """Say what of `tables` is missing, and every missing function; None if nothing is.

        The caller decides by it whether an agent that needs these tables can start.
        """
        functions = [name for name in self.missing if name.endswith("()")]
        wanted = dict.fromkeys([*tables, *functions])
        found = [self._in_words(name) for name in wanted if name in self.missing]
        return "; ".join(found) or None

    @property
    def warning(self) -> str | None:
        """One line with all that is missing and the command that makes it; None if complete."""
        lacking = self.lacking(self.missing)
        if lacking is None:
            return None
        return f"{self.where}: {lacking}. To make what is missing, run: {MIGRATION_COMMAND}"

    def _in_words(self, table: str) -> str:
        columns = self.missing[table]
        if table.endswith("()"):
            return f"function {table} is missing"
        if not columns:
            return f"table {table} is missing"
        return f"table {table} lacks column{'s' * (len(columns) > 1)} {', '.join(columns)}"


async def check_required_tables(store: Store) -> TableReport:
    """Look for the tables of R39 and the store's own ones, and the columns that are used of them.

    Raises:
        StoreUnavailable: If the store cannot be asked just now.
    """
    return TableReport(where=store.where, missing=await store.check_tables())
