"""What answers at the daemon's address while its code is still being loaded, which takes seconds.

It needs little but Trio, and knows two answers: that the daemon lives, and that it starts.
"""

from __future__ import annotations

import html
import json
from contextlib import asynccontextmanager
from functools import partial
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

LONGEST_HEAD: Final = 16_384
"""Bytes that a request's head may have."""

REQUEST_TIMEOUT: Final = 5.0
"""Seconds that a connection may take, all in all."""

MOST_CONNECTIONS: Final = 100
"""How many are answered at once; others wait."""

_JSON: Final = "application/json"


@asynccontextmanager
async def open_porch(address: Address, settings: Settings) -> AsyncIterator[None]:
    """Answer in the block that the daemon starts.

    Args:
        address: Where.
        settings: How many agents it will have.
    """
    room = trio.CapacityLimiter(MOST_CONNECTIONS)
    answering = partial(_answer, settings, trio.current_time(), room)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answering, address.listeners())
        yield
        nursery.cancel_scope.cancel(reason="the code is loaded")


async def _answer(
    settings: Settings, started: float, room: trio.CapacityLimiter, stream: trio.SocketStream
) -> None:
    async with room, stream:
        with trio.move_on_after(REQUEST_TIMEOUT):
            try:
                head = await _read_head(stream)
                if head is not None:
                    await stream.send_all(_response(head, settings, started))
                    await stream.send_eof()
                    await stream.receive_some()  # unread, it would be reset, and the answer be lost
            except trio.BrokenResourceError:
                pass


async def _read_head(stream: trio.SocketStream) -> bytes | None:
    """Read a request's head; None if there is none, or it is too long."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some()
        head += data
        if not data or len(head) > LONGEST_HEAD:
            return None
    return head


def _response(head: bytes, settings: Settings, started: float) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    status, kind = HTTPStatus.OK, _JSON
    if method not in {b"GET", b"HEAD"} or path not in {b"/", b"/livez", b"/health"}:
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
