"""A lease by which something runs in one process at a time, of all that share a place.

Each of the processes asks for the lease; one gets it and renews it, the others look again from time
to time, so that one of them takes over when the holder stops, dies, or is cut off for long.

A process that is cut off goes on meanwhile, although its lease may run out and another take it. So
what must not take effect twice has to be recorded in the shared place first, or done under a
fencing token.
"""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import trio

from .text import why

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

logger = logging.getLogger(__name__)

RELEASE_TIMEOUT: Final = 2.0
"""Seconds for handing a lease back; if that fails, the lease runs out."""


class Holder(Protocol):
    """The process that has a lease."""

    @property
    def instance(self) -> str:
        """Tells one start of a program from every other."""

    @property
    def worker_id(self) -> str:
        """What people call it."""


class LeasePlace(Protocol):
    """Where leases are kept, for all who share them."""

    async def hold_lease(self, name: str, instance: str, *, lease: float) -> Holder:
        """Take a lease that is free, or prolong our own.

        Args:
            name: Of the lease.
            instance: Who asks.
            lease: Seconds for which it is then held.

        Returns:
            Who has it then.
        """

    async def drop_lease(self, name: str, instance: str) -> object:
        """Free a lease, if it is ours."""


class LeaderLease:
    """A named lease, to be had by one process at a time.

    Args:
        place: Where leases are kept.
        name: What is to run only once.
        instance: This start of the program.
        duration: Seconds after which a lease that is not renewed is free again. It is looked at
            three times as often.
        away: The errors that say that the place cannot be reached just now.
        refused: Those that say that it cannot keep leases, for now or for ever.
    """

    def __init__(
        self,
        place: LeasePlace,
        name: str,
        instance: str,
        duration: float,
        *,
        away: type[Exception] = OSError,
        refused: type[Exception] = OSError,
    ) -> None:
        self._place = place
        self._name = name
        self._instance = instance
        self._duration = duration
        self._away = away
        self._failures = (away, refused)
        self._ours_until = -math.inf
        """Trio's time until which no other process can have the lease."""

    async def acquire(self, on_held_by_other: Callable[[str], object]) -> None:
        """Wait until the lease is ours; if it still is, the place is not asked.

        While the place is away this waits; that it refuses is raised.

        Args:
            on_held_by_other: Told the worker_id of the holder, whenever that was looked up.
        """
        while trio.current_time() >= self._ours_until:
            holder = await self._ask()
            if holder is not None:
                if holder.instance == self._instance:
                    return
                on_held_by_other(holder.worker_id)
            await trio.sleep(self._duration / 3)

    @asynccontextmanager
    async def renewing(self, on_lost: Callable[[], object]) -> AsyncIterator[None]:
        """Renew the lease for the time of the block.

        Args:
            on_lost: Called once, if another has it.
        """
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew, on_lost)
            try:
                yield
            except Exception as error:  # noqa: BLE001  (raised below, and bare: not in a group)
                failure = error
            nursery.cancel_scope.cancel(reason="the lease is not needed any more")
        if failure is not None:
            raise failure

    async def release(self) -> None:
        """Hand the lease back, so that the next need not wait for its end. It takes 2 s at most."""
        self._ours_until = -math.inf
        try:
            with trio.fail_after(RELEASE_TIMEOUT, shield=True):
                await self._place.drop_lease(self._name, self._instance)
        except (*self._failures, trio.TooSlowError) as error:
            extra = {"action": "lease_not_released"}
            logger.warning("The lease of %s will run out: %s", self._name, why(error), extra=extra)

    async def _renew(self, on_lost: Callable[[], object]) -> None:
        while True:
            await trio.sleep(self._duration / 3)
            try:
                holder = await self._ask()
            except self._failures as error:  # not the fault of the block, which goes on
                extra = {"action": "lease_not_renewed"}
                logger.warning(
                    "The lease of %s was not renewed: %s", self._name, error, extra=extra
                )
                continue
            if holder is not None and holder.instance != self._instance:
                on_lost()
                return

    async def _ask(self) -> Holder | None:
        """Take or prolong the lease, and return who has it; None while the place is away."""
        asked_at = trio.current_time()
        try:
            holder = await self._place.hold_lease(self._name, self._instance, lease=self._duration)
        except self._away:
            return None
        ours = holder.instance == self._instance
        self._ours_until = asked_at + self._duration if ours else -math.inf
        return holder
