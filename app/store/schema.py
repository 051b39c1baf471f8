"""Are the tables there (R39, R40)? What is missing, and what the operator should do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.store.tables.contract import Obstacle

if TYPE_CHECKING:
    from app.store.protocol import Store

MIGRATION_COMMAND = "python -m app.main --migrate"
"""What makes the tables that are missing."""

AFTER_A_MIGRATION = (
    "; if that was done just now, PostgREST has not read the schema since: reload its schema cache "
    "(in the SQL editor: notify pgrst, 'reload schema'; or restart the project)"
)
"""What is to be said where functions are missing, which a migration has perhaps made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReport:
    """What `check_required_tables` found."""

    where: str
    """Where the tables should be, in words."""
    missing: Mapping[str, tuple[str, ...]]
    """Table -> the columns it lacks, none for a table that is missing itself.

    A function of the database is here as ``name()``; without it no agent can work.
    """

    obstacles: tuple[Obstacle, ...] = ()
    """What would refuse the worker's rows."""

    @property
    def complete(self) -> bool:
        """Is everything there, and takes what is written?"""
        return not self.missing and not self.obstacles

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
        """One line with all that is wrong and the command that helps; None if complete."""
        lacking = self.lacking(self.missing)
        if lacking is not None:
            return (
                f"{self.where}: {lacking}. To make what is missing, run: {MIGRATION_COMMAND}"
                f"{AFTER_A_MIGRATION * self.lacks_functions}"
            )
        if self.obstacles:
            return f"{self.where}: {'; '.join(map(str, self.obstacles))}"
        return None

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
    missing = await store.check_tables()
    obstacles = () if missing else tuple(await store.obstacles())
    return TableReport(where=store.where, missing=missing, obstacles=obstacles)
