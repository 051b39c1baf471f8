"""Commands that last until the operator has seen enough."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def until_interrupted(work: Callable[[], Awaitable[object]]) -> bool:
    """Do something until it is done, or until Ctrl-C or SIGTERM.

    Returns:
        Whether it was interrupted.
    """
    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with trio.open_nursery() as nursery:

                async def interrupt() -> None:
                    nonlocal interrupted
                    await anext(signals)
                    interrupted = True
                    nursery.cancel_scope.cancel("interrupted")

                nursery.start_soon(interrupt)
                await work()
                nursery.cancel_scope.cancel("done")
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:  # the nursery is nobody else's business
                raise group.exceptions[0] from None
            raise
    return interrupted
