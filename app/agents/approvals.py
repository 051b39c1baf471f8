"""What an agent may do only once a person has said so: asked for, and what came of it."""

from __future__ import annotations

import hashlib
import json
import uuid
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from app.store.protocol import ApprovalRow, ApprovalStatus, Question

from .outcomes import Parked
from .tools import ToolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .contract import AgentContext
    from .tools import Tool

BUDGET: Final = "budget"
"""What is asked for where a task's own budget is spent; a pattern may name it like a tool."""

_WITHOUT_TASK: Final = (
    "{tool} needs the operator's approval, and only a task can wait for that. Go on without it."
)
_DENIED: Final = (
    "The operator denied this call{comment}. It was not made. Do not try to reach the same in "
    "another way."
)
_EXPIRED: Final = (
    "Nobody approved this call in time, so it was not made. Go on without it, and say in your last "
    "answer that it was left undone."
)


def needs_approval(name: str, patterns: Iterable[str], *, by_itself: bool = False) -> bool:
    """Return whether a person has to approve a tool's calls.

    The operator's patterns come before what the tool needs by itself, and of those the last that
    fits; one with ``!`` in front says that no approval is needed.

    >>> needs_approval("send_mail", ["send_*"]), needs_approval("recall", ["send_*"])
    (True, False)
    >>> needs_approval("send_mail", ["*", "!send_mail"], by_itself=True)
    False
    """
    needed = by_itself
    for pattern in patterns:
        wanted = not pattern.startswith("!")
        if fnmatchcase(name, pattern.removeprefix("!")):
            needed = wanted
    return needed


class Gate:
    """Asks a person on behalf of one conversation.

    Args:
        context: The agent's.
        task_id: The task that can wait for the answer; None where nothing can.
    """

    def __init__(self, context: AgentContext, task_id: str | None) -> None:
        self._context = context
        self._task_id = task_id

    def guards(self, tool: Tool, *, has_read_outside: bool) -> bool:
        """Return whether a person has to approve a call of a tool.

        Args:
            tool: The tool.
            has_read_outside: Whether the conversation has read text that other people wrote.
        """
        by_itself = tool.needs_approval(has_read_outside=has_read_outside)
        return needs_approval(tool.name, self._context.options.approve, by_itself=by_itself)

    @property
    def guards_budget(self) -> bool:
        """Return whether a person is asked where the task's budget is spent."""
        patterns = self._context.options.approve
        return self._task_id is not None and needs_approval(BUDGET, patterns)

    async def ask(
        self, tool: str, arguments: dict[str, Any], *, about: str, why: str | None
    ) -> ApprovalRow:
        """Ask a person, or return what was asked before; it may still wait.

        Args:
            tool: What is to be called.
            arguments: With what; the decision is about exactly these.
            about: Which call it is, within the task.
            why: What the agent said last.

        Raises:
            ToolError: If there is no task that could wait.
        """
        if self._task_id is None:
            raise ToolError(_WITHOUT_TASK.format(tool=tool))
        shown = json.dumps([about, tool, arguments], sort_keys=True)
        question = Question(
            id=uuid.uuid4().hex,
            task_id=self._task_id,
            agent_id=self._context.agent_id,
            about=hashlib.sha256(shown.encode(errors="replace")).hexdigest()[:32],
            tool=tool,
            arguments=arguments,
            why=why,
        )
        timeout = self._context.options.approval_timeout
        return await self._context.store.ask_approval(question, expires_in=timeout or 0.0)

    async def decided(
        self, tool: str, arguments: dict[str, Any], *, about: str, why: str | None
    ) -> ApprovalRow:
        """Ask as `ask` does, and return the decision.

        Raises:
            Parked: If there is none yet.
            ToolError: As `ask`.
        """
        answer = await self.ask(tool, arguments, about=about, why=why)
        if answer.status is ApprovalStatus.WAITING:
            raise Parked([tool])
        return answer

    async def asked_before(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the calls that a person was asked for in this task: tools and their arguments."""
        if self._task_id is None:
            return []
        rows = await self._context.store.approvals(task_id=self._task_id, limit=200)
        return [(row.tool, row.arguments if row.asked is None else row.asked) for row in rows]

    async def granted_usd(self) -> float:
        """Return the highest budget that a person has approved for the task; 0 for none."""
        if self._task_id is None:
            return 0.0
        approvals = await self._context.store.approvals(
            status=ApprovalStatus.APPROVED, task_id=self._task_id, limit=200
        )
        return max((usd_of(row) for row in approvals if row.tool == BUDGET), default=0.0)


def usd_of(approval: ApprovalRow) -> float:
    """Return the budget that a person has approved; 0 where the edited value is no number."""
    usd = approval.arguments.get("task_budget_usd")
    return float(usd) if isinstance(usd, int | float) else 0.0


def check_approved(approval: ApprovalRow) -> None:
    """Allow a call that was approved.

    Raises:
        ToolError: If it was not; the text is for the model.
    """
    match approval.status:
        case ApprovalStatus.APPROVED:
            return
        case ApprovalStatus.EXPIRED:
            raise ToolError(_EXPIRED)
        case _:
            comment = f" and writes: {approval.comment}" if approval.comment else ""
            raise ToolError(_DENIED.format(comment=comment))


def note_of(approvals: Mapping[str, ApprovalRow], use_id: str) -> str:
    """Return what the model is told of an approval, before what the tool answers."""
    approval = approvals.get(use_id)
    if approval is None or approval.status is not ApprovalStatus.APPROVED:
        return ""
    said = []
    if approval.asked is not None:
        changed = json.dumps(approval.arguments, ensure_ascii=False)
        said.append(f"The operator approved this call with other arguments: {changed}")
    if approval.comment:
        said.append(f"The operator approved it and writes: {approval.comment}")
    return "".join(f"{line}\n" for line in said)
