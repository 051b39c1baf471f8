"""How runs begin, overlap and end: each is a temporary child of the scheduler's supervisor."""

from __future__ import annotations

import math
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from .errors import ErrorText, leaves_of
from .policies import Restart
from .runs import EVENT_OF, Outcome, Overlap, Run, RunFailed, RunStarted, describe
from .timetable import log_clock_failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from .embedding import Embedding
    from .jobs import Entry
    from .schedule import Firing
    from .timetable import Timetable

NEVER_BEGAN: Final = "the scheduler stopped before it began"
REMOVED: Final = "removed while it waited"


class Runner:
    """Runs what has come due, and records what becomes of it.

    A `Firing` that was admitted is in `_open` until it is recorded, whatever happens to the child
    that was to run it.

    Args:
        embedding: What the scheduler uses of its supervisor.
        timetable: What tells the wall's time.
        keep: How many runs each job's history holds.
    """

    def __init__(
        self,
        embedding: Embedding,
        timetable: Timetable,
        *,
        keep: int,
    ) -> None:
        self._embedding = embedding
        self._supervisor = embedding.supervisor
        self._timetable = timetable
        self._keep = keep
        self.on_recorded: Callable[[Firing], None] | None = None
        """Called with each firing once it is recorded."""
        self._open: set[Firing] = set()
        self._idle = trio.Event()
        self._serial = count()

    # A run begins.

    def admit(self, firing: Firing) -> None:
        """Start a run, or do what its job's `overlap` says while another is under way."""
        entry = firing.entry
        self._open.add(firing)
        if self._embedding.is_stopping:
            self.record(firing, Outcome.CANCELLED, NEVER_BEGAN)
            return
        if not entry.under_way:
            self._start(firing)
            return
        match entry.spec.overlap:
            case Overlap.ALLOW:
                self._start(firing)
            case Overlap.SKIP:
                self.record(firing, Outcome.SKIPPED, "the last run was still under way")
            case Overlap.QUEUE:
                self._enqueue(firing)
            case Overlap.REPLACE:
                self._replace(firing)

    def _start(self, firing: Firing) -> None:
        name = firing.entry.name
        if name in self._supervisor:
            name = f"{name}#{next(self._serial)}"
        self._supervisor.start_soon(self._run, firing, name=name, restart=Restart.TEMPORARY)
        firing.child_name = name
        firing.entry.begin(firing)

    def _enqueue(self, firing: Firing) -> None:
        """Queue a run; if its job coalesces, it replaces the run that waits already."""
        entry = firing.entry
        if entry.spec.coalesce and not firing.manual:
            reason = f"coalesced into the run of {firing.moment}"
            self._drop_waiting(entry, Outcome.MISSED, reason, manual_too=False)
        if entry.waiting is None:
            entry.waiting = deque()
        entry.waiting.append(firing)

    def _replace(self, firing: Firing) -> None:
        """Stop the runs under way; this run begins when they have ended."""
        entry = firing.entry
        reason = "replaced before it began"
        self.skip_waiting(entry, reason)
        self._enqueue(firing)
        for running in entry.under_way:
            if running.started_at is None:  # a stop now would leave it without a record
                running.missed = reason
            else:
                name = f"(replace {next(self._serial)})"
                stop = self._stop_run
                self._supervisor.start_soon(stop, running, name=name, restart=Restart.TEMPORARY)

    async def _stop_run(self, firing: Firing) -> None:
        if firing in firing.holder.under_way:
            firing.is_replaced = True
            await self._supervisor.stop(firing.child_name)

    def skip_waiting(self, entry: Entry, reason: str) -> None:
        """Record the runs that wait for their turn as skipped."""
        self._drop_waiting(entry, Outcome.SKIPPED, reason, manual_too=True)

    def _drop_waiting(
        self, entry: Entry, outcome: Outcome, reason: str, *, manual_too: bool
    ) -> None:
        if not entry.waiting:
            return
        waiting, entry.waiting = entry.waiting, deque()
        for firing in waiting:
            if firing.manual and not manual_too:
                entry.waiting.append(firing)
            else:
                self.record(firing, outcome, reason)

    def _start_waiting(self, entry: Entry) -> None:
        """Start the next of the runs that waited; those that are too late by now are recorded."""
        if entry.removed:
            self.skip_waiting(entry, REMOVED)
        while entry.waiting and not entry.under_way and not self._embedding.is_stopping:
            firing = entry.waiting.popleft()
            why = None if firing.manual else self._timetable.why_too_late(firing)
            if entry.paused and not firing.manual:
                self.record(firing, Outcome.SKIPPED, "paused while it waited")
            elif why is not None:
                self.record(firing, Outcome.MISSED, why)
            else:
                self._start(firing)

    # It is under way, and ends.

    async def _run(self, firing: Firing) -> None:
        """Do one run, as a temporary child of the scheduler's supervisor."""
        if firing.run is not None:  # recorded as cancelled, when the scheduler began to stop
            return
        outcome, reason = Outcome.SUCCEEDED, firing.missed
        problem: BaseException | None = None
        try:
            if reason is not None:
                outcome = Outcome.SKIPPED
            else:
                self._mark_started(firing)
                entry = firing.entry
                timeout = entry.spec.timeout
                if timeout is None:
                    await entry.fn(*entry.args)
                else:
                    await _call_within(timeout, entry)
                if (firing.is_replaced or self._embedding.is_stopping) and _is_cancelled():
                    outcome, reason = Outcome.CANCELLED, "it swallowed its cancellation"
        except _TimedOutError as error:
            outcome, reason, problem = Outcome.TIMED_OUT, str(error), error.__cause__
        except Exception as error:  # noqa: BLE001  (a crash is recorded and stops nothing)
            outcome, problem = Outcome.FAILED, error
        except BaseException as error:
            if _is_cancellation(error) and _is_cancelled():
                outcome = Outcome.CANCELLED
            else:
                outcome, problem = Outcome.FAILED, error
            raise
        finally:
            self.record(firing, outcome, reason, error=problem)
            del problem  # or it and this frame would keep each other alive
            if firing.holder.waiting:
                self._start_waiting(firing.holder)

    def _mark_started(self, firing: Firing) -> None:
        firing.started_at = self._timetable.clock.now()
        if self._embedding.is_enabled_for(RunStarted):
            run = Run(scheduled_at=firing.moment, started_at=firing.started_at)
            self._embedding.emit(RunStarted, firing.entry.name, run=run)

    def record(
        self,
        firing: Firing,
        outcome: Outcome,
        reason: str | None = None,
        *,
        error: BaseException | None = None,
    ) -> None:
        """Record what became of a moment."""
        self._open.discard(firing)
        entry = firing.entry
        firing.holder.end(firing)
        text = None
        if error is not None:
            reason = describe(error) if reason is None else f"{reason}: {describe(error)}"
            text = ErrorText(error)
        run = firing.run = Run(
            scheduled_at=firing.moment,
            started_at=firing.started_at,
            finished_at=self._time_of_end(),
            outcome=outcome,
            error=reason,
        )
        entry.remember(run, self._keep)
        if firing.on_done is not None:
            firing.on_done()
        kind = EVENT_OF[outcome]
        if self._embedding.is_enabled_for(kind):
            details = {"traceback": text} if kind is RunFailed else {}
            self._embedding.emit(kind, entry.name, run=run, **details)
        if self.on_recorded is not None:
            self.on_recorded(firing)
        if not self._open:
            self._idle.set()

    def _time_of_end(self) -> datetime | None:
        """Return the time at which a run ended; None where the wall clock fails."""
        try:
            return self._timetable.clock.now()
        except Exception as error:  # noqa: BLE001  (a clock of the user's)
            log_clock_failure(error)
            return None

    # The scheduler ends.

    def cancel_unstarted(self) -> None:
        """Record all that has not begun as cancelled: the supervisor starts nothing any more."""
        for firing in [firing for firing in self._open if firing.started_at is None]:
            self.record(firing, Outcome.CANCELLED, NEVER_BEGAN)

    async def until_idle(self) -> None:
        """Wait until all that was admitted is recorded."""
        while self._open:
            self._idle = trio.Event()
            await self._idle.wait()


class _TimedOutError(Exception):
    """The `timeout` of a run was over; the cause is what its code raised on that, if anything."""


async def _call_within(timeout: float, entry: Entry) -> None:
    """Run a job's function, and raise a `_TimedOutError` if that takes too long."""
    is_over = False
    try:
        with trio.move_on_after(timeout) as limit:
            try:
                await entry.fn(*entry.args)
            finally:
                # Looked at inside the scope: code that swallows its cancellation leaves no trace on
                # the scope, and code that raises another error instead looks as if it had failed by
                # itself.
                is_over = limit.cancel_called
    except Exception as error:
        if not is_over:
            raise
        raise _TimedOutError(f"cancelled after {timeout:g} s") from error
    if is_over:
        raise _TimedOutError(f"cancelled after {timeout:g} s")


def _is_cancelled() -> bool:
    """Return whether the run is being cancelled from outside, because it was stopped."""
    return trio.current_effective_deadline() == -math.inf


def _is_cancellation(error: BaseException) -> bool:
    return all(issubclass(type(leaf), trio.Cancelled) for leaf in leaves_of(error))
