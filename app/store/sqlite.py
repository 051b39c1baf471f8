"""The embedded store: one SQLite file, which several processes may share.

Not for a network or a cloud-synced folder: SQLite's locks do not hold there.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from typing_extensions import override

from app.store.approvals.sqlite import SqliteApprovals
from app.store.journal.sqlite import SqliteJournal
from app.store.ledger.sqlite import SqliteLedger
from app.store.memory.sqlite import SqliteMemory
from app.store.protocol import Obstacle, Store
from app.store.queue.sqlite import SqliteQueue
from app.store.records import read_moment
from app.store.registry.sqlite import SqliteRegistry
from app.store.reviews.sqlite import SqliteReviews
from app.store.sqlite_connection import SqliteDatabase, open_database
from app.store.sqlite_schema import missing_tables, sql
from app.store.tables.sqlite import SqliteTables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path


@asynccontextmanager
async def open_sqlite_store(path: Path, *, lock_timeout: float = 5.0) -> AsyncIterator[SqliteStore]:
    """Open the store in a file, which is made with its folder (mode 0700) and tables if need be.

    Args:
        path: The database file; new ones are readable by their user only.
        lock_timeout: How many seconds a call waits for other processes' writes.

    Raises:
        StoreUnavailable: If the file stays locked.
        StoreError: If the path cannot be used: one line that says why.
    """
    async with open_database(path, lock_timeout=lock_timeout) as database:
        yield SqliteStore(database)


class SqliteStore(
    SqliteRegistry,
    SqliteQueue,
    SqliteJournal,
    SqliteLedger,
    SqliteMemory,
    SqliteApprovals,
    SqliteReviews,
    SqliteTables,
    Store,
):
    """The store on SQLite. For use from Trio."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.db = database

    @property
    @override
    def where(self) -> str:
        return f"SQLite file {self.db.path}"

    @override
    async def aclose(self) -> None:
        await self.db.aclose()

    @override
    async def check_tables(self) -> dict[str, tuple[str, ...]]:
        return await self.db.read(missing_tables)

    @override
    async def obstacles(self) -> list[Obstacle]:
        return []  # its tables are made by it

    @override
    async def ping(self) -> datetime:
        return await self.db.read(lambda db: read_moment(db.execute(_PING).fetchone()[0]))


_PING = sql("select {now}")
