"""A child: what it shows of itself, and how the code inside it cooperates.

`engine` runs children and keeps their fields; this module only reads most of them.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
from contextvars import Context, ContextVar, copy_context
from enum import Enum, StrEnum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, final

import trio

from .errors import SupervisionError
from .policies import Backoff, Restart
from .snapshot import ChildSnapshot

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable, Container, Iterator

    from .engine import Engine
    from .errors import ErrorText

_current_child: ContextVar[Child] = ContextVar("actp_supervise_current_child")


def current_child() -> Child:
    """Return the child inside which the caller runs.

    It holds in everything that the child's function calls or spawns, subtrees excepted: there it
    is the subtree's child.

    Raises:
        RuntimeError: If the caller runs in no supervised child.
    """
    try:
        return _current_child.get()
    except LookupError:
        raise RuntimeError("current_child() works only inside a supervised child") from None


class ChildState(StrEnum):
    """What a child is doing."""

    STARTING = "starting"
    """Its task has not begun, or it has not said that it is ready."""
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    """It waits to be started again; `Child.restart_at` says when."""
    STOPPING = "stopping"
    """Asked to stop and still there."""
    STOPPED = "stopped"
    """Gone after it was asked to stop."""
    FINISHED = "finished"
    """It returned and is not started again."""
    FAILED = "failed"
    """It ended by an error and is not started again."""


class Intent(Enum):
    """Why a run was asked to end: what follows when it has."""

    STOP = auto()
    RESTART = auto()
    GROUP = auto()  # its group's restart stops it, and will start it
    STALLED = auto()


class Program(Protocol):
    """The running process of a child, as `process_child` hands it to `Child.program`."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def send_signal(self, number: int) -> None:
        """Send it a signal; a process that has ended meanwhile gets none."""


class StopSignal:
    """Whether a run was asked to stop: ``is_set()``, ``await wait()``, or simply its truth."""

    __slots__ = ("_event", "_set")

    def __init__(self, *, is_set: bool) -> None:
        self._set = is_set
        self._event: trio.Event | None = None

    def is_set(self) -> bool:
        """Return whether the run was asked to stop."""
        return self._set

    __bool__ = is_set

    async def wait(self) -> None:
        """Wait until the run is asked to stop."""
        if self._event is None:
            self._event = trio.Event()
            if self._set:
                self._event.set()
        await self._event.wait()

    def _fire(self) -> None:
        self._set = True
        if self._event is not None:
            self._event.set()


class Attempt:
    """Callers of `start` or `restart` who wait for the outcome of the next run's start."""

    __slots__ = ("_callers", "_done", "error", "keep", "value")

    def __init__(self, *, keep: bool) -> None:
        self._done = trio.Event()
        self._callers = 0
        self.keep = keep  # whether the child stays in the list if it comes to nothing
        self.value: Any = None
        self.error: BaseException | None = None

    def resolve(self, *, value: object = None, error: BaseException | None = None) -> None:
        """Give the outcome to whoever waits."""
        self.value = value
        self.error = error
        self._done.set()

    @property
    def resolved(self) -> bool:
        """Whether there is an outcome."""
        return self._done.is_set()

    @property
    def awaited(self) -> bool:
        """Whether any of the callers is still there, and not cancelled."""
        return self._callers > 0

    async def wait(self) -> Any:  # noqa: ANN401  (what started() was given, as in Trio)
        """Wait for the outcome: the value, or the error raised."""
        self._callers += 1
        try:
            await self._done.wait()
        finally:
            self._callers -= 1
        if self.error is not None:
            raise self.error
        return self.value


@final
class Child:
    """One child of a supervisor: what it is doing and, for the code inside it, how to cooperate.

    Made by `Supervisor.start_soon` and `Supervisor.start`; the code inside finds its own by
    `current_child`.
    """

    __slots__ = (
        "_asked",
        "_async_fn",
        "_attempt",
        "_beat_at",
        "_cancel_at",
        "_context",
        "_crash_times",
        "_dropped",
        "_ended",
        "_engine",
        "_error_text",
        "_held",
        "_intent",
        "_on_stop",
        "_patience",
        "_reports_ready",
        "_scope",
        "_stopping",
        "_subtrees",
        "_wait_scope",
        "_watch_scope",
        "backoff",
        "crashes",
        "name",
        "overdue",
        "program",
        "restart",
        "restart_at",
        "restarts",
        "shutdown_timeout",
        "significant",
        "started_at",
        "state",
        "watchdog",
    )

    name: str
    restart: Restart
    backoff: Backoff
    shutdown_timeout: float
    watchdog: float | None
    significant: bool
    state: ChildState
    restarts: int
    """How often it has been started again, for whatever reason."""
    crashes: int
    """How many of its runs ended by an error that nobody asked for; a stall is one."""
    started_at: float | None
    """Trio's time at which its last run began; None before the first."""
    restart_at: float | None
    """Trio's time at which it will be started again, while it is backing off."""
    overdue: bool
    """Whether it was cancelled some time ago and is still there."""
    program: Program | None
    """The process that its run runs; set by `process_child`, None for other code."""

    _engine: Engine
    _async_fn: Callable[..., Awaitable[object]]
    _context: Context
    _reports_ready: bool
    _held: bool  # stopped by a caller, so that no group's restart starts it
    _dropped: bool  # to be taken from the list when it ends
    _attempt: Attempt | None
    _error_text: ErrorText | None
    _crash_times: deque[float] | None
    _subtrees: tuple[Engine, ...]  # the supervisors that it has opened

    # Of the run under way; a run is known by its scope.
    _scope: trio.CancelScope | None
    _wait_scope: trio.CancelScope | None  # around the backoff's wait
    _watch_scope: trio.CancelScope | None  # around the watchdog's
    _asked: bool
    _intent: Intent | None
    _cancel_at: float  # when it is cancelled, once asked
    _patience: float  # the seconds after that at which it is next reported as overdue
    _beat_at: float
    _stopping: StopSignal | None
    _on_stop: dict[object, Callable[[], object]] | None
    _ended: trio.Event | None  # set at its end, for those who wait for it

    def __init__(self) -> None:
        raise TypeError("children are made by Supervisor.start_soon and Supervisor.start")

    @classmethod
    def _make(
        cls,
        engine: Engine,
        async_fn: Callable[..., Awaitable[object]],
        *,
        name: str,
        restart: Restart,
        backoff: Backoff,
        shutdown_timeout: float,
        watchdog: float | None,
        significant: bool,
        reports_ready: bool,
    ) -> Child:
        check_type("name", name, str)
        check_type("restart", restart, Restart)
        check_type("backoff", backoff, Backoff)
        check_seconds("shutdown_timeout", shutdown_timeout)
        if watchdog is not None:
            check_seconds("watchdog", watchdog)
            if watchdog == 0:
                raise ValueError(f"watchdog must be a positive number of seconds, not {watchdog!r}")
        if significant and restart is Restart.PERMANENT:
            raise ValueError("a significant child is never permanent: it would not end")
        child = object.__new__(cls)
        child._engine = engine
        child._async_fn = async_fn
        child.name = name
        child.restart = restart
        child.backoff = backoff
        child.shutdown_timeout = shutdown_timeout
        child.watchdog = watchdog
        child.significant = significant
        child.state = ChildState.STARTING
        child.restarts = child.crashes = 0
        child.started_at = child.restart_at = None
        child.program = None
        child._reports_ready = reports_ready
        child._held = child._dropped = False
        child._attempt = child._error_text = child._crash_times = None
        child._subtrees = ()
        child._scope = child._watch_scope = child._ended = None
        child._context = copy_context()
        child._context.run(_current_child.set, child)
        return child

    @property
    def is_live(self) -> bool:
        """Whether a run of it is under way, the backoff's wait before it included."""
        return self._scope is not None

    @property
    def uptime(self) -> float:
        """The seconds that its run has lasted; 0 while it does not run."""
        if not self.is_live or self.started_at is None or self.restart_at is not None:
            return 0.0
        return trio.current_time() - self.started_at

    @property
    def last_error(self) -> str | None:
        """The formatted traceback of its last error; None if it has had none."""
        return None if self._error_text is None else str(self._error_text)

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root supervisor to this child."""
        return (*self._engine.path, self.name)

    @property
    def pid(self) -> int | None:
        """The process id of the program that it runs; None while it runs none."""
        return None if self.program is None else self.program.pid

    def send_signal(self, number: int) -> None:
        """Send a signal to the program that it runs.

        The program's process alone gets it, as with ``supervisorctl signal``.

        Raises:
            SupervisionError: If it runs no program now.
            TypeError: If `number` is no number.
            ValueError: If there is no signal of that number.
        """
        check_signal("number", number)
        if self.program is None:
            raise SupervisionError(f"child {self.name!r} runs no process that a signal could reach")
        self.program.send_signal(number)

    # For the code inside the child.

    @property
    def stalled(self) -> bool:
        """Whether the watchdog has ended this run, which is being cancelled."""
        return self._intent is Intent.STALLED

    @property
    def stopping(self) -> StopSignal:
        """Set when this run is asked to stop; it then has `shutdown_timeout` seconds."""
        if self._stopping is None:
            self._stopping = StopSignal(is_set=self._asked)
        return self._stopping

    @contextlib.contextmanager
    def cancel_on_stop(self) -> Iterator[trio.CancelScope]:
        """Cancel the block when this run is asked to stop: for idle waits, not for work.

        Example::

            while not child.stopping:
                with child.cancel_on_stop():
                    work = await queue.get()  # ends at once when asked
                    ...
        """
        with trio.CancelScope() as scope:
            unregister = self._on_stop_requested(
                partial(scope.cancel, reason=f"child {self.name!r} was asked to stop")
            )
            try:
                yield scope
            finally:
                unregister()

    def beat(self, *, within: float | None = None) -> None:
        """Tell the watchdog that the child gets on; without a watchdog it does nothing.

        Args:
            within: Seconds to the next sign of life, where that is to be later than usual.
        """
        self._beat_at = trio.current_time()
        if within is not None and self.watchdog is not None:
            self._beat_at += within - self.watchdog

    def _on_stop_requested(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Have `callback` called when this run is asked to stop, at once if it was already."""
        if self._asked:
            callback()
            return _nothing
        if self._on_stop is None:
            self._on_stop = {}
        registered = self._on_stop
        key = object()
        registered[key] = callback

        def unregister() -> None:
            registered.pop(key, None)

        return unregister

    def _snapshot(self) -> ChildSnapshot:
        return ChildSnapshot(
            name=self.name,
            state=self.state,
            restart=self.restart,
            restarts=self.restarts,
            crashes=self.crashes,
            last_error=self.last_error,
            started_at=self.started_at,
            uptime=self.uptime,
            restart_at=self.restart_at,
            overdue=self.overdue,
            time=trio.current_time(),
            children=tuple(subtree.snapshot() for subtree in self._subtrees),
        )

    def __repr__(self) -> str:
        return f"<Child {'/'.join(self.path)}: {self.state}>"


def _nothing() -> None:
    pass


def name_of(async_fn: object) -> str:
    """Return the name that a child gets from its function."""
    while isinstance(async_fn, partial):
        async_fn = async_fn.func
    return str(getattr(async_fn, "__name__", type(async_fn).__name__))


def free_name(base: str, taken: Container[str], numbers: dict[str, int]) -> str:
    """Return a name that is not taken, numbered where it has to be.

    Args:
        base: The name where it is free.
        taken: Those that are not.
        numbers: The last one given to each base; kept by the caller.
    """
    name = base
    while name in taken:
        numbers[base] = numbers.get(base, 1) + 1
        name = f"{base}-{numbers[base]}"
    return name


def check_type(name: str, value: object, kind: type) -> None:
    """Raise a `TypeError` that names the option, unless the value is of its type."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, not {value!r}")


def check_seconds(name: str, value: float) -> None:
    """Raise an error that names the option, unless the value is a duration."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value >= 0:  # so that NaN is refused too
        raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")


def check_signal(name: str, number: int) -> None:
    """Raise an error that names the option, unless the value is the number of a signal."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be the number of a signal, not {number!r}")
    if number not in signal.valid_signals():
        raise ValueError(f"{name} must be the number of a signal, not {number!r}")


def check_async_fn(what: str, async_fn: object) -> None:
    """Raise a `TypeError` that says what it is to be, unless it can be called as one can."""
    if inspect.iscoroutine(async_fn):
        async_fn.close()
        raise TypeError(f"{what} is an async function and its arguments, not a coroutine object")
    if not callable(async_fn):
        raise TypeError(f"{what} is an async function, not {async_fn!r}")
