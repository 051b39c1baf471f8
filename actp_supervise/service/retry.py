"""Trying again after an error that may pass, with the growing pauses of a `Backoff`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import trio

from actp_supervise.policies import Backoff

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

ErrorT = TypeVar("ErrorT", bound=Exception)
ResultT = TypeVar("ResultT")

RETRY_BACKOFF = Backoff(initial=0.2, factor=2.0, maximum=15.0)


async def sleep_it_out(_error: Exception, seconds: float) -> None:
    """Wait for the pause between two tries."""
    await trio.sleep(seconds)


async def retry(
    attempt: Callable[[], Awaitable[ResultT]],
    errors: type[ErrorT] | tuple[type[ErrorT], ...],
    *,
    backoff: Backoff = RETRY_BACKOFF,
    within: float = math.inf,
    pause: Callable[[ErrorT, float], Awaitable[object]] = sleep_it_out,
    rng: random.Random | None = None,
) -> ResultT:
    """Return what `attempt` returns, trying again after each of the errors.

    Cancelled, it ends at once. It also works in asyncio code, given a `pause` of asyncio and no
    `within`, which Trio's clock measures.

    Args:
        attempt: What to do; it has to bear being repeated.
        errors: Those that may pass. Any other is raised at once.
        backoff: How long to wait before each next try; the n-th failure is its n-th crash.
        within: Seconds after which there is no more try: the error of the last one is raised.
        pause: Waits between two tries, told the error and for how many seconds. Here is where to
            log; what it raises ends the tries.
        rng: Spreads the pauses, where the backoff has jitter.

    Example:
        ``await retry(connect, OSError, backoff=Backoff(initial=0.5, maximum=15.0))``
    """
    deadline = trio.current_time() + within if within < math.inf else None
    failures = 0
    while True:
        try:
            return await attempt()
        except errors as error:
            failures += 1
            seconds = backoff.delay(failures, rng)
            if deadline is not None and trio.current_time() + seconds > deadline:
                raise
            failure = error
        await pause(failure, seconds)
