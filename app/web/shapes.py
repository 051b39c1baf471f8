"""What is answered as JSON besides what `app.status` and the store's rows are."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from actp_supervise.snapshot import ChildSnapshot, SupervisorSnapshot
from app.facts import LEFT_OUT, fact
from app.status import AgentState, AgentStatus, ToolStatus
from app.store.protocol import AgentRow, RunRow, TaskRow, ToolStats
from app.web.spend import DaySpend

Action = Literal["restart", "stop", "start", "pause", "resume"]
"""A command to an agent."""


@fact
class Ready:
    """Tasks can be taken."""

    status: Literal["ready"] = "ready"
    checks: Annotated[dict[str, Literal["ok"]] | None, LEFT_OUT] = None
    """Each check that was made, where `?verbose` asks for them."""


@fact
class RestartRequest:
    """The last request to restart an agent, and what came of it."""

    asked_at: datetime
    asked_by: str | None
    """Null where nobody gave a name."""
    answered_at: datetime | None
    """When it was obeyed or refused; null where it has not been yet."""
    answer: str | None
    """*obeyed*, or why it was refused."""
    answered_by: str | None
    """The daemon that obeyed or refused."""

    @property
    def words(self) -> str:
        """All of it in one sentence."""
        whom = "" if self.asked_by is None else f" by {self.asked_by}"
        asked = f"asked for at {self.asked_at:%Y-%m-%d %H:%M:%S} UTC{whom}"
        if self.answer is None or self.answered_at is None:
            return f"{asked}; not obeyed yet"
        at = f"{self.answered_at:%Y-%m-%d %H:%M:%S} UTC"
        return f"{asked}; {self.answer}, at {at} by {self.answered_by}"


def restart_of(row: AgentRow) -> RestartRequest | None:
    """Return the last request to restart an agent; None where there was none."""
    if row.restart_asked_at is None:
        return None
    return RestartRequest(
        asked_at=row.restart_asked_at,
        asked_by=row.restart_asked_by,
        answered_at=row.restart_answered_at,
        answer=row.restart_answer,
        answered_by=row.restart_answered_by,
    )


@fact
class AgentDetail(AgentStatus):
    """An agent with what it has done."""

    restart: RestartRequest | None = None
    """The last request to restart it, over all daemons."""

    runs: list[RunRow]
    """Its last 20, the newest first."""
    tool_stats: list[ToolStats]
    """Of the last 24 hours."""
    tools: list[ToolStatus]
    """Those that it has, where it runs."""
    spend: list[DaySpend]
    """Of the last 14 days of the worker's zone, the oldest first."""


@fact
class PostedTask(TaskRow):
    """A task that was queued."""

    warning: Annotated[str | None, LEFT_OUT] = None
    """Why no daemon does it as things are, where that is so; it waits in the queue."""


@fact
class AgentCommand:
    """A command to an agent that was taken."""

    agent_id: str
    action: Action
    status: AgentState
    """What the agent's status was when it was asked."""


@fact
class TaskNumber:
    """How many tasks a request for many has concerned."""

    tasks: int


@fact
class JobCommand:
    """A job that was asked to run."""

    name: str
    action: Literal["run"] = "run"


@fact
class ChildNode(ChildSnapshot):
    """A child of a supervisor; moments are by the daemon's own clock, which counts seconds."""

    kind: Literal["child"]
    children: list[SupervisorNode]  # type: ignore[assignment]  # as JSON has it
    """The supervisors that the child has opened."""


@fact
class SupervisorNode(SupervisorSnapshot):
    """A supervisor and all below it."""

    kind: Literal["supervisor"]
    children: list[ChildNode]  # type: ignore[assignment]  # as JSON has it
    """In the order in which they are started."""
