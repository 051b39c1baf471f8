"""What `current_child` gives to asyncio code: the child, in asyncio's terms."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable


@final
class AsyncioView:
    """The child inside which asyncio code runs."""

    def __init__(self, name: str, beat: Callable[[], object]) -> None:
        self._beat = beat
        self.name = name
        """The child's name."""
        self.stopping = AsyncioStopSignal()
        """Set when this run is asked to stop; it then has `shutdown_timeout` seconds."""

    def beat(self) -> None:
        """Tell the watchdog that the child gets on; may be called from any thread."""
        self._beat()

    def cancel_on_stop(self) -> CancelOnStop:
        """Cancel the block when this run is asked to stop: ``with`` or ``async with``."""
        return CancelOnStop(self.stopping)


@final
class AsyncioStopSignal:
    """Whether a run was asked to stop: ``is_set()``, ``await wait()``, or simply its truth."""

    def __init__(self) -> None:
        self._is_set = False
        self._woken = asyncio.Event()
        self._blocks: set[CancelOnStop] = set()

    def is_set(self) -> bool:
        """Return whether the run was asked to stop; true at once, also for code that blocks."""
        return self._is_set

    __bool__ = is_set

    async def wait(self) -> None:
        """Wait until the run is asked to stop."""
        await self._woken.wait()

    def set(self) -> None:
        """Be set, in whatever thread; `wake` in the loop has to follow."""
        self._is_set = True

    def wake(self) -> None:
        """Wake all who wait for it."""
        self._woken.set()
        for block in tuple(self._blocks):
            block.cancel()


@final
class CancelOnStop:
    """A block that ends when the run is asked to stop; built as `asyncio.timeout` is."""

    def __init__(self, signal: AsyncioStopSignal) -> None:
        self.cancelled_caught = False
        """Whether the block was ended so, as in Trio's cancel scopes."""
        self._signal = signal
        self._handle: asyncio.Handle | None = None
        self._fired = False

    def __enter__(self) -> CancelOnStop:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("cancel_on_stop() works only in an asyncio task")
        self._task = task
        self._cancelling = task.cancelling()
        self._signal._blocks.add(self)
        if self._signal._woken.is_set():
            # Soon and not now: a block that never waits must not be cancelled after its end.
            self._handle = asyncio.get_running_loop().call_soon(self.cancel)
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> bool:
        self._signal._blocks.discard(self)
        if self._handle is not None:
            self._handle.cancel()
        if self._fired and self._task.uncancel() <= self._cancelling:
            self.cancelled_caught = isinstance(exc, asyncio.CancelledError)
        return self.cancelled_caught

    async def __aenter__(self) -> CancelOnStop:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: object, exc: BaseException | None, traceback: object
    ) -> bool:
        return self.__exit__(exc_type, exc, traceback)

    def cancel(self) -> None:
        """Cancel the task that is in the block."""
        self._fired = True
        self._task.cancel("the child was asked to stop")
