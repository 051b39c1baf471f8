"""What is to run in one daemon at a time, of all that share a store: by a lease that is kept.

Each of the daemons asks for the lease; one gets it and renews it, the others look again from time
to time, so that one of them takes over when the holder stops, dies, or is cut off for long.

A daemon that is cut off from the store goes on meanwhile, although its lease may run out and
another take it. That does no harm and saves the work in flight: whatever takes effect is noted in
the store first, and a task is finished under a lease of its own.
"""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from app.logs import why
from app.store.protocol import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from app.store.protocol import LeaseHolder, Store

logger = logging.getLogger(__name__)

RELEASE_TIMEOUT: Final = 2.0
"""Seconds for handing a lease back; else it runs out."""


class SingleLease:
    """A named lease of one daemon.

    Args:
        store: Where leases are kept.
        name: What is to run only once.
        instance: This start of the daemon.
        duration: Seconds after which a lease that is not renewed is free again. It is looked at
            three times as often.
    """

    def __init__(self, store: Store, name: str, instance: str, duration: float) -> None:
        self._store = store
        self._name = name
        self._instance = instance
        self._duration = duration
        self._ours_until = -math.inf
        """Until when it cannot be anybody else's, by Trio's time."""

    async def take(self, elsewhere: Callable[[str], object]) -> None:
        """Wait until the lease is ours; where it still is, nobody is asked.

        Args:
            elsewhere: Told the worker_id of the daemon that has it, whenever that was looked up.

        Raises:
            StoreError: If the store cannot keep leases; while it is only away, it waits.
        """
        while trio.current_time() >= self._ours_until:
            holder = await self._ask()
            if holder is not None:
                if holder.instance == self._instance:
                    return
                elsewhere(holder.worker_id)
            await trio.sleep(self._duration / 3)

    @asynccontextmanager
    async def kept(self, lost: Callable[[], object]) -> AsyncIterator[None]:
        """Renew the lease for the time of the block.

        Args:
            lost: Called once, if another daemon has it.
        """
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, lost)
            try:
                yield
            except Exception as error:  # noqa: BLE001  (raised below, and bare: not in a group)
                failure = error
            nursery.cancel_scope.cancel(reason="the lease is not needed any more")
        if failure is not None:
            raise failure

    async def release(self) -> None:
        """Hand the lease back, so that another daemon need not wait for its end."""
        self._ours_until = -math.inf
        try:
            with trio.fail_after(RELEASE_TIMEOUT, shield=True):
                await self._store.drop_lease(self._name, self._instance)
        except (StoreError, trio.TooSlowError) as error:
            extra = {"action": "lease_not_released"}
            logger.warning("The lease of %s will run out: %s", self._name, why(error), extra=extra)

    async def _keep(self, lost: Callable[[], object]) -> None:
        while True:
            await trio.sleep(self._duration / 3)
            try:
                holder = await self._ask()
            except StoreError as error:  # not of the agent's making, who goes on
                extra = {"action": "lease_not_renewed"}
                logger.warning(
                    "The lease of %s was not renewed: %s", self._name, error, extra=extra
                )
                continue
            if holder is not None and holder.instance != self._instance:
                lost()
                return

    async def _ask(self) -> LeaseHolder | None:
        """Take or prolong the lease, and return who has it; None while the store is away."""
        asked_at = trio.current_time()
        try:
            holder = await self._store.hold_lease(self._name, self._instance, lease=self._duration)
        except StoreUnavailable:
            return None
        ours = holder.instance == self._instance
        self._ours_until = asked_at + self._duration if ours else -math.inf
        return holder
