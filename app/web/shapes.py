"""What is answered as JSON besides what `app.status` and the store's rows are."""

from __future__ import annotations

from typing import Annotated, Literal

from actp_supervise.snapshot import ChildSnapshot, SupervisorSnapshot
from app.facts import LEFT_OUT, fact
from app.status import AgentState, AgentStatus, ToolStatus
from app.store.protocol import RunRow, TaskRow, ToolStats
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
class AgentDetail(AgentStatus):
    """An agent with what it has done."""

    runs: list[RunRow]
    """Its last 20, the newest first."""
    tool_stats: list[ToolStats]
    """Of the last 24 hours."""
    tools: list[ToolStatus]
    """Those that it has, where it runs."""
    spend: list[DaySpend]
    """Of the last 14 days of UTC, the oldest first."""


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
