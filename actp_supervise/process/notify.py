"""The socket for a program's sd_notify messages, and how they are read."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from .output import Source

NOT_INHERITED: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
"""Variables by which a service manager addresses one process, not the processes that it starts."""

_LARGEST_MESSAGE: Final = 4096  # as systemd's
_LONGEST_PLACE: Final = 78  # bytes; a socket's whole path may have 103 on macOS, 107 on Linux
_FOR_ALL_USERS: Final = ("/tmp", "/var/tmp")  # noqa: S108  (a directory is made in them)


class NotifySocket:
    """A socket in a directory that only one user can enter.

    Args:
        user: The ids of that user and its group; None for the user of this process.

    Raises:
        OSError: If there is no place for it.
    """

    def __init__(self, user: tuple[int, int] | None) -> None:
        self.directory = _make_directory(others=user is not None)
        self.address = str(Path(self.directory, "socket"))
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)  # noqa: FBT003
            self._socket.bind(self.address)
            if user is not None:
                os.chown(self.address, *user)
                os.chown(self.directory, *user)
            self.source = Source(self._socket.fileno(), self._socket.recv)
        except BaseException:
            self.close()
            raise

    async def receive(self) -> list[tuple[str, str]] | None:
        """Wait for a message and return what it assigns; None when there is no more."""
        while True:
            await self.source.wait()
            message = self.source.take(_LARGEST_MESSAGE)
            if message is not None:
                lines = message.decode("utf-8", "replace").splitlines()
                return [(name, value) for name, _, value in (line.partition("=") for line in lines)]
            if self.source.is_finished:
                return None

    def close(self) -> None:
        """Remove it."""
        if self._socket is not None:
            self._socket.close()
        with suppress(OSError):
            Path(self.address).unlink()
        with suppress(OSError):
            Path(self.directory).rmdir()


def _make_directory(*, others: bool) -> str:
    """Make a directory with a short path; with `others`, where all users can enter."""
    ours = tempfile.gettempdir()
    places: tuple[str, ...] = (ours,)
    if others:
        places = (*_FOR_ALL_USERS, ours)
    elif len(os.fsencode(ours)) > _LONGEST_PLACE:
        places = (f"/run/user/{os.getuid()}", *_FOR_ALL_USERS)
    problem: OSError | None = None
    for place in places:
        try:
            return tempfile.mkdtemp(prefix="notify-", dir=place)
        except OSError as error:
            problem = problem or error
    assert problem is not None  # noqa: S101
    raise problem
