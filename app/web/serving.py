"""HTTP/1.1 over our own listeners: hypercorn's protocol with its open ends tied off.

hypercorn's `serve` is not used: it wraps every error of its start in nested groups, waits for ever
for a reader that has stalled, ends altogether when one connection fails, and under quart-trio
neither honours `Connection: close` nor times idle connections out. WebSockets and HTTP/2 are left
out: nothing here speaks them, and an upgrade that slips past a proxy's checks is a known attack.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import resource
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.typing import ASGIFramework

logger = logging.getLogger(__name__)

STOP_GRACE = 3.0
"""Seconds that answers under way get when the server is asked to stop."""

SEND_TIMEOUT = 10.0
"""Seconds that a client may take over each `SEND_CHUNK` before it is given up."""

SEND_CHUNK = 2**16

CLOSE_TIMEOUT = 1.0
"""Seconds for what has to be done after an answer, shielded."""

IDLE_TIMEOUT = 15.0
"""Seconds that a connection may stay without a complete request head."""

MOST_CONNECTIONS = 1000
"""How many connections there may be at once, where as many files again may be open."""

TELL_EVERY = 60.0
"""Seconds between two lines of the log about connections that are turned away."""

_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 45\r\n"
    b"Retry-After: 15\r\nConnection: close\r\n\r\nToo many connections are open to the daemon.\n"
)


class AddressUnavailableError(OSError):
    """The address to listen on cannot be had. Its text is one line for the operator."""


class StopRequest(Protocol):
    """What tells a server to stop: a child's `stopping`, or a `trio.Event`."""

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
        where = f"cannot listen on {format_address(host, port)}"
        if error.errno == errno.EADDRINUSE:
            hint = (
                "another program has that port, or a daemon that runs or stops still; "
                "set WORKER_HEALTH_PORT to a free one"
            )
        elif error.errno == errno.EACCES:
            hint = "not permitted; set WORKER_HEALTH_PORT to a port above 1023"
        else:
            hint = f"{_reason(error)}; check WORKER_HEALTH_HOST and WORKER_HEALTH_PORT"
        raise AddressUnavailableError(f"{where}: {hint}") from error


def format_address(host: str, port: int) -> str:
    """Return host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def serve(
    app: ASGIFramework,
    listeners: list[trio.SocketListener],
    stop: StopRequest,
    *,
    most: int | None = None,
) -> None:
    """Serve `app` until asked to stop; then answers under way get `STOP_GRACE` seconds.

    Cancelled, it cuts all connections at once. Either way no socket outlives it.

    Args:
        app: What answers.
        listeners: Where.
        stop: Asks to stop.
        most: How many connections there may be at once; so many that half of the files which the
            process may have open are left to the agents, where not given.
    """
    if most is None:
        most = most_connections(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    config = Config()
    config.errorlog = logger
    config.include_server_header = False
    config.keep_alive_timeout = IDLE_TIMEOUT
    context = WorkerContext(None)
    wrapped = ASGIWrapper(app)
    door = _Door(most)

    async def talk(stream: trio.SocketStream) -> None:
        state = LifespanState({})
        # hypercorn's annotation knows only its TLS streams.
        await _Connection(wrapped, config, context, state, stream).run()  # type: ignore[arg-type]

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            enter = partial(door.enter, talk)
            accepting.start_soon(
                partial(trio.serve_listeners, enter, listeners, handler_nursery=connections)
            )
            await stop.wait()
            accepting.cancel_scope.cancel(reason="the server was asked to stop")
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + STOP_GRACE


def most_connections(files: int) -> int:
    """Return how many connections there may be in a process that may have so many files open.

    >>> most_connections(256), most_connections(2**20), most_connections(resource.RLIM_INFINITY)
    (128, 1000, 1000)
    """
    return (
        MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files // 2)
    )


class _Door:
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
        """Have a connection talked to, if there is room for it."""
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
            text = "%d connections to the page are open, more are turned away"
            logger.warning(text, self._most, extra=extra)
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._at_the_door.acquire_on_behalf_of_nowait(stream)
            try:
                with trio.move_on_after(CLOSE_TIMEOUT):
                    await stream.send_all(_TURNED_AWAY)
                    # Unread, it would be reset by closing, and the answer be lost.
                    await stream.receive_some()
            finally:
                self._at_the_door.release_on_behalf_of(stream)
        await trio.aclose_forcefully(stream)


def _reason(error: OSError) -> str:
    # A failed look-up of a name has numbers of its own, which os.strerror does not know.
    return str(error.strerror) if error.strerror else os.strerror(error.errno or 0)


class _Connection(TCPServer):
    """One connection. Whatever happens on it stays on it."""

    @override
    async def run(self) -> None:
        try:
            await self._talk()
        except* OSError:
            pass
        except* Exception as errors:
            for error in errors.exceptions:
                logger.warning("A connection failed", exc_info=error)

    async def _talk(self) -> None:
        self._reading = trio.CancelScope()
        self._is_over = False
        sock = self.stream.socket
        client = parse_socket_addr(sock.family, sock.getpeername())
        server = parse_socket_addr(sock.family, sock.getsockname())
        async with TaskGroup() as task_group:
            self._task_group = task_group
            self.protocol = _Http11(  # type: ignore[assignment]  # in place of a chooser of protocols
                self.app,
                self.config,
                self.context,
                task_group,
                ConnectionState(self.state),
                ssl=False,
                client=client,
                server=server,
                send=self.protocol_send,
            )
            await self.idle_task.restart(task_group, self._idle_timeout)
            with self._reading:
                await self._read_data()
            self._is_over = True
            await self.idle_task.stop()

    @override
    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            async with self.send_lock:
                if not await self._send(event.data):
                    await self.protocol.handle(Closed())
        elif isinstance(event, Closed) or not self._is_over:
            # quart-trio cancels its request as soon as the last byte is out, which is when this
            # is called to close the connection or, unless that is over, to begin its idle time.
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await super().protocol_send(event)
            if isinstance(event, Closed):
                self._stop_reading()

    async def _send(self, data: bytes) -> bool:
        """Send all of `data`; else cut the connection, for half an answer is worth nothing."""
        sent = False
        try:
            for start in range(0, len(data), SEND_CHUNK):
                with trio.fail_after(SEND_TIMEOUT):
                    await self.stream.send_all(data[start : start + SEND_CHUNK])
            sent = True
        except (
            trio.BrokenResourceError,
            trio.BusyResourceError,  # it is being closed this very moment
            trio.ClosedResourceError,
            trio.TooSlowError,
        ):
            pass
        finally:
            if not sent:
                self._stop_reading()
                await trio.aclose_forcefully(self.stream)
        return sent

    def _stop_reading(self) -> None:
        # Reading may wait for its turn behind a request whose answer is never finished now.
        self._reading.cancel(reason="the connection was closed")


class _Http11(H11Protocol):
    """HTTP/1.1 that ignores every offer to speak something else, as RFC 9110 7.8 allows."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  (hypercorn's)
        super().__init__(*args, **options)
        self.connection = _StrictConnection(
            h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size
        )

    @override
    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    @override
    async def _create_stream(self, request: h11.Request) -> None:
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        await super()._create_stream(
            h11.Request(
                method=request.method,
                target=request.target,
                headers=headers,
                http_version=request.http_version,
            )
        )


class _StrictConnection(h11.Connection):
    """Refuses what h11 takes and a proxy before us may read otherwise (request smuggling)."""

    @override
    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.IDLE:
            received, _ = self.trailing_data
            if _LOOSE_LINE.search(received.partition(b"\r\n\r\n")[0]):
                raise h11.RemoteProtocolError("a line is folded, or ends without a CR")
        event = super().next_event()
        if isinstance(event, h11.Request):
            fault = _second_meaning(event)
            if fault is not None:
                raise h11.RemoteProtocolError(fault)
        return event


_LOOSE_LINE = re.compile(rb"(?<!\r)\n|\r\n[ \t]")


def _second_meaning(request: h11.Request) -> str | None:
    """Say what of a request can be read in two ways; RFC 9112 3.2 and 6.1 have it refused."""
    names = {name for name, _ in request.headers}
    if not request.target.startswith(b"/"):
        return "the target is no path"
    if b"transfer-encoding" in names and b"content-length" in names:
        return "the body has two lengths"
    if b"transfer-encoding" in names and request.http_version < b"1.1":
        return "HTTP/1.0 has no chunks"
    return None
