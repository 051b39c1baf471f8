"""The database file of the embedded store: opening it, threads, transactions, errors.

One connection writes and one reads, each in a worker thread and by one call at a time, so a read
never waits for another process's write. Other processes may use the same file.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import deque
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

import trio

from actp_supervise import Backoff
from actp_supervise.service import retry
from app.store.errors import (
    NO_THREAD,
    StoreError,
    StoreUnavailable,
    TableMissing,
    WrongVersion,
    is_out_of_threads,
)
from app.store.records import clean, read_record
from app.store.sqlite_schema import ensure_schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    Work = Callable[[sqlite3.Connection], Any]

ResultT = TypeVar("ResultT")
RowT = TypeVar("RowT")
PosArgsT = TypeVarTuple("PosArgsT")

MOST_LOG: Final = 8 * 1024 * 1024
"""Bytes that SQLite's log keeps on the disk once it was written to the database."""

MOST_TOGETHER: Final = 100
"""Writes that share a transaction at most."""

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_UNAVAILABLE = _BUSY | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,  # what a file system becomes that had an error
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_MISSING = re.compile(r"no such (table|column)|has no column named")

# A thread waits no longer than this for a lock, because a thread cannot be cancelled; the rest of
# the wait is Trio's.
_BUSY_TIMEOUT = 0.2


LOCK_BACKOFF: Final = Backoff(initial=0.01, factor=1.0)
"""How long a call waits before it asks for a lock again that another process has."""


class _Locked(StoreUnavailable):
    """Another process has the file locked, which passes soon."""


@dataclass(slots=True, eq=False)
class _Write:
    """What one caller wants written, and what came of it."""

    work: Work
    task: trio.lowlevel.Task
    deadline: float
    """Until when it waits for the lock that another process has, by Trio's time."""
    is_under_way: bool = False
    """Whether a thread is at it, which cannot be called back."""
    is_done: bool = False
    result: Any = None
    error: Exception | None = None

    def do(self, run: Callable[[Work], Any]) -> None:
        """Do it; what it returns or raises is kept."""
        try:
            self.result, self.error = run(self.work), None
        except Exception as error:  # noqa: BLE001  (the caller gets it)
            self.error = error


class SqliteDatabase:
    """An open database file. Calls run in the order in which they were made.

    Those who write at the same time share a transaction, because what costs time is to have the
    disk keep it: one of them leads, and takes with it what the others have handed in by then.
    """

    def __init__(
        self,
        path: Path,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        lock_timeout: float,
    ) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self._lock_timeout = lock_timeout
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)
        self._pending: deque[_Write] = deque()
        self._has_leader = False
        # SQLite keeps its log for as long as anybody has the database open.
        self._files = {file: _identity(file) for file in (path, Path(f"{path}-wal"))}

    async def write(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Run `work` in a transaction that holds the write lock from its first statement.

        Cancelled while it waits for its turn or for another process's lock, nothing has happened;
        once `work` runs, it ends and is committed, and its result is returned. It may share the
        transaction with other work, and be run again if one of them raises an error.
        A transaction that read first and wrote later would fail at once beside another writer,
        whatever the time-out, so there is only this kind.

        Raises:
            StoreUnavailable: If the file is locked for long, or the disk fails or is full.
            TableMissing: If a table or column is not there.
            StoreError: If SQLite refuses for any other reason.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        deadline = trio.current_time() + self._lock_timeout
        mine = _Write(work, trio.lowlevel.current_task(), deadline)
        self._pending.append(mine)
        if self._has_leader:
            await self._wait(mine)
        if not mine.is_done:
            await self._lead(mine)
        if mine.error is not None:
            raise self._in_store_words(mine.error) from mine.error
        return mine.result  # type: ignore[no-any-return]  # what its work returned

    async def _wait(self, mine: _Write) -> None:
        """Wait until it is written, or is the next to lead."""

        def abort(_: object) -> trio.lowlevel.Abort:
            if mine.is_under_way:
                return trio.lowlevel.Abort.FAILED
            self._pending.remove(mine)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _lead(self, mine: _Write) -> None:
        """Write what is pending by now, with one's own; then the next one leads."""
        self._has_leader = True
        try:
            await self._write_pending()
            while not mine.is_done:  # another process has the lock
                await trio.sleep(LOCK_BACKOFF.initial)
                await self._write_pending()
        finally:
            if mine in self._pending:
                self._pending.remove(mine)
            self._has_leader = bool(self._pending)
            if self._pending:
                trio.lowlevel.reschedule(self._pending[0].task)

    async def _write_pending(self) -> None:
        leader = trio.lowlevel.current_task()
        writes = list(islice(self._pending, MOST_TOGETHER))
        for write in writes:
            write.is_under_way = True
        try:
            await _in_thread(self._write, writes, limiter=self._writing)
        finally:
            now = trio.current_time()
            for write in writes:
                write.is_under_way = False
                write.is_done |= write.error is not None and now >= write.deadline
                if write.is_done:
                    self._pending.remove(write)
                    if write.task is not leader:
                        trio.lowlevel.reschedule(write.task)

    def _write(self, writes: list[_Write]) -> None:
        """Write them in one transaction; if that cannot be, each in its own."""

        def together(db: sqlite3.Connection) -> list[Any]:
            return [write.work(db) for write in writes]

        if len(writes) > 1:
            try:
                results = self._transaction(together)
            except Exception as error:  # noqa: BLE001  (it comes again where it belongs)
                if _is_busy(error):
                    for write in writes:
                        write.error = error
                    return
            else:
                for write, write.result in zip(writes, results, strict=True):
                    write.is_done, write.error = True, None
                return
        for write in writes:
            write.do(self._transaction)
            write.is_done = not _is_busy(write.error)

    async def read(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Run `work`, which may only read; it sees all that was committed. Raises as `write`."""
        return await self._run(self._query, work, self._reading)

    async def execute(self, statement: str, values: Mapping[str, Any]) -> int:
        """Run a statement as a transaction; return how many rows it changed. Raises as `write`."""
        return await self.write(lambda db: db.execute(statement, values).rowcount)

    async def rows(
        self, row_type: type[RowT], statement: str, values: Mapping[str, Any]
    ) -> list[RowT]:
        """Return the rows that a statement finds. Raises as `write`, and as `read_record`."""
        return await self.read(
            lambda db: [read_record(row_type, dict(row)) for row in db.execute(statement, values)]
        )

    async def aclose(self) -> None:
        """Close both connections once the calls that run are over. Safe to call twice."""
        for connection, limiter in ((self._reader, self._reading), (self._writer, self._writing)):
            try:
                await _in_thread(connection.close, limiter=limiter)
            except StoreUnavailable:  # there are no threads, and nobody else uses it any more
                connection.close()

    async def _run(
        self,
        run: Callable[[Callable[[sqlite3.Connection], ResultT]], ResultT],
        work: Callable[[sqlite3.Connection], ResultT],
        limiter: trio.CapacityLimiter,
    ) -> ResultT:
        async def attempt() -> ResultT:
            try:
                return await _in_thread(run, work, limiter=limiter)
            except (sqlite3.Error, OverflowError, UnicodeError) as error:
                raise self._in_store_words(error) from error

        return await retry(attempt, _Locked, backoff=LOCK_BACKOFF, within=self._lock_timeout)

    def _in_store_words(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            return store_error(error, self.path)
        if isinstance(error, OverflowError | UnicodeError):
            return StoreError(f"SQLite cannot hold this value: {error}")
        return error

    def _transaction(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        self._check_file()
        db = self._writer
        db.execute("begin immediate")
        try:
            result = work(db)
            db.execute("commit")
            return result
        finally:
            if db.in_transaction:
                db.execute("rollback")

    def _query(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        self._check_file()
        return work(self._reader)

    def _check_file(self) -> None:
        # SQLite would go on writing to a file that was deleted or replaced, and all of it be lost.
        for file, identity in self._files.items():
            if _identity(file) != identity:
                raise StoreUnavailable(
                    f"the database file {file} was removed or replaced while in use: "
                    "put it back, or restart the daemon to use the new one"
                )


async def _in_thread(
    function: Callable[[*PosArgsT], ResultT],
    *args: *PosArgsT,
    limiter: trio.CapacityLimiter | None = None,
) -> ResultT:
    """Call a function in a thread.

    Raises:
        StoreUnavailable: If the system gives none just now.
    """
    try:
        return await trio.to_thread.run_sync(function, *args, limiter=limiter)
    except RuntimeError as error:
        if is_out_of_threads(error):
            raise StoreUnavailable(NO_THREAD) from error
        raise


class OnSqlite:
    """What the verbs of all nouns have in common on SQLite."""

    db: SqliteDatabase


@asynccontextmanager
async def open_database(path: Path, *, lock_timeout: float) -> AsyncIterator[SqliteDatabase]:
    """Open a database file, made private to its user where it is new, with all its tables.

    Raises:
        StoreUnavailable: If another process keeps it locked for `lock_timeout` seconds.
        StoreError: If the path cannot be used; the message is one line for the operator.
    """
    writer, reader = await _connect_patiently(path, lock_timeout)
    database = SqliteDatabase(path, writer, reader, lock_timeout)
    try:
        yield database
    finally:
        # Bounded: no call holds a connection longer than its time-out for a lock.
        with trio.CancelScope(shield=True):
            await database.aclose()


async def _connect_patiently(
    path: Path, lock_timeout: float
) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    async def attempt() -> tuple[sqlite3.Connection, sqlite3.Connection]:
        try:
            return await _in_thread(_connect, path)
        except sqlite3.Error as error:
            raise _opening_error(error, path) from error
        except OSError as error:
            raise StoreError(f"cannot use the database file {path}: {error.strerror}") from error

    return await retry(attempt, _Locked, backoff=LOCK_BACKOFF, within=lock_timeout)


def _connect(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never opened when it exists: closing any descriptor of a file drops SQLite's locks on it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with ExitStack() as opened:
        writer = _connection(path, opened)
        writer.execute("pragma journal_mode = wal")
        # What was acknowledged is on the disk: a power cut loses no note of what was done.
        writer.execute("pragma synchronous = full")
        # Or the log stays as long as it was once, beside a reader that was forgotten.
        writer.execute(f"pragma journal_size_limit = {MOST_LOG}")
        # An error now if the file is read-only, rather than at the first write; to begin is none.
        writer.execute("begin immediate")
        writer.execute("pragma user_version = 0")
        writer.execute("rollback")
        try:
            ensure_schema(writer)
        except WrongVersion as error:
            raise WrongVersion(f"SQLite file {path} {error}") from error
        reader = _connection(path, opened)
        reader.execute("pragma query_only = on")
        opened.pop_all()
    return writer, reader


def _connection(path: Path, opened: ExitStack) -> sqlite3.Connection:
    db = sqlite3.connect(
        path,
        factory=CleaningConnection,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,  # transactions are begun and ended by our own hand
        check_same_thread=False,  # a limiter lets in one thread at a time
    )
    opened.callback(db.close)
    set_up(db)
    return db


def set_up(db: sqlite3.Connection) -> None:
    """Make a connection such as the store's statements want it."""
    db.row_factory = sqlite3.Row
    # SQLite's own `like` and `lower` know upper and lower case in ASCII only.
    db.create_function("casefold", 1, _casefold, deterministic=True)


class CleaningConnection(sqlite3.Connection):
    """Binds texts that both stores can hold, in the one place through which all go."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401
        """Run a statement."""
        return super().execute(sql, _cleaned(parameters))

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """Run a statement once for each of these."""
        return super().executemany(sql, map(_cleaned, parameters))


def _cleaned(parameters: Any) -> Any:  # noqa: ANN401  (by name or in order, as sqlite3 takes them)
    if isinstance(parameters, dict):
        return {
            name: clean(value) if isinstance(value, str) else value
            for name, value in parameters.items()
        }
    return [clean(value) if isinstance(value, str) else value for value in parameters]


def _casefold(text: str | None) -> str | None:
    return None if text is None else str(text).casefold()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _primary_code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    return sqlite3.SQLITE_ERROR if code is None else code & 0xFF


def _is_busy(error: Exception | None) -> bool:
    return isinstance(error, sqlite3.Error) and _primary_code(error) in _BUSY


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """Say a driver's error in the store's own words."""
    code = _primary_code(error)
    if code in _UNAVAILABLE:
        kind = _Locked if code in _BUSY else StoreUnavailable
        return kind(f"the database file {path} cannot be used just now: {error}")
    if code in _DAMAGED:
        return StoreError(
            f"the database file {path} is damaged ({error}): stop the daemon and put a backup in "
            "its place, or move it away to begin with an empty one"
        )
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return StoreError("the store is closed")
    if _MISSING.search(str(error)):
        return TableMissing(f"in {path}: {error}")
    return StoreError(f"SQLite refused ({path}): {error}")


def _opening_error(error: sqlite3.Error, path: Path) -> StoreError:
    code = _primary_code(error)
    # Of a file that was there before these pass, as when somebody frees the disk.
    passes = code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR} and path.is_file()
    if code == sqlite3.SQLITE_NOTADB:
        return StoreError(f"{path} is not a SQLite database: name another file")
    if code in _BUSY | _DAMAGED or passes:
        return store_error(error, path)
    return StoreError(f"cannot open the database file {path}: {error}")
