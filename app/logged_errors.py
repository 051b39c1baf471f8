"""The errors that agents log, for a class that catches its errors itself and goes on for ever."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from actp_supervise.service import fields_of
from app.health import LoggedErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT: Final = 100
"""How many moments are kept of an agent."""

OURS: Final = ("app", "actp_supervise")
"""The loggers of the daemon itself, by the first part of their names."""


def agent_of(record: logging.LogRecord) -> str | None:
    """Return the agent that a record is of; None if it is of none."""
    # A record from an agent's process brings the agent along, one from its loop has it around.
    around = fields_of(copy_context()).get("agent_id")
    agent_id = getattr(record, "agent_id", around)
    return agent_id if isinstance(agent_id, str) else None


def text_of(record: logging.LogRecord) -> str:
    """Return what a record says, with its error in one line."""
    try:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f": {type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  (the agent's own arguments, which may refuse to be text)
        text = "an error that cannot be shown"
    return text


class ErrorsOfAgents(logging.Handler):
    """Counts the errors that the code of agents logs, in whatever thread.

    What the daemon itself logs about an agent does not count: a reason of its own tells of it.

    Args:
        redact: Takes secrets out of a text.
    """

    def __init__(self, redact: Callable[[str], str] = str) -> None:
        super().__init__(logging.ERROR)
        self._redact = redact
        self._moments: dict[str, deque[float]] = {}
        self._last: dict[str, str] = {}

    @override
    def emit(self, record: logging.LogRecord) -> None:
        agent_id = agent_of(record)
        if agent_id is None or record.name.partition(".")[0] in OURS:
            return
        self._last[agent_id] = self._redact(text_of(record))
        self._moments.setdefault(agent_id, deque(maxlen=KEPT)).append(record.created)

    def of_agents(self) -> dict[str, LoggedErrors]:
        """Return what each agent has logged."""
        return {
            agent_id: LoggedErrors(
                tuple(datetime.fromtimestamp(moment, UTC) for moment in tuple(moments)),
                self._last[agent_id],
            )
            for agent_id, moments in tuple(self._moments.items())
        }

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count in this block."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)
