"""The supervisor: a nursery whose children are looked after.

`policies` decides, this module carries it out. In the order in which one asks: `open_supervisor`,
what a `Child` shows and offers, what a `Supervisor` can be told, and below that how a run begins
and ends, how a group is restarted, how everything stops.

Three rules hold it together. Each run of a child is one Trio task in a shielded cancel scope of its
own, so nothing but the supervisor ends it, and everything can be ended in order. A run's end is
decided at once, in `Supervisor._ended`, without a checkpoint in between. Whatever takes time (a
stop, a group's restart) is a task that looks at the state afresh after each wait.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from collections import deque
from contextvars import Context, ContextVar, copy_context
from enum import Enum, StrEnum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple, final

import trio

from . import events as ev
from .errors import (
    ChildNotFoundError,
    DoNotRestart,
    DuplicateChildError,
    ErrorText,
    RestartLimitExceeded,
    Stalled,
    SupervisionError,
    SupervisorClosedError,
)
from .policies import (
    AutoShutdown,
    Backoff,
    Restart,
    RestartLimit,
    ShutdownOrder,
    Strategy,
    affected,
    is_auto_shutdown,
    is_restarted,
)
from .snapshot import ChildSnapshot, SupervisorSnapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType

PosArgsT = TypeVarTuple("PosArgsT")

OVERDUE_AFTER: Final = 5.0
"""Seconds after its cancellation at which a child that is still there is reported as overdue."""

_current_child: ContextVar[Child] = ContextVar("actp_supervise_current_child")


def open_supervisor(
    *,
    name: str = "supervisor",
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    limit: RestartLimit | None = RestartLimit(),  # noqa: B008  (frozen)
    backoff: Backoff = Backoff(),  # noqa: B008  (frozen)
    shutdown_timeout: float = 5.0,
    shutdown_order: ShutdownOrder = ShutdownOrder.REVERSE,
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
    on_event: Callable[[ev.Event], object] | None = None,
    rng: random.Random | None = None,
) -> _SupervisorManager:
    """Open a supervisor, to be used in an ``async with``.

    Leaving the block waits for the children, as a nursery does. When the block is cancelled from
    outside, left by an exception, or `Supervisor.shutdown` is called, the children are stopped in
    order first. Nothing outlives the block. Opened inside a child of another supervisor, it becomes
    a subtree of that child.

    Args:
        name: What it is called in events, logs and the printed tree.
        strategy: Which children a restart takes with it.
        limit: How many restarts are too many; None never gives up.
        backoff: How long to wait before a restart; each child may have its own.
        shutdown_timeout: Seconds that a child has to stop when asked, before it is cancelled;
            0 cancels at once, ``inf`` waits for ever. Each child may have its own.
        shutdown_order: How the children are stopped at the end.
        auto_shutdown: Whether it stops when significant children have ended.
        on_event: Called at once with each `Event` of this supervisor and those below. An exception
            in it is logged and harms nobody.
        rng: Where the backoff's jitter comes from.

    Raises:
        RestartLimitExceeded: From the block, after all children were stopped in order.
        TypeError: If an option is of the wrong type.
        ValueError: If a time is negative.
    """
    for option, value, kind in (
        ("strategy", strategy, Strategy),
        ("backoff", backoff, Backoff),
        ("shutdown_order", shutdown_order, ShutdownOrder),
        ("auto_shutdown", auto_shutdown, AutoShutdown),
    ):
        _check_type(option, value, kind)
    if limit is not None:
        _check_type("limit", limit, RestartLimit)
        if limit.out_of_reach(backoff):
            ev.logger.warning(
                "supervisor %r can hardly give up: its backoff spreads restarts over more than the "
                "%s s of its limit",
                name,
                limit.within,
                extra={"action": "limit_out_of_reach"},
            )
    _check_seconds("shutdown_timeout", shutdown_timeout)
    supervisor = object.__new__(Supervisor)
    supervisor.name = name
    supervisor.strategy = strategy
    supervisor._limit = limit
    supervisor._backoff = backoff
    supervisor._shutdown_timeout = shutdown_timeout
    supervisor._shutdown_order = shutdown_order
    supervisor._auto_shutdown = auto_shutdown
    supervisor._rng = random.Random() if rng is None else rng
    return _SupervisorManager(supervisor, on_event)


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


class _Intent(Enum):
    """Why a run was asked to end: what follows when it has."""

    STOP = auto()
    RESTART = auto()
    GROUP = auto()  # its group's restart stops it, and will start it
    STALLED = auto()


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


class _Attempt:
    """A caller of `start` or `restart` who waits for the outcome of the next run's start."""

    __slots__ = ("_done", "error", "keep", "value")

    def __init__(self, *, keep: bool) -> None:
        self._done = trio.Event()
        self.keep = keep  # whether the child stays in the list if it comes to nothing
        self.value: Any = None
        self.error: BaseException | None = None

    def resolve(self, *, value: object = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error
        self._done.set()

    @property
    def resolved(self) -> bool:
        return self._done.is_set()

    async def wait(self) -> Any:  # noqa: ANN401  (what started() was given, as in Trio)
        await self._done.wait()
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
        "_error_text",
        "_escorted",
        "_held",
        "_intent",
        "_on_stop",
        "_reports_ready",
        "_scope",
        "_stopping",
        "_subtrees",
        "_supervisor",
        "_wait_scope",
        "_watch_scope",
        "backoff",
        "crashes",
        "name",
        "overdue",
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

    _supervisor: Supervisor
    _async_fn: Callable[..., Awaitable[object]]
    _context: Context
    _reports_ready: bool
    _held: bool  # stopped by a caller, so that no group's restart starts it
    _dropped: bool  # to be taken from the list when it ends
    _attempt: _Attempt | None
    _error_text: ErrorText | None
    _crash_times: deque[float] | None
    _subtrees: tuple[Supervisor, ...] | None

    # Of the run under way; a run is known by its scope.
    _scope: trio.CancelScope | None
    _wait_scope: trio.CancelScope | None  # around the backoff's wait
    _watch_scope: trio.CancelScope | None  # around the watchdog's
    _asked: bool
    _intent: _Intent | None
    _cancel_at: float  # when it is cancelled, once asked
    _escorted: bool  # somebody reports when it is overdue
    _beat_at: float
    _stopping: StopSignal | None
    _on_stop: dict[object, Callable[[], object]] | None
    _ended: trio.Event | None  # set at its end, for those who wait for it

    def __init__(self) -> None:
        raise TypeError("children are made by Supervisor.start_soon and Supervisor.start")

    @property
    def uptime(self) -> float:
        """The seconds that its run has lasted; 0 while it does not run."""
        if self._scope is None or self.started_at is None or self.restart_at is not None:
            return 0.0
        return trio.current_time() - self.started_at

    @property
    def last_error(self) -> str | None:
        """The formatted traceback of its last error; None if it has had none."""
        return None if self._error_text is None else str(self._error_text)

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root supervisor to this child."""
        return (*self._supervisor.path, self.name)

    # For the code inside the child.

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

    def beat(self) -> None:
        """Tell the watchdog that the child gets on; without a watchdog it does nothing."""
        self._beat_at = trio.current_time()

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

    def __repr__(self) -> str:
        return f"<Child {'/'.join(self.path)}: {self.state}>"


@final
class Supervisor:
    """A running supervisor; made by `open_supervisor`."""

    name: str
    strategy: Strategy
    path: tuple[str, ...]
    """The names from the root supervisor to this one."""
    _limit: RestartLimit | None
    _backoff: Backoff
    _shutdown_timeout: float
    _shutdown_order: ShutdownOrder
    _auto_shutdown: AutoShutdown
    _rng: random.Random

    def __init__(self) -> None:
        raise TypeError("use 'async with open_supervisor() as supervisor'")

    def _open(
        self, nursery: trio.Nursery, body: trio.CancelScope, parent: Child | None, hub: ev.EventHub
    ) -> None:
        self._nursery = nursery
        self._body = body
        self._body_task = trio.lowlevel.current_task()
        self._parent = parent
        self._hub = hub
        self.path = (self.name,) if parent is None else (*parent.path, self.name)
        self._children: dict[str, Child] = {}  # in start order
        self._names: dict[str, int] = {}
        self._active = 0  # runs, and a group's restart: what leaving the block waits for
        self._idle = trio.Event()
        self._restart_times: deque[float] = deque(maxlen=self._limit.memory if self._limit else 0)
        self._due: dict[Child, None] = {}  # the group that is to be restarted
        self._due_at = 0.0
        self._regrouping = False
        self._changed = trio.Event()  # wakes the group's restart
        self._stopping = False
        self._closed = trio.Event()
        self._failure: RestartLimitExceeded | None = None
        self._fatal: BaseException | None = None

    # Children, by name.

    @trio.lowlevel.enable_ki_protection
    def start_soon(
        self,
        async_fn: Callable[[*PosArgsT], Awaitable[object]],
        *args: *PosArgsT,
        name: str | None = None,
        restart: Restart = Restart.PERMANENT,
        backoff: Backoff | None = None,
        shutdown_timeout: float | None = None,
        watchdog: float | None = None,
        significant: bool = False,
    ) -> Child:
        """Start a child and return at once.

        Each run of the child is ``await async_fn(*args)`` in a fresh Trio task, in a copy of the
        context in which `start_soon` was called.

        Args:
            async_fn: What the child runs; use `functools.partial` for keyword arguments.
            args: Positional arguments for `async_fn`.
            name: Unique among this supervisor's children; from `async_fn` where not given.
            restart: When the child is started again after it ended by itself.
            backoff: How long to wait before a restart; the supervisor's where not given.
            shutdown_timeout: Seconds to stop when asked; the supervisor's where not given.
            watchdog: Seconds within which the child must call ``current_child().beat()``, else it
                is cancelled as `Stalled`; None for no watchdog.
            significant: Whether its end counts for the supervisor's `auto_shutdown`.

        Returns:
            The child, in state *starting*.

        Raises:
            DuplicateChildError: If a child of that name exists.
            SupervisorClosedError: If the supervisor has begun to stop.
            TypeError: If an option is of the wrong type.
            ValueError: If a time is out of range, or a significant child is permanent or its
                supervisor has no auto-shutdown.

        Source:
            OTP's ``start_child``, which refuses a taken id in the same way.
        """
        child = self._add(
            async_fn,
            args,
            name=name,
            restart=restart,
            backoff=backoff,
            shutdown_timeout=shutdown_timeout,
            watchdog=watchdog,
            significant=significant,
            reports_ready=False,
        )
        self._begin_run(child)
        return child

    @trio.lowlevel.enable_ki_protection
    async def start(
        self,
        async_fn: Callable[..., Awaitable[object]],
        *args: object,
        name: str | None = None,
        restart: Restart = Restart.PERMANENT,
        backoff: Backoff | None = None,
        shutdown_timeout: float | None = None,
        watchdog: float | None = None,
        significant: bool = False,
    ) -> Any:  # noqa: ANN401  (as trio.Nursery.start)
        """Start a child and wait until it is ready.

        As `start_soon`, but `async_fn` is also given ``task_status`` and is ready when it calls
        ``task_status.started(value)``, as with `trio.Nursery.start`. Each restart awaits that too;
        the watchdog begins then. If the caller is cancelled meanwhile, the child is cancelled.

        Returns:
            The value given to ``started()``.

        Raises:
            Exception: Whatever the child raised before it was ready; it is then not kept.
            RuntimeError: If it returned before it was ready.
            SupervisorClosedError: If the supervisor has begun, or begins, to stop.
        """
        child = self._add(
            async_fn,
            args,
            name=name,
            restart=restart,
            backoff=backoff,
            shutdown_timeout=shutdown_timeout,
            watchdog=watchdog,
            significant=significant,
            reports_ready=True,
        )
        attempt = child._attempt = _Attempt(keep=False)
        self._begin_run(child)
        try:
            return await attempt.wait()
        finally:
            if not attempt.resolved:  # the caller was cancelled, and nobody else knows the child
                child._dropped = True
                self._ask_soon(child, _Intent.STOP, timeout=0.0)

    @trio.lowlevel.enable_ki_protection
    async def stop(self, name: str) -> None:
        """Stop a child and wait until it is gone; it stays in the list and stays stopped.

        It is asked, and cancelled after its `shutdown_timeout`; also when the caller is cancelled
        meanwhile. What does not run is left as it is. A child that stops itself is cancelled here.

        Raises:
            ChildNotFoundError: If there is no child of that name.
            SupervisorClosedError: If the supervisor has stopped.
        """
        await self._stop(self._known(name))

    @trio.lowlevel.enable_ki_protection
    async def restart(self, name: str) -> Any:  # noqa: ANN401  (what started() was given)
        """Stop a child if it runs, start it again, and wait until it runs (or is ready).

        This never counts against the limit. A wait for a backoff is cut short. Callers at the same
        time share one restart.

        Returns:
            The value given to ``started()``, for a child that was started with `start`.

        Raises:
            ChildNotFoundError: If there is no child of that name, or it is removed meanwhile.
            Exception: Whatever the child raised before it was ready; it is then *failed*.
            SupervisionError: If somebody stops the child meanwhile.
            SupervisorClosedError: If the supervisor has begun, or begins, to stop.
        """
        child = self._known(name)
        if self._stopping:
            raise SupervisorClosedError(f"supervisor {self.name!r} has begun to stop")
        if child._dropped:
            raise ChildNotFoundError(f"child {name!r} is being removed")
        child._held = False
        if child._attempt is None:
            child._attempt = _Attempt(keep=True)
        attempt = child._attempt
        if child in self._due:
            self._due_at = trio.current_time()
            self._changed.set()
        elif not self._is_live(child):
            child.restarts += 1
            self._begin_run(child)
        elif child.state is ChildState.BACKING_OFF and child._wait_scope is not None:
            child._wait_scope.cancel(reason="restart was called")
        else:
            self._ask_soon(child, _Intent.RESTART)
        return await attempt.wait()

    @trio.lowlevel.enable_ki_protection
    async def remove(self, name: str) -> None:
        """Stop a child if it runs and take it from the list, which frees its name.

        Raises:
            ChildNotFoundError: If there is no child of that name.
            SupervisorClosedError: If the supervisor has stopped.
        """
        child = self._known(name)
        child._dropped = True
        await self._stop(child)
        self._drop(child)

    @trio.lowlevel.enable_ki_protection
    async def shutdown(self) -> None:
        """Stop all children in order and close the supervisor; return when that is done.

        The block's body is cancelled, unless it is the body that calls. Called from inside a child,
        it returns as soon as that child is itself asked to stop. May be called again.
        """
        self._begin_stop()
        if trio.lowlevel.current_task() is not self._body_task:
            self._body.cancel(reason=f"supervisor {self.name!r} was shut down")
        inside = self._child_around_caller()
        with inside.cancel_on_stop() if inside is not None else contextlib.nullcontext():
            await self._closed.wait()

    @property
    def children(self) -> tuple[Child, ...]:
        """All children, running or not, in start order."""
        return tuple(self._children.values())

    def __getitem__(self, name: str) -> Child:
        """Return a child by name; `ChildNotFoundError` if there is none."""
        try:
            return self._children[name]
        except KeyError:
            raise ChildNotFoundError(f"supervisor {self.name!r} has no child {name!r}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._children

    # What is to be seen.

    def tree(self) -> SupervisorSnapshot:
        """Return what this supervisor and all below it are doing now."""
        return SupervisorSnapshot(
            name=self.name,
            state=self._state(),
            strategy=self.strategy,
            children=tuple(_snapshot(child) for child in self._children.values()),
        )

    def subscribe(self, *, max_buffer: int = 1000) -> ev.EventStream:
        """Return a stream of this supervisor's events and those of all below it.

        ``async with supervisor.subscribe() as events: async for event in events: ...`` It holds
        what happens from entering on, and ends after this supervisor has stopped.

        Args:
            max_buffer: How many unread events to hold; more drop the oldest, which
                ``events.dropped`` counts.
        """
        return ev.EventStream(self._hub, max_buffer)

    def __repr__(self) -> str:
        return f"<Supervisor {self.name!r}: {len(self._children)} children>"

    # A run begins.

    def _add(
        self,
        async_fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        *,
        name: str | None,
        restart: Restart,
        backoff: Backoff | None,
        shutdown_timeout: float | None,
        watchdog: float | None,
        significant: bool,
        reports_ready: bool,
    ) -> Child:
        if self._stopping:
            raise SupervisorClosedError(f"supervisor {self.name!r} has begun to stop")
        _check_async_fn(async_fn)
        _check_type("restart", restart, Restart)
        if backoff is not None:
            _check_type("backoff", backoff, Backoff)
        if shutdown_timeout is not None:
            _check_seconds("shutdown_timeout", shutdown_timeout)
        if watchdog is not None and not watchdog > 0:
            raise ValueError(f"watchdog must be a positive number of seconds, not {watchdog!r}")
        if significant and restart is Restart.PERMANENT:
            raise ValueError("a significant child is never permanent: it would not end")
        if significant and self._auto_shutdown is AutoShutdown.NEVER:
            raise ValueError("significant has no meaning in a supervisor without auto_shutdown")
        if name is None:
            name = self._free_name(_name_of(async_fn))
        elif name in self._children:
            state = self._children[name].state
            raise DuplicateChildError(
                f"supervisor {self.name!r} has a child {name!r} already ({state})"
            )
        child = object.__new__(Child)
        child._supervisor = self
        child._async_fn = partial(async_fn, *args) if args else async_fn
        child.name = name
        child.restart = restart
        child.backoff = self._backoff if backoff is None else backoff
        child.shutdown_timeout = (
            self._shutdown_timeout if shutdown_timeout is None else shutdown_timeout
        )
        child.watchdog = watchdog
        child.significant = significant
        child.restarts = child.crashes = 0
        child.started_at = child.restart_at = None
        child._reports_ready = reports_ready
        child._held = child._dropped = False
        child._attempt = child._error_text = child._crash_times = child._subtrees = None
        child._ended = child._watch_scope = None
        child._context = copy_context()
        child._context.run(_current_child.set, child)
        self._children[child.name] = child
        return child

    def _begin_run(self, child: Child, *, delay: float = 0.0) -> None:
        child._scope = trio.CancelScope(shield=True)
        child._asked = child._escorted = child.overdue = False
        child._intent = child._stopping = child._on_stop = child._wait_scope = None
        if delay:
            child.state = ChildState.BACKING_OFF
            child.restart_at = trio.current_time() + delay
        else:
            child.state = ChildState.STARTING
            child.restart_at = None
        self._active += 1
        # Task contexts are copies: what a run sets in its own is gone with it.
        spawn = self._nursery.start_soon
        child._context.run(partial(spawn, self._run, child, child._scope, name=child.name))

    @trio.lowlevel.enable_ki_protection
    async def _run(self, child: Child, scope: trio.CancelScope) -> None:
        error: BaseException | None = None
        try:
            with scope:
                if child.restart_at is not None:
                    with trio.CancelScope(deadline=child.restart_at) as child._wait_scope:
                        await trio.sleep_forever()
                    child.restart_at = None
                if not child._asked:
                    await self._call(child)
        except BaseException as exc:  # noqa: BLE001, ASYNC103  (_ended passes on what is no crash)
            error = exc
        # Outside the except block, or each run's error would hang on to that of the run before.
        try:
            self._ended(child, error)
        except BaseException as exc:  # noqa: BLE001  (leaves the block)
            self._die(exc)

    def _call(self, child: Child) -> Awaitable[None]:
        """Note that the run begins, and return it as an awaitable."""
        child.started_at = child._beat_at = trio.current_time()
        if self._hub.wants(ev.ChildStarted):
            self._hub.emit(ev.ChildStarted, child.path, restarts=child.restarts)
        if child._reports_ready:
            child.state = ChildState.STARTING
            return _unprotected(partial(child._async_fn, task_status=_TaskStatus(self, child)))
        self._running(child, value=None)
        return _unprotected(child._async_fn)

    def _running(self, child: Child, value: object) -> None:
        """Note that a run is under way, and ready where it says so itself."""
        if not child._asked:
            child.state = ChildState.RUNNING
        if child.watchdog is not None:
            child._beat_at = trio.current_time()
            child._watch_scope = trio.CancelScope(shield=True)
            self._nursery.start_soon(self._watch, child, child._scope, child._watch_scope)
        if child._attempt is not None:
            child._attempt.resolve(value=value)
            child._attempt = None
        if self._regrouping:
            self._changed.set()

    @trio.lowlevel.enable_ki_protection
    async def _watch(
        self, child: Child, run: trio.CancelScope | None, scope: trio.CancelScope
    ) -> None:
        """Be the watchdog of one run."""
        assert child.watchdog is not None  # noqa: S101
        with scope:
            while (due := child._beat_at + child.watchdog) > trio.current_time():  # noqa: ASYNC110
                await trio.sleep_until(due)
        if child._scope is not run or child._asked or run is None:
            return
        if self._hub.wants(ev.ChildStalled):
            self._hub.emit(ev.ChildStalled, child.path, watchdog=child.watchdog)
        child._intent = _Intent.STALLED
        child._cancel_at = trio.current_time()
        run.cancel(reason=f"child {child.name!r} missed its watchdog time")
        await self._see_off(child, run)

    # A run ends.

    def _ended(self, child: Child, error: BaseException | None) -> None:
        """Decide what follows the end of a run, and set it going."""
        intent = child._intent
        child._scope = child._intent = child._wait_scope = child._on_stop = None
        child.overdue = False
        child.restart_at = None
        if child._watch_scope is not None:
            child._watch_scope.cancel(reason="the run is over")
            child._watch_scope = None
        was_ready = child.state is not ChildState.STARTING
        if error is not None and _is_fatal(error):
            child.state = ChildState.FAILED
            self._die(error)
        elif intent is not None and intent is not _Intent.STALLED:
            self._ended_as_asked(child, intent, error)
        else:
            if intent is _Intent.STALLED:
                stalled = Stalled(f"no beat for {child.watchdog} s")
                stalled.__cause__ = error
                error = stalled
            elif error is None and not was_ready:
                error = RuntimeError("child exited without calling task_status.started()")
            self._ended_by_itself(child, error)
        if child._ended is not None:
            child._ended.set()
            child._ended = None
        if self._regrouping:
            self._changed.set()
        self._active -= 1
        self._check_idle()

    def _ended_as_asked(self, child: Child, intent: _Intent, error: BaseException | None) -> None:
        if error is not None:
            child._error_text = ErrorText(error)
        child.state = ChildState.STOPPED
        if self._hub.wants(ev.ChildStopped):
            self._hub.emit(ev.ChildStopped, child.path, error=error)
        if intent is _Intent.RESTART and not self._stopping and not child._dropped:
            child.restarts += 1
            self._begin_run(child)
        elif child in self._due and child.restart is not Restart.TEMPORARY:
            self._wait_in_group(child)
        else:
            self._over(child)

    def _ended_by_itself(self, child: Child, error: BaseException | None) -> None:
        if child._attempt is not None:
            self._attempt_failed(child, error)
            return
        for_good = error is not None and _is_do_not_restart(error)
        if error is None:
            child.state = ChildState.FINISHED
            if self._hub.wants(ev.ChildFinished):
                self._hub.emit(ev.ChildFinished, child.path)
        elif for_good:
            child.state = ChildState.FAILED
            child._error_text = ErrorText(error)
        else:
            self._crashed(child, error)
        if is_restarted(child.restart, crashed=error is not None) and not for_good:
            self._schedule_restart(child, error)
        elif error is not None:
            if self._hub.wants(ev.ChildFailed):
                self._hub.emit(ev.ChildFailed, child.path, error=error)
            self._over(child, by_itself=True)
        elif child in self._due and child.restart is not Restart.TEMPORARY:
            self._wait_in_group(child)
        else:
            self._over(child, by_itself=True)

    def _attempt_failed(self, child: Child, error: BaseException | None) -> None:
        """A run that a caller waits for ended before it was ready: the caller gets the error."""
        attempt = child._attempt
        assert attempt is not None and error is not None  # noqa: S101, PT018  (a return is an error)
        child.state = ChildState.FAILED
        child._attempt = None
        child._dropped = child._dropped or not attempt.keep
        traceback = error.__traceback__
        child._error_text = ErrorText(error)
        attempt.resolve(error=error.with_traceback(traceback))
        if self._hub.wants(ev.ChildFailed):
            self._hub.emit(ev.ChildFailed, child.path, error=error)
        self._over(child)

    def _crashed(self, child: Child, error: BaseException) -> None:
        child.state = ChildState.FAILED
        child.crashes += 1
        child._error_text = ErrorText(error)
        if self._hub.wants(ev.ChildCrashed):
            self._hub.emit(
                ev.ChildCrashed,
                child.path,
                error=error,
                traceback=child._error_text,
                crashes=child.crashes,
            )

    def _over(self, child: Child, *, by_itself: bool = False) -> None:
        """A child has ended and nothing will start it again by itself."""
        if child._attempt is not None:
            child._attempt.resolve(error=self._why_not_started(child))
            child._dropped = child._dropped or not child._attempt.keep
            child._attempt = None
        self._due.pop(child, None)
        if child._dropped or child.restart is Restart.TEMPORARY:
            self._drop(child)
        if by_itself and child.significant and not self._stopping:
            others = [c for c in self.children if c.significant and self._is_wanted(c)]
            if is_auto_shutdown(self._auto_shutdown, others):
                self._begin_stop()
                self._body.cancel(reason=f"supervisor {self.name!r}: significant children ended")

    def _why_not_started(self, child: Child) -> SupervisionError:
        if self._stopping:
            return SupervisorClosedError(
                f"supervisor {self.name!r} began to stop before child {child.name!r} was ready"
            )
        if child._dropped:
            return ChildNotFoundError(f"child {child.name!r} was removed before it was ready")
        return SupervisionError(f"child {child.name!r} was stopped before it was ready")

    def _schedule_restart(self, child: Child, error: BaseException | None) -> None:
        if self._stopping:
            self._over(child)
            return
        now = trio.current_time()
        # One group's restart counts once, however many of its members fail before it is due.
        if self._limit is not None and child not in self._due:
            self._restart_times.append(now)
            if self._limit.exceeded(self._restart_times, now):
                self._give_up(child, error)
                return
        delay = self._next_delay(child)
        if self._hub.wants(ev.RestartScheduled):
            self._hub.emit(ev.RestartScheduled, child.path, delay=delay)
        if self._state() != "running":  # an on_event callback may have seen to that
            self._over(child)
        elif self.strategy is Strategy.ONE_FOR_ONE:
            child.restarts += 1
            self._begin_run(child, delay=delay)
        else:
            self._restart_group(child, delay)

    def _next_delay(self, child: Child) -> float:
        """Note that a child ended unasked, and return how long to wait before its restart."""
        if child.backoff.initial == 0:
            return 0.0
        now = trio.current_time()
        if child._crash_times is None:
            child._crash_times = deque(maxlen=child.backoff.memory)
        times = child._crash_times
        times.append(now)
        while times[0] < now - child.backoff.window:
            times.popleft()
        return child.backoff.delay(len(times), self._rng)

    def _give_up(self, child: Child, error: BaseException | None) -> None:
        assert self._limit is not None  # noqa: S101
        child.state = ChildState.FINISHED if error is None else ChildState.FAILED
        self._failure = RestartLimitExceeded(
            f"child {child.name!r} of supervisor {self.name!r} ended once too often: more than "
            f"{self._limit.max_restarts} restarts within {self._limit.within} s",
            path=child.path,
            max_restarts=self._limit.max_restarts,
            within=self._limit.within,
        )
        self._failure.__cause__ = error  # its frames are gone, its text is in the log
        if self._hub.wants(ev.RestartLimitReached):
            self._hub.emit(
                ev.RestartLimitReached,
                child.path,
                max_restarts=self._limit.max_restarts,
                within=self._limit.within,
            )
        self._over(child)
        self._begin_stop()
        self._body.cancel(reason=f"supervisor {self.name!r} gave up")

    def _die(self, error: BaseException) -> None:
        """Stop in order because of an error that no supervisor handles, and pass it on."""
        if self._fatal is None:
            self._fatal = _sole(error)
        self._begin_stop()
        self._body.cancel(reason=f"supervisor {self.name!r}: {type(self._fatal).__name__}")

    # A group is restarted: what belongs to it stands in `_due` until it has been started.

    def _restart_group(self, failed: Child, delay: float) -> None:
        for member in affected(self.strategy, self.children, failed):
            is_out = member._held or member._dropped or member.state is ChildState.FAILED
            if member is failed or not is_out:
                self._due[member] = None
        # Failures that join a waiting group can only make it wait longer.
        self._due_at = max(self._due_at, trio.current_time() + delay)
        for member in tuple(self._due):
            if self._is_live(member):
                continue
            if member.restart is Restart.TEMPORARY:
                del self._due[member]
            else:
                self._wait_in_group(member)
        if not self._regrouping:
            self._regrouping = True
            self._active += 1
            self._nursery.start_soon(self._regroup)

    def _wait_in_group(self, child: Child) -> None:
        child.state = ChildState.BACKING_OFF
        child.restart_at = self._due_at

    @trio.lowlevel.enable_ki_protection
    async def _regroup(self) -> None:
        """Bring the group in `_due` down in reverse order and up in order, until it is empty.

        After each wait it looks afresh, since meanwhile anything may have joined or left.
        """
        starting: Child | None = None
        while not self._stopping:
            self._changed = trio.Event()
            order = [child for child in self._children.values() if child in self._due]
            if any(self._is_live(child) for child in order):
                await self._stop_group(order)
            elif starting is not None and starting.state is ChildState.STARTING:
                await self._changed.wait()
            elif not order:
                break
            elif trio.current_time() < self._due_at:
                with trio.move_on_at(self._due_at):
                    await self._changed.wait()
            else:
                starting = order[0]
                del self._due[starting]
                starting.restarts += 1
                self._begin_run(starting)
        self._due.clear()
        self._due_at = 0.0
        self._regrouping = False
        self._active -= 1
        self._check_idle()

    async def _stop_group(self, order: list[Child]) -> None:
        for child in reversed(order):
            scope = child._scope
            if scope is not None and child in self._due and not self._stopping:
                self._ask(child, _Intent.GROUP)
                await self._see_off(child, scope)

    # Stopping.

    async def _stop(self, child: Child) -> None:
        if self._closed.is_set():
            raise SupervisorClosedError(f"supervisor {self.name!r} has stopped")
        child._held = True
        if child in self._due:
            del self._due[child]
            self._changed.set()
        if self._is_live(child):
            itself = self._child_around_caller() is child
            self._ask_soon(child, _Intent.STOP, timeout=0.0 if itself else None)
            await self._until_ended(child)
        else:
            if child.state is ChildState.BACKING_OFF:
                child.state = ChildState.STOPPED
                child.restart_at = None
            self._over(child)
            await trio.lowlevel.checkpoint()

    def _ask(self, child: Child, intent: _Intent, *, timeout: float | None = None) -> None:
        """Ask a run to end, and set the time at which it will be cancelled."""
        scope = child._scope
        if scope is None:
            return
        if intent is not _Intent.GROUP or child._intent is not _Intent.STOP:
            child._intent = intent
        if not child._asked:
            has_begun = child.state is not ChildState.BACKING_OFF
            child._asked = True
            child.state = ChildState.STOPPING
            if timeout is None:
                timeout = child.shutdown_timeout
            if self._hub.wants(ev.StopRequested):
                self._hub.emit(ev.StopRequested, child.path, timeout=timeout)
            self._cancel_run(child, scope, timeout if has_begun else 0.0)
            if child._stopping is not None:
                child._stopping._fire()
            for callback in tuple((child._on_stop or {}).values()):
                callback()
        elif timeout == 0.0:
            self._cancel_run(child, scope, 0.0)

    def _ask_soon(self, child: Child, intent: _Intent, *, timeout: float | None = None) -> None:
        """Ask, and have a task see it off, for a caller who may be cancelled meanwhile."""
        self._ask(child, intent, timeout=timeout)
        if child._scope is not None:
            self._nursery.start_soon(self._see_off, child, child._scope)

    def _cancel_run(self, child: Child, scope: trio.CancelScope, timeout: float) -> None:
        child._cancel_at = trio.current_time() + timeout
        if timeout > 0:
            scope.deadline = child._cancel_at
        else:
            scope.cancel(reason=f"child {child.name!r} was stopped")

    async def _until_ended(self, child: Child) -> None:
        """Wait for the end of the run that is under way."""
        if child._ended is None:
            child._ended = trio.Event()
        await child._ended.wait()

    async def _see_off(self, child: Child, scope: trio.CancelScope) -> None:
        """Wait until a run that was asked to end has, and report it if it does not."""
        reports = not child._escorted  # one reporter is enough
        child._escorted = True
        patience = OVERDUE_AFTER if reports else math.inf
        while child._scope is scope:
            with trio.move_on_at(child._cancel_at + patience):
                await self._until_ended(child)
            if child._scope is scope and trio.current_time() >= child._cancel_at + patience:
                child.overdue = True
                if self._hub.wants(ev.StopOverdue):
                    self._hub.emit(ev.StopOverdue, child.path, overdue=patience)
                patience *= 2

    def _begin_stop(self) -> None:
        """Stop all children in order, in a task of its own; start nothing any more."""
        if self._stopping:
            return
        self._stopping = True
        self._changed.set()
        self._nursery.start_soon(self._stop_all)

    @trio.lowlevel.enable_ki_protection
    async def _stop_all(self) -> None:
        with trio.CancelScope(shield=True):  # bounded by the children's timeouts
            for child in self.children:
                if child.state is ChildState.BACKING_OFF and not self._is_live(child):
                    child.state = ChildState.STOPPED
                    child.restart_at = None
                    self._over(child)
            children = self.children
            if self._shutdown_order is ShutdownOrder.TOGETHER:
                for child in children:
                    self._ask_soon(child, _Intent.STOP)
            for child in reversed(children):
                scope = child._scope
                if scope is not None:
                    self._ask(child, _Intent.STOP)
                    await self._see_off(child, scope)
        error = self._fatal or self._failure
        if self._hub.wants(ev.SupervisorStopped):
            self._hub.emit(ev.SupervisorStopped, self.path, error=error)
        self._closed.set()
        self._hub.close()

    def _cancel_all(self) -> None:
        for child in self._children.values():
            self._ask(child, _Intent.STOP, timeout=0.0)

    @trio.lowlevel.enable_ki_protection
    async def _close(self, error: BaseException | None) -> BaseException | None:
        """Leave the block: wait for the children, or stop them; return what is to be raised."""
        if error is None and not self._stopping:
            asked = self._parent.cancel_on_stop() if self._parent else contextlib.nullcontext()
            try:
                with asked:
                    while self._active:
                        self._idle = trio.Event()
                        await self._idle.wait()
            except BaseException as interrupt:  # noqa: BLE001, ASYNC103  (returned, to be raised)
                error = interrupt
        self._begin_stop()
        while not self._closed.is_set():
            try:
                with trio.CancelScope(shield=True):  # bounded by the children's timeouts
                    await self._closed.wait()
            except KeyboardInterrupt as again:  # the second Ctrl-C: no more asking
                error = again
                self._cancel_all()
        return self._leaving(error)

    def _leaving(self, error: BaseException | None) -> BaseException | None:
        failures = [e for e in (self._fatal, self._failure) if e is not None]
        if error is not None and not (failures and isinstance(error, trio.Cancelled)):
            failures.append(error)
        if len(failures) > 1:
            return BaseExceptionGroup(f"supervisor {self.name!r} failed", failures)
        return failures[0] if failures else None

    # Small things.

    def _known(self, name: str) -> Child:
        if self._closed.is_set():
            raise SupervisorClosedError(f"supervisor {self.name!r} has stopped")
        return self[name]

    def _is_live(self, child: Child) -> bool:
        """Whether a run of the child is under way, its backoff's wait included."""
        return child._scope is not None

    def _is_wanted(self, child: Child) -> bool:
        """Whether a run of the child is under way or will be."""
        return self._is_live(child) or child in self._due

    def _check_idle(self) -> None:
        if self._active == 0:
            self._idle.set()

    def _state(self) -> str:
        if self._closed.is_set():
            return "stopped"
        return "stopping" if self._stopping else "running"

    def _drop(self, child: Child) -> None:
        if self._children.get(child.name) is child and not self._is_live(child):
            del self._children[child.name]
            del child._context  # which refers back to the child

    def _free_name(self, base: str) -> str:
        name = base
        while name in self._children:
            self._names[base] = self._names.get(base, 1) + 1
            name = f"{base}-{self._names[base]}"
        return name

    def _child_around_caller(self) -> Child | None:
        """Return the child of this supervisor inside which the caller runs, if any."""
        child = _current_child.get(None)
        while child is not None and child._supervisor is not self:
            child = child._supervisor._parent
        return child


class _TaskStatus:
    """What a child that reports readiness is given as ``task_status``."""

    def __init__(self, supervisor: Supervisor, child: Child) -> None:
        self._supervisor = supervisor
        self._child = child
        self._scope = child._scope
        self._called = False

    def started(self, value: object = None) -> None:
        """Say that the child is ready."""
        if self._called:
            raise RuntimeError("task_status.started() was called twice")
        self._called = True
        child = self._child
        if child._scope is not self._scope:  # by something that its run left behind
            return
        hub = self._supervisor._hub
        self._supervisor._running(child, value)
        if hub.wants(ev.ChildReady):
            hub.emit(ev.ChildReady, child.path)


class _SupervisorManager:
    """What `open_supervisor` returns. No generator: its frames would be in every traceback."""

    def __init__(
        self, supervisor: Supervisor, on_event: Callable[[ev.Event], object] | None
    ) -> None:
        self._supervisor = supervisor
        self._on_event = on_event

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Supervisor:
        supervisor = self._supervisor
        if hasattr(supervisor, "path"):
            raise RuntimeError("a supervisor cannot be opened a second time")
        parent = self._parent = _current_child.get(None)
        hub = ev.EventHub(self._on_event, parent._supervisor._hub if parent else None)
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        self._body = trio.CancelScope()
        self._body.__enter__()
        supervisor._open(nursery, self._body, parent, hub)
        if parent is not None:
            parent._subtrees = (*(parent._subtrees or ()), supervisor)
        return supervisor

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        body_error = exc
        try:
            if self._body.__exit__(exc_type, exc, traceback):
                body_error = None
        except BaseException as rest:  # noqa: BLE001, ASYNC103  (what the scope did not catch)
            body_error = rest
        try:
            error = await self._supervisor._close(body_error)
        finally:
            # Empty by now, so that it neither waits nor raises.
            await self._nursery_manager.__aexit__(None, None, None)  # noqa: ASYNC102
            parent = self._parent
            if parent is not None:
                subtrees = parent._subtrees or ()
                parent._subtrees = tuple(s for s in subtrees if s is not self._supervisor)
        if error is None or error is exc:
            return error is None
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # not the exception that the block was left by
            del error


@trio.lowlevel.disable_ki_protection
async def _unprotected(async_fn: Callable[[], Awaitable[object]]) -> None:
    """Run a child's own code, where Ctrl-C may strike anywhere, as in any Trio task."""
    await async_fn()


def _nothing() -> None:
    pass


def _snapshot(child: Child) -> ChildSnapshot:
    return ChildSnapshot(
        name=child.name,
        state=child.state,
        restart=child.restart,
        restarts=child.restarts,
        crashes=child.crashes,
        last_error=child.last_error,
        started_at=child.started_at,
        uptime=child.uptime,
        restart_at=child.restart_at,
        overdue=child.overdue,
        time=trio.current_time(),
        children=tuple(subtree.tree() for subtree in child._subtrees or ()),
    )


def _name_of(async_fn: object) -> str:
    while isinstance(async_fn, partial):
        async_fn = async_fn.func
    return str(getattr(async_fn, "__name__", type(async_fn).__name__))


def _is_fatal(error: BaseException) -> bool:
    """Whether no supervisor may handle it: KeyboardInterrupt, SystemExit and their like."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_fatal(member) for member in error.exceptions)
    return not isinstance(error, (Exception, trio.Cancelled))


def _is_do_not_restart(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_do_not_restart(member) for member in error.exceptions)
    return isinstance(error, DoNotRestart)


def _sole(error: BaseException) -> BaseException:
    """Take an error out of groups that hold it alone."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _check_type(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {value!r}")


def _check_seconds(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")


def _check_async_fn(async_fn: object) -> None:
    if inspect.iscoroutine(async_fn):
        async_fn.close()
        raise TypeError("a child is an async function and its arguments, not a coroutine object")
    if not callable(async_fn):
        raise TypeError(f"a child is an async function, not {async_fn!r}")
