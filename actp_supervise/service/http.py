"""HTTP/1.1 over our own listeners, for an ASGI application. It needs the extra ``[http]``.

WebSockets and HTTP/2 are left out: an upgrade that slips past a proxy's checks is a known attack.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import resource
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from actp_supervise.child import current_child

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from hypercorn.typing import ASGIFramework

    from .connection import Connections

logger = logging.getLogger(__name__)

STOP_GRACE: Final = 3.0
"""Seconds that answers under way get when the server is asked to stop."""

MOST_CONNECTIONS: Final = 1000
"""How many connections there may be at once, where as many files again may be open."""

TELL_EVERY: Final = 60.0
"""Seconds between two lines of the log about connections that are turned away."""

REFUSAL_TIMEOUT: Final = 1.0
"""Seconds for telling a client that it is turned away."""

_TURNED_AWAY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 31\r\n"
    b"Retry-After: 15\r\nConnection: close\r\n\r\nToo many connections are open.\n"
)


class AddressUnavailableError(OSError):
    """The address to listen on cannot be had. Its text is one line for the operator.

    Args:
        text: That line.
        number: The `errno` of the system's error.
        reason: The part of the text that says why.
    """

    def __init__(self, text: str, *, number: int | None, reason: str) -> None:
        super().__init__(text)
        self.errno = number
        self.reason = reason


class StopRequest(Protocol):
    """A request to stop that can be waited for: a child's `stopping`, or a `trio.Event`."""

    async def wait(self) -> None:
        """Return when it is time to stop."""


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on a host and port; port 0 takes a free one.

    Raises:
        AddressUnavailableError: If that is not possible.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reason = _reason(error)
        text = f"cannot listen on {format_address(host, port)}: {reason}"
        raise AddressUnavailableError(text, number=error.errno, reason=reason) from error


def format_address(host: str, port: int) -> str:
    """Return host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on can be reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def serve(
    app: ASGIFramework,
    listeners: list[trio.SocketListener],
    stop: StopRequest,
    *,
    most: int | None = None,
    accepted: Iterable[trio.SocketStream] = (),
) -> None:
    """Serve `app` until asked to stop; then answers under way get `STOP_GRACE` seconds.

    Cancelled, it cuts all connections at once. Either way no socket outlives it.

    Args:
        app: What answers.
        listeners: Where.
        stop: Asks to stop.
        most: How many connections there may be at once; where not given, at most as many as leave
            half of the files that the process may open to what else it does.
        accepted: Connections that somebody accepted before, and read nothing of.
    """
    if most is None:
        most = most_connections(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    talking = _connections(app)
    door = _ConnectionLimiter(most)

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            enter = partial(door.enter, talking.talk)
            for stream in accepted:
                connections.start_soon(enter, stream)
            accepting.start_soon(
                partial(trio.serve_listeners, enter, listeners, handler_nursery=connections)
            )
            await stop.wait()
            accepting.cancel_scope.cancel(reason="the server was asked to stop")
        await talking.finish()
        connections.cancel_scope.deadline = trio.current_time() + STOP_GRACE


def _connections(app: ASGIFramework) -> Connections:
    try:
        from .connection import Connections
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"serving HTTP needs {error.name}; install it with: pip install 'actp-supervise[http]'",
            name=error.name,
        ) from error
    return Connections(app)


async def serve_app(
    app: ASGIFramework,
    host: str,
    port: int,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` as a child of the tree, until asked to stop.

    Args:
        app: What answers.
        host: Of this machine; others than 127.0.0.1 and ::1 let other machines in.
        port: 0 takes a free one.
        task_status: `started` gets the address, as ``http://127.0.0.1:8080``.

    Raises:
        AddressUnavailableError: If the address cannot be had.
    """
    stopping = current_child().stopping
    listeners = await open_listeners(host, port)
    bound = listeners[0].socket.getsockname()[1]
    task_status.started(f"http://{format_address(host, bound)}")
    await serve(app, listeners, stopping)


async def livez(scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401  (ASGI has no better)
    """Answer 200 at ``/livez``, and 404 elsewhere: an ASGI application."""
    found = scope["path"] == "/livez"
    body = b"alive\n" if found else b"not found\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    status = 200 if found else 404
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def most_connections(files: int) -> int:
    """Return how many connections a process may have that may have that many files open.

    >>> most_connections(256), most_connections(2**20), most_connections(resource.RLIM_INFINITY)
    (128, 1000, 1000)
    """
    return (
        MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files // 2)
    )


class _ConnectionLimiter:
    """Lets in as many connections as there may be, and turns the others away.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = trio.CapacityLimiter(most)
        self._at_the_door = trio.CapacityLimiter(max(1, most // 4))
        self._told_at = -math.inf

    async def enter(
        self, talk: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream
    ) -> None:
        """Talk on a connection, if there is room for it."""
        try:
            self._inside.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            await self._turn_away(stream)
            return
        try:
            await talk(stream)
        finally:
            self._inside.release_on_behalf_of(stream)

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        if trio.current_time() >= self._told_at + TELL_EVERY:
            self._told_at = trio.current_time()
            extra = {"action": "connections_refused"}
            text = "%d connections are open, more are turned away"
            logger.warning(text, self._most, extra=extra)
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._at_the_door.acquire_on_behalf_of_nowait(stream)
            try:
                with trio.move_on_after(REFUSAL_TIMEOUT):
                    await stream.send_all(_TURNED_AWAY)
                    # Closing with unread data would reset the connection, and the answer would be
                    # lost.
                    await stream.receive_some()
            finally:
                self._at_the_door.release_on_behalf_of(stream)
        await trio.aclose_forcefully(stream)


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program has that port, or this one runs or stops still"
    if error.errno == errno.EACCES:
        return "not permitted, as ports below 1024 may be"
    # A failed look-up of a name has numbers of its own, which os.strerror does not know.
    return str(error.strerror) if error.strerror else os.strerror(error.errno or 0)
