"""How a run is asked to end, cancelled when its time is over, and watched while it lives."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Protocol

import trio

from . import events as ev
from .policies import (
    Intent,
    intent_once_asked,
    is_long_wait,
    look_again,
    next_look_at_stop,
    time_to_stop,
)
from .record import ChildState

if TYPE_CHECKING:
    from .record import ChildRecord, Run


class Teller(Protocol):
    """What hands out events about a child."""

    def __call__(self, kind: type[ev.Event], child: ChildRecord, **details: object) -> None:
        """Hand out an event."""


class Calendar(Protocol):
    """What calls `RunKeeper.look_at` for a child at a moment."""

    def set(self, key: ChildRecord, moment: float) -> None:
        """Call at a moment, in place of the one that was set."""


class RunKeeper:
    """Asks runs to end, and looks after those that are asked, cancelled, or have a watchdog.

    Args:
        tell: Hands out events.
        calendar: Calls `look_at` for a child when it is due.
    """

    __slots__ = ("_calendar", "_tell")

    def __init__(self, tell: Teller, calendar: Calendar) -> None:
        self._tell = tell
        self._calendar = calendar

    # A run is asked to end.

    def request_stop(
        self, child: ChildRecord, run: Run, intent: Intent, timeout: float | None
    ) -> None:
        """Ask a run to end, and set the time at which it will be cancelled.

        Args:
            child: Whose run it is.
            run: The run under way.
            intent: What its end will mean.
            timeout: Seconds until it is cancelled; None for the child's own.
        """
        run.intent = intent_once_asked(run.intent, intent)
        if run.intent is Intent.STALLED:
            return  # it is being cancelled
        if run.asked_at is None:
            self._ask(child, run, timeout)
        elif timeout == 0:
            self._cancel(child, run, "was stopped at once")
        self._look_at_stop_later(child, run)

    def _ask(self, child: ChildRecord, run: Run, timeout: float | None) -> None:
        if timeout is None:
            timeout = time_to_stop(child.shutdown_timeout, listens=run.listens)
        run.asked_at = trio.current_time()
        child.state = ChildState.STOPPING
        self._tell(ev.StopRequested, child, timeout=timeout)
        if timeout == 0:
            self._cancel(child, run, "was stopped")
        elif not run.scope.cancel_called:
            run.cancel_at = run.scope.deadline = run.asked_at + timeout
        if run.signal is not None:
            run.signal.fire()
        for callback in tuple((run.on_stop or {}).values()):
            callback()

    def _cancel(self, child: ChildRecord, run: Run, why: str) -> None:
        if not run.scope.cancel_called:  # else it is overdue from then on, not from now
            run.cancel_at = trio.current_time()
            run.scope.cancel(reason=f"child {child.name!r} {why}")

    # It is looked after.

    def look_at(self, child: ChildRecord, run: Run, late: float) -> None:
        """Do what is due for a run.

        Args:
            child: Whose run it is.
            run: The run under way.
            late: The seconds by which this call is late.
        """
        if run.intent is None:
            self._judge(child, run, late)
        else:
            self._look_at_stop(child, run)

    def _look_at_stop(self, child: ChildRecord, run: Run) -> None:
        """Report a run that was asked to stop, or cancelled, some time ago and is still there."""
        now = trio.current_time()
        if is_long_wait(run.asked_at, now) and not run.long_wait_told:
            run.long_wait_told = True
            _log_long_wait(child, run, now)
        if now >= run.cancel_at + run.overdue_after:
            child.overdue = True
            self._tell(ev.StopOverdue, child, overdue=run.overdue_after)
            run.overdue_after *= 2
        self._look_at_stop_later(child, run)

    def _look_at_stop_later(self, child: ChildRecord, run: Run) -> None:
        moment = next_look_at_stop(
            run.asked_at, run.cancel_at, run.overdue_after, long_wait_told=run.long_wait_told
        )
        self._calendar.set(child, moment)

    # Its watchdog.

    def watch(self, child: ChildRecord, run: Run, watchdog: float) -> None:
        """Expect signs of life from now on."""
        run.beat_due = trio.current_time() + watchdog
        self._watch_at(child, run, run.beat_due)

    def watch_sooner(self, child: ChildRecord, run: Run) -> None:
        """Expect the next sign of life sooner than was promised before."""
        if run.intent is None and run.beat_due < run.look_at:
            self._watch_at(child, run, run.beat_due)

    def _watch_at(self, child: ChildRecord, run: Run, moment: float) -> None:
        run.look_at = moment
        self._calendar.set(child, moment)

    def _judge(self, child: ChildRecord, run: Run, late: float) -> None:
        now = trio.current_time()
        if run.beat_due > now:
            run.granted = False
            self._watch_at(child, run, run.beat_due)
            return
        again = look_again(now, late, once_granted=run.granted)
        if again is not None:
            run.granted = True
            self._watch_at(child, run, again)
            return
        run.intent = Intent.STALLED
        child.state = ChildState.STOPPING
        self._tell(ev.ChildStalled, child, watchdog=child.spec.watchdog)
        self._cancel(child, run, "missed its watchdog time")
        self._look_at_stop_later(child, run)


def _log_long_wait(child: ChildRecord, run: Run, now: float) -> None:
    left = run.cancel_at - now
    if left == math.inf:
        what_next = "it is never cancelled"
    elif left > 0:
        what_next = f"it is cancelled in {left:.1f} s"
    else:
        what_next = f"it was cancelled {-left:.1f} s ago"
    ev.log(
        logging.WARNING,
        "%s: still waiting for it to stop; %s",
        "/".join(child.path),
        what_next,
        action="waiting_for_stop",
        path=child.path,
    )
