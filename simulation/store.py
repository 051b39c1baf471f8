"""The store in memory: the embedded store's own SQL, on a database that outlives its daemons.

Its calls run at once instead of in a thread, and its time is the one it is given. Beside that it is
the embedded store: the contract's whole suite of tests runs on it.
"""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio
from typing_extensions import override

from actp_supervise.clock import SystemWallClock
from app.store.errors import StoreError
from app.store.sqlite import SqliteStore
from app.store.sqlite_connection import CleaningConnection, SqliteDatabase, set_up, store_error
from app.store.sqlite_schema import ensure_schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from actp_supervise.clock import WallClock

ResultT = TypeVar("ResultT")

WHERE: Final = Path("memory")


class Memory:
    """A database in memory, which any number of stores may share.

    Args:
        wall_clock: Tells the database's time; the machine's where not given.
    """

    def __init__(self, wall_clock: WallClock | None = None) -> None:
        self.connection = sqlite3.connect(
            ":memory:", factory=_Connection, isolation_level=None, check_same_thread=False
        )
        self.connection.keep_time(SystemWallClock() if wall_clock is None else wall_clock)
        set_up(self.connection)
        ensure_schema(self.connection)


class MemoryDatabase(SqliteDatabase):
    """One store's way to a database in memory, which stays when this is closed."""

    def __init__(self, memory: Memory) -> None:
        self.path = WHERE
        self._memory = memory
        self._is_closed = False

    @override
    async def write(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        db = await self._connection()
        try:
            db.execute("begin immediate")
            result = work(db)
            db.execute("commit")
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._told(error) from error
        finally:
            if db.in_transaction:
                db.execute("rollback")
        return result

    @override
    async def read(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        db = await self._connection()
        try:
            return work(db)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._told(error) from error

    @override
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._is_closed = True

    async def _connection(self) -> sqlite3.Connection:
        await trio.lowlevel.checkpoint()
        if self._is_closed:
            raise StoreError("the store is closed")
        return self._memory.connection

    def _told(self, error: Exception) -> StoreError:
        if isinstance(error, sqlite3.Error):
            return store_error(error, self.path)
        return StoreError(f"SQLite cannot hold this value: {error}")


class MemoryStore(SqliteStore):
    """The store on a database in memory."""

    @property
    @override
    def where(self) -> str:
        return "memory"


@asynccontextmanager
async def open_memory_store(memory: Memory) -> AsyncIterator[MemoryStore]:
    """Open one more store in a database."""
    store = MemoryStore(MemoryDatabase(memory))
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):  # it waits for nobody
            await store.aclose()


class _Connection(CleaningConnection):
    """Asks for the given time wherever a statement asks for SQLite's."""

    def keep_time(self, wall_clock: WallClock) -> None:
        """Take the time of day from this clock; for one statement it stands still."""
        self._wall_clock = wall_clock
        self._now: str | None = None
        # Deterministic is for SQLite what is the same within one statement: it is asked once, and
        # not for each row.
        self.create_function("given_now", 0, self._given_now, deterministic=True)

    def _given_now(self) -> str:
        if self._now is None:
            now = self._wall_clock.now().replace(tzinfo=None)
            self._now = now.isoformat(" ", "milliseconds")
        return self._now

    @override
    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._now = None
        return super().execute(_timed(sql), parameters)

    @override
    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        self._now = None
        return super().executemany(_timed(sql), parameters)


@cache
def _timed(sql: str) -> str:
    return sql.replace("'now'", "given_now()")
