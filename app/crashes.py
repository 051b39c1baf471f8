"""When an agent crashed, and how long it waits for its next start because of that (R7 to R9)."""

from __future__ import annotations

from typing import Final

import trio

from actp_supervise import Backoff

HOUR: Final = 3600.0
DAY: Final = 86_400.0

AGENT_BACKOFF: Final = Backoff(initial=64.0, factor=2.0, maximum=300.0, free_restarts=5)
"""R9: 2^crashes seconds, at most 300, once there were more than five in an hour."""


class CrashHistory:
    """The crashes of one agent in the last day, by Trio's time.

    Those of this daemon are noted at once. Those before come from the store, which may be late.
    """

    def __init__(self) -> None:
        self._since = trio.current_time()
        self._recorded: list[float] = []
        self._own: list[float] = []

    def load(self, ages: list[float]) -> None:
        """Take over what the store knows from before this daemon began.

        Args:
            ages: How many seconds ago each crash was.
        """
        now = trio.current_time()
        self._recorded = [now - age for age in ages if now - age < self._since]

    def note(self) -> None:
        """Note that it crashed just now."""
        now = trio.current_time()
        self._own = [time for time in self._own if time >= now - DAY]
        self._own.append(now)

    def ages(self, within: float) -> tuple[float, ...]:
        """Return how many seconds ago each crash of the last `within` seconds was."""
        now = trio.current_time()
        times = (*self._recorded, *self._own)
        return tuple(now - time for time in times if time >= now - within)

    def count(self, within: float) -> int:
        """Return how many were in the last `within` seconds."""
        return len(self.ages(within))
