"""The Supabase store's queue of tasks. What must be atomic is a function in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.store.protocol import FINAL_STATUSES, Lease, StoreError, TaskRow, TaskStatus
from app.store.records import duration
from app.store.supabase_answers import TaskCount, known_task, records
from app.store.supabase_connection import equal_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.store.protocol import JSON
    from app.store.supabase_connection import SupabaseDatabase


class SupabaseTasks:
    """The verbs of the Store that are about tasks."""

    _db: SupabaseDatabase

    async def add_task(
        self,
        task_id: str,
        agent_type: str,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        priority: int = 0,
        max_attempts: int = 3,
    ) -> TaskRow:
        """Queue a task; with an id that is there already, return that task unchanged."""
        task = await self._task(
            "actp_add_task",
            id=task_id,
            agent_type=agent_type,
            goal=goal,
            context=dict(context or {}),
            priority=priority,
            max_attempts=max_attempts,
        )
        if task is None:
            raise StoreError(f"{self._db.where} added task {task_id} and does not have it")
        return task

    async def task(self, task_id: str) -> TaskRow | None:
        """Return a task."""
        which = equal_to({"id": task_id})
        task: TaskRow | None = await self._db.ask(
            lambda client: which(client.table("actp_agent_tasks").select("*")), known_task
        )
        return task

    async def tasks(
        self,
        *,
        status: TaskStatus | None = None,
        agent_type: str | None = None,
        limit: int = 50,
    ) -> list[TaskRow]:
        """Return tasks, newest first."""
        which = equal_to({"status": status, "agent_type": agent_type})
        return await self._db.rows(
            "actp_agent_tasks",
            records(TaskRow),
            lambda rows: which(rows.in_("status", list(TaskStatus))),
            limit=limit,
        )

    async def count_tasks(self) -> dict[str, dict[TaskStatus, int]]:
        """Return agent_type -> status -> how many (statuses with none are left out)."""
        found: list[TaskCount] = await self._db.call("actp_count_tasks")
        counts: dict[str, dict[TaskStatus, int]] = {}
        for count in found:
            counts.setdefault(count.agent_type, {})[count.status] = count.tasks
        return counts

    async def oldest_queued(self) -> dict[str, float]:
        """Return agent_type -> how many seconds its oldest task that is queued has waited."""
        ages: dict[str, float] = await self._db.call("actp_oldest_queued")
        return ages

    async def claim_task(
        self, agent_type: str, *, worker_id: str, instance: str, token: str, lease: float
    ) -> TaskRow | None:
        """Claim the next task of an agent: priority first, then age."""
        return await self._task(
            "actp_claim_task",
            agent_type=agent_type,
            worker_id=worker_id,
            instance=instance,
            token=token,
            lease=duration(lease),
        )

    async def renew_task(self, task_id: str, token: str, *, lease: float) -> Lease:
        """Prolong a lease to `lease` seconds from now."""
        state: Lease = await self._db.call(
            "actp_renew_task", id=task_id, token=token, lease=duration(lease)
        )
        return state

    async def finish_task(
        self,
        task_id: str,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """End a task as succeeded, failed or cancelled; False if the lease was lost."""
        if status not in FINAL_STATUSES:
            raise ValueError(f"a task cannot be finished as {status}")
        return bool(
            await self._db.call(
                "actp_finish_task",
                id=task_id,
                token=token,
                status=status,
                result=None if result is None else dict(result),
                error=error,
            )
        )

    async def release_task(
        self,
        task_id: str,
        token: str,
        *,
        count_attempt: bool = False,
        delay: float = 0.0,
        error: str | None = None,
    ) -> bool:
        """Hand a task back to the queue, not to be claimed for `delay` seconds."""
        return bool(
            await self._db.call(
                "actp_release_task",
                id=task_id,
                token=token,
                uncounted=0 if count_attempt else 1,
                delay=duration(delay),
                error=error,
            )
        )

    async def cancel_task(self, task_id: str) -> TaskRow | None:
        """Cancel a queued task at once; of a running one, ask its worker to. None if not there."""
        return await self._task("actp_cancel_task", id=task_id)

    async def retry_task(self, task_id: str) -> TaskRow | None:
        """Put a failed or cancelled task back in the queue with all its attempts before it."""
        return await self._task("actp_retry_task", id=task_id)

    async def _task(self, function: str, **values: JSON) -> TaskRow | None:
        task: TaskRow | None = await self._db.call(function, **values)
        return task
