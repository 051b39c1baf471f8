"""An agent that takes three seconds for each task, for the tests of several workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from app.agents.outcomes import Outcome
from app.agents.work import Worker

if TYPE_CHECKING:
    from app.store.protocol import TaskRow


class Slow:
    """Does each task in three seconds; one whose goal is to crash ends its worker."""

    def __init__(self, context: Any) -> None:
        self.context = context

    async def run_as_daemon(self, poll_interval: float) -> None:
        await Worker(self.context, self._do).run(poll_interval)

    async def _do(self, task: TaskRow) -> Outcome:
        await asyncio.sleep(3.0)
        return Outcome(failure=None, result={"by": self.context.run_id})
