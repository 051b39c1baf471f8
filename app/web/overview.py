"""What the pages say of the daemon: its state turned into lines to show, worst first. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from app.agents.activity import PAUSED_BY_OPERATOR, STARTING
from app.store.protocol import TaskStatus
from app.web.words import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.store.protocol import TaskRow

NO_PROGRESS: Final = 60.0
"""Seconds without progress from which an agent that is alive is said not to get on."""

_WORST_FIRST: Final = (
    "crashed", "failed", "backing_off", "stopped", "paused", "waiting", "stopping", "draining",
    "restarting", "starting", "running", "standby", "disabled",
)  # fmt: skip

_OPPOSITES: Final = {"resume": "pause", "start": "stop", "retry": "cancel"}

_TROUBLED: Final = frozenset({"failed", "backing_off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A button that posts to an address."""

    label: str
    about: str
    """Whom it concerns, which a screen reader says behind the label."""
    path: str
    ask: str | None = None
    """What is asked first, where something may be lost."""

    @property
    def key(self) -> str:
        """What stays when it turns into its opposite, so that the focus stays on it."""
        address, _, verb = self.path.rpartition("/")
        return f"{address}/{_OPPOSITES.get(verb, verb)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLine:
    """One agent as it is listed."""

    agent_id: str
    state: str
    why: str | None
    """Why it is in that state, where somebody or something made it so."""
    doing: str | None
    step: int
    task_id: str | None
    alive_at: datetime | None
    progress_at: datetime | None
    stuck: bool
    """Whether it is alive and has made no progress for long."""
    up_since: datetime | None
    restart_at: datetime | None
    throttled_until: datetime | None
    restarts: int
    crashes: int
    tasks_done: int
    tasks_failed: int
    last_error: str | None
    spent: float | None
    """USD today; None where the store does not say."""
    budget: float | None
    model: str
    isolation: str
    enabled: bool
    actions: tuple[Action, ...]

    @property
    def spent_share(self) -> float:
        """How much of the budget is spent, from 0 to 1."""
        return min(1.0, (self.spent or 0.0) / self.budget) if self.budget else 0.0


def agent_lines(
    statuses: Mapping[str, Mapping[str, Any]],
    now: datetime,
    *,
    spent: Mapping[str, float] | None,
    budgets: Mapping[str, float | None],
) -> list[AgentLine]:
    """Return all agents, those that need a look first.

    Args:
        statuses: What `AgentSupervisor.get_status` says.
        now: The present moment.
        spent: USD of today by agent; None where the store does not say.
        budgets: USD that each may spend in a day.
    """
    lines = [
        agent_line(
            agent_id,
            status,
            now,
            spent=None if spent is None else spent.get(agent_id, 0.0),
            budget=budgets.get(agent_id),
        )
        for agent_id, status in statuses.items()
    ]
    return sorted(lines, key=lambda line: (_rank(line.state), -line.crashes))


def _rank(state: str) -> int:
    return _WORST_FIRST.index(state) if state in _WORST_FIRST else 0


def agent_line(
    agent_id: str,
    status: Mapping[str, Any],
    now: datetime,
    *,
    spent: float | None = None,
    budget: float | None = None,
) -> AgentLine:
    """Return one agent; see `agent_lines`."""
    progress_age = status.get("progress_age")
    running = status["pid"] is not None
    return AgentLine(
        agent_id=agent_id,
        state=_state(status),
        why=_why(status),
        doing=_doing(status),
        step=status.get("step") or 0,
        task_id=status["task_id"],
        alive_at=_ago(now, status["heartbeat_age"]),
        progress_at=_ago(now, progress_age),
        stuck=running and progress_age is not None and progress_age > NO_PROGRESS
        and bool(status["task_id"]) and status.get("throttled_age") is None,
        up_since=_ago(now, status["uptime"] or None),
        restart_at=_ahead(now, status["restart_in"]),
        throttled_until=status["throttled_until"],
        restarts=status["restarts"],
        crashes=status["error_count"],
        tasks_done=status.get("tasks_done", 0),
        tasks_failed=status.get("tasks_failed", 0),
        last_error=status["last_error"],
        spent=spent,
        budget=budget,
        model=status["model"],
        isolation=status["isolation"],
        enabled=status["enabled"],
        actions=_agent_actions(agent_id, status) if status["enabled"] else (),
    )  # fmt: skip


def _doing(status: Mapping[str, Any]) -> str | None:
    is_silent = status["doing"] == STARTING and status["status"] == "running"
    return None if is_silent else status["doing"]


def _why(status: Mapping[str, Any]) -> str | None:
    if not status["enabled"]:
        return str(status["why_disabled"])
    if status.get("runs_on"):
        return f"{status['runs_on']} runs it"
    return None if status["paused"] is None else str(status["paused"])


def _state(status: Mapping[str, Any]) -> str:
    if status["status"] == "running" and status["paused"]:
        return "paused"
    if status["status"] == "running" and status.get("throttled_age") is not None:
        return "waiting"
    return str(status["status"])


def _agent_actions(agent_id: str, status: Mapping[str, Any]) -> tuple[Action, ...]:
    address = f"/agents/{quote(agent_id, safe='')}"
    in_flight = status["task_id"] is not None
    what = (
        f"{agent_id} works on a task. It may finish that first; what is not finished in time "
        "goes back to the queue and begins anew."
    )

    def action(label: str, verb: str, *, ask: bool = False) -> Action:
        return Action(
            label=label, about=agent_id, path=f"{address}/{verb}", ask=what if ask else None
        )

    if status["status"] in {"stopped", "stopping", "draining"}:
        return (action("Start", "start"),)
    held = status["paused"] == PAUSED_BY_OPERATOR  # of a pause of its own, a restart is the end
    return (
        action("Restart", "restart", ask=in_flight),
        action("Stop", "stop", ask=in_flight),
        action("Resume", "resume") if held else action("Pause", "pause"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the sentence on top of the page."""

    text: str
    until: datetime | None = None
    """When something happens that is counted down to."""


def summary(agents: Iterable[AgentLine]) -> list[Part]:
    """Say how many agents are in which state, as "3 running" and "1 backing off"."""
    shown = [agent for agent in agents if agent.enabled]
    if not shown:
        return [Part(text="no agent is enabled")]
    counts = Counter(agent.state for agent in shown)
    return [
        Part(
            text=f"{counts[state]} {words(state)}",
            until=min(
                (agent.restart_at for agent in shown
                 if agent.state == state and agent.restart_at is not None),
                default=None,
            ),
        )
        for state in sorted(counts, key=_rank, reverse=True)
    ]  # fmt: skip


def task_actions(task: TaskRow) -> tuple[Action, ...]:
    """Return what may be done about a task."""
    about = f"task {task.id}"
    if task.status in {TaskStatus.FAILED, TaskStatus.CANCELLED}:
        return (Action(label="Retry", about=about, path=f"/tasks/{task.id}/retry"),)
    if task.status is TaskStatus.QUEUED:
        ask = "The task has not begun. Cancelled, nobody will do it unless it is retried."
    elif task.status is TaskStatus.RUNNING and not task.cancel_requested:
        ask = "An agent works on it. What it has changed already stays; the rest is not done."
    else:
        return ()
    return (Action(label="Cancel", about=about, path=f"/tasks/{task.id}/cancel", ask=ask),)


def routine_actions(job: Mapping[str, Any]) -> tuple[Action, ...]:
    """Return what may be done about a routine."""
    if job["disabled"]:
        return ()
    name, address = job["name"], f"/scheduler/jobs/{quote(job['name'], safe='')}"
    verb = "resume" if job["paused"] else "pause"
    return (
        Action(label="Run now", about=name, path=f"{address}/run"),
        Action(label=verb.capitalize(), about=name, path=f"{address}/{verb}"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A supervisor or a child in the tree."""

    name: str
    kind: str
    state: str
    strategy: str | None
    restarts: int
    up_since: datetime | None
    restart_at: datetime | None
    overdue: bool
    last_error: str | None
    troubled: bool
    """Whether it, or one below it, is not as it should be."""
    children: list[Node] = field(default_factory=list)


def node(tree: Mapping[str, Any], now: datetime) -> Node:
    """Read the daemon's tree, as `Daemon.tree` gives it.

    A child that is there to hold one supervisor of its own name is shown as one with it.
    """
    children = [node(each, now) for each in tree["children"]]
    strategy = tree.get("strategy")
    if len(children) == 1 and children[0].kind == "supervisor" and children[0].name == tree["name"]:
        strategy, children = children[0].strategy, children[0].children
    restart_at = tree.get("restart_at")
    own = tree["state"] in _TROUBLED or bool(tree.get("overdue"))
    return Node(
        name=tree["name"],
        kind=tree["kind"],
        state=tree["state"],
        strategy=strategy,
        restarts=tree.get("restarts", 0),
        up_since=_ago(now, tree.get("uptime") or None),
        restart_at=None if restart_at is None else _ahead(now, restart_at - tree["time"]),
        overdue=bool(tree.get("overdue")),
        last_error=tree.get("last_error"),
        troubled=own or any(child.troubled for child in children),
        children=children,
    )


def _ago(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now - timedelta(seconds=seconds)


def _ahead(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)
