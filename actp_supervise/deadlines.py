"""The deadlines of one supervisor, kept by one Trio task: backoffs, watchdogs, late stops."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

KeyT = TypeVar("KeyT")

MAX_STALE: Final = 64
"""How many entries that are no longer valid the heap may hold before it is cleared of them."""


class Deadlines(Generic[KeyT]):
    """Calls a function at the moment that is set for a key; a key has at most one moment.

    The task is spawned with the first moment, and then sleeps until the next one.

    Args:
        nursery: Where the task runs; it must be closed by `close` before that nursery is left.
        on_due: Called with each key that is due and the seconds by which that is late; it must not
            raise.
    """

    __slots__ = ("_due", "_gone", "_heap", "_nursery", "_on_due", "_scope", "_serial", "_sleep")

    def __init__(self, nursery: trio.Nursery, on_due: Callable[[KeyT, float], None]) -> None:
        self._nursery = nursery
        self._on_due = on_due
        self._heap: list[tuple[float, int, KeyT]] = []
        self._due: dict[KeyT, float] = {}  # the moment of the entry that is valid
        self._serial = 0
        self._scope: trio.CancelScope | None = None
        self._sleep = trio.CancelScope()
        self._gone = trio.Event()

    def set(self, key: KeyT, moment: float) -> None:
        """Set the moment of a key, in place of an earlier one; ``inf`` means never."""
        if moment == math.inf:
            self.discard(key)
            return
        if self._due.get(key) == moment:
            return
        self._serial += 1
        self._due[key] = moment
        heapq.heappush(self._heap, (moment, self._serial, key))
        if len(self._heap) > 2 * len(self._due) + MAX_STALE:
            self._heap = [entry for entry in self._heap if self._is_valid(entry)]
            heapq.heapify(self._heap)
        if self._scope is None:
            self._scope = trio.CancelScope(shield=True)  # no outside cancellation ends it
            self._nursery.start_soon(self._keep, name="deadlines")
        elif moment < self._sleep.deadline:
            self._sleep.deadline = moment

    def discard(self, key: KeyT) -> None:
        """Forget the moment of a key, if it has one."""
        self._due.pop(key, None)

    async def close(self) -> None:
        """End the task, and wait until it is gone."""
        if self._scope is not None:
            self._scope.cancel(reason="the supervisor has stopped")
            await self._gone.wait()

    @trio.lowlevel.enable_ki_protection
    async def _keep(self) -> None:
        assert self._scope is not None  # noqa: S101  (set by `set`)
        try:
            with self._scope:
                while True:
                    deadline = self._heap[0][0] if self._heap else math.inf
                    with trio.CancelScope(deadline=deadline) as self._sleep:
                        await trio.sleep_forever()
                    # Other tasks that are due at this moment run first, so that a beat that comes
                    # just in time is seen. Source: systemd's watchdog has idle priority.
                    await trio.lowlevel.checkpoint()
                    self._call_due(trio.current_time())
        finally:
            self._gone.set()

    def _call_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            moment, _, key = entry
            if self._is_valid(entry):
                del self._due[key]
                self._on_due(key, now - moment)

    def _is_valid(self, entry: tuple[float, int, KeyT]) -> bool:
        return self._due.get(entry[2]) == entry[0]
