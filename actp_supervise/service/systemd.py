"""Messages to a service manager, as systemd defines them; none where there is no manager.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final, Protocol

import trio

from .text import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

STATUS_INTERVAL: Final = 5.0
"""Seconds after which the status line is looked at again."""

MOST_STATUS: Final = 500
"""Characters of the status line."""

GRACE: Final = 30.0
"""Seconds that the service manager is asked to wait for the next word, at a slow start or end."""


class Told(Protocol):
    """The state of a service, as `ServiceManager` reports it."""

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""

    def status_line(self) -> str:
        """Return the state of the service, in one line."""


class ServiceManager:
    """The service manager that started this process, if one did.

    Messages go one way only; an error of the manager's socket stops no service.

    Args:
        environ: The environment, with what a service manager has put into it.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(environ)
        self._status = ""

    async def run(
        self, service: Told, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Tell that the service is up, and then how it is, until cancelled.

        Since this runs in Trio's loop, a watchdog hears nothing while the loop is blocked.
        """
        self._tell("READY=1", *self._news(service))
        task_status.started()
        if self._address is None:
            await trio.sleep_forever()
        while True:
            await trio.sleep(min(STATUS_INTERVAL, self._watchdog / 2))
            alive = ["WATCHDOG=1"] if self._watchdog < float("inf") else []
            if service.stopping:
                alive.append(_extend(GRACE))
            self._tell(*alive, *self._news(service))

    def waiting(self, what_for: str, seconds: float) -> None:
        """Tell what the start waits for.

        Args:
            what_for: As in ``for the database``.
            seconds: Until this is called again; it is given some more than that.
        """
        self._tell(f"STATUS=Waiting {what_for}", _extend(seconds + GRACE))

    def reloading(self) -> None:
        """Tell that settings are read anew, which `ready` ends."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) if self._address is not None else 0
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now // 1000}")

    def ready(self) -> None:
        """Tell that the settings are read."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Tell that the service is about to end; `run` then asks for the time that it needs."""
        self._tell("STOPPING=1", "STATUS=Stopping: work in flight finishes", _extend(GRACE))

    def _news(self, service: Told) -> list[str]:
        """Return the status line if it differs from the one sent last."""
        status, self._status = self._status, shorten(service.status_line(), MOST_STATUS)
        return [f"STATUS={self._status}"] if status != self._status else []

    def _tell(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(0)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            self._status = ""  # to be told again
            logger.debug("The service manager could not be told: %s", error)


def _address(text: str) -> str | None:
    if not text:
        return None
    if text[0] not in "/@":
        extra = {"action": "notify_socket_unknown"}
        logger.warning("NOTIFY_SOCKET=%s is of a kind that is not known here", text, extra=extra)
        return None
    return "\0" + text[1:] if text[0] == "@" else text


def _watchdog(environ: Mapping[str, str]) -> float:
    """Return the seconds that a watchdog waits for a sign of life; inf where there is none."""
    ours = environ.get("WATCHDOG_PID") in (None, "", str(os.getpid()))
    text = environ.get("WATCHDOG_USEC", "")
    if not ours or not text.isascii() or not text.isdecimal() or int(text) == 0:
        return float("inf")
    return int(text) / 1_000_000


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"
