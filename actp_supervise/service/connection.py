"""One HTTP/1.1 connection, on private parts of hypercorn, which no other module uses.

hypercorn's own `serve` wraps every error of its start in nested groups, waits for ever for a reader
that has stalled, ends altogether when one connection fails, and under quart-trio neither honours
`Connection: close` nor times idle connections out. So its protocol is used, with these open ends
tied off. ``tests/supervise/test_hypercorn.py`` holds what is relied on here.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

logger = logging.getLogger(__name__)

SEND_TIMEOUT: Final = 10.0
"""Seconds that a client may take over each `SEND_CHUNK` before it is given up."""

SEND_CHUNK: Final = 2**16

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for what has to be done after an answer, shielded."""

LINGER: Final = 2.0
"""Seconds for which what a client still sends is read after the last answer: closed with bytes
unread, the connection would be reset, and the answer be lost on its way (RFC 9112, 9.6)."""

IDLE_TIMEOUT: Final = 15.0
"""Seconds that a connection may stay without a complete request head."""


_GONE: Final = (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError)


class Connections:
    """Talks HTTP on connections, for one application.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIFramework) -> None:
        self._app = ASGIWrapper(app)
        self._config = Config()
        self._config.errorlog = logger
        self._config.include_server_header = False
        self._config.keep_alive_timeout = IDLE_TIMEOUT
        self._context = WorkerContext(None)

    async def talk(self, stream: trio.SocketStream) -> None:
        """Answer what is asked on a connection, until it is over."""
        # hypercorn's annotation knows only its TLS streams.
        connection = _Connection(
            self._app,
            self._config,
            self._context,
            LifespanState({}),
            stream,  # type: ignore[arg-type]
        )
        await connection.run()

    async def finish(self) -> None:
        """Close idle connections now, and each other after the answer that is under way."""
        await self._context.terminated.set()


class _Connection(TCPServer):
    """One connection, whose errors end it and nothing else."""

    async def run(self) -> None:
        """Serve the connection; errors of the connection end it, all others are logged."""
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
        await self._linger()

    async def protocol_send(self, event: Event) -> None:
        """Send bytes, or close the connection."""
        if isinstance(event, RawData):
            async with self.send_lock:
                if not await self._send(event.data):
                    await self.protocol.handle(Closed())
        elif isinstance(event, Closed):
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._end_writing()
                await self.protocol.handle(Closed())
            self._stop_reading()
        elif not self._is_over:
            # quart-trio cancels its request as soon as the last byte is out, which is when this
            # is called to begin the idle time of the connection.
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await super().protocol_send(event)

    async def _end_writing(self) -> None:
        with suppress(*_GONE):
            await self.stream.send_eof()

    async def _linger(self) -> None:
        """Read on until the client closes too; the caller of `talk` closes the stream then."""
        with trio.move_on_after(LINGER), suppress(*_GONE):
            while await self.stream.receive_some(SEND_CHUNK):
                pass

    async def _send(self, data: bytes) -> bool:
        """Send all of `data`; else cut the connection, for half an answer is worth nothing."""
        sent = False
        try:
            for start in range(0, len(data), SEND_CHUNK):
                with trio.fail_after(SEND_TIMEOUT):
                    await self.stream.send_all(data[start : start + SEND_CHUNK])
            sent = True
        except (*_GONE, trio.TooSlowError):  # busy where it is being closed this very moment
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

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

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

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return what came next, or refuse it."""
        if self.their_state is h11.IDLE:
            received, _ = self.trailing_data
            if _LOOSE_LINE.search(received.partition(b"\r\n\r\n")[0]):
                raise h11.RemoteProtocolError("a line is folded, or ends without a CR")
        received, _ = self.trailing_data
        event = super().next_event()
        if isinstance(event, h11.EndOfMessage):
            rest, _ = self.trailing_data
            end = received[: len(received) - len(rest)]
            if event.headers or _LOOSE_LINE.search(end):
                raise h11.RemoteProtocolError("what follows the last chunk is no empty line")
        if isinstance(event, h11.Request):
            fault = _second_meaning(event)
            if fault is not None:
                raise h11.RemoteProtocolError(fault)
        return event


_LOOSE_LINE = re.compile(rb"(?<!\r)\n|\r\n[ \t]")


def _second_meaning(request: h11.Request) -> str | None:
    """Return the header of a request that can be read in two ways, which RFC 9112 refuses."""
    names = {name for name, _ in request.headers}
    if not request.target.startswith(b"/"):
        return "the target is no path"
    if b"transfer-encoding" in names and b"content-length" in names:
        return "the body has two lengths"
    if b"transfer-encoding" in names and request.http_version < b"1.1":
        return "HTTP/1.0 has no chunks"
    return None
