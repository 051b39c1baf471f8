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

from app.event_log import EventLog
from app.health_server import HealthServer
from app.logs import make_redactor
from app.metrics import Metrics
from app.observed_store import ObservedStore
from app.settings import load_settings
from app.web.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AGENT_IDS = ("social", "content", "acquisition", "revenue")
TOKEN = "correct-horse"


def status(**changes: Any) -> dict[str, Any]:
    return {
        "status": "running",
        "pid": 4711,
        "uptime": 61.5,
        "restarts": 0,
        "crashes": 0,
        "restart_in": None,
        "error_count": 0,
        "last_error": None,
        "doing": "idle",
        "task_id": None,
        "heartbeat_age": 1.5,
        "paused": None,
        "throttled_until": None,
        "last_run_at": datetime(2026, 11, 23, 7, 0, tzinfo=UTC),
        "enabled": True,
        "why_disabled": None,
        "isolation": "loop",
        "model": "claude-haiku-5-5",
    } | changes


TREE = {
    "kind": "supervisor",
    "name": "worker",
    "state": "running",
    "strategy": "one_for_one",
    "children": [],
}


def addresses(*, changing: bool) -> list[tuple[str, str]]:
    """Method and address of all that changes something, or of all that does not."""
    names = {"agent_id": "social", "task_id": "some-task", "name": "content-daily-pipeline"}
    return [
        (method, re.sub(r"<(\w+)>", lambda name: names[name[1]], rule))
        for route, operation in OPERATIONS.items()
        for method, rule in [route.split(" ")]
        if operation.changes is changing
    ]


@dataclass
class Agents:
    """Stands in for AgentSupervisor: states to show, and a record of what was asked."""

    statuses: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {agent_id: status() for agent_id in AGENT_IDS}
    )
    asked: list[tuple[str, str]] = field(default_factory=list)
    may_finish: trio.Event = field(default_factory=trio.Event)

    def get_status(self) -> dict[str, dict[str, Any]]:
        return self.statuses

    def notify_task(self, agent_id: str) -> None:
        self.asked.append(("notify", agent_id))

    async def restart_agent(self, agent_id: str) -> None:
        self.asked.append(("restart", agent_id))
        await self.may_finish.wait()

    def pause_agent(self, agent_id: str) -> None:
        self.asked.append(("pause", agent_id))

    def resume_agent(self, agent_id: str) -> None:
        self.asked.append(("resume", agent_id))

    async def stop_agent(self, agent_id: str) -> None:
        self.asked.append(("stop", agent_id))

    async def start_agent(self, agent_id: str) -> None:
        self.asked.append(("start", agent_id))
        raise RuntimeError("it would not start")


@dataclass
class Routines:
    """Stands in for DailyRoutineScheduler."""

    job: dict[str, Any] = field(
        default_factory=lambda: {
            "name": "content-daily-pipeline",
            "agent_id": "content",
            "method": "run_daily_pipeline",
            "schedule": "0 6 * * *",
            "timezone": "UTC",
            "next_run_time": datetime(2026, 11, 24, 6, 0, tzinfo=UTC),
            "last_run": None,
            "running": False,
            "paused": False,
            "disabled": None,
        }
    )
    asked: list[str] = field(default_factory=list)

    def jobs(self) -> list[dict[str, Any]]:
        return [self.job]

    async def run_now(self, name: str) -> None:
        self.asked.append(name)

    def pause(self, _name: str) -> None:
        self.job["paused"] = True

    def resume(self, _name: str) -> None:
        self.job["paused"] = False


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
        records=SimpleNamespace(store_error=None, waiting=0, given_up=[]),
        uptime=12.5,
        supervisor=Agents(),
        routines=Routines(),
        stopping=False,
        redact=redact,
        tree=lambda: TREE,
    )
    daemon.state = {"status": "healthy", "agents": 4, "uptime": 12.5, "reasons": []}
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
