"""When an agent crashed, and how long it waits for its next start because of that (R7 to R9)."""

from __future__ import annotations

import random  # noqa: TC003  (a dataclass's fields and methods are read at run time)
from dataclasses import dataclass, field

import trio
from typing_extensions import override

from actp_supervise import Backoff

HOUR = 3600.0
DAY = 86_400.0


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

    def recorded(self, within: float) -> int:
        """Return how many were in the last `within` seconds, but before this daemon began."""
        return _count(self._recorded, within)

    def own(self, within: float) -> int:
        """Return how many were in the last `within` seconds, since this daemon began."""
        return _count(self._own, within)

    def count(self, within: float) -> int:
        """Return how many were in the last `within` seconds."""
        return self.recorded(within) + self.own(within)


def _count(times: list[float], within: float) -> int:
    since = trio.current_time() - within
    return sum(time >= since for time in times)


@dataclass(frozen=True, slots=True)
class AgentBackoff(Backoff):
    """R9: 2^crashes seconds, at most 300, once there were more than five in an hour.

    Crashes from before the daemon began count as well.
    """

    initial: float = 64.0
    free_restarts: int = 5
    history: CrashHistory = field(default_factory=CrashHistory, compare=False)

    @override
    def delay(self, crashes: int, rng: random.Random | None = None) -> float:
        # No super(): a dataclass with slots is another class than the one this was written in.
        return Backoff.delay(self, crashes + self.history.recorded(self.window), rng)
