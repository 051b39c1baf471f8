"""The store as the daemon uses it: what goes through it and matters to others is told.

All that agents do passes by here (tasks, tools, calls of the model, turns), so this is the one
place that sees it, whatever the class of an agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from typing_extensions import override

from app.event_kinds import EventKind
from app.items import KINDS
from app.store.protocol import ApprovalStatus, Before, Lease, Store, TaskRow, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from app.event_log import EventLog
    from app.store.protocol import (
        ApprovalRow,
        CostEntry,
        NewReview,
        Question,
        ReviewRow,
        ToolCall,
        Turn,
    )
    from app.store.verbs import Seconds


@dataclass(slots=True)
class _InHand:
    """A task that is being done here."""

    task: TaskRow
    since: float
    cancel_requested: bool = False

    def status_after_release(self, *, count_attempt: bool) -> TaskStatus:
        """Return what it is once it was handed back: by the rule of `Store.release_task`."""
        if self.cancel_requested:
            return TaskStatus.CANCELLED
        spent = count_attempt and self.task.attempts >= self.task.max_attempts
        return TaskStatus.FAILED if spent else TaskStatus.QUEUED


class ObservedStore(Before):
    """A store; what is done through it is published.

    Args:
        store: The store behind it.
        events: Where it is published.
    """

    def __init__(self, store: Store, events: EventLog) -> None:
        super().__init__(store)
        self._events = events
        self._in_hand: dict[str, _InHand] = {}  # by the token of its lease

    # Tasks.

    @override
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
        task = await self.store.add_task(
            task_id,
            agent_type,
            goal,
            context=context,
            priority=priority,
            max_attempts=max_attempts,
            not_before=not_before,
            timeout=timeout,
            unique_key=unique_key,
        )
        is_new = task.id == task_id  # and not the one that has its unique key
        if is_new and task.status is TaskStatus.QUEUED and task.attempts == 0:
            self._tell(EventKind.TASK_QUEUED, f"{agent_type}: queued: {task.goal}", task)
        return task

    @override
    async def claim_task(
        self, agent_type: str, *, worker_id: str, instance: str, token: str, lease: Seconds
    ) -> TaskRow | None:
        task = await self.store.claim_task(
            agent_type, worker_id=worker_id, instance=instance, token=token, lease=lease
        )
        self._take(token, task)
        return task

    @override
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
        task = await self.store.begin_task(
            task_id,
            agent_type,
            goal,
            context=context,
            routine=routine,
            worker_id=worker_id,
            instance=instance,
            token=token,
            lease=lease,
        )
        self._take(token, task)
        return task

    @override
    async def renew_task(self, task_id: str, token: str, *, lease: Seconds) -> Lease:
        state = await self.store.renew_task(task_id, token, lease=lease)
        if state is Lease.LOST:
            self._lose(token)
        elif state is Lease.CANCEL_REQUESTED and token in self._in_hand:
            self._in_hand[token].cancel_requested = True
        return state

    @override
    async def finish_task(
        self,
        task_id: str,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        ended = await self.store.finish_task(task_id, token, status, result=result, error=error)
        if ended:
            self._let_go(token, status, error)
        else:
            self._lose(token)
        return ended

    @override
    async def release_task(
        self,
        task_id: str,
        token: str,
        *,
        count_attempt: bool = False,
        delay: Seconds = 0.0,
        error: str | None = None,
    ) -> bool:
        released = await self.store.release_task(
            task_id, token, count_attempt=count_attempt, delay=delay, error=error
        )
        held = self._in_hand.get(token)
        if not released:
            self._lose(token)
        elif held is not None:
            self._let_go(token, held.status_after_release(count_attempt=count_attempt), error)
        return released

    @override
    async def cancel_task(self, task_id: str) -> TaskRow | None:
        before = await self.store.task(task_id)
        task = await self.store.cancel_task(task_id)
        if task is None or not _is_news(before, task):
            return task
        if task.status is TaskStatus.CANCELLED:
            text = f"{task.agent_type}: cancelled: {task.goal}"
            self._tell(EventKind.TASK_FINISHED, text, task, outcome=str(task.status))
        elif task.cancel_requested:
            text = f"{task.agent_type}: is to be cancelled: {task.goal}"
            self._tell(EventKind.TASK_CANCEL_REQUESTED, text, task)
        return task

    @override
    async def retry_task(self, task_id: str) -> TaskRow | None:
        before = await self.store.task(task_id)
        task = await self.store.retry_task(task_id)
        if task is not None and task.status is TaskStatus.QUEUED and _is_news(before, task):
            self._tell(EventKind.TASK_QUEUED, f"{task.agent_type}: queued again: {task.goal}", task)
        return task

    @override
    async def park_task(self, task_id: str, token: str) -> bool:
        parked = await self.store.park_task(task_id, token)
        held = self._in_hand.pop(token, None)
        if held is not None and parked:
            text = f"{held.task.agent_type}: waits for approval: {held.task.goal}"
            seconds = trio.current_time() - held.since
            self._tell(EventKind.TASK_PARKED, text, held.task, seconds=seconds)
        elif held is not None:
            self._tell_lost(held)
        return parked

    # Approvals.

    @override
    async def ask_approval(self, question: Question, *, expires_in: Seconds = 0.0) -> ApprovalRow:
        row = await self.store.ask_approval(question, expires_in=expires_in)
        if row.id == question.id and row.status is ApprovalStatus.WAITING:
            text = f"{row.agent_id}: asks for approval of {row.tool}"
            self._tell_approval(EventKind.APPROVAL_ASKED, text, row)
        return row

    @override
    async def decide_approval(
        self,
        approval_id: str,
        *,
        approve: bool,
        decided_by: str,
        comment: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> ApprovalRow | None:
        await self.expire_approvals()
        before = await self.store.approval(approval_id)
        row = await self.store.decide_approval(
            approval_id,
            approve=approve,
            decided_by=decided_by,
            comment=comment,
            arguments=arguments,
        )
        was_waiting = before is not None and before.status is ApprovalStatus.WAITING
        if row is not None and was_waiting and row.status is not ApprovalStatus.WAITING:
            self._tell_decision(row)
        return row

    @override
    async def expire_approvals(self) -> list[ApprovalRow]:
        expired = await self.store.expire_approvals()
        for row in expired:
            self._tell_decision(row)
        return expired

    def _tell_decision(self, row: ApprovalRow) -> None:
        by = f" by {row.decided_by}" if row.decided_by else ""
        comment = f": {row.comment}" if row.comment else ""
        text = f"{row.agent_id}: {row.tool} {row.status}{by}{comment}"
        self._tell_approval(EventKind.APPROVAL_DECIDED, text, row)

    def _tell_approval(self, kind: EventKind, text: str, row: ApprovalRow) -> None:
        self._events.publish(
            kind,
            text,
            agent_id=row.agent_id,
            task_id=row.task_id,
            approval=row.id,
            tool=row.tool,
            status=str(row.status),
        )

    @override
    async def review_row(
        self, review: NewReview, *, shown: dict[str, Any], changes: dict[str, Any]
    ) -> ReviewRow | None:
        row = await self.store.review_row(review, shown=shown, changes=changes)
        kind = next(kind for kind in KINDS.values() if kind.table == review.table_name)
        if row is not None:
            self._events.publish(
                EventKind.ITEM_REVIEWED,
                f"{kind.one} {row.row_id} {row.verdict} by {row.reviewed_by}",
                what=kind.one,
                item=row.row_id,
                verdict=str(row.verdict),
            )
        return row

    # What agents do.

    @override
    async def record_tool_call(self, call: ToolCall) -> None:
        await self.store.record_tool_call(call)
        self._tell_call(call)

    def _tell_call(self, call: ToolCall) -> None:
        failed = "" if call.error is None else f", failed: {call.error}"
        self._events.publish(
            EventKind.TOOL_CALLED,
            f"{call.agent_id}: {call.tool} in {call.duration:.2f} s{failed}",
            agent_id=call.agent_id,
            task_id=call.task_id,
            tool=call.tool,
            seconds=call.duration,
            failed=call.error is not None,
        )

    @override
    async def record_cost(self, entry: CostEntry, *, reservation: str | None = None) -> None:
        await self.store.record_cost(entry, reservation=reservation)
        self._events.publish(
            EventKind.MODEL_CALLED,
            f"{entry.agent_id}: {entry.model} for ${entry.cost_usd:.4f}",
            agent_id=entry.agent_id,
            task_id=entry.task_id,
            model=entry.model,
            seconds=entry.duration,
            usd=entry.cost_usd,
            input_tokens=entry.input_tokens,
            output_tokens=entry.output_tokens,
            cache_read_tokens=entry.cache_read_tokens,
            cache_write_tokens=entry.cache_write_5m_tokens + entry.cache_write_1h_tokens,
        )

    @override
    async def record_turn(self, turn: Turn, *, token: str | None = None) -> bool:
        recorded = await self.store.record_turn(turn, token=token)
        if recorded:
            self._tell_turn(turn)
        return recorded

    @override
    async def record_answer(
        self, turn: Turn, *, call: ToolCall, effect: str | None = None, token: str | None = None
    ) -> bool:
        recorded = await self.store.record_answer(turn, call=call, effect=effect, token=token)
        self._tell_call(call)
        if recorded:
            self._tell_turn(turn)
        return recorded

    # Helpers.

    def _tell_turn(self, turn: Turn) -> None:
        self._events.publish(
            EventKind.TURN,
            f"{turn.agent_id}: turn {turn.step} ({turn.role})",
            agent_id=turn.agent_id,
            task_id=turn.task_id,
            turn=turn.id,
            step=turn.step,
            role=turn.role,
        )

    def _take(self, token: str, task: TaskRow | None) -> None:
        if task is not None:
            self._in_hand[token] = _InHand(task, trio.current_time())
            text = f"{task.agent_type}: taken: {task.goal}"
            self._tell(EventKind.TASK_CLAIMED, text, task, attempt=task.attempts)

    def _tell(self, kind: EventKind, text: str, task: TaskRow, **fields: Any) -> None:  # noqa: ANN401
        self._events.publish(kind, text, agent_id=task.agent_type, task_id=task.id, **fields)

    def _let_go(self, token: str, status: TaskStatus, error: str | None) -> None:
        held = self._in_hand.pop(token, None)
        if held is None:  # told already: the answer was lost, and the verb repeated
            return
        seconds = trio.current_time() - held.since
        agent_id = held.task.agent_type
        why = "" if error is None else f": {error}"
        if status is TaskStatus.QUEUED:
            text = f"{agent_id}: task handed back{why}"
            self._tell(EventKind.TASK_RELEASED, text, held.task, seconds=seconds)
        else:
            text = f"{agent_id}: task {status}{why}"
            self._tell(
                EventKind.TASK_FINISHED, text, held.task, outcome=str(status), seconds=seconds
            )

    def _lose(self, token: str) -> None:
        held = self._in_hand.pop(token, None)
        if held is not None:
            self._tell_lost(held)

    def _tell_lost(self, held: _InHand) -> None:
        text = f"{held.task.agent_type}: task lost to another daemon: its lease ran out"
        self._tell(EventKind.TASK_LOST, text, held.task)


def _is_news(before: TaskRow | None, after: TaskRow) -> bool:
    """Whether a command did something; asked again, it returns what the first has made of it."""
    return before is None or (
        (before.status, before.cancel_requested) != (after.status, after.cancel_requested)
    )
