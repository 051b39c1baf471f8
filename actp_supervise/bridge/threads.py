"""An executor for a loop in a thread of its own; a stuck call does not keep the program alive.

The threads of `concurrent.futures` are joined when the interpreter ends: a call that is stuck in
one (``asyncio.to_thread(blocks_for_ever)``) would hold a program that has long left its supervisor.
Trio's threads are daemons, and end with the program.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from trio.lowlevel import start_thread_soon

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

MOST_THREADS: Final = 32
"""How many calls run at once, as with asyncio's own; further ones wait for their turn."""


class DaemonThreads(ThreadPoolExecutor):
    """Runs calls in daemon threads. It derives from the class that asyncio insists on."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)  # its own threads are never started
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[tuple[Future[Any], Callable[[], None]]] = deque()
        self._pending: set[Future[Any]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in one of the threads; return the future of its result.

        It ends with RuntimeError where the system has no further thread.
        """
        future: Future[T] = Future()
        call = partial(self._call, future, partial(fn, *args, **kwargs))
        with self._lock:
            self._pending.add(future)
            self._waiting.append((future, call))
        self._start_next()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  (as its base)
        """Do nothing: what still runs is waited for by `finish`, or left to the program's end."""

    async def finish(self) -> None:
        """Wait until all calls have returned, as `asyncio.run` does."""
        with self._lock:
            pending = [asyncio.wrap_future(future) for future in self._pending]
        await asyncio.gather(*pending, return_exceptions=True)

    def _start_next(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._running == MOST_THREADS:
                    return
                self._running += 1
                future, call = self._waiting.popleft()
            try:
                start_thread_soon(call, self._ended, name="asyncio.to_thread")
            except RuntimeError as error:
                with self._lock:
                    self._running -= 1
                    self._pending.discard(future)
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            else:
                return

    def _ended(self, _outcome: object) -> None:
        with self._lock:
            self._running -= 1
        self._start_next()

    def _call(self, future: Future[T], call: Callable[[], T]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001, ASYNC103  (handed to the caller)
                    future.set_exception(error)
                else:
                    future.set_result(result)
        finally:
            with self._lock:
                self._pending.discard(future)
