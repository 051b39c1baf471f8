"""GracefulShutdown: from a signal to the last agent gone, with nothing lost (R18 to R21)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.service import StopSignals, why
from app.store.protocol import StoreError

if TYPE_CHECKING:
    from actp_supervise.service import Outbox
    from app.registry import AgentRegistry
    from app.routine import DailyRoutineScheduler
    from app.supervisor import AgentSupervisor

logger = logging.getLogger(__name__)

RECORD_TIMEOUT: Final = 5.0
"""Seconds that the end waits for the store to take what is not yet written, and the last word."""


class GracefulShutdown(StopSignals):
    """The end of the daemon, begun by a signal.

    Args:
        supervisor: The agents, with their tasks in flight.
        routines: The routines, some of which may be under way.
        registry: Where it is to be written that all have stopped.
        records: What must be written before.
    """

    def __init__(
        self,
        supervisor: AgentSupervisor,
        routines: DailyRoutineScheduler,
        registry: AgentRegistry,
        records: Outbox,
    ) -> None:
        super().__init__()
        self._supervisor = supervisor
        self._routines = routines
        self._registry = registry
        self._records = records

    async def drain_wait(self, timeout: float = 30.0) -> bool:
        """Take no new work and wait for that in flight.

        Args:
            timeout: Seconds to wait; a second signal ends it as well.

        Returns:
            Whether all of it was finished.
        """
        with self.patience, trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._supervisor.stop_all)
                nursery.start_soon(self._routines.shutdown)
            return True
        return False

    async def force_stop(self) -> None:
        """Cancel what is left, so that it goes back to the queue, and deregister all agents."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._supervisor.cancel_all)
            nursery.start_soon(self._routines.cancel_all)
        try:
            with trio.fail_after(RECORD_TIMEOUT):
                await self._records.flush()
                await self._registry.deregister_all()
        except (StoreError, trio.TooSlowError) as error:
            extra = {"action": "deregister_failed"}
            logger.warning("The agents could not be deregistered: %s", why(error), extra=extra)
