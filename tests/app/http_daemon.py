"""A daemon for tests of the HTTP API: the real store and the real server, and agents that only say.

The agents are stood in for, so that each state that an answer can show is had by writing it down.
"""

from __future__ import annotations

import dataclasses
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import trio

from actp_supervise import Cron
from actp_supervise.clock import SystemWallClock
from actp_supervise.service import make_redactor
from actp_supervise.snapshot import SupervisorSnapshot
from app.event_log import EventLog
from app.health_server import HealthServer
from app.logged_errors import ErrorsOfAgents
from app.logged_lines import LinesOfAgents
from app.metrics import Metrics
from app.observed_store import ObservedStore
from app.settings import load_settings
from app.status import (
    AgentHealth,
    AgentState,
    AgentStatus,
    Health,
    HealthState,
    JobStatus,
    ToolStatus,
)
from app.unreadable import UnreadableTasks
from app.waiting_approvals import WaitingApprovals
from app.web.openapi import ROUTES
from app.work_watch import WorkWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, KeysView

TOOLS = (
    ToolStatus(
        name="mcp__crm__send",
        source="mcp",
        effect="once",
        approval="always",
        description="Send a letter to a customer.",
    ),
    ToolStatus(name="recall", source="method", effect="read", approval="never"),
)
"""Those of content."""

AGENT_IDS = ("social", "content", "acquisition", "revenue")
TOKEN = "correct-horse"


def status(agent_id: str = "social", **changes: Any) -> AgentStatus:
    """How an agent is; what is changed may be a fact of its health too."""
    of_health = {field.name for field in dataclasses.fields(AgentHealth)} - {"last_run_at"}
    health = {"doing": "idle", "heartbeat_age": 1.5, "progress_age": 1.5}
    health |= {name: changes.pop(name) for name in of_health & changes.keys()}
    facts = {
        "pid": 4711,
        "uptime": 61.5,
        "last_run_at": datetime(2026, 11, 23, 7, 0, tzinfo=UTC),
        "model": "claude-haiku-5-5",
        "class_": "app.agents.social:SocialMediaDomainAgent",
        "poll_interval": 30.0,
    }
    state = AgentState(changes.pop("status", "running"))
    return AgentStatus(
        agent_id=agent_id, status=state, health=AgentHealth(**health), **(facts | changes)
    )


TREE = SupervisorSnapshot(name="worker", state="running", strategy="one_for_one", children=())


def addresses(*, changing: bool) -> list[tuple[str, str]]:
    """Method and address of all that changes something, or of all that does not."""
    names = {
        "agent_id": "social",
        "task_id": "some-task",
        "approval_id": "some-approval",
        "item_id": "some-item",
        "name": "content-daily-pipeline",
    }
    return [
        (method, re.sub(r"<(\w+)>", lambda name: names[name[1]], rule))
        for route in ROUTES
        for method, rule in [(route.method, route.rule)]
        if route.changes is changing
    ]


@dataclass
class Agents:
    """Stands in for AgentSupervisor: states to show, and a record of what was asked."""

    statuses: dict[str, AgentStatus] = field(
        default_factory=lambda: {agent_id: status(agent_id) for agent_id in AGENT_IDS}
    )
    asked: list[tuple[str, str]] = field(default_factory=list)
    said_by: list[str | None] = field(default_factory=list)
    may_finish: trio.Event = field(default_factory=trio.Event)

    def get_status(self) -> dict[str, AgentStatus]:
        return {
            agent_id: dataclasses.replace(status, agent_id=agent_id)
            for agent_id, status in self.statuses.items()
        }

    def tools(self, agent_id: str) -> tuple[ToolStatus, ...]:
        return TOOLS if agent_id == "content" else ()

    @property
    def agent_ids(self) -> KeysView[str]:
        return self.statuses.keys()

    def wake(self, agent_id: str) -> None:
        if agent_id in self.statuses:
            self.asked.append(("notify", agent_id))

    async def restart_as_told(self, agent_id: str, by: str | None = None) -> None:
        self.said_by.append(by)
        self.asked.append(("restart", agent_id))
        await self.may_finish.wait()

    async def pause_agent(self, agent_id: str, by: str) -> None:
        self.said_by.append(by)
        self.asked.append(("pause", agent_id))

    async def resume_agent(self, agent_id: str) -> None:
        self.asked.append(("resume", agent_id))

    async def stop_agent(self, agent_id: str) -> None:
        self.asked.append(("stop", agent_id))

    async def start_agent(self, agent_id: str) -> None:
        self.asked.append(("start", agent_id))
        raise RuntimeError("it would not start")


@dataclass
class Routines:
    """Stands in for DailyRoutineScheduler."""

    job: JobStatus = field(
        default_factory=lambda: JobStatus(
            name="content-daily-pipeline",
            agent_id="content",
            method="run_daily_pipeline",
            schedule="at 06:00",
            cron="0 6 * * *",
            configured="0 6 * * *",
            timezone="UTC",
            next_run_time=datetime(2026, 11, 24, 6, 0, tzinfo=UTC),
            last_run=None,
            running=False,
            paused=False,
            disabled=None,
        )
    )
    asked: list[str] = field(default_factory=list)

    def jobs(self) -> list[JobStatus]:
        return [self.job]

    async def run_now(self, name: str) -> None:
        self.asked.append(name)

    async def set_time(self, _name: str, cron: str | None, by: str | None) -> None:
        cron = cron or self.job.configured
        self.job = dataclasses.replace(self.job, cron=cron, schedule=str(Cron(cron)), changed_by=by)

    async def pause(self, _name: str, by: str) -> None:
        self.job = dataclasses.replace(self.job, paused=True, paused_by=by)

    async def resume(self, _name: str) -> None:
        self.job = dataclasses.replace(self.job, paused=False)


def make_daemon(
    store: Any,
    *,
    api_token: str | None = None,
    health_host: str = "127.0.0.1",
    environ: dict[str, str] | None = None,
) -> Any:
    own = {"WORKER_API_TOKEN": api_token or "", "WORKER_TIMEZONE": "America/New_York"}
    settings = load_settings(own | (environ or {}), env_file=None)
    redact = make_redactor(settings.secrets)
    events, metrics = EventLog(redact=redact), Metrics()
    events.listeners.append(metrics.count)
    daemon = SimpleNamespace(
        settings=dataclasses.replace(settings, health_host=health_host),
        store=ObservedStore(store, events),
        events=events,
        metrics=metrics,
        records=SimpleNamespace(away_because=None, waiting=0, given_up=[]),
        unreadable=UnreadableTasks(store),
        approvals=WaitingApprovals(store),
        work=WorkWatch(
            store, events, ErrorsOfAgents(), WaitingApprovals(store), instance="this start"
        ),
        lines=LinesOfAgents(redact),
        uptime=12.5,
        supervisor=Agents(),
        routines=Routines(),
        stopping=False,
        clock=SystemWallClock(),
        wall_clock=SystemWallClock(),
        redact=redact,
        tree=lambda: TREE,
    )
    daemon.state = Health(status=HealthState.HEALTHY, agents=4, uptime=12.5, reasons=())
    daemon.health = lambda: daemon.state
    return daemon


@asynccontextmanager
async def served(daemon: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a daemon on a free port; gives a client of it."""
    async with trio.open_nursery() as nursery:
        address = await nursery.start(HealthServer(daemon, **options).start, 0)
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            yield client
        nursery.cancel_scope.cancel()
