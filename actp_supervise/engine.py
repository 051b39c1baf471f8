"""What makes a supervisor go: how a run begins, ends, and is stopped.

`policies` decides, this module carries it out; `nursery` is its face. How a group is restarted and
how all ends is in `group` and `ending`. Three rules hold it together:

- Each run of a child is one Trio task in a shielded cancel scope of its own. Nothing but the engine
  ends it, so everything can be ended in order; and a run is known by its scope.
- What follows the end of a run is decided at once, in `Engine._ended`, with no checkpoint between.
- Whatever takes time (a stop, a group's restart) is a task that looks afresh after each wait.
"""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple

import trio

from . import events as ev
from .child import (
    Attempt,
    Child,
    ChildState,
    Intent,
    _current_child,
    check_async_fn,
    free_name,
    name_of,
)
from .ending import Ending
from .errors import (
    ChildNotFoundError,
    DuplicateChildError,
    ErrorText,
    RestartLimitExceeded,
    Stalled,
    SupervisionError,
    SupervisorClosedError,
    is_do_not_restart,
    strip_tracebacks,
)
from .group import GroupRestart
from .policies import (
    AutoShutdown,
    Backoff,
    Restart,
    RestartLimit,
    Strategy,
    is_auto_shutdown,
    is_restarted,
)
from .snapshot import SupervisorSnapshot

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from .policies import ShutdownOrder

PosArgsT = TypeVarTuple("PosArgsT")

OVERDUE_AFTER: Final = 5.0
"""Seconds after its cancellation at which a child that is still there is reported as overdue."""


class Engine:
    """The inside of one supervisor."""

    def __init__(
        self,
        *,
        name: str,
        strategy: Strategy,
        limit: RestartLimit | None,
        backoff: Backoff,
        shutdown_timeout: float,
        shutdown_order: ShutdownOrder,
        auto_shutdown: AutoShutdown,
        rng: random.Random,
        nursery: trio.Nursery,
        body: trio.CancelScope,
        parent: Child | None,
        on_event: Callable[[ev.Event], object] | None,
    ) -> None:
        self.name = name
        self.strategy = strategy
        self._limit = limit
        self._backoff = backoff
        self._shutdown_timeout = shutdown_timeout
        self._auto_shutdown = auto_shutdown
        self._rng = rng
        self._nursery = nursery
        self.parent = parent
        self.ending = Ending(self, shutdown_order, body)
        self.path: tuple[str, ...] = (name,) if parent is None else (*parent.path, name)
        above = parent._engine.hub if parent else None
        self.hub: ev.EventHub = ev.EventHub(on_event, self.ending.die, above)
        self._children: dict[str, Child] = {}  # in start order
        self._numbers: dict[str, int] = {}  # of unnamed children, by their function's name
        self._active = 0  # runs, and a group's restart: what leaving the block waits for
        self._idle = trio.Event()
        self._restart_times: deque[float] = deque(maxlen=limit.memory if limit else 0)
        self.group = GroupRestart(self)

    # What `nursery.Supervisor` hands on, in its order.

    def start_soon(self, child: Child) -> None:
        """Begin the first run of a child."""
        self.begin_run(child)

    async def start(self, child: Child) -> Any:  # noqa: ANN401
        """Begin the first run of a child and wait until it is ready."""
        attempt = child._attempt = Attempt(keep=False)
        self.begin_run(child)
        try:
            return await attempt.wait()
        finally:
            if not attempt.resolved:  # the caller was cancelled, and nobody else knows the child
                child._dropped = True
                self._stop_soon(child, timeout=0.0)

    async def stop(self, name: str) -> None:
        """See `Supervisor.stop`."""
        await self._stop(self._known(name))

    async def restart(self, name: str) -> Any:  # noqa: ANN401
        """See `Supervisor.restart`."""
        child = self._known(name)
        if self.stopping:
            raise SupervisorClosedError(f"supervisor {self.name!r} has begun to stop")
        if child._dropped:
            raise ChildNotFoundError(f"child {name!r} is being removed")
        child._held = False
        if child._attempt is None:
            child._attempt = Attempt(keep=True)
        attempt = child._attempt
        if child in self.group:
            if child._intent is Intent.STOP:
                child._intent = Intent.GROUP
            self.group.hurry()
        elif not child.is_live:
            self.begin_run(child)
        elif child.state is ChildState.BACKING_OFF and child._wait_scope is not None:
            child._wait_scope.cancel(reason="restart was called")
        else:
            self.ask_soon(child, Intent.RESTART)
        with self._until_asked_inside(child):
            return await attempt.wait()

    async def remove(self, name: str) -> None:
        """See `Supervisor.remove`."""
        child = self._known(name)
        child._dropped = True
        await self._stop(child)

    async def shutdown(self) -> None:
        """See `Supervisor.shutdown`."""
        self.ending.shut_down()
        with self._until_asked_inside(self._child_around_caller()):
            await self.ending.closed.wait()

    @property
    def stopping(self) -> bool:
        """Whether it has begun to stop, so that nothing is started any more."""
        return self.ending.begun

    @property
    def children(self) -> tuple[Child, ...]:
        """All children, in start order."""
        return tuple(self._children.values())

    def find(self, name: object) -> Child | None:
        """Return a child by name."""
        return self._children.get(name) if isinstance(name, str) else None

    def snapshot(self) -> SupervisorSnapshot:
        """See `Supervisor.tree`."""
        return SupervisorSnapshot(
            name=self.name,
            state=self._state(),
            strategy=self.strategy,
            children=tuple(child._snapshot() for child in self._children.values()),
        )

    # A run begins.

    def add(
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
        """Put a new child at the end of the list; see `Supervisor.start_soon`."""
        if self.stopping:
            raise SupervisorClosedError(f"supervisor {self.name!r} has begun to stop")
        check_async_fn("a child", async_fn)
        if significant and self._auto_shutdown is AutoShutdown.NEVER:
            raise ValueError("significant has no meaning in a supervisor without auto_shutdown")
        if name is None:
            name = free_name(name_of(async_fn), self._children, self._numbers)
        elif name in self._children:
            state = self._children[name].state
            raise DuplicateChildError(
                f"supervisor {self.name!r} has a child {name!r} already ({state})"
            )
        child = Child._make(
            self,
            partial(async_fn, *args) if args else async_fn,
            name=name,
            restart=restart,
            backoff=self._backoff if backoff is None else backoff,
            shutdown_timeout=(
                self._shutdown_timeout if shutdown_timeout is None else shutdown_timeout
            ),
            watchdog=watchdog,
            significant=significant,
            reports_ready=reports_ready,
        )
        self._children[child.name] = child
        return child

    def begin_run(self, child: Child, *, delay: float = 0.0) -> None:
        """Spawn a run of a child that has none, to begin after a delay."""
        child._scope = trio.CancelScope(shield=True)
        child._asked = child.overdue = False
        child._patience = OVERDUE_AFTER
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
                if self.stopping:
                    self.ask(child, Intent.STOP)
                if not child._asked:
                    await self._call(child)
        except BaseException as exc:  # noqa: BLE001, ASYNC103  (_ended passes on what is no crash)
            error = exc
        # Outside the except block, or each run's error would hang on to that of the run before.
        try:
            self._ended(child, error)
        except BaseException as exc:  # noqa: BLE001, ASYNC103  (leaves the block)
            self.ending.die(exc)

    def _call(self, child: Child) -> Awaitable[None]:
        """Note that the run begins, and return it as an awaitable."""
        if child.started_at is not None:
            child.restarts += 1
        child.started_at = trio.current_time()
        if self.hub.wants(ev.ChildStarted):
            self.hub.emit(ev.ChildStarted, child.path, restarts=child.restarts)
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
            child._watch_scope = trio.CancelScope()
            self.spawn(self._watch, child, child._scope, child._watch_scope)
        if child._attempt is not None and not self._runs_again(child):
            child._attempt.resolve(value=value)
            child._attempt = None
        self.group.look()

    def _runs_again(self, child: Child) -> bool:
        """Whether the run under way is being restarted, so that callers wait for the next one."""
        if child._intent is Intent.STOP:
            return False
        return child._intent is Intent.RESTART or self.group.awaits(child)

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
        if self.hub.wants(ev.ChildStalled):
            self.hub.emit(ev.ChildStalled, child.path, watchdog=child.watchdog)
        child._intent = Intent.STALLED
        child.state = ChildState.STOPPING
        child._cancel_at = trio.current_time()
        run.cancel(reason=f"child {child.name!r} missed its watchdog time")
        await self.see_off(child, run)

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
            self.ending.die(error)
            self._over(child)
        elif intent is not None and intent is not Intent.STALLED:
            self._ended_as_asked(child, intent, error)
        else:
            if intent is Intent.STALLED:
                stalled = Stalled(f"no beat for {child.watchdog} s")
                stalled.__cause__ = error
                error = stalled
            elif error is None and not was_ready:
                error = RuntimeError("child exited without calling task_status.started()")
            # After a run that was ready, an attempt is still there if it is for the next run.
            attempt = None if was_ready else child._attempt
            if error is not None and attempt is not None and attempt.awaited:
                self._attempt_failed(child, attempt, error)
            else:
                self._ended_by_itself(child, error)
        if child._ended is not None:
            child._ended.set()
            child._ended = None
        self.group.look()
        self._leave()

    def _ended_as_asked(self, child: Child, intent: Intent, error: BaseException | None) -> None:
        if error is not None:
            child._error_text = ErrorText(error)
        child.state = ChildState.STOPPED
        if error is not None or self.hub.wants(ev.ChildStopped):
            self.hub.emit(ev.ChildStopped, child.path, error=error)
        if error is not None:
            strip_tracebacks(error)
        if intent is not Intent.STOP and self.group.awaits(child):
            self.group.wait(child)
        elif intent is Intent.RESTART and child not in self.group and not self.stopping:
            self.begin_run(child)
        else:
            self._over(child)

    def _ended_by_itself(self, child: Child, error: BaseException | None) -> None:
        for_good = error is not None and is_do_not_restart(error)
        if error is None:
            child.state = ChildState.FINISHED
            if self.hub.wants(ev.ChildFinished):
                self.hub.emit(ev.ChildFinished, child.path)
        elif for_good:
            child.state = ChildState.FAILED
            child._error_text = ErrorText(error)
        else:
            self._crashed(child, error)
        if is_restarted(child.restart, crashed=error is not None) and not for_good:
            self._schedule_restart(child, error)
        elif error is not None:
            if self.hub.wants(ev.ChildFailed):
                self.hub.emit(ev.ChildFailed, child.path, error=error)
            self._over(child, by_itself=True)
        elif self.group.awaits(child):
            self.group.wait(child)
        else:
            self._over(child, by_itself=True)
        if error is not None and not self.ending.is_because_of(error):
            strip_tracebacks(error)

    def _attempt_failed(self, child: Child, attempt: Attempt, error: BaseException) -> None:
        """A run that a caller waits for ended before it was ready: the caller gets the error."""
        child.state = ChildState.FAILED
        child._attempt = None
        child._dropped = child._dropped or not attempt.keep
        if not isinstance(error, Exception):
            # A stray Cancelled would look like the caller's own, and be swallowed on its way.
            stray = error
            error = SupervisionError(f"child {child.name!r} raised a Cancelled that nobody sent")
            error.__cause__ = stray
        child._error_text = ErrorText(error)
        child._error_text.render()
        attempt.resolve(error=error)
        if self.hub.wants(ev.ChildFailed):
            self.hub.emit(ev.ChildFailed, child.path, error=error)
        self._over(child)

    def _crashed(self, child: Child, error: BaseException) -> None:
        child.state = ChildState.FAILED
        child.crashes += 1
        child._error_text = ErrorText(error)
        if self.hub.wants(ev.ChildCrashed):
            self.hub.emit(
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
        self.group.discard(child)
        if child._dropped or child.restart is Restart.TEMPORARY:
            self._drop(child)
        if by_itself and child.significant and not self.stopping:
            others = [c for c in self.children if c.significant and self._is_wanted(c)]
            if is_auto_shutdown(self._auto_shutdown, others):
                self.ending.begin(f"supervisor {self.name!r}: significant children ended")

    def _why_not_started(self, child: Child) -> SupervisionError:
        if self.stopping:
            return SupervisorClosedError(
                f"supervisor {self.name!r} began to stop before child {child.name!r} was ready"
            )
        if child._dropped:
            return ChildNotFoundError(f"child {child.name!r} was removed before it was ready")
        return SupervisionError(f"child {child.name!r} was stopped before it was ready")

    def _schedule_restart(self, child: Child, error: BaseException | None) -> None:
        if self.stopping:
            self._over(child)
            return
        now = trio.current_time()
        # One group's restart counts once, however many of its members fail before it is due.
        if self._limit is not None and child not in self.group:
            self._restart_times.append(now)
            if self._limit.exceeded(self._restart_times, now):
                self._give_up(child, error)
                return
        delay = self._next_delay(child)
        if self.hub.wants(ev.RestartScheduled):
            self.hub.emit(ev.RestartScheduled, child.path, delay=delay)
        if self._state() != "running":  # an on_event callback may have seen to that
            self._over(child)
        elif self.strategy is Strategy.ONE_FOR_ONE:
            self.begin_run(child, delay=delay)
        else:
            self.group.restart(child, delay)

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
        failure = RestartLimitExceeded(
            f"child {child.name!r} of supervisor {self.name!r} ended once too often: more than "
            f"{self._limit.max_restarts} restarts within {self._limit.within} s",
            path=child.path,
            max_restarts=self._limit.max_restarts,
            within=self._limit.within,
        )
        failure.__cause__ = error
        if error is not None and child._error_text is not None:
            child._error_text.render()
        if self.hub.wants(ev.RestartLimitReached):
            self.hub.emit(
                ev.RestartLimitReached,
                child.path,
                max_restarts=self._limit.max_restarts,
                within=self._limit.within,
            )
        self._over(child)
        self.ending.give_up(failure)

    # Stopping.

    async def _stop(self, child: Child) -> None:
        self._stop_soon(child)
        if child.is_live:
            with self._until_asked_inside(child):
                await self._until_ended(child)
        else:
            await trio.lowlevel.checkpoint()

    def _stop_soon(self, child: Child, *, timeout: float | None = None) -> None:
        child._held = True
        if child.is_live:
            self.ask_soon(child, Intent.STOP, timeout=timeout)
        else:
            self.stay_stopped(child)

    def stay_stopped(self, child: Child) -> None:
        """Stop a child that does not run, where it waits for its group's restart."""
        if child.state is ChildState.BACKING_OFF:
            child.state = ChildState.STOPPED
            child.restart_at = None
            if self.hub.wants(ev.ChildStopped):
                self.hub.emit(ev.ChildStopped, child.path, error=None)
        self._over(child)

    def ask(self, child: Child, intent: Intent, *, timeout: float | None = None) -> None:
        """Ask a run to end, and set the time at which it will be cancelled."""
        scope = child._scope
        if scope is None:
            return
        if intent is Intent.GROUP and child._intent is Intent.STALLED:
            return  # it is being cancelled, and will have crashed
        if intent is not Intent.GROUP or child._intent is not Intent.STOP:
            child._intent = intent
        if not child._asked:
            has_begun = child.state is not ChildState.BACKING_OFF
            child._asked = True
            child.state = ChildState.STOPPING
            if timeout is None:
                timeout = child.shutdown_timeout
            if self.hub.wants(ev.StopRequested):
                self.hub.emit(ev.StopRequested, child.path, timeout=timeout)
            self._cancel_run(child, scope, timeout if has_begun else 0.0)
            if child._stopping is not None:
                child._stopping._fire()
            for callback in tuple((child._on_stop or {}).values()):
                callback()
        elif timeout == 0.0:
            self._cancel_run(child, scope, 0.0)
        self.group.look()  # which may have waited until the child is ready

    def ask_soon(self, child: Child, intent: Intent, *, timeout: float | None = None) -> None:
        """Ask, and have a task see it off, for a caller who may be cancelled meanwhile."""
        if _current_child.get(None) is child:
            timeout = 0.0  # it asks this of itself, and would wait for its own end
        self.ask(child, intent, timeout=timeout)
        if child._scope is not None:
            self.spawn(self.see_off, child, child._scope)

    def _cancel_run(self, child: Child, scope: trio.CancelScope, timeout: float) -> None:
        if scope.cancel_called:  # it is overdue from then on, not from now
            return
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

    async def see_off(self, child: Child, scope: trio.CancelScope) -> None:
        """Wait until a run that was asked to end has, and report it if it does not."""
        while child._scope is scope:
            with trio.move_on_at(child._cancel_at + child._patience):
                await self._until_ended(child)
            # Several may see it off; whoever is first reports.
            overdue = child._patience
            if child._scope is scope and trio.current_time() >= child._cancel_at + overdue:
                child.overdue = True
                child._patience *= 2
                if self.hub.wants(ev.StopOverdue):
                    self.hub.emit(ev.StopOverdue, child.path, overdue=overdue)

    # Small things.

    def _known(self, name: str) -> Child:
        if self.ending.closed.is_set():
            raise SupervisorClosedError(f"supervisor {self.name!r} has stopped")
        child = self.find(name)
        if child is None:
            raise ChildNotFoundError(f"supervisor {self.name!r} has no child {name!r}")
        return child

    def _is_wanted(self, child: Child) -> bool:
        """Whether a run of the child is under way or will be."""
        return child.is_live or child in self.group

    def spawn(self, async_fn: Callable[[*PosArgsT], Awaitable[None]], *args: *PosArgsT) -> None:
        """Run a task of the supervisor's own, which no outside cancellation reaches."""

        @trio.lowlevel.enable_ki_protection
        async def run() -> None:
            try:
                with trio.CancelScope(shield=True):  # its waits end with the runs they watch
                    await async_fn(*args)
            finally:
                self._leave()

        self._active += 1
        self._nursery.start_soon(run, name=f"{self.name}: {async_fn.__name__}")

    async def until_idle(self) -> None:
        """Wait until nothing runs, and nothing is about to."""
        while self._active:
            self._idle = trio.Event()
            await self._idle.wait()

    def _leave(self) -> None:
        self._active -= 1
        if self._active == 0:
            self._idle.set()

    def _state(self) -> str:
        if self.ending.closed.is_set():
            return "stopped"
        return "stopping" if self.stopping else "running"

    def _drop(self, child: Child) -> None:
        if self._children.get(child.name) is child and not child.is_live:
            del self._children[child.name]
            del child._async_fn, child._context  # its arguments, and what refers back to it

    def _until_asked_inside(self, child: Child | None) -> contextlib.AbstractContextManager[object]:
        """Let a caller inside the child, who would wait for its own end, go once it is asked."""
        if child is None or self._child_around_caller() is not child:
            return contextlib.nullcontext()
        return _current_child.get().cancel_on_stop()

    def _child_around_caller(self) -> Child | None:
        """Return the child of this supervisor inside which the caller runs, if any."""
        child = _current_child.get(None)
        while child is not None and child._engine is not self:
            child = child._engine.parent
        return child


class _TaskStatus:
    """What a child that reports readiness is given as ``task_status``."""

    def __init__(self, engine: Engine, child: Child) -> None:
        self._engine = engine
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
        hub = self._engine.hub
        self._engine._running(child, value)
        if hub.wants(ev.ChildReady):
            hub.emit(ev.ChildReady, child.path)


@trio.lowlevel.disable_ki_protection
async def _unprotected(async_fn: Callable[[], Awaitable[object]]) -> None:
    """Run a child's own code, where Ctrl-C may strike anywhere, as in any Trio task."""
    await async_fn()


def _is_fatal(error: BaseException) -> bool:
    """Whether no supervisor may handle it: KeyboardInterrupt, SystemExit and their like."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_fatal(member) for member in error.exceptions)
    return not isinstance(error, (Exception, trio.Cancelled))
