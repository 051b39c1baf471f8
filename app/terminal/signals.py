"""Commands that last until the operator has seen enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actp_supervise.service import Interrupts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


INTERRUPTS: Final = Interrupts()
"""What SIGTERM and SIGINT do in this process, until it is a daemon."""


async def until_interrupted(work: Callable[[], Awaitable[object]]) -> bool:
    """Do something until it is done, or until Ctrl-C or SIGTERM.

    Returns:
        Whether it was interrupted.
    """
    with INTERRUPTS.cancelling() as scope:
        await work()
    return scope.cancelled_caught
