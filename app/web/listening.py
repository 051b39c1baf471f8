"""Where the daemon's page is served: an address that is had once, and kept while servers change."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Self

import trio

from actp_supervise.service import AddressUnavailableError, open_listeners

if TYPE_CHECKING:
    from types import TracebackType


class Address:
    """A host and port that this process listens on, until the end of its block.

    A server gets listeners of its own by `listeners`, and closes those. What connects while none
    serves is not refused: it waits for the next one.

    Args:
        listeners: What listens.
    """

    def __init__(self, listeners: list[trio.SocketListener]) -> None:
        self._listeners = listeners
        self.left: list[trio.SocketStream] = []
        """Connections that one server has accepted and left to the next, nothing read of them."""
        self.port: int = listeners[0].socket.getsockname()[1]

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        """Listen on a host and port; port 0 takes a free one.

        Raises:
            AddressUnavailableError: If that is not possible, with the variable to change.
        """
        try:
            return cls(await open_listeners(host, port))
        except AddressUnavailableError as error:
            hint = {
                errno.EADDRINUSE: "set WORKER_HEALTH_PORT to a free one",
                errno.EACCES: "set WORKER_HEALTH_PORT to a port above 1023",
            }.get(error.errno or 0, "check WORKER_HEALTH_HOST and WORKER_HEALTH_PORT")
            raise AddressUnavailableError(
                f"{error}; {hint}", number=error.errno, reason=error.reason
            ) from error

    def listeners(self) -> list[trio.SocketListener]:
        """Return new listeners for a server, to be closed by it."""
        return [trio.SocketListener(listener.socket.dup()) for listener in self._listeners]

    def take_left(self) -> list[trio.SocketStream]:
        """Return the connections that were left to the next server, which is the caller."""
        taken, self.left = self.left, []
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for listener in self._listeners:
            listener.socket.close()
        for stream in self.take_left():
            stream.socket.close()
