# ruff: noqa: SLF001
"""The one file that uses private parts of trio-asyncio and asyncio.

`Handles` is the queue of callbacks that a loop in Trio's thread has yet to call. Callbacks may be
added at any line and in any thread, because garbage collection closes unreachable coroutines there,
and their clean-up calls ``loop.call_soon``. trio-asyncio's own queue is a memory channel: a send
from another thread, or in the midst of its ``receive``, would leave the loop asleep for ever.
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
    """Both ends of a trio-asyncio loop's queue: any code adds, the loop's main task takes."""

    def __init__(self, loop: Any) -> None:  # noqa: ANN401  (trio-asyncio has no types)
        self._timers: list[asyncio.TimerHandle] = loop._timers
        self._cancelled_timers = 0
        self._handles: deque[asyncio.Handle] = deque()
        self._added: trio.Event | None = None  # the main task waits for it, or is about to
        self._token = trio.lowlevel.current_trio_token()
        old, loop._q_send, loop._q_recv = loop._q_send, self, self
        # A main task that still waits on the old queue wakes, and then looks here.
        old.send_nowait(asyncio.Handle(lambda: None, (), loop))
        loop._timer_handle_cancelled = self._count_cancelled_timer

    # Called from any code, at any line.

    def send_nowait(self, handle: asyncio.Handle) -> None:
        """Add a handle."""
        self._handles.append(handle)
        if self._added is not None:
            self._token.run_sync_soon(self._wake, idempotent=True)

    def _count_cancelled_timer(self, _handle: asyncio.TimerHandle) -> None:
        self._cancelled_timers += 1

    # Called in the loop's main task.

    async def receive(self) -> asyncio.Handle:
        """Take the oldest handle; wait until there is one."""
        await trio.lowlevel.checkpoint()
        self._forget_cancelled_timers()
        while not self._handles:
            self._added = trio.Event()
            if not self._handles:  # a handle added before the event existed did not set it
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
        """Free cancelled timers once most of the timers are cancelled, as asyncio does.

        trio-asyncio keeps each until its time: a time-out of ten minutes that was needed for one
        second takes up memory for ten minutes, with all that its context refers to.
        """
        if self._cancelled_timers > max(FEW_TIMERS, len(self._timers) / 2):
            self._cancelled_timers = 0
            self._timers[:] = [timer for timer in self._timers if not timer.cancelled()]
            heapq.heapify(self._timers)


def forget_generators(loop: Any) -> None:  # noqa: ANN401  (trio-asyncio has no types)
    """Keep ``open_loop`` from waiting for async generators that can no longer be finalized."""
    loop._asyncgens.clear()


def forget_task(task: Any) -> None:  # noqa: ANN401
    """Unregister a task that is ended by force, so that asyncio does not log it as pending."""
    asyncio._unregister_task(task)
    task._log_destroy_pending = False
