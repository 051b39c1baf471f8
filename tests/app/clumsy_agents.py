"""Agents that do not settle what they have claimed, for the tests of claims that are left."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any


class Clumsy:
    """Claims a task, and then does what the task's goal says: it crashes, hangs or waits."""

    def __init__(self, context: Any) -> None:
        self.context = context

    async def run_as_daemon(self, poll_interval: float) -> None:
        context = self.context
        while True:
            task = await context.store.claim_task(
                context.agent_id,
                worker_id=context.worker_id,
                instance=context.instance,
                token=uuid.uuid4().hex,
                lease=context.task_lease,
            )
            if task is None:
                await asyncio.sleep(poll_interval)
            elif task.goal == "crash" and task.attempts == 1:
                raise ValueError("before it had looked at its task")
            elif task.goal == "wait":
                await asyncio.sleep(1e6)

    async def daily(self) -> None:
        context = self.context
        await context.store.begin_task(
            "routine",
            context.agent_id,
            "daily",
            worker_id=context.worker_id,
            instance=context.instance,
            token=uuid.uuid4().hex,
            lease=context.task_lease,
        )
        raise ValueError("before it had looked at its task")
