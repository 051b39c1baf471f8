"""An outbox: records that must not be lost while the place where they are kept is away.

The caller hands a record over and goes on. Records are written in order, and each is tried again
until the place is back.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.policies import Backoff

from .retry import retry

if TYPE_CHECKING:
    from collections.abc import Hashable

logger = logging.getLogger(__name__)

OUTBOX_BACKOFF: Final = Backoff(initial=0.1, factor=3.0, maximum=10.0)
"""How long an outbox waits between two tries while the place is away."""

MOST_WAITING: Final = 10_000
"""How many records may wait; then the oldest are given up, so that memory stays bounded."""


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    what: str
    write: Callable[[], Awaitable[object]]
    kind: str


class Outbox:
    """An ordered list of things to write, and the task that writes them.

    Args:
        away: The errors that say that the place cannot be reached just now.
        refused: The errors that say that it will never take the record; all other errors are bugs.
        place: What it is called in the log.
        on_change: Told why the place is away, once; and None when it is back.
        most: How many records may wait; then the oldest are given up.
    """

    def __init__(
        self,
        *,
        away: type[Exception] | tuple[type[Exception], ...] = OSError,
        refused: type[Exception] | tuple[type[Exception], ...] = (),
        place: str = "store",
        on_change: Callable[[str | None], object] = lambda _: None,
        most: int = MOST_WAITING,
    ) -> None:
        self._away = away
        self._refused = refused
        self._place = place
        self._on_change = on_change
        self._most = most
        self._waiting: dict[Hashable, _Record] = {}  # in the order in which they are written
        self._wakeup = trio.Event()
        self._written = trio.Event()
        self.away_because: str | None = None
        """Why the place cannot be reached; None while it can."""
        self._given_up: dict[str, str] = {}

    @property
    def waiting(self) -> int:
        """How many records are not written yet."""
        return len(self._waiting)

    @property
    def given_up(self) -> list[str]:
        """What kinds of records are refused, and why; until one of the kind is written."""
        return [f"not recorded: {kind}: {why}" for kind, why in self._given_up.items()]

    def put(
        self,
        what: str,
        write: Callable[[], Awaitable[object]],
        *,
        key: Hashable | None = None,
        kind: str | None = None,
    ) -> None:
        """Take a record, to be written as soon as may be.

        Args:
            what: What it is, for the log.
            write: Writes it; called again until it does not raise that the place is away.
            key: A record that still waits under the same key is not needed any more.
            kind: What it is called in `given_up`, together with its like; `what` where not given.
        """
        record = _Record(what, write, what if kind is None else kind)
        if key is None:
            key = record
        self._waiting.pop(key, None)
        if len(self._waiting) >= self._most:
            oldest = self._waiting.pop(next(iter(self._waiting)))
            logger.error(
                "Not recorded, as too many records wait for the %s: %s",
                self._place,
                oldest.what,
                extra={"action": "record_given_up"},
            )
        self._waiting[key] = record
        self._wakeup.set()

    async def run(self) -> None:
        """Write what was put in, until cancelled. What waits then is there for the next run."""
        while True:
            while self._waiting:
                key, record = next(iter(self._waiting.items()))
                await self._write(record)
                if self._waiting.get(key) is record:  # and not one that came in its place
                    del self._waiting[key]
            self._written.set()
            self._wakeup, self._written = trio.Event(), trio.Event()
            await self._wakeup.wait()

    async def flush(self) -> None:
        """Wait until nothing waits to be written; for ever, if the place stays away."""
        while self._waiting:
            await self._written.wait()

    def note(self, error: str | None) -> None:
        """Record whether the place could be reached just now.

        Args:
            error: Why not; None if it could.
        """
        was, self.away_because = self.away_because, error
        if error is not None and was is None:
            extra = {"action": f"{self._place}_away"}
            logger.warning("The %s is away: %s", self._place, error, extra=extra)
            self._on_change(error)
        elif error is None and was is not None:
            logger.info("The %s is back", self._place, extra={"action": f"{self._place}_back"})
            self._on_change(None)

    async def _write(self, record: _Record) -> None:
        extra = {"action": "record_given_up"}
        try:
            await retry(record.write, self._away, backoff=OUTBOX_BACKOFF, pause=self._wait)
        except self._refused as error:  # trying again would not help, and others wait behind it
            logger.error("Not recorded: %s: %s", record.what, error, extra=extra)
            self._given_up[record.kind] = str(error)
        except Exception as error:
            logger.exception("Not recorded: %s", record.what, extra=extra)
            self._given_up[record.kind] = f"{type(error).__name__}, see the log"
        else:
            self.note(None)
            self._given_up.pop(record.kind, None)

    async def _wait(self, error: Exception, seconds: float) -> None:
        self.note(str(error))
        await trio.sleep(seconds)
