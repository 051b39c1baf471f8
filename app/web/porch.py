"""What answers at the daemon's address while its code is still being loaded, which takes seconds.

It needs little but Trio, and knows two answers: that the daemon lives, and that it starts. Whatever
else is asked for waits for the server of the daemon itself, which gets the connection with all that
was sent on it.
"""

from __future__ import annotations

import html
import json
import socket
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import trio

from app.facts import to_json
from app.status import Alive, Health, HealthState
from app.web.problem_details import ProblemDetails

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.settings import Settings
    from app.web.listening import Address

WHY: Final = "the daemon is starting: its code is being loaded"

LONGEST_LINE: Final = 8_192
"""Bytes that a request's first line may have."""

REQUEST_TIMEOUT: Final = 5.0
"""Seconds that a connection may take, until it is answered or waits."""

LOOK_INTERVAL: Final = 0.02
"""Seconds between two looks whether the rest of a first line has come."""

MOST_CONNECTIONS: Final = 100
"""How many are answered at once, and how many wait for the daemon."""

OURS: Final = frozenset({b"/", b"/livez", b"/health"})
"""The paths that are answered here."""

_JSON: Final = "application/json"


@asynccontextmanager
async def open_porch(address: Address, settings: Settings) -> AsyncIterator[None]:
    """Answer in the block that the daemon starts.

    Args:
        address: Where.
        settings: How many agents it will have.
    """
    porch = _Porch(address, settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, porch.enter, address.listeners())
        yield
        nursery.cancel_scope.cancel(reason="the code is loaded")


class _Porch:
    def __init__(self, address: Address, settings: Settings) -> None:
        self._address = address
        self._settings = settings
        self._started = trio.current_time()
        self._room = trio.CapacityLimiter(MOST_CONNECTIONS)

    async def enter(self, stream: trio.SocketStream) -> None:
        """Answer a connection, or leave it to the next server."""
        line: bytes | None = None
        is_left = False
        try:
            async with self._room:
                with trio.move_on_after(REQUEST_TIMEOUT) as in_time:
                    try:
                        line = await _peek_line(stream)
                    except trio.Cancelled:  # nothing is read yet, so the daemon can answer it
                        is_left = not in_time.cancel_called
                        raise
                    is_left = line is not None and self._is_for_the_next(line)
                    if line is not None and not is_left:
                        await self._answer(stream, line)
        except trio.BrokenResourceError:
            pass
        finally:
            if is_left:  # a copy, for Trio closes what it gave us
                self._address.left.append(trio.SocketStream(stream.socket.dup()))

    def _is_for_the_next(self, line: bytes) -> bool:
        method, path = _request_of(line)
        ours = method in {b"GET", b"HEAD"} and path in OURS
        return not ours and len(self._address.left) < MOST_CONNECTIONS

    async def _answer(self, stream: trio.SocketStream, line: bytes) -> None:
        await stream.send_all(_response(*_request_of(line), self._settings, self._started))
        await stream.send_eof()
        # What has come and is not read would reset the connection, and the answer be lost.
        while await stream.receive_some():
            pass


def _request_of(line: bytes) -> tuple[bytes, bytes]:
    """Return method and path."""
    method, _, rest = line.partition(b" ")
    return method, rest.partition(b" ")[0].partition(b"?")[0]


async def _peek_line(stream: trio.SocketStream) -> bytes | None:
    """Return a request's first line and read nothing; None if there is none, or it is too long."""
    while True:
        seen = await stream.socket.recv(LONGEST_LINE, socket.MSG_PEEK)
        if b"\n" in seen:
            return seen.partition(b"\n")[0]
        if not seen or len(seen) == LONGEST_LINE:
            return None
        await trio.sleep(LOOK_INTERVAL)


def _response(method: bytes, path: bytes, settings: Settings, started: float) -> bytes:
    status, kind = HTTPStatus.OK, _JSON
    if path not in OURS or method not in {b"GET", b"HEAD"}:
        status, kind = HTTPStatus.SERVICE_UNAVAILABLE, "application/problem+json"
        detail = f"The daemon is not up yet: {WHY}"
        problem = ProblemDetails(title=status.phrase, status=status.value, detail=detail)
        body = json.dumps(to_json(problem))
    elif path == b"/livez":
        body = json.dumps(to_json(Alive()))
    elif path == b"/health":
        health = Health(
            status=HealthState.STARTING,
            agents=sum(agent.enabled for agent in settings.agents),
            uptime=trio.current_time() - started,
            reasons=(WHY,),
        )
        body = json.dumps(to_json(health))
    else:
        status, kind = HTTPStatus.SERVICE_UNAVAILABLE, "text/html; charset=utf-8"
        body = f"<!doctype html><title>Starting</title><p>{html.escape(WHY.capitalize())}.</p>"
    content = body.encode()
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *(["Retry-After: 1", "Refresh: 1"] if status != HTTPStatus.OK else []),
        "Connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == b"HEAD" else content)
