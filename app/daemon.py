"""The running daemon as its web server sees it: the parts, and the state of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import trio

from actp_supervise import Backoff, Supervisor, current_child, open_supervisor
from actp_supervise.clock import SystemWallClock, WallClock
from actp_supervise.service import LoopWatch, Outbox, shorten
from app.event_log import EventLog
from app.health import of_work, overall
from app.logged_lines import LinesOfAgents
from app.metrics import Metrics
from app.reasons import Beginnings, Reason, ReasonKind, reason
from app.routine import DailyRoutineScheduler
from app.settings import Settings
from app.shutdown import GracefulShutdown
from app.status import Health
from app.store.protocol import Store
from app.supervisor import AgentSupervisor
from app.unreadable import UnreadableTasks
from app.waiting_approvals import WaitingApprovals
from app.work_watch import WorkWatch

if TYPE_CHECKING:
    from actp_supervise.snapshot import SupervisorSnapshot

SERVICE_BACKOFF = Backoff(initial=0.5, factor=2.0, maximum=60.0, jitter=0.1)
"""How long a service of the daemon waits for its restart; it is restarted for ever."""


@dataclass(slots=True, kw_only=True)
class Daemon:
    """One running daemon."""

    settings: Settings
    """Those in force, which are others when they were read anew."""
    store: Store
    supervisor: AgentSupervisor
    routines: DailyRoutineScheduler
    records: Outbox
    shutdown: GracefulShutdown
    events: EventLog
    metrics: Metrics
    loop_watch: LoopWatch
    root: Supervisor
    """The tree of everything that runs."""
    unreadable: UnreadableTasks
    approvals: WaitingApprovals
    work: WorkWatch
    notes: tuple[Reason, ...]
    """What is not as it should be, and will stay so until somebody does something."""
    redact: Callable[[str], str]
    clock: WallClock = field(default_factory=SystemWallClock)
    """Tells the time of day as the store has it, by which ages are shown."""
    started_at: datetime
    started: float
    """The same by Trio's clock."""
    wall_clock: WallClock = field(default_factory=SystemWallClock)
    beginnings: Beginnings = field(default_factory=Beginnings)
    lines: LinesOfAgents = field(default_factory=LinesOfAgents)
    delivery: Callable[[], Iterable[Reason]] = tuple
    """Tells what is wrong with the delivery of alerts."""

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self.shutdown.stop_event.is_set()

    @property
    def uptime(self) -> float:
        """The seconds since it started."""
        return trio.current_time() - self.started

    def tree(self) -> SupervisorSnapshot:
        """Return everything that runs, without secrets."""
        return _redacted(self.root.tree(), lambda text: shorten(self.redact(text), ends=True))

    def status_line(self) -> str:
        """Return its health in one line, for a service manager."""
        health = self.health()
        agents = f"{health.agents} agent{'s' if health.agents != 1 else ''}"
        return self.redact("; ".join([f"{health.status}, {agents}", *health.reasons]))

    def health(self) -> Health:
        """Return `GET /health` (R27), with the reasons for anything but healthy."""
        statuses = self.supervisor.get_status()
        now = self.wall_clock.now()
        facts = self.work.facts(self.routines.jobs())
        status, found = overall(
            statuses,
            store_error=self.records.away_because,
            stopping=self.stopping,
            blocked=self.loop_watch.problem(),
            others=(
                *self.notes,
                *self.unreadable.reasons,
                *(
                    reason(ReasonKind.RECORD_GIVEN_UP, text, what=text)
                    for text in self.records.given_up
                ),
                *of_work(facts, statuses, now, longest_wait=self.settings.longest_wait),
                *self.delivery(),
            ),
        )
        problems = self.beginnings.of(found, now)
        return Health(
            status=status,
            agents=sum(agent.enabled for agent in statuses.values()),
            uptime=self.uptime,
            reasons=tuple(each.text for each in problems),
            problems=problems,
        )


def _redacted(node: SupervisorSnapshot, clean: Callable[[str], str]) -> SupervisorSnapshot:
    children = tuple(
        dataclasses.replace(
            child,
            last_error=None if child.last_error is None else clean(child.last_error),
            children=tuple(_redacted(below, clean) for below in child.children),
        )
        for child in node.children
    )
    return dataclasses.replace(node, children=children)


async def hold_services(
    name: str, *, task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED
) -> None:
    """Hold a supervisor of services open until asked to stop; `started` gets it.

    It restarts each for ever, and stops those at once that were not given time.
    """
    async with open_supervisor(
        name=name, limit=None, backoff=SERVICE_BACKOFF, shutdown_timeout=0.0
    ) as supervisor:
        task_status.started(supervisor)
        await _until_asked_to_stop()


async def hold_agents(
    agents: AgentSupervisor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Start all agents and hold their supervisor open until asked to stop."""
    async with agents:
        await agents.start_all()
        task_status.started()
        await _until_asked_to_stop()


async def _until_asked_to_stop() -> None:
    with current_child().cancel_on_stop():
        await trio.sleep_forever()
