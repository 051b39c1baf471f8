"""GracefulShutdown: from a signal to the last agent gone, with nothing lost (R18 to R21)."""

from __future__ import annotations

import logging
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from app.interrupts import SIGNALS, tell_trio
from app.logs import why
from app.store.protocol import StoreError

if TYPE_CHECKING:
    from types import FrameType

    from app.record_keeper import RecordKeeper
    from app.registry import AgentRegistry
    from app.routine import DailyRoutineScheduler
    from app.supervisor import AgentSupervisor

logger = logging.getLogger(__name__)

RECORD_TIMEOUT: Final = 5.0
"""Seconds that the end waits for the store to take what is not yet written, and the last word."""


class GracefulShutdown:
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
        records: RecordKeeper,
    ) -> None:
        self._supervisor = supervisor
        self._routines = routines
        self._registry = registry
        self._records = records
        self._trio = trio.lowlevel.current_trio_token()
        self._patience = trio.CancelScope()
        self.stop_event = trio.Event()
        """Set by the first signal."""

    def register(self) -> None:
        """Take SIGTERM and SIGINT over, each at one stroke and to the end of the process (R18)."""
        for number in SIGNALS:
            signal.signal(number, self.handler)

    def handler(self, sig: int, frame: FrameType | None) -> None:
        """Begin the end: the first signal sets `stop_event`, a second ends the wait for work (R19).

        It may come between any two lines of any task, so Trio's loop does it, a moment later.
        """
        tell_trio(self._trio, self._obey, sig)

    def _obey(self, sig: int) -> None:
        name = signal.Signals(sig).name
        again = self.stop_event.is_set()
        if again:
            self._patience.cancel(reason="a second signal")
        else:
            self.stop_event.set()
        with suppress(Exception):  # a filter of an agent's; here it would end Trio's loop
            if again:
                extra = {"action": "stop_at_once", "signal": name}
                logger.warning("%s again: stopping at once", name, extra=extra)
            else:
                extra = {"action": "stop_requested", "signal": name}
                logger.info("%s: finishing what is in flight (again: at once)", name, extra=extra)

    async def drain_wait(self, timeout: float = 30.0) -> bool:
        """Take no new work and wait for that in flight.

        Args:
            timeout: Seconds to wait; a second signal ends it as well.

        Returns:
            Whether all of it was finished.
        """
        with self._patience, trio.move_on_after(timeout):
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
