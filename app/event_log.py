"""What happens in the daemon, as one list for everybody who watches: the page, a terminal, metrics.

The newest events are kept, so that a reader that was away can go on where it left off. Nobody is
waited for: a reader that is too slow is let go, and begins again.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

import trio

from actp_supervise.clock import SystemWallClock, WallClock
from actp_supervise.service import clean_json, shorten
from app.event_kinds import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


KEPT: Final = 1000
"""How many events are kept."""

MOST_TEXT: Final = 500
"""Characters of an event's text."""

MOST_FACT: Final = 2000
"""Characters of any text among its facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """Something that happened."""

    id: int
    """Counts up from 1 since the daemon started."""
    time: datetime
    kind: EventKind
    agent_id: str | None
    task_id: str | None
    text: str
    """What happened, on one line."""
    fields: dict[str, Any]
    """Facts by name."""

    def to_json(self) -> str:
        """Return all of that as JSON."""
        return json.dumps(
            {
                "id": self.id,
                "time": self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "kind": self.kind,
                "agent_id": self.agent_id,
                "task_id": self.task_id,
                "text": self.text,
                **self.fields,
            }
        )


class EventLog:
    """The events of one daemon.

    Args:
        redact: Takes secrets out of what is published.
        wall_clock: Tells the time of day.
        kept: How many events are kept, and how many beside them that are no steps.
    """

    def __init__(
        self,
        *,
        redact: Callable[[str], str] = str,
        wall_clock: WallClock | None = None,
        kept: int = KEPT,
    ) -> None:
        self.start = uuid.uuid4().hex[:8]
        """Tells this daemon's events from those of an earlier start."""
        self.listeners: list[Callable[[LoggedEvent], object]] = []
        """Called at once with each event; they must not raise."""
        self._redact = redact
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self._kept: deque[LoggedEvent] = deque(maxlen=kept)
        self._kept_without_steps: deque[LoggedEvent] = deque(maxlen=kept)
        self._readers: dict[EventReader, None] = {}
        self._last_id = 0
        self._closed = False

    @property
    def readers(self) -> int:
        """How many read just now."""
        return len(self._readers)

    def publish(
        self,
        kind: EventKind,
        text: str,
        *,
        agent_id: str | None = None,
        task_id: str | None = None,
        **fields: Any,  # noqa: ANN401  (JSON)
    ) -> None:
        """Tell everybody that something happened.

        Args:
            kind: Of which kind it is.
            text: What happened, for people; one line.
            agent_id: The agent that it is about.
            task_id: The task that it is about.
            fields: Facts, as values that JSON can hold.
        """
        self._last_id += 1
        event = LoggedEvent(
            id=self._last_id,
            time=self._wall_clock.now(),
            kind=kind,
            agent_id=agent_id,
            task_id=task_id,
            text=shorten(self._redact(text), MOST_TEXT),
            fields=clean_json(fields, lambda fact: self._redact(fact)[:MOST_FACT]),
        )
        self._kept.append(event)
        if not kind.is_step:
            self._kept_without_steps.append(event)
        for listener in self.listeners:
            listener(event)
        for reader in tuple(self._readers):
            if not reader.put(event):
                del self._readers[reader]

    def recent(self, after: int = 0) -> list[LoggedEvent]:
        """Return the events that are kept, the oldest first; of those, what came after an id."""
        return [event for event in self._kept if event.id > after]

    def without_steps(self) -> list[LoggedEvent]:
        """Return what is kept of all but the steps, the oldest first; it goes further back."""
        return list(self._kept_without_steps)

    @contextmanager
    def subscribe(self, *, after: int | None = None, most: int = 256) -> Iterator[EventReader]:
        """Follow the events for the time of the block.

        Args:
            after: The id of the last event that is known already; from now on where not given.
            most: How many events may wait for the reader; then it is let go.
        """
        reader = EventReader(most)
        for event in self.recent(after) if after is not None else ():
            reader.put(event, waits=False)
        if self._closed:
            reader.close()
        self._readers[reader] = None
        try:
            yield reader
        finally:
            self._readers.pop(reader, None)

    def close(self) -> None:
        """Let all readers come to an end, once they have read what is there."""
        self._closed = True
        for reader in self._readers:
            reader.close()


class EventReader:
    """An async iterator of events for one reader; made by `EventLog.subscribe`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[LoggedEvent] = deque()
        self._news = trio.Event()
        self._over = False
        self.too_slow = False
        """Whether it was let go, with events that it has not read."""

    def put(self, event: LoggedEvent, *, waits: bool = True) -> bool:
        """Add an event; False if the reader is too slow, and gets no more."""
        if waits and len(self._waiting) >= self._most:
            self.too_slow = True
            self.close()
            return False
        self._waiting.append(event)
        self._news.set()
        return True

    def waiting(self, most: int) -> list[LoggedEvent]:
        """Take what waits already, at most so many."""
        if self.too_slow:
            return []
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def close(self) -> None:
        """Let it come to an end."""
        self._over = True
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LoggedEvent:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._waiting or self.too_slow:
            if self._over:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        return self._waiting.popleft()
