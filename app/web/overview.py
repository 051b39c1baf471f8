"""What the pages say of the daemon: its state turned into lines to show, worst first. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from app.agents.activity import STARTING
from app.facts import to_json
from app.status import AgentState, AgentStatus, WorkerStatus
from app.store.protocol import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from actp_supervise.snapshot import ChildSnapshot, SupervisorSnapshot
    from app.status import AgentHealth, JobStatus
    from app.store.protocol import TaskRow

NO_PROGRESS: Final = 60.0
"""Seconds without progress from which an agent that is alive is said not to get on."""

_OPPOSITES: Final = {"resume": "pause", "start": "stop", "retry": "cancel"}

_TROUBLED: Final = frozenset({"failed", "backing_off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A button that posts to an address, or puts a time there."""

    label: str
    about: str
    """Whom it concerns, which a screen reader says behind the label."""
    path: str
    ask: str | None = None
    """What is asked first, where something may be lost."""
    cron: str | None = None
    """The time that is there, where another is asked for and put."""

    @property
    def key(self) -> str:
        """What stays when it turns into its opposite, so that the focus stays on it."""
        address, _, verb = self.path.rpartition("/")
        return f"{address}/{_OPPOSITES.get(verb, verb)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLine:
    """One of an agent's workers as it is listed."""

    status: WorkerStatus
    now: datetime

    @property
    def up_since(self) -> datetime | None:
        """When its present run began."""
        return _ago(self.now, self.status.uptime or None)

    @property
    def restart_at(self) -> datetime | None:
        """When it is started again, where it waits for that."""
        return _ahead(self.now, self.status.restart_in)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLine:
    """One agent as it is listed: its status, and what a reader wants of it in words and moments."""

    status: AgentStatus
    now: datetime
    """The present moment."""
    spent: float | None = None
    """USD today; None where the store does not say."""
    budget: float | None = None

    @property
    def agent_id(self) -> str:
        """What it is called."""
        return self.status.agent_id

    @property
    def state(self) -> AgentState:
        """What it is about, a pause and a wait for the model included."""
        return self.status.state

    @property
    def health(self) -> AgentHealth:
        """How it is doing just now."""
        return self.status.health

    @property
    def works(self) -> bool:
        """Whether it does tasks, or will without anybody's help."""
        return self.status.enabled and self.state.works

    @property
    def why(self) -> str | None:
        """Why it is in that state, where there is a reason."""
        if not self.status.enabled:
            return str(self.status.why_disabled)
        return f"{self.status.runs_on} runs it" if self.status.runs_on else self.health.paused

    @property
    def workers(self) -> list[WorkerLine]:
        """Its workers."""
        return [WorkerLine(status=worker, now=self.now) for worker in self.status.workers]

    @property
    def doing(self) -> str | None:
        """What it does; an agent that runs and never says so is not said to start."""
        is_silent = self.health.doing == STARTING and self.status.status is AgentState.RUNNING
        return None if is_silent else self.health.doing

    @property
    def alive_at(self) -> datetime | None:
        """When its loop last turned."""
        return _ago(self.now, self.health.heartbeat_age)

    @property
    def progress_at(self) -> datetime | None:
        """When it last took a step."""
        return _ago(self.now, self.health.progress_age)

    @property
    def up_since(self) -> datetime | None:
        """When its present run began."""
        return _ago(self.now, self.status.uptime or None)

    @property
    def restart_at(self) -> datetime | None:
        """When it is started again, where it waits for that."""
        return _ahead(self.now, self.status.restart_in)

    @property
    def stuck(self) -> bool:
        """Whether it is alive, works on a task, and has made no progress for long."""
        health = self.health
        is_at_work = self.status.pid is not None and bool(health.task_id)
        return (
            is_at_work and health.throttled_age is None and (health.progress_age or 0) > NO_PROGRESS
        )

    @property
    def spent_share(self) -> float:
        """How much of the budget is spent, from 0 to 1."""
        return min(1.0, (self.spent or 0.0) / self.budget) if self.budget else 0.0

    @property
    def details(self) -> dict[str, object]:
        """Everything that is known of it, as it is called in JSON, with durations rounded."""
        known = to_json(self.status)
        known |= known.pop("health") | {"last_run_at": known["last_run_at"]}
        known["workers"] = len(known["workers"])
        known["problems"] = "; ".join(known["problems"]) or "none"
        return {
            name: round(value, 1) if isinstance(value, float) else value
            for name, value in known.items()
        }

    @property
    def actions(self) -> tuple[Action, ...]:
        """What may be done about it."""
        return _agent_actions(self.status) if self.status.enabled else ()


def agent_lines(
    statuses: Iterable[AgentStatus],
    now: datetime,
    *,
    spent: Mapping[str, float] | None,
    budgets: Mapping[str, float | None],
) -> list[AgentLine]:
    """Return all agents, those that need a look first.

    Args:
        statuses: How they are.
        now: The present moment.
        spent: USD of today by agent; None where the store does not say.
        budgets: USD that each may spend in a day.
    """
    lines = [
        AgentLine(
            status=status,
            now=now,
            spent=None if spent is None else spent.get(status.agent_id, 0.0),
            budget=budgets.get(status.agent_id),
        )
        for status in statuses
    ]
    return sorted(lines, key=lambda line: (line.state.rank, -line.status.error_count))


def _agent_actions(status: AgentStatus) -> tuple[Action, ...]:
    agent_id = status.agent_id
    address = f"/agents/{quote(agent_id, safe='')}"
    in_flight = status.health.task_id is not None
    what = (
        f"{agent_id} works on a task. It may finish that first; what is not finished in time "
        "goes back to the queue and begins anew."
    )

    def action(label: str, verb: str, *, ask: bool = False) -> Action:
        return Action(
            label=label, about=agent_id, path=f"{address}/{verb}", ask=what if ask else None
        )

    if status.status in {AgentState.STOPPED, AgentState.STOPPING, AgentState.DRAINING}:
        return (action("Start", "start"),)
    held = status.health.held  # of a pause of its own, a restart is the end
    return (
        action("Restart", "restart", ask=in_flight),
        action("Stop", "stop", ask=in_flight),
        action("Resume", "resume") if held else action("Pause", "pause"),
    )


def actions_elsewhere(agent_id: str, *, paused: bool) -> tuple[Action, ...]:
    """Return what may be done from here about an agent that another daemon runs."""
    address = f"/agents/{quote(agent_id, safe='')}"
    verb = "resume" if paused else "pause"
    ask = (
        "The daemon that runs it lets it finish what it does first; what is not finished in time "
        "goes back to the queue."
    )
    return (
        Action(label="Restart", about=agent_id, path=f"{address}/restart", ask=ask),
        Action(label=verb.capitalize(), about=agent_id, path=f"{address}/{verb}"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the sentence on top of the page."""

    text: str
    until: datetime | None = None
    """When something happens that is counted down to."""


def summary(agents: Iterable[AgentLine]) -> list[Part]:
    """Say how many agents are in which state, as "3 running" and "1 backing off"."""
    shown = [agent for agent in agents if agent.status.enabled]
    if not shown:
        return [Part(text="no agent is enabled")]
    counts = Counter(agent.state for agent in shown)
    return [
        Part(
            text=f"{counts[state]} {state.words}",
            until=min(
                (agent.restart_at for agent in shown
                 if agent.state is state and agent.restart_at is not None),
                default=None,
            ),
        )
        for state in sorted(counts, key=lambda state: state.rank, reverse=True)
    ]  # fmt: skip


def task_actions(task: TaskRow) -> tuple[Action, ...]:
    """Return what may be done about a task."""
    about = f"task {task.id}"
    if task.status in {TaskStatus.FAILED, TaskStatus.CANCELLED}:
        return (Action(label="Retry", about=about, path=f"/tasks/{task.id}/retry"),)
    if task.status is TaskStatus.QUEUED:
        ask = "The task has not begun. Cancelled, nobody will do it unless it is retried."
    elif task.status is TaskStatus.WAITING:
        ask = (
            "It waits for approval. Cancelled, what it asks for is withdrawn; the rest is not done."
        )
    elif task.status is TaskStatus.RUNNING and not task.cancel_requested:
        ask = "An agent works on it. What it has changed already stays; the rest is not done."
    else:
        return ()
    return (Action(label="Cancel", about=about, path=f"/tasks/{task.id}/cancel", ask=ask),)


def routine_actions(job: JobStatus) -> tuple[Action, ...]:
    """Return what may be done about a routine."""
    if job.disabled:
        return ()
    address = f"/scheduler/jobs/{quote(job.name, safe='')}"
    verb = "resume" if job.paused else "pause"
    return (
        Action(label="Run now", about=job.name, path=f"{address}/run"),
        Action(label=verb.capitalize(), about=job.name, path=f"{address}/{verb}"),
        Action(label="Change time", about=job.name, path=address, cron=job.cron),
    )


def next_first(jobs: Iterable[JobStatus]) -> list[JobStatus]:
    """Return routines in the order of their next runs; those that have none come last."""
    never = datetime.max.replace(tzinfo=UTC)
    return sorted(jobs, key=lambda job: (job.next_run_time or never, job.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A supervisor or a child in the tree."""

    name: str
    state: str
    strategy: str | None = None
    restarts: int = 0
    up_since: datetime | None = None
    restart_at: datetime | None = None
    overdue: bool = False
    last_error: str | None = None
    troubled: bool
    """Whether it, or one below it, is not as it should be."""
    children: list[Node]


def node(tree: SupervisorSnapshot, now: datetime) -> Node:
    """Read the daemon's tree."""
    children = [_child(child, now) for child in tree.children]
    return Node(
        name=tree.name,
        state=tree.state,
        strategy=tree.strategy,
        troubled=any(child.troubled for child in children),
        children=children,
    )


def _child(child: ChildSnapshot, now: datetime) -> Node:
    """Read a child; one that is there to hold one supervisor of its own name is shown with it."""
    children = [node(below, now) for below in child.children]
    strategy = None
    if len(children) == 1 and children[0].name == child.name:
        strategy, children = children[0].strategy, children[0].children
    ahead = None if child.restart_at is None else child.restart_at - child.time
    return Node(
        name=child.name,
        state=child.state,
        strategy=strategy,
        restarts=child.restarts,
        up_since=_ago(now, child.uptime or None),
        restart_at=_ahead(now, ahead),
        overdue=child.overdue,
        last_error=child.last_error,
        troubled=child.state in _TROUBLED or child.overdue or any(c.troubled for c in children),
        children=children,
    )


def _ago(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now - timedelta(seconds=seconds)


def _ahead(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)
