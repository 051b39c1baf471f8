"""How work can end: well, or for one of the reasons that decide what becomes of its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


class HandBack(Exception):
    """The work cannot go on now, by no fault of its own: its task goes back to the queue."""

    def __init__(
        self,
        reason: str,
        *,
        delay: float = 0.0,
        count_attempt: bool = False,
        alone: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.alone = alone
        """Whether the reason is this task's alone, so that other tasks may go on meanwhile."""
        self.delay = delay
        """Seconds until another try is worth while."""
        self.count_attempt = count_attempt
        """Whether the fault may be its own after all."""


class Paused(HandBack):
    """Nor can any other work: the agent pauses."""

    def __init__(
        self, reason: str, *, until: datetime | None = None, count_attempt: bool = False
    ) -> None:
        super().__init__(reason, count_attempt=count_attempt)
        self.until = until
        """None for until the agent is restarted."""


class Parked(HandBack):
    """It waits for a person: its task goes on when all that was asked for is decided."""

    def __init__(self, tools: Sequence[str]) -> None:
        super().__init__(f"waits for the approval of {', '.join(tools)}", alone=True)


class Refused(Exception):
    """The API refuses what it was sent, and would again: the work has failed."""


class TooLong(Refused):
    """It refuses because the conversation is longer than the model can read."""


class RoutineFailedError(Exception):
    """A routine's conversation did not come to a good end; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a conversation ended."""

    failure: str | None
    """Why it counts as failed; None where it went well."""
    result: dict[str, Any]
    """What is kept of it: text, turns, tool_calls, tokens, usd, estimated_usd, model, stop_reason.
    """
