"""What has to be written down and must not be lost while the store is away.

The one who has something to record hands it over and goes on; it is written in order, and tried
again until the store is back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from app.store.protocol import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Hashable

logger = logging.getLogger(__name__)

RETRY_AFTER: Final = (0.1, 0.5, 2.0, 5.0, 10.0)
"""Seconds between two tries while the store is away; the last one repeats."""

MOST_WAITING: Final = 10_000
"""How many records may wait; then the oldest are given up, so that memory stays bounded."""


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    what: str
    write: Callable[[], Awaitable[object]]

    @property
    def kind(self) -> str:
        """What it is, without the id of a run, of which each has another."""
        return re.sub(" [0-9a-f]{32}$", "", self.what)


class RecordKeeper:
    """An ordered list of things to write, and the task that writes them.

    Args:
        on_store: Told why the store is away, once; and None when it is back.
    """

    def __init__(self, on_store: Callable[[str | None], object] = lambda _: None) -> None:
        self._on_store = on_store
        self._waiting: dict[Hashable, _Record] = {}  # in the order in which they are written
        self._news = trio.Event()
        self._written = trio.Event()
        self.store_error: str | None = None
        """Why the store cannot be reached; None while it can."""
        self._given_up: dict[str, str] = {}

    @property
    def waiting(self) -> int:
        """How many records are not written yet."""
        return len(self._waiting)

    @property
    def given_up(self) -> list[str]:
        """What kinds of records the store refuses, and why; until it takes one of the kind."""
        return [f"not recorded: {kind}: {why}" for kind, why in self._given_up.items()]

    def put(
        self, what: str, write: Callable[[], Awaitable[object]], *, key: Hashable | None = None
    ) -> None:
        """Have something written as soon as may be.

        Args:
            what: What it is, for the log.
            write: Writes it; called again until it does not raise `StoreUnavailable`.
            key: A record that still waits under the same key is not needed any more.
        """
        record = _Record(what, write)
        if key is None:
            key = record
        self._waiting.pop(key, None)
        if len(self._waiting) >= MOST_WAITING:
            oldest = self._waiting.pop(next(iter(self._waiting)))
            logger.error(
                "Not recorded, as too many records wait for the store: %s",
                oldest.what,
                extra={"action": "record_given_up"},
            )
        self._waiting[key] = record
        self._news.set()

    async def run(self) -> None:
        """Write what is handed over, for ever."""
        while True:
            while self._waiting:
                key, record = next(iter(self._waiting.items()))
                await self._write(record)
                if self._waiting.get(key) is record:  # and not one that came in its place
                    del self._waiting[key]
            self._written.set()
            self._news, self._written = trio.Event(), trio.Event()
            await self._news.wait()

    async def flush(self) -> None:
        """Wait until nothing waits to be written; for ever, if the store stays away."""
        while self._waiting:
            await self._written.wait()

    def note_store(self, error: str | None) -> None:
        """Note that the store could just be reached, or why not.

        Args:
            error: Why not; None if it could.
        """
        if error is not None and self.store_error is None:
            logger.warning("The store is away: %s", error, extra={"action": "store_away"})
            self._on_store(error)
        elif error is None and self.store_error is not None:
            logger.info("The store is back", extra={"action": "store_back"})
            self._on_store(None)
        self.store_error = error

    async def _write(self, record: _Record) -> None:
        tries = 0
        while True:
            try:
                await record.write()
            except StoreUnavailable as error:
                self.note_store(str(error))
                await trio.sleep(RETRY_AFTER[min(tries, len(RETRY_AFTER) - 1)])
                tries += 1
            except StoreError as error:  # trying again would not help, and others wait behind it
                extra = {"action": "record_given_up"}
                logger.error("Not recorded: %s: %s", record.what, error, extra=extra)
                self._given_up[record.kind] = str(error)
                return
            except Exception as error:
                extra = {"action": "record_given_up"}
                logger.exception("Not recorded: %s", record.what, extra=extra)
                self._given_up[record.kind] = f"{type(error).__name__}, see the log"
                return
            else:
                self.note_store(None)
                self._given_up.pop(record.kind, None)
                return
