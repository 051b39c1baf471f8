"""The store as the daemon uses it: what goes through it and matters to others is told.

All that agents do passes by here (tasks, tools, calls of the model, turns, routines), so this is
the one place that sees it, whatever the class of an agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import trio

from app.store.protocol import Store, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.event_log import EventLog
    from app.store.protocol import CostEntry, TaskRow, ToolCall, Turn


def observed(store: Store, events: EventLog) -> Store:
    """Return the store; what is done through it is published."""
    return cast("Store", ObservedStore(store, events))


@dataclass(frozen=True, slots=True)
class _InHand:
    agent_id: str
    since: float


class ObservedStore:
    """What `observed` returns: every verb of the store, some of them told of."""

    def __init__(self, store: Store, events: EventLog) -> None:
        self._store = store
        self._events = events
        self._in_hand: dict[str, _InHand] = {}
        self._fires: dict[tuple[str, datetime], float] = {}

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (a verb of the store)
        return getattr(self._store, name)

    # Tasks.

    async def add_task(self, task_id: str, agent_type: str, goal: str, **options: Any) -> TaskRow:  # noqa: ANN401
        """Queue a task."""
        task = await self._store.add_task(task_id, agent_type, goal, **options)
        if task.status is TaskStatus.QUEUED and task.attempts == 0:
            self._tell("task_queued", f"{agent_type}: queued: {goal}", task)
        return task

    async def claim_task(self, agent_type: str, **options: Any) -> TaskRow | None:  # noqa: ANN401
        """Claim the next task of an agent."""
        task = await self._store.claim_task(agent_type, **options)
        if task is not None:
            self._in_hand[task.id] = _InHand(agent_type, trio.current_time())
            text = f"{agent_type}: taken: {task.goal}"
            self._tell("task_claimed", text, task, attempt=task.attempts)
        return task

    async def finish_task(
        self,
        task_id: str,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        """End a task."""
        ended = await self._store.finish_task(task_id, token, status, result=result, error=error)
        if ended:
            why = "" if error is None else f": {error}"
            self._let_go("task_finished", f"task {status}{why}", task_id, outcome=str(status))
        return ended

    async def release_task(self, task_id: str, token: str, **options: Any) -> bool:  # noqa: ANN401
        """Hand a task back to the queue."""
        released = await self._store.release_task(task_id, token, **options)
        if released:
            why = options.get("error")
            text = "task handed back" + ("" if why is None else f": {why}")
            self._let_go("task_released", text, task_id)
        return released

    async def cancel_task(self, task_id: str) -> TaskRow | None:
        """Cancel a task, or ask its worker to."""
        task = await self._store.cancel_task(task_id)
        if task is not None and task.status is TaskStatus.CANCELLED:
            text = f"{task.agent_type}: cancelled: {task.goal}"
            self._tell("task_finished", text, task, outcome=str(task.status))
        elif task is not None and task.cancel_requested:
            text = f"{task.agent_type}: is to be cancelled: {task.goal}"
            self._tell("task_cancel_requested", text, task)
        return task

    async def retry_task(self, task_id: str) -> TaskRow | None:
        """Put a failed or cancelled task back in the queue."""
        task = await self._store.retry_task(task_id)
        if task is not None and task.status is TaskStatus.QUEUED:
            self._tell("task_queued", f"{task.agent_type}: queued again: {task.goal}", task)
        return task

    # What agents do.

    async def record_tool_call(self, call: ToolCall) -> None:
        """Log a tool call."""
        await self._store.record_tool_call(call)
        failed = "" if call.error is None else f", failed: {call.error}"
        self._events.publish(
            "tool_called",
            f"{call.agent_id}: {call.tool} in {call.duration:.2f} s{failed}",
            agent_id=call.agent_id,
            task_id=call.task_id,
            tool=call.tool,
            seconds=call.duration,
            failed=call.error is not None,
        )

    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        """Log a usage."""
        await self._store.record_cost(entry, reservation=reservation)
        self._events.publish(
            "model_called",
            f"{entry.agent_id}: {entry.model} for ${entry.cost_usd:.4f}",
            agent_id=entry.agent_id,
            task_id=entry.task_id,
            model=entry.model,
            usd=entry.cost_usd,
            input_tokens=entry.input_tokens,
            output_tokens=entry.output_tokens,
            cache_read_tokens=entry.cache_read_tokens,
            cache_write_tokens=entry.cache_write_5m_tokens + entry.cache_write_1h_tokens,
        )

    async def record_turn(self, turn: Turn) -> None:
        """Log a step of a conversation."""
        await self._store.record_turn(turn)
        self._events.publish(
            "turn",
            f"{turn.agent_id}: turn {turn.step} ({turn.role})",
            agent_id=turn.agent_id,
            task_id=turn.task_id,
            turn=turn.id,
            step=turn.step,
            role=turn.role,
        )

    # Routines.

    async def claim_fire(self, job_name: str, scheduled_at: datetime, instance: str) -> bool:
        """Claim one moment of one job."""
        ours = await self._store.claim_fire(job_name, scheduled_at, instance)
        if ours:
            self._fires[job_name, scheduled_at] = trio.current_time()
            self._routine("routine_started", job_name, scheduled_at, "started")
        return ours

    async def finish_fire(
        self, job_name: str, scheduled_at: datetime, outcome: str, error: str | None
    ) -> None:
        """Record how the run of a claimed moment ended."""
        await self._store.finish_fire(job_name, scheduled_at, outcome, error)
        since = self._fires.pop((job_name, scheduled_at), None)
        last_line = "" if error is None else error.strip().rpartition("\n")[2]
        text = outcome.replace("_", " ") + (f": {last_line}" if last_line else "")
        facts = {} if since is None else {"seconds": trio.current_time() - since}
        self._routine("routine_finished", job_name, scheduled_at, text, outcome=outcome, **facts)

    # Helpers.

    def _tell(self, kind: str, text: str, task: TaskRow, **fields: Any) -> None:  # noqa: ANN401
        self._events.publish(kind, text, agent_id=task.agent_type, task_id=task.id, **fields)

    def _let_go(self, kind: str, text: str, task_id: str, **fields: Any) -> None:  # noqa: ANN401
        held = self._in_hand.pop(task_id, None)
        if held is None:  # told already: the answer was lost, and the verb repeated
            return
        self._events.publish(
            kind,
            f"{held.agent_id}: {text}",
            agent_id=held.agent_id,
            task_id=task_id,
            seconds=trio.current_time() - held.since,
            **fields,
        )

    def _routine(
        self,
        kind: str,
        job_name: str,
        scheduled_at: datetime,
        text: str,
        **fields: Any,  # noqa: ANN401  (JSON)
    ) -> None:
        self._events.publish(
            kind,
            f"{job_name} {text}",
            agent_id=job_name.partition(".")[0],
            job=job_name,
            scheduled_at=scheduled_at.isoformat(),
            **fields,
        )
