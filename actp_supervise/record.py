"""What a supervisor keeps of a child and of a run of it.

Mutable, and of use to the modules behind `nursery` alone; `child.Child` shows it to users. A record
lives as long as the child is in the list, a `Run` from the moment its task is spawned until the
task has ended.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import trio

from .policies import OVERDUE_AFTER, Intent

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable
    from contextvars import Context

    from .child import Child
    from .errors import ErrorText
    from .events import EventHub
    from .policies import Backoff
    from .snapshot import SupervisorSnapshot
    from .spec import ChildSpec, SupervisorSpec


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
    """Gone after it was asked to stop, or not started yet."""
    FINISHED = "finished"
    """It returned and is not started again."""
    FAILED = "failed"
    """It ended by an error and is not started again."""


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

    def fire(self) -> None:
        """Set it, and wake all that wait for it."""
        self._set = True
        if self._event is not None:
            self._event.set()


class Attempt:
    """Callers of `start` or `restart` who wait for the outcome of a run's start.

    If a run is under way that another will follow, they wait for the one that follows:
    `awaits_next_run` is set until that begins.
    """

    __slots__ = ("_callers", "_done", "awaits_next_run", "error", "keep", "value")

    def __init__(self, *, keep: bool) -> None:
        self._done = trio.Event()
        self._callers = 0
        self.keep = keep  # whether the child stays in the list if the start fails
        self.awaits_next_run = False
        self.value: Any = None
        self.error: BaseException | None = None

    def resolve(self, *, value: object = None, error: BaseException | None = None) -> None:
        """Give the outcome to all callers."""
        self.value = value
        self.error = error
        self._done.set()

    @property
    def resolved(self) -> bool:
        """Whether there is an outcome."""
        return self._done.is_set()

    @property
    def is_for_this_run(self) -> bool:
        """Whether callers who have not been cancelled wait for the run under way."""
        return self._callers > 0 and not self.awaits_next_run

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


class Program(Protocol):
    """The operating-system process that a run consists of; see `process.process_child`."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def send_signal(self, number: int) -> None:
        """Send it a signal."""


class Stop:
    """How far the stop of a run has come."""

    __slots__ = ("asked_at", "cancel_at", "long_wait_told", "overdue_after")

    def __init__(self, asked_at: float | None, cancel_at: float) -> None:
        self.asked_at = asked_at  # None if it was cancelled unasked, since it stalled
        self.cancel_at = cancel_at
        self.long_wait_told = False
        self.overdue_after = OVERDUE_AFTER  # seconds after `cancel_at` of the next report


class Watch:
    """What the watchdog of a run knows."""

    __slots__ = ("beat_due", "granted", "look_at")

    def __init__(self, beat_due: float) -> None:
        self.beat_due = beat_due  # when the next sign of life is due
        self.look_at = beat_due  # when it is looked for
        self.granted = False  # whether the run was given more time since its last beat


class Run:
    """One run of a child."""

    __slots__ = (
        "awaitable",
        "began_at",
        "intent",
        "listens",
        "on_stop",
        "over",
        "program",
        "ready",
        "scope",
        "signal",
        "stop",
        "task",
        "watch",
    )

    def __init__(self) -> None:
        self.scope: trio.CancelScope | None = None  # once its task has begun
        self.task: trio.lowlevel.Task | None = None
        self.awaitable: Awaitable[object] | None = None  # of a first run, called already
        self.began_at: float | None = None
        self.ready = self.over = False
        self.listens = False  # has looked whether it is asked to stop
        self.intent: Intent | None = None  # why it was asked to end, or cancelled, if it was
        self.stop: Stop | None = None
        self.watch: Watch | None = None
        self.signal: StopSignal | None = None
        self.on_stop: dict[object, Callable[[], object]] | None = None
        self.program: Program | None = None

    @property
    def is_asked(self) -> bool:
        """Whether it was asked to end."""
        return self.stop is not None and self.stop.asked_at is not None


class Home(Protocol):
    """The supervisor of a child, as far as the child needs it."""

    spec: SupervisorSpec
    parent: ChildRecord | None
    path: tuple[str, ...]
    hub: EventHub
    clock: trio.abc.Clock
    token: trio.lowlevel.TrioToken

    def restart_time(self, child: ChildRecord) -> float | None:
        """Return when a child that backs off is started again."""

    def watch_sooner(self, child: ChildRecord) -> None:
        """Look at a child's watchdog sooner than was planned."""

    def snapshot(self) -> SupervisorSnapshot:
        """Return what the supervisor and all below it are doing."""

    def cancel_all(self) -> None:
        """Cancel all children and all in their subtrees, at once and without asking."""


class ChildRecord:
    """One child of a supervisor."""

    __slots__ = (
        "async_fn",
        "attempt",
        "context",
        "crash_times",
        "crashes",
        "dropped",
        "error_text",
        "gone",
        "home",
        "name",
        "order",
        "overdue",
        "restart_at",
        "restarts",
        "returns",
        "run",
        "spec",
        "started_at",
        "state",
        "stopped_by_user",
        "subtrees",
        "view",
    )

    view: Child
    async_fn: Callable[..., Awaitable[object]]
    context: Context

    def __init__(self, home: Home, name: str, spec: ChildSpec, order: int) -> None:
        self.home = home
        self.name = name
        self.spec = spec
        self.order = order  # counts up in start order
        self.state = ChildState.STOPPED
        self.run: Run | None = None
        self.restarts = 0
        self.crashes = 0
        self.returns = 0
        self.started_at: float | None = None
        self.restart_at: float | None = None
        self.overdue = False
        self.error_text: ErrorText | None = None
        self.crash_times: deque[float] | None = None
        self.stopped_by_user = False  # so that no group's restart starts it
        self.dropped = False  # to be taken from the list when it ends
        self.attempt: Attempt | None = None
        self.subtrees: tuple[Home, ...] = ()  # the supervisors that it has opened
        self.gone: trio.Event | None = None  # set at the end of its run, for those who wait for it

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root supervisor to this child."""
        return (*self.home.path, self.name)

    @property
    def backoff(self) -> Backoff:
        """How long it waits before a restart."""
        return self.home.spec.backoff if self.spec.backoff is None else self.spec.backoff

    @property
    def shutdown_timeout(self) -> float | None:
        """The seconds that it was given to stop; None for the default."""
        own = self.spec.shutdown_timeout
        return self.home.spec.shutdown_timeout if own is None else own

    @property
    def is_live(self) -> bool:
        """Whether a run is under way or it waits for the next one by itself, without a group."""
        return self.run is not None or self.restart_at is not None
