"""SIGTERM and SIGINT from the program's first line on, until a daemon takes them over.

Python's own handler of Ctrl-C raises a KeyboardInterrupt between any two lines. One that was raised
in the callback of a weak reference was ignored, and the daemon never ended. So the handler here
raises nothing: before Trio runs it ends the process on the spot, for there is nothing to clean up
yet; after that, it cancels what runs.

This module imports nothing that takes time, because it has to be there before all that does.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    import trio

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

INTERRUPTED: Final = 130
"""The exit code of a program that a signal ended before it was done, or up."""

IN_EARNEST: Final = 0.5
"""Seconds after which a second signal is another request, and not the first one sent twice."""


class Interrupted(Exception):
    """A signal ended what the program was started for, before it was done."""


class Interrupts:
    """What SIGTERM and SIGINT do in a process that is not a daemon, or not yet."""

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
        """Have a signal cancel the block, whose scope then says so in `cancelled_caught`.

        A signal after the outermost block changes nothing: what the program is for has been done.
        """
        import trio

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
        import trio

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
    """Have Trio's loop call `act` soon: from a handler, which may come between any two lines.

    What is told again before the loop hears of it is told once. After the loop's end it does
    nothing.
    """
    import trio

    with suppress(trio.RunFinishedError):
        token.run_sync_soon(act, *args, idempotent=True)


INTERRUPTS: Final = Interrupts()
"""Those of this process."""
