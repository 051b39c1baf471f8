"""A child: what it shows of itself, and how the code inside it cooperates."""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, cast, final

import trio

from .checks import check_seconds, check_signal
from .errors import SupervisionError
from .policies import Intent
from .record import ChildRecord, ChildState, StopSignal
from .snapshot import ChildSnapshot
from .spec import policy_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from .policies import Backoff, RestartPolicy
    from .record import Program, Run

__all__ = ["Child", "ChildState", "StopSignal", "current_child"]


class ForeignView(Protocol):
    """What `current_child` returns to code that is not Trio's, in place of a `Child`."""

    record: ChildRecord


child_of_context: Final[ContextVar[Child | ForeignView]] = ContextVar(
    "actp_supervise_current_child"
)
"""The child whose code runs; whatever that code spawns inherits it, also outside of the run."""


def current_child() -> Child:
    """Return the child inside which the caller runs.

    It works in all functions that the child's function calls and in all tasks that it spawns.
    Inside a subtree it returns the subtree's child.

    Raises:
        RuntimeError: If the caller runs in no supervised child.
    """
    try:
        return cast("Child", child_of_context.get())  # or what has the same members in asyncio code
    except LookupError:
        raise RuntimeError("current_child() works only inside a supervised child") from None


def record_of(child: Child) -> ChildRecord:
    """Return the record that a supervisor keeps of a child; for the library's own modules."""
    return child._record  # noqa: SLF001  (of this module)


def record_of_context() -> ChildRecord | None:
    """Return the record of the child whose code runs; None outside of any."""
    child = child_of_context.get(None)
    if child is None:
        return None
    return record_of(child) if isinstance(child, Child) else child.record


def enclosing_records() -> list[ChildRecord]:
    """Return the children inside whose runs the calling task is, the innermost first.

    The context variable alone does not tell: a task that a child has put into a nursery outside
    its run inherits the variable, and is not inside the run.
    """
    record = record_of_context()
    if record is None:
        return []
    tasks = set()
    nursery: trio.Nursery | None
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None:
        tasks.add(task)
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    found = []
    while record is not None:
        if record.run is not None and record.run.task in tasks:
            found.append(record)
        record = record.home.parent
    return found


@final
class Child:
    """One child of a supervisor: what it is doing and, for the code inside it, how to cooperate.

    Made by `Supervisor.start_soon` and `Supervisor.start`; the code inside finds its own by
    `current_child`.
    """

    __slots__ = ("__weakref__", "_record")

    def __init__(self, record: ChildRecord | None = None) -> None:
        if record is None:
            raise TypeError("children are made by Supervisor.start_soon and Supervisor.start")
        self._record = record

    # What it was started with.

    @property
    def name(self) -> str:
        """What it is called; unique among its supervisor's children."""
        return self._record.name

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root supervisor to this child."""
        return self._record.path

    @property
    def restart(self) -> RestartPolicy:
        """When it is started again after it ended by itself."""
        return self._record.spec.restart

    @property
    def backoff(self) -> Backoff:
        """How long it waits before a restart."""
        return self._record.backoff

    @property
    def shutdown_timeout(self) -> float | None:
        """The seconds that it has to stop when asked; None is 5 s if it listens, and 0 if not."""
        return self._record.shutdown_timeout

    @property
    def watchdog(self) -> float | None:
        """The seconds within which it has to beat; None for no watchdog."""
        return self._record.spec.watchdog

    @property
    def significant(self) -> bool:
        """Whether its end counts for its supervisor's `auto_shutdown`."""
        return self._record.spec.significant

    # What it is doing.

    @property
    def state(self) -> ChildState:
        """What it is doing."""
        return self._record.state

    @property
    def restarts(self) -> int:
        """How often it has been started again, for whatever reason."""
        return self._record.restarts

    @property
    def crashes(self) -> int:
        """How many of its runs ended by an error unasked, or stalled."""
        return self._record.crashes

    @property
    def last_error(self) -> str | None:
        """The formatted traceback of its last error; None if it has had none."""
        text = self._record.error_text
        return None if text is None else str(text)

    @property
    def started_at(self) -> float | None:
        """Trio's time at which its last run began; None before the first."""
        return self._record.started_at

    @property
    def uptime(self) -> float:
        """The seconds that its run has lasted; 0 while it does not run."""
        run = self._record.run
        if run is None or run.began_at is None:
            return 0.0
        return self._record.home.clock.current_time() - run.began_at

    @property
    def restart_at(self) -> float | None:
        """Trio's time at which it will be started again, while it is backing off."""
        return self._record.home.restart_time(self._record)

    @property
    def overdue(self) -> bool:
        """Whether it was cancelled some time ago and is still there."""
        return self._record.overdue

    @property
    def is_live(self) -> bool:
        """Whether it runs, or waits out its backoff before the next run."""
        return self._record.is_live

    @property
    def pid(self) -> int | None:
        """The process id of a `process_child` that runs; None for other children."""
        program = self._program
        return None if program is None else program.pid

    def send_signal(self, number: int) -> None:
        """Send a signal to the process of a `process_child`, and to none that it started.

        Raises:
            SupervisionError: If no process of it runs.
            TypeError, ValueError: If there is no such signal.
        """
        check_signal("number", number)
        program = self._program
        if program is None:
            raise SupervisionError(f"child {self.name!r} runs no process that a signal could reach")
        program.send_signal(number)

    @property
    def _program(self) -> Program | None:
        run = self._record.run
        return None if run is None else run.program

    # For the code inside the child.

    @property
    def stopping(self) -> StopSignal:
        """Set when this run is asked to stop; it then has `shutdown_timeout` seconds.

        A run that reads this inside itself *listens*: it is asked before it is cancelled.
        """
        run = self._record.run
        if run is None:  # the run is over, and a task that it left behind asks
            return StopSignal(is_set=True)
        if child_of_context.get(None) is self:
            run.listens = True
        if run.signal is None:
            run.signal = StopSignal(is_set=run.is_asked)
        return run.signal

    @property
    def stalled(self) -> bool:
        """Whether this run missed its watchdog time, and is being cancelled for that."""
        run = self._record.run
        return run is not None and run.intent is Intent.STALLED

    def cancel_on_stop(self) -> CancelOnStop:
        """Cancel the block when this run is asked to stop: for idle waits, not for work.

        A run that enters such a block *listens*: it is asked before it is cancelled.

        Example::

            while not child.stopping:
                with child.cancel_on_stop():
                    work = await queue.get()  # ends at once when asked
                    ...
        """
        return CancelOnStop(self._record)

    def beat(self, *, within: float | None = None) -> None:
        """Tell the watchdog that the child makes progress; without a watchdog it does nothing.

        It may be called from any thread.

        Args:
            within: Promises the next sign of life within this many seconds, in place of `watchdog`
                once: for a call that is known to take long.

        Raises:
            TypeError: If `within` is no number.
            ValueError: If `within` is not positive.
        """
        if within is not None:
            check_seconds("within", within, positive=True)
        run = self._record.run
        if run is not None:
            give_sign_of_life(self._record, run, within)

    def __repr__(self) -> str:
        return f"<Child {'/'.join(self.path)}: {self.state}>"


def give_sign_of_life(record: ChildRecord, run: Run, within: float | None = None) -> None:
    """Tell the watchdog of a run that it makes progress; from any thread."""
    watchdog, watch = record.spec.watchdog, run.watch
    if watchdog is None or watch is None:
        return
    watch.beat_due = record.home.clock.current_time() + (watchdog if within is None else within)
    # An earlier `within` promised the beat later than this one does.
    if watch.beat_due < watch.look_at and record.run is run:
        with suppress(trio.RunFinishedError):
            record.home.token.run_sync_soon(record.home.watch_sooner, record, idempotent=True)


class CancelOnStop:
    """A block that is cancelled when its run is asked to stop; ``as`` gives Trio's cancel scope.

    A class and no generator: `contextlib` writes to each error that leaves its block, which frozen
    errors refuse (python/cpython#99856).
    """

    __slots__ = ("_record", "_scope", "_unregister")

    def __init__(self, record: ChildRecord) -> None:
        self._record = record
        self._scope = trio.CancelScope()

    def __enter__(self) -> trio.CancelScope:
        run = self._record.run
        if run is not None:
            run.listens = True
        self._scope.__enter__()
        reason = f"child {self._record.name!r} was asked to stop"
        self._unregister = on_stop_requested(
            self._record, partial(self._scope.cancel, reason=reason)
        )
        return self._scope

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._unregister()
        return self._scope.__exit__(exc_type, exc, traceback)


def on_stop_requested(record: ChildRecord, callback: Callable[[], object]) -> Callable[[], object]:
    """Register a callback for when the run is asked to stop; return what unregisters it.

    It is called at once if the run was asked already, or is over. It must not raise.
    """
    run = record.run
    if run is None or run.is_asked:
        callback()
        return _nothing
    if run.on_stop is None:
        run.on_stop = {}
    key = object()
    run.on_stop[key] = callback
    return partial(run.on_stop.pop, key, None)


def child_snapshot(record: ChildRecord) -> ChildSnapshot:
    """Return a child, and all below it, as it is now."""
    child = record.view
    return ChildSnapshot(
        name=child.name,
        state=child.state,
        restart=policy_name(child.restart),
        restarts=child.restarts,
        crashes=child.crashes,
        last_error=child.last_error,
        started_at=child.started_at,
        uptime=child.uptime,
        restart_at=child.restart_at,
        overdue=child.overdue,
        pid=child.pid,
        time=record.home.clock.current_time(),
        children=tuple(subtree.snapshot() for subtree in record.subtrees),
    )


def _nothing() -> None:
    pass
