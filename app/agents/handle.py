"""The store as an agent has it: callable from the agent's own loop, and patient.

Also what is begun there and must not be left half done: `finish_anyway`.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from typing_extensions import override

from actp_supervise import Backoff, current_child
from actp_supervise.bridge import run_in_trio
from actp_supervise.service import retry
from app.store.protocol import Before, Store, StoreUnavailable

from .activity import WAITING_FOR_STORE

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from app.store.protocol import TaskRow
    from app.store.verbs import Arguments, R, Seconds, Verb

    from .activity import Activity

T = TypeVar("T")

logger = logging.getLogger(__name__)

PATIENCE: Final = Backoff(initial=0.2, factor=2.0, maximum=15.0)
"""How long it waits between two tries while the store is away."""


class AgentStore(Before):
    """The store for an agent's loop: each call crosses over to Trio.

    While the store is away a call waits and is repeated, which every verb allows; the agent's
    activity says so. Only `claim_task` gives up, with `StoreUnavailable`, once the agent is asked
    to stop: there is nothing to lose yet. It finds no task while an operator holds the agent.

    Args:
        store: The daemon's store, on Trio's side.
        activity: The agent's.
        patience: How long to wait before each new try.
    """

    def __init__(self, store: Store, activity: Activity, *, patience: Backoff = PATIENCE) -> None:
        super().__init__(store)
        self._activity = activity
        self._patience = patience
        self._doing_before: str | None = None
        """What the agent did when the store went away; None while it is there."""

    @override
    async def perform(self, verb: Verb[R], arguments: Arguments) -> R:
        async def pause(error: StoreUnavailable, seconds: float) -> None:
            if self._doing_before is None:
                self._doing_before = self._activity.doing
                logger.warning("Waiting for the store: %s", error, extra={"action": "wait"})
            self._activity.store_error = str(error)
            await self._wait(seconds, verb, error)

        ask = partial(run_in_trio, verb.ask, self.store, arguments)
        answer = await retry(ask, StoreUnavailable, backoff=self._patience, pause=pause)
        self._resume()
        return answer

    @override
    async def claim_task(
        self, agent_type: str, *, worker_id: str, instance: str, token: str, lease: Seconds
    ) -> TaskRow | None:
        if self._activity.held:
            return None
        return await super().claim_task(
            agent_type, worker_id=worker_id, instance=instance, token=token, lease=lease
        )

    @override
    async def aclose(self) -> None:
        """Leave the store open: it is the daemon's, and others use it."""

    def _resume(self) -> None:
        if self._doing_before is not None:
            if self._activity.doing == WAITING_FOR_STORE:
                self._activity.wait(self._doing_before, 0.0)
            self._doing_before = self._activity.store_error = None

    async def _wait(self, seconds: float, verb: Verb[R], error: StoreUnavailable) -> None:
        self._activity.wait(WAITING_FOR_STORE, seconds)
        if verb.name != "claim_task":
            await asyncio.sleep(seconds)
            return
        with current_child().cancel_on_stop() as stop:
            await asyncio.sleep(seconds)
        if stop.cancelled_caught:
            raise error


async def finish_anyway(begun: Coroutine[Any, Any, T], *, within: float = 1.0) -> T:
    """Wait for something that must not be left half done, even if this task is cancelled.

    Args:
        begun: What is to be finished.
        within: Seconds that it still has once this task is cancelled; then it is cancelled too.

    Raises:
        asyncio.CancelledError: If this task was cancelled, but only when `begun` has ended.
    """
    task = asyncio.ensure_future(begun)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=within)
        await end(task)
        raise


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended; how they end is nobody's business."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, or the loop would call it lost
