"""The time of day by the store's clock, by which all moments in the tables are."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from actp_supervise.clock import SystemWallClock

if TYPE_CHECKING:
    from actp_supervise.clock import WallClock


class StoreClock:
    """A wall clock that follows the store's, so that ages are right where the two differ.

    Args:
        wall_clock: This machine's, which is followed until the store's is known.
    """

    def __init__(self, wall_clock: WallClock | None = None) -> None:
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the present moment by the store's clock, as far as it is known."""
        return self._wall_clock.now() + self._ahead

    def follow(self, moment: datetime, *, took: float) -> None:
        """Take note of what the store's clock has shown.

        Args:
            moment: What it showed, some time within the last `took` seconds.
            took: How long it took to ask.
        """
        self._ahead = moment + timedelta(seconds=took / 2) - self._wall_clock.now()
