"""The tasks that one run of an agent has claimed, and that go back to the queue as it ends.

An agent settles its tasks itself. Where it cannot (it crashed before it knew of its claim, its loop
is gone, its process was killed), the daemon hands them back: else they would stay *running* until
their leases have run out and the next claim takes them up, which of a paused agent never comes.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from typing_extensions import override

from actp_supervise import current_child
from app.agents.work import RELEASE_TIMEOUT
from app.store.protocol import Before, Store, StoreError, TaskRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from app.agents.activity import Activity
    from app.store.verbs import Arguments, R, Seconds, Verb

logger = logging.getLogger(__name__)

_CLAIM: Final = frozenset({"claim_task", "begin_task"})
_SETTLE: Final = frozenset({"finish_task", "release_task", "park_task"})


def _crashed(_error: Exception) -> str:
    return "the agent crashed while it did this"


@asynccontextmanager
async def open_claims(
    store: Store, activity: Activity, *, why: Callable[[Exception], str] = _crashed
) -> AsyncIterator[Store]:
    """Give the store for one run of an agent, and hand back at its end what it has left claimed.

    It is an attempt that counts where the run ended by an error, or hung. That is bounded, also
    where the run is cancelled; what could not be handed back in time has its lease to end it.

    Args:
        store: The daemon's.
        activity: The agent's.
        why: Returns the reason that is kept with a task where the run ended by an error.
    """
    claims = Claims(store, activity)
    why_back = None
    try:
        yield claims
    except Exception as error:
        why_back = why(error)
        raise
    finally:
        if current_child().stalled:
            why_back = f"the agent hung: {activity.what_is_missing()}"
        with trio.move_on_after(RELEASE_TIMEOUT, shield=True) as in_time:
            await claims.hand_back(why_back)  # noqa: ASYNC102
        if in_time.cancelled_caught:
            logger.warning("Task not handed back in time, its lease will end")


class Claims(Before):
    """A store that knows which tasks are claimed through it.

    Args:
        store: The daemon's.
        activity: The agent's.
    """

    def __init__(self, store: Store, activity: Activity) -> None:
        super().__init__(store)
        self._activity = activity
        self._claiming: dict[str, Callable[[], Awaitable[object]]] = {}
        """By token: what claims the same task again, where there was no answer yet."""
        self._held: dict[str, str] = {}
        """token -> task"""

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
    async def perform(self, verb: Verb[R], arguments: Arguments) -> R:
        token = str(arguments.get("token"))
        if verb.name in _CLAIM:
            self._claiming[token] = partial(verb.ask, self.store, arguments)
        answer = await super().perform(verb, arguments)
        if verb.name in _CLAIM:
            del self._claiming[token]
            if isinstance(answer, TaskRow):
                self._held[token] = answer.id
        elif verb.name in _SETTLE:
            self._held.pop(token, None)
        return answer

    async def hand_back(self, error: str | None) -> None:
        """Hand back what is held still.

        Args:
            error: Why, where it counts as an attempt.
        """
        try:
            for token, task_id in self._held.items():
                await self._release(task_id, token, error)
            # An answer may have been lost; then this gets it, or a task that nobody has begun.
            for token, claim in self._claiming.items():
                task = await claim()
                if isinstance(task, TaskRow):
                    await self._release(task.id, token, None)
        except StoreError as failure:
            logger.warning("Task not handed back, its lease will end: %s", failure)

    async def _release(self, task_id: str, token: str, error: str | None) -> None:
        counts = error is not None
        await self.store.release_task(task_id, token, count_attempt=counts, error=error)
