"""What a test of a supervised program wants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class TrioWallClock:
    """A wall clock that follows Trio's and can be set, for tests in virtual time.

    With Trio's ``MockClock`` a year of schedules passes in moments.

    Args:
        start: What it shows now, or when it is first looked at if it is made outside `trio.run`;
            aware.

    Raises:
        ValueError: If `start` is naive.
    """

    def __init__(self, start: datetime) -> None:
        if start.utcoffset() is None:
            raise ValueError(f"start must be aware (give it a tzinfo), not {start!r}")
        self._zone = start.tzinfo
        self._start = start.astimezone(UTC)
        try:
            self._since: float | None = trio.current_time()
        except RuntimeError:
            self._since = None
        self._callbacks: dict[object, Callable[[], object]] = {}

    def now(self) -> datetime:
        """Return the present moment, in the zone of `start`."""
        if self._since is None:
            self._since = trio.current_time()
        elapsed = timedelta(seconds=trio.current_time() - self._since)
        return (self._start + elapsed).astimezone(self._zone)

    def step(self, seconds: float) -> None:
        """Set it forward, or back by a negative number, as a user or a laptop's sleep does."""
        self._start += timedelta(seconds=seconds)
        for callback in tuple(self._callbacks.values()):
            callback()

    def on_step(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Have `callback` called after each step; return what ends that."""
        key = object()
        self._callbacks[key] = callback

        def unregister() -> None:
            self._callbacks.pop(key, None)

        return unregister
