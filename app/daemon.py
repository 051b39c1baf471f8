"""The running daemon as its web server sees it: the parts, and the state of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import trio

from actp_supervise import Backoff, Supervisor, current_child, open_supervisor
from actp_supervise.service import LoopWatch, Outbox, clean_json, shorten
from app.event_log import EventLog
from app.health import overall
from app.metrics import Metrics
from app.routine import DailyRoutineScheduler
from app.settings import Settings
from app.shutdown import GracefulShutdown
from app.store.protocol import Store
from app.supervisor import AgentSupervisor

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
    notes: tuple[str, ...]
    """What is not as it should be, and will stay so until somebody does something."""
    redact: Callable[[str], str]
    started_at: datetime
    started: float
    """The same by Trio's clock."""

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self.shutdown.stop_event.is_set()

    @property
    def uptime(self) -> float:
        """The seconds since it started."""
        return trio.current_time() - self.started

    def tree(self) -> dict[str, Any]:
        """Return everything that runs, as values that JSON can hold."""
        known = self.root.tree().to_dict()
        tree: dict[str, Any] = clean_json(known, lambda text: shorten(self.redact(text), ends=True))
        return tree

    def health(self) -> dict[str, Any]:
        """Return `GET /health` (R27), with the reasons for anything but healthy."""
        statuses = self.supervisor.get_status()
        status, reasons = overall(
            statuses,
            store_error=self.records.away_because,
            stopping=self.stopping,
            blocked=self.loop_watch.problem(),
            notes=(*self.notes, *self.records.given_up),
        )
        return {
            "status": status,
            "agents": sum(agent["enabled"] for agent in statuses.values()),
            "uptime": self.uptime,
            "reasons": reasons,
        }

    def status_line(self) -> str:
        """Return its health in one line, for a service manager."""
        health = self.health()
        agents = f"{health['agents']} agent{'s' if health['agents'] != 1 else ''}"
        return self.redact("; ".join([f"{health['status']}, {agents}", *health["reasons"]]))


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
