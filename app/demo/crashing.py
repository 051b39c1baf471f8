"""An agent that crashes now and then, so that its restarts can be watched."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from app.agents.revenue import RevenueAnalyticsDomainAgent

if TYPE_CHECKING:
    from app.agents.contract import AgentContext

LIFETIME: Final = (15.0, 40.0)
"""Seconds after which it crashes: at least, and at most."""


class SimulatedCrashError(RuntimeError):
    """What the demonstration's crashing agent crashes with."""


class CrashingRevenueAgent(RevenueAnalyticsDomainAgent):
    """The revenue agent, but for a crash now and then.

    Args:
        context: As for any agent.
        rng: Decides when.
    """

    def __init__(self, context: AgentContext, rng: random.Random | None = None) -> None:
        super().__init__(context)
        self._rng = random.Random() if rng is None else rng

    async def run_as_daemon(self, poll_interval: float) -> None:
        """Work until asked to stop, or until it crashes."""
        lifetime = self._rng.uniform(*LIFETIME)
        life = asyncio.timeout(lifetime)
        try:
            async with life:
                await super().run_as_daemon(poll_interval)
        except TimeoutError:
            if not life.expired():
                raise
            raise SimulatedCrashError(f"simulated, after {lifetime:.0f} s of work") from None
