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
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import sniffio
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

FEW_TIMERS: Final = 100
"""Cancelled timers that may be kept, as in asyncio."""


MOST_TURNS: Final = 8
"""Turns of asyncio in one of Trio's, at most.

A task that goes on is called in a turn, what waits for it in the next: most such rows are of two to
four turns, and between them a turn of Trio's, which asks the system what is ready, costs more than
they do. A row without end must let others have a turn.
"""


class Handles:
    """Both ends of a trio-asyncio loop's queue: any code adds, the loop's main task takes."""

    def __init__(self, loop: Any) -> None:  # noqa: ANN401  (trio-asyncio has no types)
        from trio_asyncio._handles import AsyncHandle

        self._awaited = AsyncHandle
        self.loop = loop
        """Whose queue it is."""
        self._timers: list[asyncio.TimerHandle] = loop._timers
        self._cancelled_timers = 0
        self._handles: deque[asyncio.Handle] = deque()
        self._added: trio.Event | None = None  # the main task waits for it, or is about to
        self._after: list[Callable[[], object]] = []
        self._token = trio.lowlevel.current_trio_token()
        old, loop._q_send, loop._q_recv = loop._q_send, self, self
        # A main task that still waits on the old queue wakes, and then looks here.
        old.send_nowait(asyncio.Handle(lambda: None, (), loop))
        loop._timer_handle_cancelled = self._count_cancelled_timer
        # Whether a callback is one, asyncio checks in debug mode alone, for it takes long.
        loop._check_callback = lambda _callback, _method: None
        self._call_one = loop._main_loop_one
        loop._main_loop_one = self._turn

    # Called from any code, at any line.

    def send_nowait(self, handle: asyncio.Handle) -> None:
        """Add a handle."""
        self._handles.append(handle)
        if self._added is not None:
            self._token.run_sync_soon(self._wake, idempotent=True)

    def _count_cancelled_timer(self, _handle: asyncio.TimerHandle) -> None:
        self._cancelled_timers += 1

    # Called in Trio's thread, but not at any line.

    def add_by(self, add: Callable[[], object]) -> None:
        """Call a function that adds handles, and wake the main task at once.

        ``run_sync_soon``, without which nothing may wake it at any line, writes to a socket and
        takes two more turns of Trio's.
        """
        added, self._added = self._added, None  # so that no handle wakes it in its own way
        try:
            add()
        finally:
            self._added = added
            self._wake()

    def after_turn(self, sync_fn: Callable[[], object]) -> None:
        """Call a function at the end of the turn in which this is called, in no task's context."""
        self._after.append(sync_fn)

    # Called in the loop's main task.

    async def _turn(self, no_wait: bool = False) -> None:  # noqa: FBT001, FBT002  (its signature)
        """Wait until something is to be called, and call all that is, as turns of asyncio do.

        trio-asyncio has a scope and a checkpoint for each callback, and so half of all time that an
        idle agent takes. Here one scope is for all waits until a timer's time has come.
        """
        if no_wait:
            await self._call_one(no_wait=True)
            self._end_turn()
            return
        with trio.CancelScope() as until_timer:
            while not self._is_next_awaited():
                await self._wait(until_timer)
                self._call_ready()
        if until_timer.cancelled_caught:
            self._call_ready()
        else:
            await self._call_one()
            self._end_turn()

    def _is_next_awaited(self) -> bool:
        """Return whether the next handle has to be awaited, and so to be called by trio-asyncio."""
        return bool(self._handles) and isinstance(self._handles[0], self._awaited)

    def _call_ready(self) -> None:
        self._forget_cancelled_timers()
        for _ in range(MOST_TURNS):
            self._call_turn()
            if not self._handles or self._is_next_awaited():
                return

    def _call_turn(self) -> None:
        for _ in range(len(self._handles)):  # what they add has to wait for the next turn
            if self._is_next_awaited():
                break
            handle = self._handles.popleft()
            if isinstance(handle, asyncio.TimerHandle):
                heapq.heappush(self._timers, handle)
            else:
                _call(handle)
        while self._timers and self._timers[0].when() <= self.loop.time():
            _call(heapq.heappop(self._timers))
        self._end_turn()

    def _end_turn(self) -> None:
        while self._after:
            self._after.pop()()

    async def _wait(self, until_timer: trio.CancelScope) -> None:
        """Wait until there is a handle; the scope is cancelled when a timer's time has come."""
        deadline = self._timers[0].when() if self._timers else math.inf
        if until_timer.deadline != deadline:
            until_timer.deadline = deadline
        if self._handles or deadline <= self.loop.time():
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._until_added()
        finally:
            self._added = None

    async def _until_added(self) -> None:
        while not self._handles:
            self._added = trio.Event()
            if not self._handles:  # a handle added before the event existed did not set it
                await self._added.wait()

    async def receive(self) -> asyncio.Handle:
        """Take the oldest handle; wait until there is one."""
        await trio.lowlevel.checkpoint()
        await self._until_added()
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


def _call(handle: asyncio.Handle) -> None:
    """Call a handle, with asyncio as the library that sniffio finds."""
    if handle._cancelled:
        return
    before, sniffio.thread_local.name = sniffio.thread_local.name, "asyncio"
    try:
        handle._run()
    finally:
        sniffio.thread_local.name = before


def forget_generators(loop: Any) -> None:  # noqa: ANN401  (trio-asyncio has no types)
    """Keep ``open_loop`` from waiting for async generators that can no longer be finalized."""
    loop._asyncgens.clear()


def forget_task(task: Any) -> None:  # noqa: ANN401
    """Unregister a task that is ended by force, so that asyncio does not log it as pending."""
    asyncio._unregister_task(task)
    task._log_destroy_pending = False
