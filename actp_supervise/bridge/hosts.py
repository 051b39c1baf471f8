"""What runs the asyncio loop of a run: trio-asyncio in Trio's thread, or a thread of its own.

trio-asyncio is imported here alone, and only where it is used.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import inspect
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from .handles import Handles, forget_generators, forget_task
from .threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .run import Run


MAX_CLOSE_ATTEMPTS: Final = 5
"""How often a coroutine is closed at most. Clean-up that awaits survives a ``close()``; each one
ends one more of the nested blocks."""


async def in_new_thread(function: Callable[[], None]) -> None:
    """Run a function in a new thread; when cancelled, return at once and let the thread go on."""
    await trio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


async def host_in_thread(
    run: Run, in_thread: Callable[[Callable[[], None]], Awaitable[None]]
) -> None:
    """Run the asyncio loop of a run in another thread, which is abandoned when the time is up."""
    context = run.context()

    def turn() -> None:
        # A factory, since trio-asyncio, where it is imported, replaces asyncio's own.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            threads = DaemonThreads()
            runner.get_loop().set_default_executor(threads)
            try:
                runner.run(run.main(), context=context)
                runner.run(threads.finish())
            except BaseException as error:  # noqa: BLE001, ASYNC103  (raised when the run has ended)
                run.cancelled = True  # by the runner; a second cancel would cut clean-up short
                run.fail(error)

    with run.time_left:
        await in_thread(turn)
    if run.time_left.cancelled_caught:
        run.ignored_cancellation("it was left in its thread")


async def host_in_loop(run: Run) -> None:
    """Run the asyncio loop of a run in Trio's thread; close its coroutines when the time is up."""
    import trio_asyncio

    try:
        async with trio_asyncio.open_loop() as loop:
            _sandbox_loop(loop, run)
            Handles(loop)
            loop.set_default_executor(_executor())
            try:
                with run.time_left:
                    await _until_done(loop.create_task(run.main(), context=run.context()))
                    await _cancel_all(loop, run)
                    await _until_done(loop.create_task(loop.shutdown_asyncgens()))
                    await _cancel_all(loop, run)
            finally:
                _kill(loop, run)
                del loop.stop  # which open_loop itself needs
    except BaseExceptionGroup as group:
        for error in _leaves(group):
            if not isinstance(error, trio.Cancelled):
                run.fail(error)


def _executor() -> Any:  # noqa: ANN401  (trio-asyncio has no types)
    """Return an executor whose callers return at once when cancelled, as with asyncio's own."""
    import trio_asyncio

    class Executor(trio_asyncio.TrioExecutor):  # type: ignore[misc]
        async def submit(self, func: Callable[..., object], *args: object) -> object:
            return await trio.to_thread.run_sync(func, *args, abandon_on_cancel=True)

    return Executor()


def _sandbox_loop(loop: Any, run: Run) -> None:  # noqa: ANN401  (trio-asyncio has no types)
    """Keep the code from stopping the loop, taking signals, or breaking the loop by a callback."""

    def refuse(name: str, advice: str) -> None:
        def refused(*_args: object) -> None:
            raise RuntimeError(f"loop.{name}() is not for the code of a child: {advice}")

        setattr(loop, name, refused)

    def guard(name: str, position: int, *, once: bool = True) -> None:
        """Wrap a method of the loop, so that the callback at `position` is called by the run."""
        original = getattr(loop, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            before, job = args[:position], args[position:]
            if once:
                return original(*before, run.call_once, [*job], **kwargs)
            return original(*before, run.call, *job, **kwargs)

        setattr(loop, name, guarded)

    refuse("stop", "return, or raise an error")
    refuse("add_signal_handler", "signals are the program's")
    guard("call_soon", 0)
    guard("call_soon_threadsafe", 0)
    guard("call_later", 1)
    guard("call_at", 1)
    guard("_add_reader", 1, once=False)
    guard("_add_writer", 1, once=False)


async def _until_done(future: asyncio.Future[Any]) -> None:
    done = trio.Event()
    future.add_done_callback(lambda _: done.set())
    await done.wait()


async def _cancel_all(loop: asyncio.AbstractEventLoop, run: Run) -> None:
    """Cancel all tasks of a loop, and those that they start meanwhile, until none is left."""
    while tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        for task in tasks:
            await _until_done(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                run.fail(error)


def _kill(loop: Any, run: Run) -> None:  # noqa: ANN401
    """Close the coroutines of tasks that did not end, and keep the loop from calling anything."""
    tasks: set[Any] = asyncio.all_tasks(loop)
    if not tasks:
        return
    if run.time_left.cancelled_caught:  # else the loop itself is broken
        run.ignored_cancellation("its coroutines were closed")
    run.killed = True
    forget_generators(loop)
    while tasks:
        for task in tuple(tasks):
            forget_task(task)
            _close(task.get_coro())
        tasks = asyncio.all_tasks(loop)  # tasks that their clean-up has started


def _close(coroutine: Any) -> None:  # noqa: ANN401
    """Close a coroutine and those that it awaits, more than once where their clean-up awaits.

    A coroutine that survives all attempts is kept referenced for ever. Garbage collection, and the
    interpreter at its end, would close it again, outside of a loop, where each ``await`` fails at
    once: code that swallows that failure and tries again would never come to an end.
    """
    chain = [coroutine]
    while inspect.iscoroutine(inner := chain[-1]) and inner.cr_await is not None:
        chain.append(inner.cr_await)
    for _ in range(MAX_CLOSE_ATTEMPTS):
        for each in chain:
            # RuntimeError: its clean-up awaits
            with suppress(Exception, SystemExit, KeyboardInterrupt):
                each.close()
        chain = [each for each in chain if inspect.iscoroutine(each) and each.cr_frame is not None]
    for each in chain:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    return [error]


@functools.cache
def check_trio_asyncio() -> None:
    """Raise a `RuntimeError` that says what to do, unless trio-asyncio can work here."""
    try:
        import trio_asyncio  # noqa: F401
    except (ImportError, AttributeError) as error:  # the latter on Python 3.14
        raise RuntimeError(
            "isolation='loop' needs trio-asyncio, which cannot be imported: install "
            "actp-supervise[asyncio] (Python 3.13 or older), or use isolation='thread'"
        ) from error
    import _asyncio

    names = ("get_running_loop", "_get_running_loop", "current_task")
    # Their ids, for which a set can be asked: a large program has 100,000 names to be looked at.
    originals = {id(getattr(_asyncio, name)) for name in names if hasattr(_asyncio, name)}
    for module_name, module in sorted(sys.modules.items()):
        if module_name.split(".")[0] in {"_asyncio", "asyncio", "trio_asyncio"}:
            continue
        for name, value in tuple(getattr(module, "__dict__", {}).items()):
            if id(value) in originals:
                raise RuntimeError(
                    f"isolation='loop' cannot work: {module_name} took asyncio's {name} before "
                    "trio_asyncio was imported, and would find no running loop; write 'import "
                    "trio_asyncio' first in the main module, or use isolation='thread'"
                )
