"""The engine of a supervisor: how a run begins, gets ready, is stopped and ends.

`policies` decides, this module carries the decisions out, `nursery` is what users call. It consists
of `restarts` (whether and when), `stopping` (asking, cancelling, watching one run), `group`
(restarting several), `ending` (stopping all) and `deadlines` (what is due later). Three rules hold
it together:

- Each run of a child is one Trio task in a shielded cancel scope of its own. Nothing but the engine
  ends it, so everything can be ended in order.
- Whatever happens is dealt with at once, without a checkpoint: a method records it, `_react` takes
  all steps that need no wait, then the events are sent. So a callback sees a consistent tree, and
  may call back into it.
- A run that has ended is counted as gone before anything else is done, and whatever fails after
  that stops the tree and leaves the block (see `_run_ended`).
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections import deque
from collections.abc import Awaitable
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import trio

from . import events as ev
from .child import CancelOnStop, child_snapshot, enclosing_records
from .deadlines import Deadlines
from .ending import Ending
from .errors import (
    ChildNotFoundError,
    ErrorKind,
    ErrorText,
    Stalled,
    SupervisionError,
    SupervisorClosedError,
    kind_of_error,
    leaves_of,
    strip_tracebacks,
    unwrap_single,
)
from .group import GroupRestart
from .policies import (
    Decision,
    Intent,
    Next,
    RunEnd,
    Strategy,
    after_exit,
    after_stop,
    is_auto_shutdown,
    kind_of_end,
)
from .record import Attempt, ChildRecord, ChildState, Run
from .restarts import Restarts
from .snapshot import SupervisorSnapshot
from .stopping import RunKeeper

if TYPE_CHECKING:
    from .spec import SupervisorSpec


class Engine:
    """The inside of one supervisor.

    Args:
        spec: What the supervisor was opened with.
        parent: The child that opened it, if it is a subtree.
        body: The scope of the block's body.
    """

    def __init__(
        self, spec: SupervisorSpec, parent: ChildRecord | None, body: trio.CancelScope
    ) -> None:
        self.spec = spec
        self.parent = parent
        self.path: tuple[str, ...] = (spec.name,) if parent is None else (*parent.path, spec.name)
        self.stopping = False  # once set, nothing is started any more
        self.clock = trio.lowlevel.current_clock()
        self.token = trio.lowlevel.current_trio_token()
        above = None if parent is None else parent.home.hub
        self.hub = ev.EventHub(spec.on_event, self.propagate, above)
        self.ending = Ending(spec.name, spec.shutdown_order, body, self)
        self.group = GroupRestart(spec.strategy, self)
        self._now = self.clock.current_time
        self._restarts = Restarts(spec, self._now)
        self.by_name: dict[str, ChildRecord] = {}  # in start order
        self._roster: tuple[ChildRecord, ...] | None = ()  # cached until the list changes
        self._version = 0  # counts the children that were added or begun
        self._runs = 0
        self._wanted: set[ChildRecord] = set()  # they run or wait to; the block waits for them
        self._significant_wanted: set[ChildRecord] = set()
        self._idle: trio.Event | None = None
        self._told_end = False
        self._reacting = False
        self._pending: deque[tuple[type[ev.Event], tuple[str, ...], dict[str, Any]]] = deque()
        self._errors_told: list[BaseException] = []  # frames are dropped when these are sent

    def open(self, nursery: trio.Nursery) -> None:
        """Begin to run in a nursery."""
        self._nursery = nursery
        self.deadlines: Deadlines[ChildRecord | None] = Deadlines(nursery, self._on_due)
        self._keeper = RunKeeper(self._tell, self.deadlines, self._now)

    # The children.

    @property
    def children(self) -> tuple[ChildRecord, ...]:
        """All children, in start order."""
        if self._roster is None:
            self._roster = tuple(self.by_name.values())
        return self._roster

    def find(self, name: object) -> ChildRecord | None:
        """Return a child by name."""
        return self.by_name.get(name) if isinstance(name, str) else None

    def snapshot(self) -> SupervisorSnapshot:
        """Return what the supervisor and all below it are doing."""
        state = "stopping" if self.stopping else "running"
        return SupervisorSnapshot(
            name=self.spec.name,
            state="stopped" if self.ending.closed.is_set() else state,
            strategy=self.spec.strategy,
            children=tuple(map(child_snapshot, self.children)),
        )

    def restart_time(self, child: ChildRecord) -> float | None:
        """Return when a child that backs off is started again."""
        if child.run is None and child in self.group:
            return self.group.start_at
        return child.restart_at

    # A run begins.

    def add(self, child: ChildRecord) -> None:
        """Put a child at the end of the list."""
        self.by_name[child.name] = child
        self._roster = None
        self._version += 1

    def begin_run(self, child: ChildRecord, run: Run | None = None) -> None:
        """Spawn the next run of a child that has none.

        Args:
            child: The child.
            run: The first run, whose function was called already.
        """
        child.run = run = Run() if run is None else run
        child.state = ChildState.STARTING
        child.restart_at = None
        child.overdue = False
        if child.attempt is not None:
            child.attempt.awaits_next_run = False
        self._version += 1
        self._runs += 1
        self._wanted.add(child)
        if child.spec.significant:
            self._significant_wanted.add(child)
        # Task contexts are copies: what a run sets in its own is gone with it.
        child.context.run(self._spawn, child, run)

    def _spawn(self, child: ChildRecord, run: Run) -> None:
        self._nursery.start_soon(self._run, child, run, name=child.name)

    @trio.lowlevel.enable_ki_protection
    async def _run(self, child: ChildRecord, run: Run) -> None:
        error: BaseException | None = None
        try:
            with trio.CancelScope(shield=True) as run.scope:
                if run.stop is None and not self.stopping:
                    await self._call(child, run)
                else:  # asked to stop before it began
                    self._never_begun(child, run)
        except BaseException as exc:  # noqa: BLE001, ASYNC103  (_run_ended passes on what is none)
            error = exc
        # Outside the except block, or each run's error would hang on to that of the run before.
        self._run_ended(child, run, error)

    def _never_begun(self, child: ChildRecord, run: Run) -> None:
        self.request_stop(child, Intent.STOP if run.intent is None else run.intent)
        if inspect.iscoroutine(run.awaitable):
            run.awaitable.close()

    def _call(self, child: ChildRecord, run: Run) -> Awaitable[None]:
        """Record that a run begins, and return the awaitable that is the run."""
        run.task = trio.lowlevel.current_task()
        if child.started_at is not None:
            child.restarts += 1
        child.started_at = run.began_at = self._now()
        self._tell(ev.ChildStarted, child, restarts=child.restarts)
        if not child.spec.reports_ready:
            self._run_is_ready(child, run, value=None)
        if self.group.members:
            self._react()
        elif self._pending:
            self._hand_out()
        awaitable, run.awaitable = run.awaitable, None
        return _unprotected(call(self, child, run) if awaitable is None else awaitable)

    def ready(self, child: ChildRecord, run: Run, value: object) -> None:
        """Record that a run has called ``task_status.started(value)``."""
        if child.run is not run:  # called by something that a dead run left behind
            return
        self._run_is_ready(child, run, value)
        self._tell(ev.ChildReady, child)
        self._react()

    def _run_is_ready(self, child: ChildRecord, run: Run, value: object) -> None:
        run.ready = True
        if run.intent is None:
            child.state = ChildState.RUNNING
            if child.spec.watchdog is not None:
                self._keeper.watch(child, run, child.spec.watchdog)
        attempt = child.attempt
        if attempt is None or attempt.awaits_next_run:
            return
        # Where the group is about to restart it, callers wait for its next run.
        if run.intent is Intent.STOP or not self.group.awaits(child):
            child.attempt = None
            attempt.resolve(value=value)

    # A run ends.

    def _run_ended(self, child: ChildRecord, run: Run, error: BaseException | None) -> None:
        """Record the end of a run. Whatever fails in doing so, the block can be left."""
        child.run = None
        run.over = True
        self._runs -= 1
        try:
            if run.watch is not None or run.stop is not None:
                self.deadlines.discard(child)
            self._decide_what_follows(child, run, error)
            self._react()
        except BaseException as failure:  # noqa: BLE001, ASYNC103  (leaves the block)
            self._unwant(child)
            self.propagate(failure)
        finally:
            if child.gone is not None:
                child.gone.set()
                child.gone = None
            if self._runs == 0 and self.stopping:
                self._close()

    def _decide_what_follows(
        self, child: ChildRecord, run: Run, error: BaseException | None
    ) -> None:
        child.overdue = False
        if error is None or run.intent is Intent.STALLED:
            error = _meaning_of(error, child, run)
        kind = None if error is None else kind_of_error(error, _cancellations)
        attempt = child.attempt
        caller_waits = attempt is not None and not run.ready and attempt.is_for_this_run
        end = kind_of_end(kind, run.intent, caller_waits=caller_waits)
        if end is RunEnd.AS_ASKED:
            assert run.intent is not None  # noqa: S101  (for mypy: AS_ASKED has an intent)
            self._ended_as_asked(child, run.intent, error)
        elif error is not None and end is RunEnd.INTERRUPT:
            child.state = ChildState.FAILED
            self._interrupt(error)
            self._settle(child)
        elif error is not None and attempt is not None and end is RunEnd.START_FAILED:
            self._start_failed(child, attempt, error)
        else:
            self._ended_by_itself(child, run, end, error)

    def _ended_as_asked(
        self, child: ChildRecord, intent: Intent, error: BaseException | None
    ) -> None:
        child.state = ChildState.STOPPED
        if error is not None:
            child.error_text = ErrorText(error)
            self._errors_told.append(error)
        self._tell(ev.ChildStopped, child, error=error)
        follows = after_stop(
            intent,
            in_group=child in self.group,
            temporary=child.spec.temporary,
            supervisor_stops=self.stopping,
        )
        if follows is Next.WAIT_WITH_GROUP:
            self.wait_with_group(child)
        elif follows is Next.RUN_AGAIN:
            self.begin_run(child)
        else:
            self._settle(child)

    def _start_failed(self, child: ChildRecord, attempt: Attempt, error: BaseException) -> None:
        """Give the error of a run that was never ready to the callers who wait for it."""
        child.state = ChildState.FAILED
        child.attempt = None
        child.dropped = child.dropped or not attempt.keep
        if any(issubclass(type(leaf), _cancellations()) for leaf in leaves_of(error)):
            # A stray Cancelled would look like the caller's own, and its cancel scope would swallow
            # it.
            stray = error
            error = SupervisionError(f"child {child.name!r} raised a Cancelled that nobody sent")
            error.__cause__ = stray
        child.error_text = ErrorText(error)
        attempt.resolve(error=error)
        self._tell(ev.ChildFailed, child, error=error)
        self._settle(child)

    def _ended_by_itself(
        self, child: ChildRecord, run: Run, end: RunEnd, error: BaseException | None
    ) -> None:
        if error is None:
            child.state = ChildState.FINISHED
            self._tell(ev.ChildFinished, child)
        else:
            self._take_down_error(child, end, error)
        decision = self._restarts.decision(child, run, error)
        in_group = child in self.group.members
        restarts = decision.restart and end is not RunEnd.GAVE_UP
        counts = restarts and not in_group and not self.stopping  # a group's restart counts once
        follows = after_exit(
            end,
            decision,
            in_group=in_group,
            temporary=child.spec.temporary,
            supervisor_stops=self.stopping,
            limit_exceeded=counts and self._restarts.is_one_too_many(),
        )
        if follows is Next.RESTART:
            self._schedule_restart(child, decision)
        elif follows is Next.GIVE_UP:
            failure = self._restarts.give_up(child, error)
            limits = {"max_restarts": failure.max_restarts, "within": failure.within}
            self._tell(ev.RestartLimitReached, child, **limits)
            self._settle(child)
            self._begin_ending(self.ending.give_up(failure))
        elif follows is Next.WAIT_WITH_GROUP:
            self.wait_with_group(child)
        else:
            if error is not None and not restarts:
                self._tell(ev.ChildFailed, child, error=error)
            self._settle(child, by_itself=True)

    def _take_down_error(self, child: ChildRecord, end: RunEnd, error: BaseException) -> None:
        child.state = ChildState.FAILED
        child.error_text = ErrorText(error)
        self._errors_told.append(error)
        if end is RunEnd.CRASHED:
            child.crashes += 1
            self._tell(
                ev.ChildCrashed,
                child,
                error=error,
                traceback=child.error_text,
                crashes=child.crashes,
            )

    def _settle(self, child: ChildRecord, *, by_itself: bool = False) -> None:
        """Record that a child has ended, and that no policy will start it again."""
        attempt, child.attempt = child.attempt, None
        if attempt is not None:
            attempt.resolve(error=self._why_not_started(child))
            child.dropped = child.dropped or not attempt.keep
        self.group.members.discard(child)
        self._unwant(child)
        if child.dropped or child.spec.temporary:
            self._drop(child)
        counts = by_itself and child.spec.significant and not self.stopping
        if counts and is_auto_shutdown(self.spec.auto_shutdown, len(self._significant_wanted)):
            self._begin_ending(f"supervisor {self.spec.name!r}: significant children ended")

    def _why_not_started(self, child: ChildRecord) -> SupervisionError:
        if self.stopping:
            return SupervisorClosedError(
                f"supervisor {self.spec.name!r} began to stop before child {child.name!r} was ready"
            )
        if child.dropped:
            return ChildNotFoundError(f"child {child.name!r} was removed before it was ready")
        return SupervisionError(f"child {child.name!r} was stopped before it was ready")

    # It is started again.

    def _schedule_restart(self, child: ChildRecord, decision: Decision) -> None:
        delay = self._restarts.delay(child, decision)
        self._tell(ev.RestartScheduled, child, delay=delay)
        moment = self._now() + delay
        if self.spec.strategy is not Strategy.ONE_FOR_ONE:
            self.group.join(child, moment, self.children, self._version)
        elif delay:
            child.state = ChildState.BACKING_OFF
            child.restart_at = moment
            self.deadlines.set(child, moment)
        else:
            self.begin_run(child)

    # What a group's restart asks for.

    def wait_with_group(self, child: ChildRecord) -> None:
        """Show a member that does not run as waiting for the others."""
        child.state = ChildState.BACKING_OFF
        self._want(child)

    def wake_at(self, moment: float) -> None:
        """Schedule the next step of the group's restart."""
        self.deadlines.set(None, moment)

    # It is stopped.

    def begin_stop(self, child: ChildRecord, *, timeout: float | None = None) -> None:
        """Stop a child for a caller, whether it runs or waits; it stays stopped."""
        child.stopped_by_user = True
        if child.run is not None:
            self.request_stop(child, Intent.STOP, timeout=self._time_for(child, timeout))
        else:
            self.cancel_wait(child)
        self._react()

    def begin_restart(self, child: ChildRecord) -> None:
        """Restart a child for a caller, who waits for the child's `attempt`."""
        run = child.run
        if child in self.group:  # whose restart goes on without its delay
            if run is not None and run.intent is Intent.STOP:
                run.intent = Intent.GROUP
            self.group.skip_delay(self._now())
        elif run is not None:
            self.request_stop(child, Intent.RESTART, timeout=self._time_for(child, None))
        else:
            self.deadlines.discard(child)
            self.begin_run(child)
        self._react()

    @staticmethod
    def _time_for(child: ChildRecord, timeout: float | None) -> float | None:
        """Return the time to stop: 0 for a child that stops itself and would wait for itself."""
        innermost = next(iter(enclosing_records()), None)
        return 0.0 if innermost is child else timeout

    def cancel_wait(self, child: ChildRecord) -> None:
        """Stop a child that does not run: it is no longer started again after its backoff."""
        if child.state is ChildState.BACKING_OFF:
            child.state = ChildState.STOPPED
            child.restart_at = None
            self.deadlines.discard(child)
            self._tell(ev.ChildStopped, child, error=None)
        self._settle(child)

    def request_stop(
        self, child: ChildRecord, intent: Intent, *, timeout: float | None = None
    ) -> None:
        """Ask a run to end, and set the time at which it will be cancelled.

        Args:
            child: The child; one that does not run is left as it is.
            intent: What its end will mean.
            timeout: Seconds until it is cancelled, in place of the child's own.
        """
        if child.run is not None:
            self._keeper.request_stop(child, child.run, intent, timeout)

    # What is due later.

    def _on_due(self, child: ChildRecord | None, late: float) -> None:
        try:
            if child is None:
                self.group.start_next(self._now())
            elif child.run is None:
                self.begin_run(child)
            else:
                self._keeper.look_at(child, child.run, late)
            self._react()
        except BaseException as failure:  # noqa: BLE001, ASYNC103  (leaves the block)
            self.propagate(failure)

    def watch_sooner(self, child: ChildRecord) -> None:
        """Look at a child's watchdog sooner than was planned: it took back a longer promise."""
        if child.run is not None:
            self._keeper.watch_sooner(child, child.run)

    # The supervisor ends.

    def begin_shutdown(self) -> None:
        """Stop in order because a caller asks for it; if that is the body, it goes on."""
        reason = f"supervisor {self.spec.name!r} was shut down"
        self._begin_ending(reason, unless_body_asks=True)
        self._react()

    def propagate(self, error: BaseException) -> None:
        """Stop in order because of an error that no supervisor handles, and pass it on."""
        self._interrupt(error)
        self._react()

    def _interrupt(self, error: BaseException) -> None:
        again = self.stopping and issubclass(type(unwrap_single(error)), KeyboardInterrupt)
        self._begin_ending(self.ending.propagate(error))
        if again:
            self._cancel_all()

    def cancel_all(self) -> None:
        """Cancel all children and all in their subtrees, at once and without asking."""
        self._cancel_all()
        self._react()

    def _cancel_all(self) -> None:
        for child in self.children:
            self.request_stop(child, Intent.STOP, timeout=0.0)
            for subtree in child.subtrees:
                subtree.cancel_all()

    def _begin_ending(self, reason: str, *, unless_body_asks: bool = False) -> None:
        if not self.stopping:
            self.stopping = True
            self.group.disband()
            self.deadlines.discard(None)
            self.ending.begin(self.children)
        self.ending.cancel_body(reason, unless_it_asks=unless_body_asks)

    async def until_idle(self) -> None:
        """Wait until nothing runs, and nothing is about to, or the supervisor stops."""
        while self._wanted and not self.stopping:
            self._idle = trio.Event()
            await self._idle.wait()

    @trio.lowlevel.enable_ki_protection
    async def leave(self, error: BaseException | None) -> BaseException | None:
        """Leave the block: wait for the children, or stop them; return what is to be raised."""
        if error is None and not self.stopping:
            try:
                with contextlib.nullcontext() if self.parent is None else CancelOnStop(self.parent):
                    await self.until_idle()
            except BaseException as interrupt:  # noqa: BLE001, ASYNC103  (returned, to be raised)
                error = interrupt
        self.ending.fail(error)
        if not self.stopping:
            self._begin_ending("the block is left")
        self._react()
        while True:
            try:
                with trio.CancelScope(shield=True):  # bounded by the children's timeouts
                    await self.ending.closed.wait()
                    await self.deadlines.close()
            except KeyboardInterrupt as again:  # the second Ctrl-C
                error = again
                self.cancel_all()
            else:
                return self.ending.leave(error)

    # Small things.

    def _step(self) -> bool:
        """Take one step that needs no wait; return whether there was one."""
        if self.stopping:
            return self.ending.step()
        return self.group.step(self._now())

    def _react(self) -> None:
        """Take all steps that need no wait, then send the events."""
        if self._reacting:
            return
        if self.stopping or self.group.members:
            self._reacting = True
            try:
                while self._step():
                    pass
            finally:
                self._reacting = False
        if self.stopping and self._runs == 0 and not self._told_end:
            self._told_end = True
            error = self.ending.error
            if self.hub.is_enabled_for(ev.SupervisorStopped):
                self._pending.append((ev.SupervisorStopped, self.path, {"error": error}))
        if self._pending:
            self._hand_out()
        if self._errors_told:
            self._let_errors_go()
        if self._told_end:
            self._close()
        if self._idle is not None and (self.stopping or not self._wanted):
            self._idle.set()

    def _close(self) -> None:
        self.ending.closed.set()
        self.hub.close()

    def _tell(self, kind: type[ev.Event], child: ChildRecord, **details: Any) -> None:  # noqa: ANN401
        """Send an event about a child when the present reaction is over."""
        if self.hub.is_enabled_for(kind, details.get("error")):
            self._pending.append((kind, child.path, details))

    def _hand_out(self) -> None:
        while self._pending:
            kind, path, details = self._pending.popleft()
            self.hub.emit(kind, path, details)

    def _let_errors_go(self) -> None:
        """Drop the frames of errors whose events have been sent."""
        while self._errors_told:
            error = self._errors_told.pop()
            if not self.ending.is_because_of(error):
                strip_tracebacks(error)

    def _want(self, child: ChildRecord) -> None:
        self._wanted.add(child)
        if child.spec.significant:
            self._significant_wanted.add(child)

    def _unwant(self, child: ChildRecord) -> None:
        self._wanted.discard(child)
        self._significant_wanted.discard(child)

    def _drop(self, child: ChildRecord) -> None:
        if self.by_name.get(child.name) is child and child.run is None:
            del self.by_name[child.name]
            self._roster = None
            # They hold its arguments, and refer back to it.
            del child.async_fn, child.context, child.view


class TaskStatus:
    """What a child that reports readiness is given as ``task_status``."""

    def __init__(self, engine: Engine, child: ChildRecord, run: Run) -> None:
        self._engine = engine
        self._child = child
        self._run = run
        self._called = False

    def started(self, value: object = None) -> None:
        """Tell the supervisor that the child is ready.

        Raises:
            RuntimeError: If it was told before in this run.
        """
        if self._called:
            raise RuntimeError("task_status.started() was called twice")
        self._called = True
        self._engine.ready(self._child, self._run, value)


def call(engine: Engine, child: ChildRecord, run: Run) -> Awaitable[object]:
    """Call a child's function, and return what a run awaits.

    Raises:
        TypeError: If it is no async function.
    """
    async_fn = child.async_fn
    if child.spec.reports_ready:
        result = async_fn(task_status=TaskStatus(engine, child, run))
    else:
        result = async_fn()
    if type(result) is not CoroutineType and not isinstance(result, Awaitable):
        raise TypeError(
            f"a child is an async function, but {child.name!r} is none: "
            f"calling it returned {result!r}"
        )
    return result


@trio.lowlevel.disable_ki_protection
async def _unprotected(awaitable: Awaitable[object]) -> None:
    """Run a child's own code without protection from Ctrl-C, as any Trio task."""
    await awaitable


def _meaning_of(error: BaseException | None, child: ChildRecord, run: Run) -> BaseException | None:
    """Return the error of a run: what it raised, `Stalled`, or that it returned unready."""
    if run.intent is Intent.STALLED:
        if error is not None and _is_interrupt(error):
            return error
        stalled = Stalled(f"no beat for {child.spec.watchdog} s")
        stalled.__cause__ = error
        return stalled
    if error is None and run.intent is None and not run.ready:
        return RuntimeError("child exited without calling task_status.started()")
    return error


def _is_interrupt(error: BaseException) -> bool:
    return kind_of_error(error, _cancellations) is ErrorKind.INTERRUPT


def _cancellations() -> tuple[type[BaseException], ...]:
    """Return the ways to cancel that are no `Exception`: where nobody sent them, they are errors.

    asyncio's arrives in a program without any asyncio child, too: out of a thread that runs a loop.
    """
    asyncio = sys.modules.get("asyncio")
    cancelled = getattr(asyncio, "CancelledError", None)
    return (trio.Cancelled,) if cancelled is None else (trio.Cancelled, cancelled)
