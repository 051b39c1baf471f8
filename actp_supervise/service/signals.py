"""SIGTERM and SIGINT, which end a command (`Interrupts`) or drain a service (`StopSignals`).

Python's own handler of Ctrl-C raises a KeyboardInterrupt between any two lines. One that was raised
in the callback of a weak reference was ignored, and the program never ended. So no handler here
raises: each tells Trio's loop, which acts a moment later.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from types import FrameType

logger = logging.getLogger(__name__)

CatchSignal = Callable[[int, Callable[[int, "FrameType | None"], Any]], object]
"""Has a function called with each signal of a number from now on, as `signal.signal` does."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

INTERRUPTED: Final = 130
"""The exit code of a program that a signal ended before it was done, or before it was ready."""

IN_EARNEST: Final = 0.5
"""Seconds after which a second signal is another request, and not the first one sent twice."""


class Interrupted(Exception):
    """A signal ended what the program was started for, before it was done."""


class Interrupts:
    """Ends a program by SIGTERM and SIGINT while it is no service, or is not ready yet.

    Before Trio runs it ends the process on the spot, for there is nothing to clean up yet; after
    that, it cancels the innermost block of `cancelling`.
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._begun = False

    def catch(self) -> None:
        """Handle both signals from now on, also where a shell has had us ignore SIGINT."""
        for number in SIGNALS:
            signal.signal(number, self.handler)

    def handler(self, _number: int, _frame: object) -> None:
        """End the process before there is anything to cancel; then cancel the innermost block."""
        if self._blocks:
            self._blocks[-1].interrupt()
        elif not self._begun:
            os._exit(INTERRUPTED)

    @contextmanager
    def cancelling(self) -> Iterator[trio.CancelScope]:
        """Cancel the block when a signal comes; its scope then has `cancelled_caught`.

        A signal after the outermost block changes nothing: what the program is for has been done.
        """
        with trio.CancelScope() as scope:
            # In this order, for a signal may come between any two lines.
            self._blocks.append(_Block(scope))
            self._begun = True
            try:
                yield scope
            finally:
                self._blocks.pop()


class _Block:
    """A block that a signal cancels.

    Args:
        scope: What is cancelled.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._now = trio.current_time
        self._trio = trio.lowlevel.current_trio_token()
        self._asked_at: float | None = None

    def interrupt(self) -> None:
        """Cancel the block; end the process if the loop has not even heard of an earlier signal."""
        if self._asked_at is None:
            self._asked_at = self._now()
        elif not self._scope.cancel_called and self._now() - self._asked_at > IN_EARNEST:
            os._exit(INTERRUPTED)
        tell_trio(self._trio, self._cancel)

    def _cancel(self) -> None:
        self._scope.cancel(reason="a signal")


def tell_trio(token: trio.lowlevel.TrioToken, act: Callable[..., object], *args: Hashable) -> None:
    """Call `act` soon, in Trio's loop: for a handler, which may come between any two lines.

    Calls with the same `act` before the loop turns count once. After the loop's end it does
    nothing.
    """
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(act, *args, idempotent=True)


class StopSignals:
    """SIGTERM and SIGINT as requests to a service to stop. To be made in Trio.

    The first sets `stop_event`, so that work in flight can be finished; a second cancels
    `patience`, the scope in which to wait for that work.
    """

    def __init__(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        self.stop_event = trio.Event()
        """Set by the first signal."""
        self.patience = trio.CancelScope()
        """Cancelled by the second."""

    def register(self, catch: CatchSignal = signal.signal) -> None:
        """Take SIGTERM and SIGINT over, each at one stroke and to the end of the process.

        Args:
            catch: Has a function called with each signal of a number, in place of the system.
        """
        for number in SIGNALS:
            catch(number, self.handler)

    def handler(self, sig: int, frame: object) -> None:
        """Request a stop, a moment later: this may come between any two lines of any task."""
        tell_trio(self._trio, self._obey, sig)

    def _obey(self, number: int) -> None:
        name = signal.Signals(number).name
        again = self.stop_event.is_set()
        if again:
            self.patience.cancel(reason="a second signal")
        else:
            self.stop_event.set()
        with suppress(Exception):  # of a filter of the user's; here it would end Trio's loop
            if again:
                extra = {"action": "stop_at_once", "signal": name}
                logger.warning("%s again: stopping at once", name, extra=extra)
            else:
                extra = {"action": "stop_requested", "signal": name}
                logger.info("%s: finishing what is in flight (again: at once)", name, extra=extra)
