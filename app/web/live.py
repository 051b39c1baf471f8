"""`GET /events`: what happens in the daemon, as server-sent events (the HTML standard's 9.2)."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import trio
from quart import Response, request

from app.web.inputs import EventFilter, parse_query
from app.web.problems import Problem
from app.web.routes import get

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from app.event_log import EventLog, EventReader, LoggedEvent

RETRY_AFTER: Final = 2000
"""Milliseconds after which a reader that lost its connection comes back."""

MOST_AT_ONCE: Final = 32
"""Events written in one go, which costs little more than writing one."""


class Live:
    """What answers at `/events`.

    Args:
        events: The daemon's events.
        ping_every: Seconds of silence after which a comment shows that the connection lives.
        most_readers: How many may read at once.
    """

    def __init__(
        self, events: EventLog, *, ping_every: float = 15.0, most_readers: int = 500
    ) -> None:
        self._events = events
        self._ping_every = ping_every
        self._most_readers = most_readers

    @get(
        "/events",
        "What happens, as server-sent events",
        "text/event-stream",
        id="events",
        details="Begins with now, unless `recent` or `Last-Event-ID` says otherwise.",
        problems=(422, 503),
        query=EventFilter,
        headers=("Last-Event-ID",),
    )
    async def _stream(self) -> Response:
        wanted = parse_query(EventFilter, request.args)
        if self._events.readers >= self._most_readers:
            raise Problem(503, f"{self._most_readers} read the events already.")
        after, gap = self._where_to_begin(request.headers.get("Last-Event-ID"), wanted)
        body = self._body(wanted, after, gap=gap) if request.method == "GET" else b""
        response = Response(body, content_type="text/event-stream; charset=utf-8")
        response.timeout = None  # it lasts as long as its reader
        response.headers["X-Accel-Buffering"] = "no"  # for a reverse proxy
        return response

    def _where_to_begin(self, last_id: str | None, wanted: EventFilter) -> tuple[int | None, bool]:
        """Return the id after which to begin, None for now, and whether events were lost."""
        kept = self._events.recent()
        if last_id is None:
            if wanted.recent == 0:
                return None, False
            shown = [event for event in kept if wanted.matches(event)][-wanted.recent :]
            return (shown[0].id - 1 if shown else None), False
        start, _, number = last_id.partition("-")
        if start != self._events.start or not number.isdecimal() or len(number) > 15:
            return 0, True
        after = int(number)
        return after, bool(kept) and kept[0].id > after + 1

    async def _body(
        self, wanted: EventFilter, after: int | None, *, gap: bool
    ) -> AsyncIterator[bytes]:
        with self._events.subscribe(after=after) as reader:
            async with aclosing(self._pieces(reader, wanted, gap=gap)) as pieces:
                async for piece in pieces:
                    yield piece  # noqa: ASYNC119  (Quart closes what it has iterated over)

    async def _pieces(
        self, reader: EventReader, wanted: EventFilter, *, gap: bool
    ) -> AsyncGenerator[bytes, None]:
        yield f"retry: {RETRY_AFTER}\n\n".encode()
        if gap:
            yield b'event: gap\ndata: {"text": "some events are not kept any more"}\n\n'
        while True:
            event: LoggedEvent | None = None
            with trio.move_on_after(self._ping_every) as patience:
                event = await anext(reader, None)
            if patience.cancelled_caught:
                yield b": ping\n\n"
            elif event is None:
                break
            else:
                events = [event, *reader.waiting(MOST_AT_ONCE - 1)]
                if written := b"".join(map(self._written, filter(wanted.matches, events))):
                    yield written
        if not reader.too_slow:
            yield b'event: bye\ndata: {"text": "the daemon stops"}\n\n'

    def _written(self, event: LoggedEvent) -> bytes:
        lines = (
            f"id: {self._events.start}-{event.id}",
            f"event: {event.kind}",
            f"data: {event.to_json()}",
        )
        return ("\n".join(lines) + "\n\n").encode()
