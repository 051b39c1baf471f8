"""How a run is asked to end, cancelled when its time is over, and watched while it lives."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Protocol

from . import events as ev
from .policies import (
    Intent,
    intent_once_asked,
    is_long_wait,
    look_again,
    next_look_at_stop,
    time_to_stop,
)
from .record import ChildState, Stop, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from .record import ChildRecord, Run


class Teller(Protocol):
    """A function that sends events about a child."""

    def __call__(self, kind: type[ev.Event], child: ChildRecord, **details: object) -> None:
        """Send an event."""


class Calendar(Protocol):
    """What calls `RunKeeper.look_at` for a child at a moment."""

    def set(self, key: ChildRecord, moment: float) -> None:
        """Call at a moment, in place of the one that was set."""


class RunKeeper:
    """Asks runs to end, and looks after those that are asked, cancelled, or have a watchdog.

    Args:
        tell: Sends events.
        calendar: Calls `look_at` for a child when it is due.
        now: Tells Trio's time.
    """

    __slots__ = ("_calendar", "_now", "_tell")

    def __init__(self, tell: Teller, calendar: Calendar, now: Callable[[], float]) -> None:
        self._tell = tell
        self._calendar = calendar
        self._now = now

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
            return  # it is being cancelled already
        if not run.is_asked:
            self._ask(child, run, timeout)
        elif timeout == 0:
            self._cancel(child, run, "was stopped at once")
        self._look_again(child, run)

    def _ask(self, child: ChildRecord, run: Run, timeout: float | None) -> None:
        if timeout is None:
            timeout = time_to_stop(child.shutdown_timeout, listens=run.listens)
        now = self._now()
        if run.stop is None:
            run.stop = Stop(now, now + timeout)
        run.stop.asked_at = now  # of a stalled run, `cancel_at` stays when it stalled
        child.state = ChildState.STOPPING
        self._tell(ev.StopRequested, child, timeout=timeout)
        if timeout == 0:
            self._cancel(child, run, "was stopped")
        elif run.scope is not None and not run.scope.cancel_called:
            run.scope.deadline = run.stop.cancel_at
        if run.signal is not None:
            run.signal.fire()
        if run.on_stop is not None:
            for callback in tuple(run.on_stop.values()):
                callback()

    def _cancel(self, child: ChildRecord, run: Run, why: str) -> None:
        # A task that has not begun sees the stop and never runs; a second cancel must not move
        # `cancel_at`.
        if run.stop is None or run.scope is None or run.scope.cancel_called:
            return
        run.stop.cancel_at = self._now()
        run.scope.cancel(reason=f"child {child.name!r} {why}")

    # It is looked after.

    def look_at(self, child: ChildRecord, run: Run, late: float) -> None:
        """Do what is due for a run.

        Args:
            child: Whose run it is.
            run: The run under way.
            late: The seconds by which this call is late.
        """
        if run.stop is not None:
            self._look_at_stop(child, run.stop)
            self._look_again(child, run)
        elif run.watch is not None:
            self._judge(child, run, run.watch, late)

    def _look_at_stop(self, child: ChildRecord, stop: Stop) -> None:
        """Report a run that was asked to stop, or cancelled, some time ago and is still there."""
        now = self._now()
        if is_long_wait(stop.asked_at, now) and not stop.long_wait_told:
            stop.long_wait_told = True
            _log_long_wait(child, stop, now)
        if now >= stop.cancel_at + stop.overdue_after:
            child.overdue = True
            self._tell(ev.StopOverdue, child, overdue=stop.overdue_after)
            stop.overdue_after *= 2

    def _look_again(self, child: ChildRecord, run: Run) -> None:
        stop = run.stop
        if stop is not None:
            moment = next_look_at_stop(
                stop.asked_at,
                stop.cancel_at,
                stop.overdue_after,
                long_wait_told=stop.long_wait_told,
            )
            self._calendar.set(child, moment)

    # Its watchdog.

    def watch(self, child: ChildRecord, run: Run, watchdog: float) -> None:
        """Expect signs of life from now on."""
        run.watch = Watch(self._now() + watchdog)
        self._calendar.set(child, run.watch.look_at)

    def watch_sooner(self, child: ChildRecord, run: Run) -> None:
        """Expect the next sign of life sooner than was promised before."""
        watch = run.watch
        if run.stop is None and watch is not None and watch.beat_due < watch.look_at:
            self._watch_at(child, watch, watch.beat_due)

    def _watch_at(self, child: ChildRecord, watch: Watch, moment: float) -> None:
        watch.look_at = moment
        self._calendar.set(child, moment)

    def _judge(self, child: ChildRecord, run: Run, watch: Watch, late: float) -> None:
        now = self._now()
        if watch.beat_due > now:
            watch.granted = False
            self._watch_at(child, watch, watch.beat_due)
            return
        again = look_again(now, late, once_granted=watch.granted)
        if again is not None:
            watch.granted = True
            self._watch_at(child, watch, again)
            return
        run.intent = Intent.STALLED
        run.stop = Stop(None, now)
        child.state = ChildState.STOPPING
        self._tell(ev.ChildStalled, child, watchdog=child.spec.watchdog)
        self._cancel(child, run, "missed its watchdog time")
        self._look_again(child, run)


def _log_long_wait(child: ChildRecord, stop: Stop, now: float) -> None:
    left = stop.cancel_at - now
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
