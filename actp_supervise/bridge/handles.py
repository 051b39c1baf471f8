# ruff: noqa: SLF001
"""What is reached into of trio-asyncio and asyncio, in this file alone.

`Handles` is what a loop in Trio's thread is yet to call, kept so that it survives garbage
collection. That closes unreachable coroutines at any line and in any thread, and their clean-up
calls ``loop.call_soon``. trio-asyncio's own queue is a memory channel, which may not be sent to
from another thread, nor at each line of its own ``receive``: the loop would never wake again.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Any, Final

import trio

FEW_TIMERS: Final = 100
"""Cancelled timers that may be kept, as in asyncio."""


class Handles:
    """Both ends of a trio-asyncio loop's queue: any code may add, the loop's main task takes."""

    def __init__(self, loop: Any) -> None:  # noqa: ANN401  (trio-asyncio has no types)
        self._timers: list[asyncio.TimerHandle] = loop._timers
        self._cancelled_timers = 0
        self._handles: deque[asyncio.Handle] = deque()
        self._added: trio.Event | None = None  # what the main task waits for, or is about to
        self._token = trio.lowlevel.current_trio_token()
        old, loop._q_send, loop._q_recv = loop._q_send, self, self
        old.send_nowait(asyncio.Handle(lambda: None, (), loop))  # so that its receiver looks here
        loop._timer_handle_cancelled = self._count_cancelled_timer

    # In whatever code, at whatever line.

    def send_nowait(self, handle: asyncio.Handle) -> None:
        """Add a handle."""
        self._handles.append(handle)
        if self._added is not None:
            self._token.run_sync_soon(self._wake, idempotent=True)

    def _count_cancelled_timer(self, _handle: asyncio.TimerHandle) -> None:
        self._cancelled_timers += 1

    # In the loop's main task.

    async def receive(self) -> asyncio.Handle:
        """Take the oldest handle; wait until there is one."""
        await trio.lowlevel.checkpoint()
        self._forget_cancelled_timers()
        while not self._handles:
            self._added = trio.Event()
            if not self._handles:  # none came before there was an event to set
                await self._added.wait()
        self._added = None
        return self._handles.popleft()

    def receive_nowait(self) -> asyncio.Handle:
        """Take the oldest handle, or raise `trio.WouldBlock`."""
        if not self._handles:
            raise trio.WouldBlock
        return self._handles.popleft()

    def _wake(self) -> None:
        if self._added is not None:
            self._added.set()

    def _forget_cancelled_timers(self) -> None:
        """Free cancelled timers once they are the most of all, as asyncio does.

        trio-asyncio keeps each until its time: a time-out of ten minutes that was needed for one
        second takes up memory for ten minutes, with all that its context refers to.
        """
        if self._cancelled_timers > max(FEW_TIMERS, len(self._timers) / 2):
            self._cancelled_timers = 0
            self._timers[:] = [timer for timer in self._timers if not timer.cancelled()]
            heapq.heapify(self._timers)


def forget_generators(loop: Any) -> None:  # noqa: ANN401  (trio-asyncio has no types)
    """Have ``open_loop`` not wait for async generators that can no longer be finalized."""
    loop._asyncgens.clear()


def forget_task(task: Any) -> None:  # noqa: ANN401
    """Take a task that is ended by force out of asyncio's list, without a line in its log."""
    asyncio._unregister_task(task)
    task._log_destroy_pending = False
