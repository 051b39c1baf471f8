"""What an agent's process writes: lines of its own log, and whatever else it prints.

Nothing of it may pass for a line of the daemon or of another agent. So the time, the agent and the
run of each line are those that the daemon knows, and its logger begins with the agent's name.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from actp_supervise.process import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

MOST_FIELDS: Final = 50
"""Fields of a line of the log that are kept, besides those that each line has."""

_OURS: Final = frozenset({"time", "agent_id", "run", "routine", "worker_id", "instance"})
"""Fields that the daemon sets; what a line says of them is left out."""


class Line(msgspec.Struct, frozen=True):
    """What each line of our log as JSON has."""

    time: str
    level: Literal["debug", "info", "warning", "error", "critical"]
    logger: str
    message: str
    error: str | None = None


_LINE: Final = msgspec.json.Decoder(Line)
_FIELDS: Final = msgspec.json.Decoder(dict[str, str | int | float | bool | msgspec.Raw | None])


class AgentOutput:
    """Logs what an agent's process writes.

    Args:
        agent_id: Whose it is.
        on_words: Gets each line that is none of the log, cut short.
    """

    def __init__(self, agent_id: str, on_words: Callable[[str], object]) -> None:
        self._agent_id = agent_id
        self._on_words = on_words

    def log(self, line: str) -> None:
        """Log a line; one of the process's own log as it stands there."""
        record = self._record(line)
        if record is None:
            self._on_words(line[:200])
            logger.info("%s", line, extra={"action": "agent_output"})
        else:
            logging.getLogger(record.name).handle(record)

    def _record(self, text: str) -> logging.LogRecord | None:
        """Read a line of our log; None if it is none."""
        if not text.startswith('{"time": ') or len(text) >= MAX_LINE:
            return None
        try:
            line = _LINE.decode(text)
            fields = _FIELDS.decode(text)
        # What an agent prints may look like a line of ours and be none.
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        level = logging.getLevelNamesMapping()[line.level.upper()]
        name = f"agent.{self._agent_id}.{line.logger}"
        record = logging.LogRecord(name, level, "", 0, "%s", (line.message,), None)
        record.exc_text = line.error
        for key, value in _worth_keeping(fields).items():
            if not hasattr(record, key):
                setattr(record, key, value)
        return record


def _worth_keeping(fields: dict[str, Any]) -> dict[str, Any]:
    known = _OURS.union(Line.__struct_fields__)
    kept = [(key, value) for key, value in fields.items() if key not in known]
    return {key: value for key, value in kept[:MOST_FIELDS] if not isinstance(value, msgspec.Raw)}
