"""From asyncio to Trio: `run_in_trio`, which works from any loop in any thread of a run."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import trio

from actp_supervise.child import child_of_context
from actp_supervise.spec import name_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .run import Run

P = ParamSpec("P")
T = TypeVar("T")

current_run: ContextVar[Run | None] = ContextVar("actp_supervise_asyncio_run", default=None)


async def run_in_trio(async_fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a Trio async function from asyncio code inside an `asyncio_child`, and wait for it.

    It runs in a Trio task that belongs to the child's run, where `current_child` is Trio's again.
    Cancelling the caller cancels it, and the caller goes on when it has ended; a result that it
    returned nevertheless is dropped, so that no cancellation is lost.

    Returns:
        What `async_fn` returned.

    Raises:
        BaseException: Whatever `async_fn` raised.
        RuntimeError: If the caller is not asyncio code of a child, or its run is over.
    """
    run = current_run.get()
    if run is None:
        raise RuntimeError("run_in_trio() works only in the asyncio code of an asyncio_child")
    return await _Call(run, partial(async_fn, *args, **kwargs))


class _Call(asyncio.Future[T]):
    """An asyncio future for a Trio task. It ends with the task; its `cancel` cancels the task."""

    def __init__(self, run: Run, async_fn: Callable[[], Awaitable[T]]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._run = run
        self._async_fn = async_fn
        self._scope = trio.CancelScope()
        self._cancel_asked = False
        self._context = copy_context()
        if self._is_in_step():
            self._begin()
        else:
            run.token.run_sync_soon(self._begin)

    # Called in the loop of the caller.

    def _is_in_step(self) -> bool:
        """Return whether this is called in a step of an asyncio task, in Trio's thread.

        There a Trio task can be started at once. Elsewhere it cannot: garbage collection may close
        a coroutine, whose clean-up calls this, in the midst of Trio's own work.
        """
        loop = self.get_loop()
        return self._run.turns(loop) and asyncio.current_task(loop) is not None

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ANN401  (as in asyncio)
        if self.done():
            return False
        self._cancel_asked = True
        reason = "the asyncio code that waits for it was cancelled"
        self._run.token.run_sync_soon(partial(self._scope.cancel, reason=reason))
        return True

    def _returned(self, value: T) -> None:
        if self._cancel_asked:
            super().cancel()
        else:
            self.set_result(value)

    # Called in Trio's thread.

    def _begin(self) -> None:
        if self._run.over:
            error = RuntimeError("run_in_trio(): the run of this child is over")
            self._settle(partial(self.set_exception, error))
        else:
            start_soon = self._run.calls.start_soon
            self._context.run(partial(start_soon, self._carry_out, name=name_of(self._async_fn)))

    # Or Ctrl-C could be raised in here, and would count as an error of the child.
    @trio.lowlevel.enable_ki_protection
    async def _carry_out(self) -> None:
        current_run.set(None)
        if self._run.record is not None:
            child_of_context.set(self._run.record.view)
        settle: Callable[[], object] = super().cancel
        try:
            with self._scope:
                settle = partial(self._returned, await self._async_fn())
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  (handed over)
            settle = partial(self.set_exception, error)
        finally:
            self._settle(settle)

    def _settle(self, settle: Callable[[], object]) -> None:
        loop = self.get_loop()
        with suppress(RuntimeError):  # the loop is closed
            if self._run.handles is not None and self._run.turns(loop):
                self._run.handles.add_by(settle)
            else:
                loop.call_soon_threadsafe(settle)
