"""The supervisor: a nursery whose children are looked after.

What a user holds: `open_supervisor`, `Supervisor`, and from `child` the `Child` and
`current_child`. How it works is in `engine`, what it decides in `policies`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeVarTuple, final

import trio

from . import events as ev
from .child import (
    Child,
    ChildState,
    StopSignal,
    _current_child,
    check_seconds,
    check_type,
    current_child,
)
from .engine import OVERDUE_AFTER, Engine
from .errors import ChildNotFoundError
from .policies import AutoShutdown, Backoff, Restart, RestartLimit, ShutdownOrder, Strategy

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
    rng = random.Random() if rng is None else rng
    for option, value, kind in (
        ("name", name, str),
        ("strategy", strategy, Strategy),
        ("backoff", backoff, Backoff),
        ("shutdown_order", shutdown_order, ShutdownOrder),
        ("auto_shutdown", auto_shutdown, AutoShutdown),
        ("rng", rng, random.Random),
    ):
        check_type(option, value, kind)
    if on_event is not None and not callable(on_event):
        raise TypeError(f"on_event must be callable, not {on_event!r}")
    if limit is not None:
        check_type("limit", limit, RestartLimit)
        if limit.out_of_reach(backoff):
            ev.logger.warning(
                "supervisor %r can hardly give up: its backoff spreads restarts over more than the "
                "%s s of its limit",
                name,
                limit.within,
                extra={"action": "limit_out_of_reach"},
            )
    check_seconds("shutdown_timeout", shutdown_timeout)
    options = {
        "name": name,
        "strategy": strategy,
        "limit": limit,
        "backoff": backoff,
        "shutdown_timeout": shutdown_timeout,
        "shutdown_order": shutdown_order,
        "auto_shutdown": auto_shutdown,
        "on_event": on_event,
        "rng": rng,
    }
    return _SupervisorManager(options)


@final
class Supervisor:
    """A running supervisor; made by `open_supervisor`."""

    _engine: Engine

    def __init__(self) -> None:
        raise TypeError("use 'async with open_supervisor() as supervisor'")

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
        child = self._engine.add(
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
        self._engine.start_soon(child)
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
            SupervisionError: If somebody stops it meanwhile, or it raised a stray ``Cancelled``.
            ChildNotFoundError: If somebody removes it meanwhile.
            SupervisorClosedError: If the supervisor has begun, or begins, to stop.
            DuplicateChildError, TypeError, ValueError: As from `start_soon`.
        """
        child = self._engine.add(
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
        return await self._engine.start(child)

    @trio.lowlevel.enable_ki_protection
    async def stop(self, name: str) -> None:
        """Stop a child and wait until it is gone; it stays in the list and stays stopped.

        It is asked, and cancelled after its `shutdown_timeout`; also when the caller is cancelled
        meanwhile. What does not run is left as it is. A child that stops itself is cancelled here.

        Raises:
            ChildNotFoundError: If there is no child of that name.
            SupervisorClosedError: If the supervisor has stopped.
        """
        await self._engine.stop(name)

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
        return await self._engine.restart(name)

    @trio.lowlevel.enable_ki_protection
    async def remove(self, name: str) -> None:
        """Stop a child if it runs and take it from the list, which frees its name.

        Raises:
            ChildNotFoundError: If there is no child of that name.
            SupervisorClosedError: If the supervisor has stopped.
        """
        await self._engine.remove(name)

    @trio.lowlevel.enable_ki_protection
    async def shutdown(self) -> None:
        """Stop all children in order and close the supervisor; return when that is done.

        The block's body is cancelled, unless it is the body that calls. Called from inside a child,
        it returns as soon as that child is itself asked to stop. May be called again.
        """
        await self._engine.shutdown()

    @property
    def children(self) -> tuple[Child, ...]:
        """All children, running or not, in start order."""
        return self._engine.children

    def __getitem__(self, name: str) -> Child:
        """Return a child by name; `ChildNotFoundError` if there is none."""
        child = self._engine.find(name)
        if child is None:
            raise ChildNotFoundError(f"supervisor {self.name!r} has no child {name!r}")
        return child

    def __contains__(self, name: object) -> bool:
        return self._engine.find(name) is not None

    # What is to be seen.

    @property
    def name(self) -> str:
        """What it is called in events, logs and the printed tree."""
        return self._engine.name

    @property
    def strategy(self) -> Strategy:
        """Which children a restart takes with it."""
        return self._engine.strategy

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
            ValueError: If `max_buffer` is no count from 1.
        """
        return ev.EventStream(self._engine.hub, max_buffer)

    def __repr__(self) -> str:
        return f"<Supervisor {self.name!r}: {len(self.children)} children>"


class _SupervisorManager:
    """What `open_supervisor` returns. No generator: its frames would be in every traceback."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options: dict[str, Any] | None = options

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Supervisor:
        if self._options is None:
            raise RuntimeError("a supervisor cannot be opened a second time")
        options, self._options = self._options, None
        self._parent = _current_child.get(None)
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        self._body = trio.CancelScope()
        self._body.__enter__()
        engine = Engine(nursery=nursery, body=self._body, parent=self._parent, **options)
        self._engine = engine
        if self._parent is not None:
            self._parent._subtrees += (engine,)
        supervisor = object.__new__(Supervisor)
        supervisor._engine = engine
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
            error = await self._engine.ending.close(body_error)  # noqa: ASYNC102  (it stops in order)
        finally:
            # Empty by now, so that it neither waits nor raises.
            await self._nursery_manager.__aexit__(None, None, None)  # noqa: ASYNC102
            if self._parent is not None:
                subtrees = self._parent._subtrees
                self._parent._subtrees = tuple(s for s in subtrees if s is not self._engine)
        if error is None or error is exc:
            return error is None
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # not the exception that the block was left by
            del error
