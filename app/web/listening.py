"""Where the daemon's page is served: its own words for an address that cannot be had."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from actp_supervise.service import AddressUnavailableError, open_listeners

if TYPE_CHECKING:
    import trio


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on a host and port; port 0 takes a free one.

    Raises:
        AddressUnavailableError: If that is not possible, with the variable to change.
    """
    try:
        return await open_listeners(host, port)
    except AddressUnavailableError as error:
        hint = {
            errno.EADDRINUSE: "set WORKER_HEALTH_PORT to a free one",
            errno.EACCES: "set WORKER_HEALTH_PORT to a port above 1023",
        }.get(error.errno or 0, "check WORKER_HEALTH_HOST and WORKER_HEALTH_PORT")
        raise AddressUnavailableError(
            f"{error}; {hint}", number=error.errno, reason=error.reason
        ) from error
