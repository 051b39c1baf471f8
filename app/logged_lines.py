"""The newest lines that each agent's own code has logged, or its process has printed.

What the daemon itself logs about an agent is left out: the events tell of it. What a class prints
in the daemon's own process cannot be told from what others print, and is left out too.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from actp_supervise.service import shorten
from app.facts import fact
from app.logged_errors import OURS, agent_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT: Final = 500
"""How many lines are kept of an agent."""

MOST_TEXT: Final = 2_000
"""Characters of a line."""


@fact
class LogLine:
    """A line that an agent's code has logged, or its process has printed."""

    id: int
    """Counts up over all agents since the daemon started."""
    time: datetime
    level: str
    """Such as info or error; *info* of what was printed."""
    text: str
    """On one line, without secrets."""


class LinesOfAgents(logging.Handler):
    """Keeps the newest lines of each agent, in whatever thread they are logged.

    Args:
        redact: Takes secrets out of a text.
        kept: How many lines are kept of an agent.
    """

    def __init__(self, redact: Callable[[str], str] = str, *, kept: int = KEPT) -> None:
        super().__init__(logging.INFO)
        self._redact = redact
        self._kept = kept
        self._numbers = count(1)
        self._lines: dict[str, deque[LogLine]] = {}

    @override
    def emit(self, record: logging.LogRecord) -> None:
        agent_id = agent_of(record)
        if agent_id is None or not _is_its_own(record, agent_id):
            return
        line = LogLine(
            id=next(self._numbers),
            time=datetime.fromtimestamp(record.created, UTC),
            level=record.levelname.lower(),
            text=shorten(self._redact(text_of(record)), MOST_TEXT),
        )
        self._lines.setdefault(agent_id, deque(maxlen=self._kept)).append(line)

    def of(self, agent_id: str, *, after: int = 0, limit: int = KEPT) -> list[LogLine]:
        """Return lines of an agent that are kept, the oldest first.

        Args:
            agent_id: The agent.
            after: Only those behind the line of that id.
            limit: The most to return, of which the newest.
        """
        kept = tuple(self._lines.get(agent_id, ()))
        return [line for line in kept if line.id > after][-limit:]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what is logged in this block."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)


def _is_its_own(record: logging.LogRecord, agent_id: str) -> bool:
    """Whether a record is of the agent's own code, and not of the daemon's about it."""
    if getattr(record, "action", None) == "agent_output":
        return True
    # What an agent's process logs is logged here under this name and that of its own logger.
    name = record.name.removeprefix(f"agent.{agent_id}.")
    return name.partition(".")[0] not in OURS
