"""HTTP/1.1 on one Trio stream: a request in, an answer out, until either side hangs up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MAX_BODY: Final = 32 * 1024 * 1024
"""Bytes of a request body, as the real API has it."""

_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    parsed: Any = None
    """What the body is as JSON, where somebody has read it already."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; of several parts each is sent by itself."""

    status: int
    parts: Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)
    broken_off: bool = False
    """Hang up in the middle of the body."""


async def serve_connection(
    stream: trio.abc.Stream, handle: Callable[[Request], Awaitable[Response | None]]
) -> None:
    """Answer the requests of one connection, one after another, and close it in the end.

    Args:
        stream: The connection.
        handle: Gives the answer to a request; None is to hang up without one.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_CHUNK)
    async with stream:
        try:
            await _answer_all(connection, stream, handle)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client went away


async def _answer_all(
    connection: h11.Connection,
    stream: trio.abc.Stream,
    handle: Callable[[Request], Awaitable[Response | None]],
) -> None:
    while True:
        try:
            request = await _read_request(connection, stream)
        except h11.RemoteProtocolError as error:
            if connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                problem = Response(error.error_status_hint, [str(error).encode()])
                await _send(connection, stream, problem)
            return
        response = None if request is None else await handle(request)
        if response is None:
            return
        await _send(connection, stream, response)
        if connection.states != {h11.SERVER: h11.DONE, h11.CLIENT: h11.DONE}:
            return
        connection.start_next_cycle()


async def _read_request(connection: h11.Connection, stream: trio.abc.Stream) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(connection.send(go_on) or b"")
            connection.receive_data(bytes(await stream.receive_some(_CHUNK)))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), headers, bytes(body))
        else:  # the client has closed
            return None


async def _send(connection: h11.Connection, stream: trio.abc.Stream, response: Response) -> None:
    headers = dict(response.headers)
    if len(response.parts) == 1:
        headers["content-length"] = str(len(response.parts[0]))
    head = h11.Response(status_code=response.status, headers=list(headers.items()))
    await stream.send_all(connection.send(head) or b"")
    for part in response.parts:
        data = part[: len(part) // 2] if response.broken_off else part
        await stream.send_all(connection.send(h11.Data(data=data)) or b"")
        if response.broken_off:
            return
    await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
