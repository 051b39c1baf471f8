"""What the supervisor keeps of each agent over its runs, and the agent's status made of that.

An agent has one worker or several. Each worker has runs of its own, one after another: a child of
the tree, with its own conversation, lease, watch and cost. With one worker that child is the agent;
with several they are children of the agent, which holds what they share: pauses, the lease of a
*single* agent, its budget.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import trio

from actp_supervise import Child, ChildState, Supervisor
from actp_supervise.service import LeaderLease
from app.agents.activity import Activity
from app.crashes import DAY, CrashHistory
from app.facts import to_json
from app.settings import AgentSettings
from app.status import (
    PAUSED_BY_OPERATOR,
    AgentHealth,
    AgentState,
    AgentStatus,
    ToolStatus,
    WorkerStatus,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(slots=True, kw_only=True)
class AgentRun:
    """One run of an agent's worker, from start to end."""

    run_id: str
    activity: Activity
    wait_for_work: Callable[[float], Awaitable[None]]
    """Returns after the given seconds, or sooner when a task was posted; for Trio."""
    problems: Callable[[], tuple[str, ...]] = tuple
    """Tells which of its tools do not work now, and why."""
    tools: Callable[[], tuple[ToolStatus, ...]] = tuple
    """Tells which tools it has."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    cut: bool = False
    """Whether it was ended because the daemon is to stop at once."""
    lost: bool = False
    """Whether it was ended because another daemon runs the agent now."""

    def end_watch(self) -> None:
        """Take no more signs of life, and expect none: it is being ended."""
        self.activity.vouch(math.inf)
        self.activity.vouch = _nothing


@dataclass(slots=True, kw_only=True)
class Worker:
    """One of an agent's workers, over its runs."""

    number: int
    """From 1."""
    posted: trio.Event = field(default_factory=trio.Event)
    """Set when there is a task that it has not looked for yet."""
    run: AgentRun | None = None
    child: Child | None = None
    last_beat_at: float | None = None
    """When the loop of its last run last turned, by Trio's time."""

    @property
    def name(self) -> str:
        """What it is called in the tree, below its agent."""
        return f"worker {self.number}"

    async def wait_for_work(self, seconds: float) -> None:
        """Return after `seconds`, or sooner when a task was posted."""
        with trio.move_on_after(seconds):
            await self.posted.wait()
        if self.posted.is_set():
            self.posted = trio.Event()


@dataclass(slots=True, kw_only=True)
class SupervisedAgent:
    """What is kept of an agent over its runs."""

    config: AgentSettings
    lease: LeaderLease
    """What a *single* agent needs to run."""
    history: CrashHistory = field(default_factory=CrashHistory)
    workers: list[Worker] = field(default_factory=lambda: [Worker(number=1)])
    child: Child | None = None
    tree: Supervisor | None = None
    """Of its workers, where there are several."""
    restarting: int = 0
    standby: bool = False
    """Whether it waits because another daemon runs the agent, or may."""
    runs_on: str | None = None
    """The daemon that runs it instead of this one."""
    held_by: str | None = None
    """Who paused it; None where it is not paused."""
    held_at: datetime | None = None
    holding: bool = False
    """Whether the store is still to be told that it is paused, or resumed."""
    last_error: str | None = None
    last_run_at: datetime | None = None

    @property
    def runs(self) -> list[AgentRun]:
        """The runs that are under way."""
        return [worker.run for worker in self.workers if worker.run is not None]

    @property
    def together(self) -> Together:
        """What its workers do, as one."""
        return Together(self)

    def set_workers(self) -> None:
        """Keep as many workers as are configured, from the agent's next run on."""
        if len(self.workers) != self.config.workers:
            self.workers = [Worker(number=number + 1) for number in range(self.config.workers)]

    def notify(self) -> None:
        """Wake all its workers, so that they look for work."""
        for worker in self.workers:
            worker.posted.set()


@dataclass(frozen=True, slots=True)
class Together:
    """What the workers of an agent do, as the heartbeat reads it: as of one."""

    agent: SupervisedAgent

    @property
    def beat_at(self) -> float:
        """When a loop of its workers last turned; of one that hangs the watchdog tells."""
        return max((run.activity.beat_at for run in self.agent.runs), default=-math.inf)

    def why_stale(self, threshold: float) -> str | None:
        """Return why one of them counts as hung, or None where none does."""
        reasons = (run.activity.why_stale(threshold) for run in self.agent.runs)
        return next(filter(None, reasons), None)

    def snapshot(self) -> dict[str, Any]:
        """Return their health as JSON, for the registry."""
        health = combined([run.activity.health() for run in self.agent.runs])
        snapshot: dict[str, Any] = to_json(health)
        return snapshot


_STATES: Final = {
    ChildState.FINISHED: AgentState.STOPPED,
    ChildState.FAILED: AgentState.CRASHED,
}
"""Where an agent's state is not called as its child's is."""


def state_of(agent: SupervisedAgent, *, stopping: bool) -> AgentState:
    """Return what an agent is about.

    Args:
        agent: Which.
        stopping: Whether all agents are being stopped.
    """
    if not agent.config.enabled:
        return AgentState.DISABLED
    if agent.child is None:
        return AgentState.STOPPED if stopping else AgentState.STARTING
    state = _state_of_child(agent, agent.child, stopping=stopping)
    if state is not AgentState.RUNNING or len(agent.workers) == 1:
        return state
    states = [
        _state_of_child(agent, worker.child, stopping=stopping)
        for worker in agent.workers
        if worker.child is not None
    ]
    # It works as long as one of them does; else what is wrong with the first says it.
    return state if AgentState.RUNNING in states or not states else states[0]


def _state_of_child(agent: SupervisedAgent, child: Child, *, stopping: bool) -> AgentState:
    state = child.state
    if state is ChildState.STOPPING:
        if agent.restarting:
            return AgentState.RESTARTING
        return AgentState.DRAINING if stopping else AgentState.STOPPING
    if state is ChildState.STARTING and child.started_at is not None:
        return AgentState.RESTARTING
    if agent.standby and state is ChildState.RUNNING:
        return AgentState.STANDBY
    return _STATES.get(state) or AgentState[state.name]


def paused_or(agent: SupervisedAgent, state: AgentState) -> AgentState:
    """Return what an agent is about that is in this state: paused, where no worker takes tasks.

    As `AgentStatus.state`, except that a wait for the model is no state of its own: it may come
    and go with every call.
    """
    if state is not AgentState.RUNNING:
        return state
    held = agent.held_by is not None
    paused = all(
        held if worker.run is None else worker.run.activity.takes_no_tasks
        for worker in agent.workers
    )
    return AgentState.PAUSED if paused else state


def status_of(
    agent: SupervisedAgent, *, stopping: bool, moment: Callable[[float | None], datetime | None]
) -> AgentStatus:
    """Return what is known of an agent.

    Args:
        agent: Which.
        stopping: Whether all agents are being stopped.
        moment: Makes the time of day of Trio's time, if that lies ahead.
    """
    child, config = agent.child, agent.config
    state = state_of(agent, stopping=stopping)
    workers = tuple(_worker_status(agent, worker, stopping, moment) for worker in agent.workers)
    health = combined([worker.health for worker in workers])
    several = len(workers) > 1
    waits = [_ahead(child), *(worker.restart_in for worker in workers if several)]
    below = [worker.child for worker in agent.workers if several and worker.child is not None]
    children = [*([] if child is None else [child]), *below]
    return AgentStatus(
        agent_id=config.agent_id,
        status=state,
        pid=next((run.activity.pid for run in agent.runs), None),
        uptime=0.0 if child is None else child.uptime,
        restarts=sum(each.restarts for each in children),
        crashes=sum(each.crashes for each in children),
        restart_in=None if state is AgentState.RUNNING else _least(waits),
        error_count=agent.history.count(DAY),
        last_error=agent.last_error,
        last_run_at=health.last_run_at or agent.last_run_at,
        enabled=config.enabled,
        why_disabled=config.why_disabled,
        paused_by=agent.held_by,
        paused_at=agent.held_at,
        isolation=config.isolation,
        single=config.single,
        runs_on=agent.runs_on,
        model=config.model,
        class_=config.class_path,
        poll_interval=config.poll_interval,
        health=health,
        problems=tuple(dict.fromkeys(each for run in agent.runs for each in run.problems())),
        workers=workers,
        workers_running=len(agent.runs),
        workers_busy=sum(run.activity.task_id is not None for run in agent.runs),
    )


def _worker_status(
    agent: SupervisedAgent,
    worker: Worker,
    stopping: bool,  # noqa: FBT001
    moment: Callable[[float | None], datetime | None],
) -> WorkerStatus:
    child = agent.child if len(agent.workers) == 1 else worker.child
    if not agent.config.enabled or child is None:
        state = state_of(agent, stopping=stopping)
    else:
        state = _state_of_child(agent, child, stopping=stopping)
    run = worker.run
    return WorkerStatus(
        number=worker.number,
        status=state,
        run_id=None if run is None else run.run_id,
        pid=None if run is None else run.activity.pid,
        uptime=0.0 if child is None else child.uptime,
        restarts=0 if child is None else child.restarts,
        restart_in=_ahead(child),
        spent_usd=0.0 if run is None else round(run.activity.spent_usd, 6),
        health=_health(agent, worker, child, moment),
    )


def _health(
    agent: SupervisedAgent,
    worker: Worker,
    child: Child | None,
    moment: Callable[[float | None], datetime | None],
) -> AgentHealth:
    if worker.run is not None:
        activity = worker.run.activity
        until = moment(activity.throttled_until)
        health = activity.health()
        return health if until is None else dataclasses.replace(health, throttled_until=until)
    paused = PAUSED_BY_OPERATOR if agent.held_by is not None else None
    if child is None or child.restart_at is None or worker.last_beat_at is None:
        return AgentHealth(paused=paused)
    age = round(trio.current_time() - worker.last_beat_at, 3)
    return AgentHealth(paused=paused, heartbeat_age=age)


def combined(healths: Sequence[AgentHealth]) -> AgentHealth:
    """Return how an agent is doing of whose workers this is the health, each.

    It is paused, or waits for the model, only where all of them do. What it does is what one of
    them does that has a task.
    """
    if len(healths) < 2:
        return healths[0] if healths else AgentHealth()
    busy = [health for health in healths if health.task_id is not None]
    lead = next(iter(busy), healths[0])
    told = f"{len(busy)} of {len(healths)} at work"
    if not all(health.throttled_age is not None for health in healths):
        lead = dataclasses.replace(
            lead, throttled_until=None, throttled_for=None, throttled_age=None, throttled_why=None
        )
    if not all(health.paused is not None for health in healths):
        lead = dataclasses.replace(lead, paused=None, paused_until=None)
    return dataclasses.replace(
        lead,
        doing=f"{told}: {lead.doing}" if busy else lead.doing,
        store_error=next(filter(None, (health.store_error for health in healths)), None),
        heartbeat_age=_least(health.heartbeat_age for health in healths),
        tasks_done=sum(health.tasks_done for health in healths),
        tasks_failed=sum(health.tasks_failed for health in healths),
        last_run_at=max(
            (health.last_run_at for health in healths if health.last_run_at is not None),
            default=None,
        ),
    )


def _ahead(child: Child | None) -> float | None:
    """Return in how many seconds a child is started again, where it waits for that."""
    waits_until = None if child is None else child.restart_at
    return None if waits_until is None else max(0.0, waits_until - trio.current_time())


def _least(numbers: Iterable[float | None]) -> float | None:
    return min((number for number in numbers if number is not None), default=None)


def _nothing(_within: float) -> None:
    pass
