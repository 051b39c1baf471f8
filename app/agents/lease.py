"""Work that goes on only while its task's lease is held."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from app.store.protocol import Lease, Store, TaskRow

from .handle import end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """Under which claim something is done."""

    task_id: str
    token: str


_claim: ContextVar[Claim | None] = ContextVar("claim", default=None)

RENEWALS: Final = 3
"""How often a lease is renewed in its time."""


class LeaseEnded(Exception):
    """The work was ended: its lease was lost, or somebody asked for its task to be cancelled."""

    def __init__(self, why: Lease) -> None:
        super().__init__(why)
        self.why = why


def current_claim() -> Claim | None:
    """Return the claim under which this is done; None outside of `under_lease`."""
    return _claim.get()


async def under_lease(
    work: Coroutine[Any, Any, T],
    *,
    store: Store,
    task: TaskRow,
    token: str,
    lease: float,
    wait: Callable[[float], Awaitable[None]],
) -> T:
    """Do the work of a task while its lease is renewed beside it.

    While the store is away the work goes on: it can have no effect without the store, and whether
    the lease was lost shows when the store is back.

    Args:
        work: What is to be done; cancelled when the lease ends.
        store: Where the lease is.
        task: The task.
        token: The one that claimed it.
        lease: Seconds that each renewal lasts.
        wait: Returns after so many seconds, or sooner where something may have been asked for.

    Returns:
        What the work returned.

    Raises:
        LeaseEnded: If the work was ended early.
    """
    reset = _claim.set(Claim(task.id, token))
    working = asyncio.ensure_future(work)
    _claim.reset(reset)
    renewing = asyncio.ensure_future(_renew(store, task.id, token, lease, wait))
    try:
        await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise LeaseEnded(await renewing)
    finally:
        await end(working, renewing)


async def _renew(
    store: Store, task_id: str, token: str, lease: float, wait: Callable[[float], Awaitable[None]]
) -> Lease:
    """Renew a lease until it is not simply held any more, and say what it is then."""
    while True:
        await wait(lease / RENEWALS)
        state = await store.renew_task(task_id, token, lease=lease)
        if state is not Lease.HELD:
            return state
