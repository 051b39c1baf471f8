"""Approvals: what an agent may do only once a person has said so, and what was said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.store.verbs import Noun, Seconds, verb


class ApprovalStatus(StrEnum):
    """Where an approval stands. All but the first are final."""

    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    """Its time was over, or its task, before a person had decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an agent asks a person for."""

    id: str
    task_id: str
    agent_id: str
    about: str
    """Names what is asked for within its task: asked again, it is the same approval."""
    tool: str
    arguments: dict[str, Any]
    why: str | None
    """What the agent said last before it asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRow:
    """One approval (`actp_approvals`)."""

    id: str
    task_id: str
    agent_id: str
    tool: str
    arguments: dict[str, Any]
    """What the tool is called with; once approved, what was approved."""
    asked: dict[str, Any] | None = None
    """What the agent asked for, where a person has approved other arguments; else None."""
    why: str | None
    """What the agent said last before it asked."""
    status: ApprovalStatus
    comment: str | None
    """What the person wrote, which the agent is told."""
    decided_at: datetime | None
    decided_by: str | None
    """Who decided, and where."""
    told_at: datetime | None
    """When the question went out to the operator's messenger."""
    expires_at: datetime | None
    """When it is denied by itself; None for never."""
    created_at: datetime


class Approvals(Noun):
    """Questions to a person (`actp_approvals`), and tasks that wait for the answers."""

    @verb
    async def ask_approval(self, question: Question, *, expires_in: Seconds = 0.0) -> ApprovalRow:
        """Ask, or return what was asked and perhaps answered before.

        Args:
            question: What is asked for; its task and `about` tell whether it was asked before.
            expires_in: Seconds after which it counts as denied; 0 for never.
        """

    @verb
    async def park_task(self, task_id: str, token: str) -> bool:
        """End a claim for as long as an approval of its task waits.

        The task becomes `waiting`, has no worker and no lease, and the attempt is taken back. If
        all is decided meanwhile it is queued at once; if its cancelling was asked for, it is
        cancelled. False if the lease was lost.
        """

    @verb
    async def approval(self, approval_id: str) -> ApprovalRow | None:
        """Return an approval."""

    @verb
    async def approvals(
        self,
        *,
        status: ApprovalStatus | None = None,
        task_id: str | None = None,
        limit: int = 50,
    ) -> list[ApprovalRow]:
        """Return approvals, newest first."""

    @verb
    async def count_waiting_approvals(self) -> int:
        """Return how many wait for a person."""

    @verb
    async def decide_approval(
        self,
        approval_id: str,
        *,
        approve: bool,
        decided_by: str,
        comment: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> ApprovalRow | None:
        """Approve or deny, once: what is decided or expired already is returned as it is.

        A task that waited for this alone is queued again. None if not there.

        Args:
            approval_id: Which.
            approve: Whether the tool may be called.
            decided_by: Who decides, and where.
            comment: For the agent.
            arguments: What it may be called with instead.
        """

    @verb
    async def expire_approvals(self) -> list[ApprovalRow]:
        """End those whose time or whose task is over; return them. Their tasks go on."""

    @verb
    async def told_approval(self, approval_id: str) -> None:
        """Record that the question went out to the operator's messenger."""
