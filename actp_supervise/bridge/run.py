"""`asyncio_child`, and the Trio side of one run of it; `hosts` runs its asyncio loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import traceback
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, cast

import trio

from actp_supervise.checks import check_async_fn, check_seconds
from actp_supervise.child import (
    child_of_context,
    on_stop_requested,
    record_of_context,
)
from actp_supervise.errors import SupervisionError, context_of, keep_context
from actp_supervise.events import logger
from actp_supervise.spec import name_of

from .calls import current_run
from .hosts import check_trio_asyncio, host_in_loop, host_in_thread, in_new_thread
from .view import AsyncioView

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import FrameType

    from .handles import Handles


P = ParamSpec("P")

CANCEL_TIMEOUT: Final = 3.0
"""Seconds that cancelled asyncio code has to end, where `asyncio_child` is given no other.

Less than `OVERDUE_AFTER`, so that code that is ended by force is not reported as overdue too.
"""


class CancellationIgnored(SupervisionError):
    """Asyncio code went on after it was cancelled: it was closed, or left in its thread."""


def asyncio_child(
    async_fn: Callable[P, Awaitable[object]],
    *,
    isolation: Literal["loop", "thread"] = "loop",
    cancel_timeout: float = CANCEL_TIMEOUT,
    in_thread: Callable[[Callable[[], None]], Awaitable[None]] = in_new_thread,
) -> Callable[P, Coroutine[Any, Any, None]]:
    """Make a Trio async function that runs an asyncio one, in an asyncio loop of its own.

    The run ends with `async_fn`: tasks that it left behind are cancelled, its async generators
    closed. An error that nobody looks at, in a background task or a callback, cancels `async_fn`
    and is the child's crash; so are ``SystemExit``, ``KeyboardInterrupt``, and a ``CancelledError``
    that nobody sent. Cancellation arrives as one ``asyncio.CancelledError``.

    Args:
        async_fn: The asyncio code. It gets the child's arguments and, where the child was started
            with `Supervisor.start`, ``task_status``.
        isolation: ``"loop"`` turns the loop in Trio's thread and on Trio's clock: cheap, but code
            that blocks delays everybody. ``"thread"`` gives the loop a thread, where it does not.
        cancel_timeout: Seconds that the code has to end once it is cancelled. Then, with
            ``"loop"``, its coroutines are closed and its loop stops; with ``"thread"`` it is left
            in its thread. In both cases the run ends with `CancellationIgnored`.
        in_thread: With ``"thread"``, calls a function in the thread that is to be the code's, and
            waits until it returns or this wait is cancelled; a new thread by default. A program
            whose Trio runs in another thread can give its main one, where signals are handled.

    Raises:
        RuntimeError: If ``"loop"`` cannot work: trio-asyncio is missing, or was imported too late.
        TypeError: If `async_fn` cannot be called.
        ValueError: If an option is out of range.
    """
    check_async_fn("a child", async_fn)
    check_seconds("cancel_timeout", cancel_timeout)
    if isolation not in ("loop", "thread"):
        raise ValueError(f"isolation must be 'loop' or 'thread', not {isolation!r}")
    host: Callable[[Run], Awaitable[None]] = partial(host_in_thread, in_thread=in_thread)
    if isolation == "loop":
        check_trio_asyncio()
        host = host_in_loop

    @functools.wraps(async_fn)
    async def child(*args: P.args, **kwargs: P.kwargs) -> None:
        run = Run(cancel_timeout)
        given: dict[str, Any] = dict(kwargs)
        if "task_status" in given:
            given["task_status"] = _TaskStatus(run, given["task_status"])
        code: Callable[..., Awaitable[object]] = async_fn
        await run.run(partial(code, *args, **given), host)

    child.__name__ = name_of(async_fn)
    return child


class _TaskStatus:
    """Trio's ``task_status``, for asyncio code in any thread."""

    def __init__(self, run: Run, task_status: trio.TaskStatus[object]) -> None:
        self._run = run
        self._task_status = task_status

    def started(self, value: object = None) -> None:
        self._run.soon(self._task_status.started, value)


class Run:
    """One run of asyncio code."""

    calls: trio.Nursery  # of the `run_in_trio` calls that the code makes

    def __init__(self, cancel_timeout: float) -> None:
        self.record = record_of_context()
        self.token = trio.lowlevel.current_trio_token()
        self.time_left = trio.CancelScope()  # around the loop; `end` sets its deadline
        self.over = False  # the host has returned: Trio does nothing more for the code
        self.cancelled = False  # whether we have cancelled the code
        self.killed = False  # its loop must call nothing any more
        self.handles: Handles | None = None  # of its loop, where that turns in Trio's thread
        self._cancel_timeout = cancel_timeout
        self._view: AsyncioView | None = None
        if self.record is not None and self.record.run is not None:
            self._view = AsyncioView(self.record, self.record.run)
        self._errors: list[BaseException] = []
        self._ending = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    # Called in Trio's thread.

    async def run(
        self, code: Callable[[], Awaitable[object]], host: Callable[[Run], Awaitable[None]]
    ) -> None:
        """Run the code to its end; raise its errors, also in place of a `Cancelled`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._code = code
        forget = None
        if self.record is not None:
            forget = on_stop_requested(self.record, self._stop_requested)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_cancelled)
                with trio.CancelScope(shield=True):  # bounded: on cancellation, `end` limits it
                    async with trio.open_nursery() as self.calls:
                        try:
                            await host(self)
                        finally:
                            self.over = True
                        self.calls.cancel_scope.cancel(reason="the asyncio code has ended")
                nursery.cancel_scope.cancel(reason="the asyncio code has ended")
        finally:
            if forget is not None:
                forget()
            self._raise_errors()

    def _raise_errors(self) -> None:
        errors, self._errors = [_as_exception(error) for error in self._errors], []
        if errors:
            error = errors[0] if len(errors) == 1 else ExceptionGroup("asyncio code", errors)
            context = context_of(error)
            try:
                raise error
            finally:
                keep_context(error, context)  # its own, not the `Cancelled` it replaces
                del error, errors

    async def _end_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.end()

    def end(self) -> None:
        """Cancel the code if it still runs; from now on its time is limited."""
        if not self._ending:
            self._ending = True
            self.time_left.deadline = trio.current_time() + self._cancel_timeout
            self._to_asyncio(self._cancel_code)

    def context(self) -> Context:
        """Return a copy of the caller's context, to run the code in."""
        context = copy_context()
        context.run(current_run.set, self)
        if self._view is not None:
            context.run(child_of_context.set, self._view)
        return context

    def turns(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether a loop is the code's own, and turns in Trio's thread."""
        return self.handles is not None and self.handles.loop is loop

    def _stop_requested(self) -> None:
        if self._view is not None:
            self._view.signal.set()
            self._to_asyncio(self._view.signal.wake)

    def _to_asyncio(self, callback: Callable[[], object]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(callback)

    # Called from any thread.

    def fail(self, error: BaseException) -> None:
        """Record an error of the run, and end the run."""
        if self.over:
            logger.warning(
                "asyncio code failed after its run was over",
                exc_info=error,
                extra={"action": "asyncio_failed_late"},
            )
        elif not any(known is error for known in self._errors):
            self._errors.append(error)
        with suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self.end)

    def soon(self, sync_fn: Callable[..., object], *args: object) -> None:
        """Call `sync_fn` in Trio's thread soon, unless the run is over by then."""
        self.token.run_sync_soon(self._unless_over, sync_fn, args)

    def _unless_over(self, sync_fn: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            if not self.over:
                sync_fn(*args)
        except Exception as error:  # noqa: BLE001  (raised when the run has ended)
            self.fail(error)

    # Called in the asyncio loop.

    async def main(self) -> None:
        """Run the code; the loop's host waits for this task."""
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_unhandled)
        if self._view is not None and self._view.signal:
            self._view.signal.wake()
        try:
            if not self._ending:
                await self._code()
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001, ASYNC103  (raised when the run has ended)
            is_ours = self.cancelled and isinstance(error, asyncio.CancelledError)
            if not (is_ours or self.killed):
                self.fail(error)
        finally:
            self.token.run_sync_soon(self.end)

    def _cancel_code(self) -> None:
        if self._task is not None and not self.cancelled:
            self.cancelled = True
            self._task.cancel("the child was cancelled")

    # Or Ctrl-C could be raised in here, and would count as an error of the child.
    @trio.lowlevel.enable_ki_protection
    def call(self, callback: Callable[..., object], *args: object) -> None:
        """Call a callback of a loop in Trio's thread, which an exit must not break."""
        try:
            if not self.killed:
                callback(*args)
        except (SystemExit, KeyboardInterrupt) as error:
            self.fail(error)
        finally:
            del callback, args  # see `call_once`

    def call_once(self, job: list[Any]) -> None:
        """Call a callback, and make the loop forget it if it was the last step of a task.

        Since Python 3.12 an error keeps the frames that it came through, and with them the loop's
        last handle. If that handle still held the task, a task without another reference would
        stay alive, and asyncio would never report that its error was not retrieved.
        """
        callback, *args = job
        task = getattr(callback, "__self__", None)
        try:
            self.call(callback, *args)
            if isinstance(task, asyncio.Task) and task.done() and self.handles is not None:
                self.handles.after_turn(job.clear)  # not here, inside the task's context
        finally:
            del callback, args, task

    def _on_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # An error that broke a connection was given to its protocol; asyncio, too, only logs it.
        if error is None or "transport" in context or _is_of_collected_task(context):
            asyncio.BaseEventLoop.default_exception_handler(
                cast("asyncio.BaseEventLoop", loop), context
            )
        else:
            self.fail(error)

    def ignored_cancellation(self, what_now: str) -> None:
        """Record as an error that the code did not end in time, with the lines at which it is."""
        tasks = set() if self._loop is None else asyncio.all_tasks(self._loop)
        where = "; ".join(sorted(_where(task) for task in tasks))
        self.fail(
            CancellationIgnored(
                f"asyncio code went on for {self._cancel_timeout} s after it was cancelled; "
                f"{what_now}: {where}"
            )
        )


def _is_of_collected_task(context: dict[str, Any]) -> bool:
    """Return whether a task was woken while garbage collection closed its coroutine elsewhere.

    No code raised this error, so it has no traceback: the closed coroutine refused to go on.
    """
    is_of_task = isinstance(context.get("future"), asyncio.Task)
    return is_of_task and context["exception"].__traceback__ is None


def _where(task: asyncio.Task[Any]) -> str:
    """Return the lines at which a task is, outermost first; also of a task that runs just now."""
    frames: list[FrameType] = []
    inner: Any = task.get_coro()
    while inspect.iscoroutine(inner) and inner.cr_frame is not None:
        frames.append(inner.cr_frame)
        inner = inner.cr_await
    for top in sys._current_frames().values():  # noqa: SLF001  (documented)
        stack = [frame for frame, _ in traceback.walk_stack(top)]
        if frames and frames[-1] in stack:
            frames += reversed(stack[: stack.index(frames[-1])])
    lines = [
        f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
        for frame in frames
        if frame.f_code is not Run.main.__code__
    ]
    return " > ".join(lines) or task.get_name()


def _as_exception(error: BaseException) -> Exception:
    """Turn an error that would end the program or the tree into a plain error of the child."""
    if isinstance(error, Exception):
        return error
    if isinstance(error, asyncio.CancelledError):
        message = "asyncio code ended with CancelledError, but nobody had cancelled it"
    else:
        message = f"asyncio code raised {error!r}, which ends this child alone"
    result = SupervisionError(message)
    result.__cause__ = error
    return result
