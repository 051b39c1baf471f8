"""The supervisor: a nursery whose children are looked after.

What a user holds: `open_supervisor`, `Supervisor`, and from `child` the `Child` and
`current_child`. What callers may ask for is written here; what then happens in `engine`, and what
is decided in `policies`.
"""

from __future__ import annotations

import contextlib
import logging
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack, final

import trio

from . import events as ev
from .checks import check_async_fn, check_name, check_type
from .child import (
    CancelOnStop,
    Child,
    ChildState,
    StopSignal,
    child_of_context,
    current_child,
    enclosing_records,
)
from .engine import Engine, call
from .errors import (
    ChildNotFoundError,
    DuplicateChildError,
    SupervisorClosedError,
    context_of,
    keep_context,
)
from .policies import OVERDUE_AFTER, AutoShutdown, Strategy
from .record import Attempt, ChildRecord, Run
from .restarts import recall_crashes
from .spec import (
    ChildOptions,
    ChildSpec,
    SupervisorOptions,
    SupervisorSpec,
    check_options,
    child_spec,
    free_name,
    name_of,
    takes_options_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from .snapshot import SupervisorSnapshot

__all__ = [
    "OVERDUE_AFTER",
    "Child",
    "ChildState",
    "StopSignal",
    "Supervisor",
    "current_child",
    "open_supervisor",
]

PosArgsT = TypeVarTuple("PosArgsT")


@takes_options_of(SupervisorSpec)
def open_supervisor(**options: Unpack[SupervisorOptions]) -> SupervisorManager:
    """Open a supervisor, to be used in an ``async with``.

    Leaving the block waits for the children, as a nursery does. When the block is cancelled from
    outside, left by an exception, or `Supervisor.shutdown` is called, the children are stopped in
    order first. Nothing outlives the block. Opened inside a child of another supervisor, it becomes
    a subtree of that child.

    Example::

        async with open_supervisor(name="agents", backoff=Backoff(initial=1.0)) as supervisor:
            supervisor.start_soon(worker, "mail", name="mail")
            await supervisor.start(server, 8080, name="http", restart=Restart.TRANSIENT)

    Args:
        options: See `SupervisorSpec`: `name`, `strategy`, `limit`, `backoff`, `shutdown_timeout`,
            `shutdown_order`, `auto_shutdown`, `on_event`, `rng`.

    Raises:
        RestartLimitExceeded: From the block, after all children were stopped in order.
        TypeError: If an option is of the wrong type, or there is none of that name.
        ValueError: If a time is out of its range, or a name would spoil the printed tree.
    """
    check_options("open_supervisor", SupervisorOptions, options)
    spec = SupervisorSpec(**options)
    if spec.limit is not None and spec.limit.out_of_reach(spec.backoff):
        ev.log(
            logging.WARNING,
            "supervisor %r can hardly give up: its backoff spreads restarts over more than the "
            "%s s of its limit",
            spec.name,
            spec.limit.within,
            action="limit_out_of_reach",
        )
    return SupervisorManager(spec)


@final
class Supervisor:
    """A running supervisor; made by `open_supervisor`."""

    def __init__(self, engine: Engine | None = None) -> None:
        if engine is None:
            raise TypeError("use 'async with open_supervisor() as supervisor'")
        self._engine = engine
        self._orders = 0  # how many children there have been
        self._numbers: dict[str, int] = {}  # of unnamed children, by their function's name

    # Children, by name.

    @takes_options_of(ChildSpec)
    @trio.lowlevel.enable_ki_protection
    def start_soon(
        self,
        async_fn: Callable[[*PosArgsT], Awaitable[object]],
        *args: *PosArgsT,
        name: str | None = None,
        autostart: bool = True,
        **options: Unpack[ChildOptions],
    ) -> Child:
        """Start a child and return at once.

        Each run of the child is ``await async_fn(*args)`` in a fresh Trio task, in a copy of the
        context in which `start_soon` was called. The first call of `async_fn` is made here.

        Args:
            async_fn: What the child runs; use `functools.partial` for keyword arguments.
            args: Positional arguments for `async_fn`.
            name: Unique among this supervisor's children; from `async_fn` where not given.
            autostart: Whether it is started now. If not, it is listed as stopped, and `restart`
                starts it.
            options: See `ChildSpec`: `restart`, `backoff`, `shutdown_timeout`, `watchdog`,
                `significant`, `crash_ages`.

        Returns:
            The child, in state *starting*; *stopped* without `autostart`.

        Raises:
            DuplicateChildError: If a child of that name exists.
            SupervisorClosedError: If the supervisor has begun to stop.
            TypeError: If `async_fn` is no async function, or an option of the wrong type.
            ValueError: If a time is out of range, or a significant child is permanent or its
                supervisor has no auto-shutdown.

        Source:
            OTP's ``start_child``, which refuses a taken id in the same way.
        """
        spec = child_spec("start_soon", reports_ready=False, options=options)
        child = self._make(async_fn, args, name, spec)
        if autostart is True:
            self._begin(child)
        else:
            check_type("autostart", autostart, bool)
            child.stopped_by_user = True  # until it is asked for
            self._engine.add(child)
        return child.view

    @takes_options_of(ChildSpec)
    @trio.lowlevel.enable_ki_protection
    async def start(
        self,
        async_fn: Callable[..., Awaitable[object]],
        *args: object,
        name: str | None = None,
        **options: Unpack[ChildOptions],
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
            SupervisionError: If it is stopped meanwhile, or it raised a stray ``Cancelled``.
            ChildNotFoundError: If it is removed meanwhile.
            SupervisorClosedError: If the supervisor has begun, or begins, to stop.
            DuplicateChildError, TypeError, ValueError: As from `start_soon`.
        """
        spec = child_spec("start", reports_ready=True, options=options)
        child = self._make(async_fn, args, name, spec)
        attempt = child.attempt = Attempt(keep=False)
        self._begin(child)
        try:
            return await attempt.wait()
        finally:
            if not attempt.resolved:  # the caller was cancelled, and no other has the child
                child.dropped = True
                self._engine.begin_stop(child, timeout=0.0)

    @trio.lowlevel.enable_ki_protection
    async def stop(self, name: str) -> None:
        """Stop a child and wait until it is gone; it stays in the list and stays stopped.

        It is asked if it listens, and cancelled after its `shutdown_timeout`; also when the caller
        is cancelled meanwhile. What does not run is left as it is. A child that stops itself is
        cancelled here.

        Raises:
            ChildNotFoundError: If there is no child of that name.
            SupervisorClosedError: If the supervisor has stopped.
        """
        await self._stop(self._known(name))

    @trio.lowlevel.enable_ki_protection
    async def remove(self, name: str) -> None:
        """Stop a child if it runs and take it from the list, which frees its name.

        Raises:
            ChildNotFoundError: If there is no child of that name.
            SupervisorClosedError: If the supervisor has stopped.
        """
        child = self._known(name)
        child.dropped = True
        await self._stop(child)

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
            SupervisionError: If the child is stopped meanwhile.
            SupervisorClosedError: If the supervisor has begun, or begins, to stop.
        """
        child = self._known(name)
        if self._engine.stopping:
            raise SupervisorClosedError(f"supervisor {self.name!r} has begun to stop")
        if child.dropped:
            raise ChildNotFoundError(f"child {name!r} is being removed")
        child.stopped_by_user = False
        if child.attempt is None:
            child.attempt = Attempt(keep=True)
        attempt = child.attempt
        attempt.awaits_next_run = child.run is not None
        with _reentrant_wait(child):
            self._engine.begin_restart(child)
            return await attempt.wait()

    @trio.lowlevel.enable_ki_protection
    def request_shutdown(self) -> None:
        """Begin what `shutdown` does: stop all children in order and close the supervisor.

        It returns at once: for signal handlers, callbacks of events, and the body itself, which
        goes on.
        """
        self._engine.begin_shutdown()

    @trio.lowlevel.enable_ki_protection
    async def shutdown(self) -> None:
        """Stop all children in order and close the supervisor; return when that is done.

        The block's body is cancelled, unless it is the body that calls. Called from inside a child,
        it returns as soon as that child is itself asked to stop. May be called again.
        """
        around = next((r for r in enclosing_records() if r.home is self._engine), None)
        with _reentrant_wait(around):
            self._engine.begin_shutdown()
            await self._engine.ending.closed.wait()

    @property
    def children(self) -> tuple[Child, ...]:
        """All children, running or not, in start order."""
        return tuple(child.view for child in self._engine.children)

    def __getitem__(self, name: str) -> Child:
        """Return a child by name; `ChildNotFoundError` if there is none."""
        return self._listed(name).view

    def __contains__(self, name: object) -> bool:
        return self._engine.find(name) is not None

    # What is to be seen.

    @property
    def name(self) -> str:
        """What it is called in events, logs and the printed tree."""
        return self._engine.spec.name

    @property
    def strategy(self) -> Strategy:
        """Which children a restart takes with it."""
        return self._engine.spec.strategy

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root supervisor to this one."""
        return self._engine.path

    def tree(self) -> SupervisorSnapshot:
        """Return what this supervisor and all below it are doing now."""
        return self._engine.snapshot()

    def subscribe(self, *, max_buffer: int = 1000) -> ev.EventStream:
        """Return a stream of this supervisor's events and those of all below it.

        ``async with supervisor.subscribe() as events: async for event in events: ...`` It holds
        what happens from entering on, and ends after this supervisor has stopped.

        Args:
            max_buffer: How many unread events to hold; more drop the oldest, which
                ``events.dropped`` counts.

        Raises:
            TypeError: If `max_buffer` is no whole number.
            ValueError: If `max_buffer` is less than 1.
        """
        return ev.EventStream(self._engine.hub, max_buffer)

    def __repr__(self) -> str:
        return f"<Supervisor {self.name!r}: {len(self._engine.children)} children>"

    # Inside.

    def _make(
        self,
        async_fn: Callable[..., Awaitable[object]],
        args: tuple[object, ...],
        name: str | None,
        spec: ChildSpec,
    ) -> ChildRecord:
        """Make a child that is not in the list yet."""
        engine = self._engine
        if engine.stopping:
            raise SupervisorClosedError(f"supervisor {self.name!r} has begun to stop")
        if spec.significant and engine.spec.auto_shutdown is AutoShutdown.NEVER:
            raise ValueError("significant has no meaning in a supervisor without auto_shutdown")
        if name is None:
            name = free_name(name_of(async_fn), engine.by_name, self._numbers)
        else:
            check_name("name", name)
            if (known := engine.find(name)) is not None:
                raise DuplicateChildError(
                    f"supervisor {self.name!r} has a child {name!r} already ({known.state})"
                )
        self._orders += 1
        child = ChildRecord(engine, name, spec, self._orders)
        child.view = Child(child)
        child.async_fn = partial(async_fn, *args) if args else async_fn
        child.context = copy_context()
        child.context.run(child_of_context.set, child.view)
        if spec.crash_ages:
            recall_crashes(child, trio.current_time())
        return child

    def _begin(self, child: ChildRecord) -> None:
        """Put a child into the list and begin its first run."""
        run = Run()
        try:
            run.awaitable = child.context.run(call, self._engine, child, run)
        except TypeError:
            check_async_fn("a child", child.async_fn)  # raises a clearer error, if it finds one
            raise
        self._engine.add(child)
        self._engine.begin_run(child, run)

    def _listed(self, name: str) -> ChildRecord:
        child = self._engine.find(name)
        if child is None:
            raise ChildNotFoundError(f"supervisor {self.name!r} has no child {name!r}")
        return child

    def _known(self, name: str) -> ChildRecord:
        if self._engine.ending.closed.is_set():
            raise SupervisorClosedError(f"supervisor {self.name!r} has stopped")
        return self._listed(name)

    async def _stop(self, child: ChildRecord) -> None:
        with _reentrant_wait(child):
            self._engine.begin_stop(child)
            if child.run is None:
                await trio.lowlevel.checkpoint()
                return
            if child.gone is None:
                child.gone = trio.Event()
            await child.gone.wait()


def engine_of(supervisor: Supervisor) -> Engine:
    """Return the engine of a supervisor; for the library's own modules."""
    return supervisor._engine  # noqa: SLF001  (of this module)


def _reentrant_wait(
    child: ChildRecord | None,
) -> contextlib.AbstractContextManager[object]:
    """Return a scope for a wait until a child ends, which ends it if the caller is in that child.

    It is cancelled when the child is asked to stop; otherwise the caller would wait for itself.
    """
    inside = enclosing_records()
    if child is None or child not in inside:
        return contextlib.nullcontext()
    return CancelOnStop(inside[0])


class SupervisorManager:
    """What `open_supervisor` returns. No generator: its frames would be in each traceback."""

    def __init__(self, spec: SupervisorSpec) -> None:
        self._spec = spec
        self._opened = False

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Supervisor:
        if self._opened:
            raise RuntimeError("a supervisor cannot be opened a second time")
        self._opened = True
        self._parent = next(iter(enclosing_records()), None)
        self._body = trio.CancelScope()
        # Before the nursery is opened, since nothing would close the nursery if this failed.
        self._engine = Engine(self._spec, self._parent, self._body)
        self._nursery_manager = trio.open_nursery()
        self._engine.open(await self._nursery_manager.__aenter__())
        self._body.__enter__()
        if self._parent is not None:
            self._parent.subtrees += (self._engine,)
            if self._parent.run is not None:
                self._parent.run.listens = True
        return Supervisor(self._engine)

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
            error = await self._engine.leave(body_error)  # noqa: ASYNC102  (it stops in order)
        finally:
            # Empty by now, so that it neither waits nor raises.
            await self._nursery_manager.__aexit__(None, None, None)  # noqa: ASYNC102
            if self._parent is not None:
                subtrees = self._parent.subtrees
                self._parent.subtrees = tuple(s for s in subtrees if s is not self._engine)
        if error is None or error is exc:
            return error is None
        context = context_of(error)
        try:
            raise error
        finally:
            keep_context(error, context)  # its own, not the error that the block was left by
            del error
