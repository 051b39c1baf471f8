"""The queue of tasks, their leases, and the ways in which one ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.store.verbs import Noun, Seconds, verb


class TaskStatus(StrEnum):
    """Where a task stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    """For a person's approval: no worker has it, and it has no lease."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATUSES = (TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED)
"""How a task may be finished."""


def check_final(status: TaskStatus) -> None:
    """Refuse what no task can be finished as.

    Raises:
        ValueError: If the status is not final.
    """
    if status not in FINAL_STATUSES:
        raise ValueError(f"a task cannot be finished as {status}")


NOT_OVER = (TaskStatus.QUEUED, TaskStatus.RUNNING, TaskStatus.WAITING)
"""What `Queue.cancel_tasks` concerns."""

TO_BE_RETRIED = (TaskStatus.FAILED, TaskStatus.CANCELLED)
"""What `Queue.retry_tasks` concerns."""

PART_OF_ID = 6
"""Characters of a task's id by which it is found; fewer would be in many an id by chance."""


class Lease(StrEnum):
    """What renewing a lease found."""

    HELD = "held"
    LOST = "lost"
    """Another has it, or it is over: the worker must stop and may not finish."""
    CANCEL_REQUESTED = "cancel_requested"
    """Still held, but the task is to be cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One task of the queue (`actp_agent_tasks`)."""

    id: str
    agent_type: str
    """The agent_id that is to do it."""
    goal: str
    context: dict[str, Any]
    priority: int
    """Higher first."""
    status: TaskStatus
    attempts: int
    max_attempts: int
    result: dict[str, Any] | None
    error: str | None
    worker_id: str | None
    lease_until: datetime | None
    not_before: datetime | None
    cancel_requested: bool
    routine: str | None = None
    """Of a routine's run: the routine, and the day; effects are known by it. None of a task."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    timeout: float | None = None
    """Seconds that one attempt may take; None for no limit."""
    unique_key: str | None = None
    """Of one agent's tasks that wait or run, no two have the same key."""
    unreadable: str | None = None
    """What of the row makes no sense, as a person may write it by hand; then the rest is what could
    be read of it, and whoever claims it finds it failed with this reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSum:
    """What became of an agent's tasks in a span of time."""

    agent_type: str
    since: datetime
    """When the span begins."""
    succeeded: int
    """How many ended well."""
    failed: int
    cancelled: int
    begun: int
    """How often one was claimed."""
    waited: float
    """Seconds that these had waited for a worker, together; a wait on purpose is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks; conditions that are None leave none out."""

    agent_type: str | None = None
    status: TaskStatus | None = None
    text: str | None = None
    """Part of the goal, upper and lower case alike."""
    search: str | None = None
    """As of `Queue.tasks`."""
    since: datetime | None = None
    """Made at that moment or later."""
    until: datetime | None = None
    """Made before it."""


class Queue(Noun):
    """The tasks of all agents (`actp_agent_tasks`)."""

    @verb
    async def add_task(
        self,
        task_id: str,
        agent_type: str,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        priority: int = 0,
        max_attempts: int = 3,
        not_before: datetime | None = None,
        timeout: float | None = None,
        unique_key: str | None = None,
    ) -> TaskRow:
        """Queue a task; with an id that is there already, return that task unchanged.

        Where the agent has a task with the same `unique_key` that is not over, return that one.
        """

    @verb
    async def begin_task(
        self,
        task_id: str,
        agent_type: str,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        routine: str | None = None,
        worker_id: str,
        instance: str,
        token: str,
        lease: Seconds,
    ) -> TaskRow | None:
        """Add a task that its caller claims in the same step, as a routine's run is.

        Afterwards it is a task like any other: if its lease runs out or it is handed back, a worker
        of that agent goes on with it. One that is there already is returned if the token holds it;
        else the answer is None.
        """

    @verb
    async def task(self, task_id: str) -> TaskRow | None:
        """Return a task."""

    @verb
    async def tasks(
        self,
        *,
        status: TaskStatus | None = None,
        agent_type: str | None = None,
        limit: int = 50,
        search: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
    ) -> list[TaskRow]:
        """Return tasks, newest first.

        Args:
            status: Those that stand there.
            agent_type: Those of one agent.
            limit: The most to return.
            search: Those whose goal or error contains it, upper and lower case alike, and those of
                the agent and the task that are called so; of a task's id its first characters will
                do, `PART_OF_ID` of them at least.
            since: Those made at that moment or later.
            until: Those made before it.
            before: Those that were added before the task with this id; none where it is gone.
        """

    @verb
    async def count_matching(
        self, which: TaskFilter, among: Sequence[TaskStatus], *, limit: int = 1000
    ) -> int:
        """Return how many tasks with one of these statuses a filter fits, `limit` at most."""

    @verb
    async def count_tasks(self) -> dict[str, dict[TaskStatus, int]]:
        """Return agent_type -> status -> how many (statuses with none are left out)."""

    @verb
    async def task_history(self, edges: Sequence[datetime]) -> list[TaskSum]:
        """Return what became of tasks in the spans between moments, by the sums that are kept.

        They stay when the tasks are deleted. They are kept by the quarter of an hour, in which all
        days of all zones begin: what happened in one is counted where that one begins.

        Args:
            edges: The moments, the oldest first; each begins a span, the last one that up to now.
        """

    @verb
    async def unreadable_tasks(self, *, within: Seconds, limit: int = 20) -> list[str]:
        """Return the ids of tasks that were settled because they could not be read, newest first.

        Args:
            within: How many seconds ago at most.
            limit: The most to return.
        """

    @verb
    async def oldest_queued(self) -> dict[str, float]:
        """Return agent_type -> how many seconds its oldest task that could be claimed has waited.

        A task that waits on purpose (`not_before`) is not counted before its time.
        """

    @verb
    async def claim_task(
        self, agent_type: str, *, worker_id: str, instance: str, token: str, lease: Seconds
    ) -> TaskRow | None:
        """Claim the next task of an agent: priority first, then age.

        Expired leases of that agent go back to the queue first, or to failed after
        `max_attempts`. Claiming counts an attempt. A paused agent (`Registry.set_paused`) gets
        none, and neither does a *single* one that runs elsewhere: whose lease
        (`Registry.hold_lease`, by its name) another instance has.

        A `token` claims once. Repeated, the answer is the task for as long as the token holds it,
        and None ever after, as it is where the first answer was None; so a copy of the request
        that arrives late takes nothing. See `Kept.REQUESTS` for how long that is remembered.
        """

    @verb
    async def renew_task(self, task_id: str, token: str, *, lease: Seconds) -> Lease:
        """Prolong a lease to `lease` seconds from now.

        A lease that ran out is held until another claim of that agent takes the task back.
        """

    @verb
    async def finish_task(
        self,
        task_id: str,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """End a task as succeeded, failed or cancelled; False if the lease was lost.

        Repeated with the token that ended it, it is True again and changes nothing.
        """

    @verb
    async def release_task(
        self,
        task_id: str,
        token: str,
        *,
        count_attempt: bool = False,
        delay: Seconds = 0.0,
        error: str | None = None,
    ) -> bool:
        """Hand a task back to the queue, not to be claimed for `delay` seconds.

        Unless `count_attempt`, the attempt is taken back (a drain, a rate limit). If it counts
        and was the last, the task fails with `error`; if its cancelling was asked for, it is
        cancelled. False if the lease was lost.
        """

    @verb
    async def cancel_task(self, task_id: str) -> TaskRow | None:
        """Cancel a task that is queued or waits; of a running one, ask its worker to.

        What it has asked a person for is withdrawn. None if not there.

        A running one whose lease ran out has no worker to ask and is cancelled at once.
        """

    @verb
    async def retry_task(self, task_id: str) -> TaskRow | None:
        """Put a failed or cancelled task back in the queue with all its attempts before it.

        Any other is returned as it is, and so is one whose `unique_key` a task has that is not
        over. None if not there.
        """

    @verb
    async def cancel_tasks(self, which: TaskFilter, *, limit: int = 1000) -> int:
        """Do as `cancel_task` for the oldest tasks of a filter; return how many it concerned."""

    @verb
    async def retry_tasks(self, which: TaskFilter, *, limit: int = 1000) -> int:
        """Do as `retry_task` for the oldest tasks of a filter; return how many are queued anew.

        Of several with one `unique_key` one is queued, and none where another is not over.
        """
