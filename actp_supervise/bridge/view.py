"""What `current_child` gives to asyncio code: the child, in asyncio's terms."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, final

from actp_supervise.checks import check_seconds
from actp_supervise.child import give_sign_of_life
from actp_supervise.policies import Intent

if TYPE_CHECKING:
    from actp_supervise.record import ChildRecord, Run


@final
class AsyncioView:
    """The child inside which asyncio code runs.

    Args:
        record: What its supervisor keeps of the child.
        run: The run of the child in which the code runs.
    """

    def __init__(self, record: ChildRecord, run: Run) -> None:
        self.record = record
        self._run = run
        self.name = record.name
        """The child's name."""
        self.signal = AsyncioStopSignal()
        """The stop signal, for the run, which sets it; the asyncio code reads `stopping`."""

    @property
    def stopping(self) -> AsyncioStopSignal:
        """Set when this run is asked to stop; it then has `shutdown_timeout` seconds.

        A run that reads this *listens*: it is asked before it is cancelled.
        """
        self._run.listens = True
        return self.signal

    @property
    def stalled(self) -> bool:
        """Whether this run missed its watchdog time, and is being cancelled for that."""
        return self._run.intent is Intent.STALLED

    def beat(self, *, within: float | None = None) -> None:
        """Tell the watchdog that the child makes progress; may be called from any thread.

        Args:
            within: Promises the next sign of life within this many seconds, in place of the
                child's `watchdog` once.

        Raises:
            TypeError: If `within` is no number.
            ValueError: If `within` is not positive.
        """
        if within is not None:
            check_seconds("within", within, positive=True)
        give_sign_of_life(self.record, self._run, within)

    def cancel_on_stop(self) -> CancelOnStop:
        """Cancel the block when this run is asked to stop: ``with`` or ``async with``.

        A run that calls this *listens*: it is asked before it is cancelled.
        """
        return CancelOnStop(self.stopping)


@final
class AsyncioStopSignal:
    """Whether a run was asked to stop: ``is_set()``, ``await wait()``, or simply its truth."""

    def __init__(self) -> None:
        self._is_set = False
        self.woken = asyncio.Event()
        self.blocks: set[CancelOnStop] = set()

    def is_set(self) -> bool:
        """Return whether the run was asked to stop; it turns true even if the loop is blocked."""
        return self._is_set

    __bool__ = is_set

    async def wait(self) -> None:
        """Wait until the run is asked to stop."""
        await self.woken.wait()

    def set(self) -> None:
        """Set the signal, from any thread; `wake` has to be called in the loop after that."""
        self._is_set = True

    def wake(self) -> None:
        """Wake all who wait for it."""
        self.woken.set()
        for block in tuple(self.blocks):
            block.cancel()


@final
class CancelOnStop:
    """A block that ends when the run is asked to stop; built as `asyncio.timeout` is."""

    def __init__(self, signal: AsyncioStopSignal) -> None:
        self.cancelled_caught = False
        """Whether the block was cancelled by the request to stop, as in Trio's cancel scopes."""
        self._signal = signal
        self._handle: asyncio.Handle | None = None
        self._fired = False

    def __enter__(self) -> CancelOnStop:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("cancel_on_stop() works only in an asyncio task")
        self._task = task
        self._cancelling = task.cancelling()
        self._signal.blocks.add(self)
        if self._signal.woken.is_set():
            # By `call_soon`, so that `__exit__` can take it back: a block that never waits must not
            # leave a cancellation behind.
            self._handle = asyncio.get_running_loop().call_soon(self.cancel)
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> bool:
        self._signal.blocks.discard(self)
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
