"""A whole daemon in the test's own process: all that is real but what its agents do."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import trio
from agents_stage import INSTANCE, staged
from http_daemon import AGENT_IDS
from zones import night_zone

from actp_supervise import open_supervisor
from actp_supervise.service import LoopWatch, make_redactor
from app.agents.spec import AGENT_SPECS
from app.daemon import Daemon
from app.event_log import EventLog
from app.logged_errors import ErrorsOfAgents
from app.logged_lines import LinesOfAgents
from app.metrics import Metrics
from app.observed_store import ObservedStore
from app.routine import DailyRoutineScheduler, RoutineJob
from app.settings import load_settings
from app.shutdown import GracefulShutdown
from app.unreadable import UnreadableTasks
from app.waiting_approvals import WaitingApprovals
from app.work_watch import WorkWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agents_stage import Launch

    from app.store.protocol import Store


@asynccontextmanager
async def whole_daemon(
    store: Store, launch: Launch, run_routine: Any, environ: dict[str, str] | None = None
) -> AsyncIterator[Daemon]:
    """Run a daemon whose agents and routines are what `launch` and `run_routine` do."""
    environ = {"WORKER_TIMEZONE": night_zone(), **(environ or {})}
    settings = load_settings(environ, env_file=None)
    redact = make_redactor(settings.secrets)
    events, metrics = EventLog(redact=redact), Metrics()
    events.listeners.append(metrics.count)
    store = ObservedStore(store, events)
    jobs = [
        RoutineJob(agent_id=spec.agent_id, method=r.method, cron=r.cron, disabled=None)
        for spec in AGENT_SPECS
        for r in spec.routines
    ]
    scheduler = DailyRoutineScheduler(
        jobs, run=run_routine, store=store, instance=INSTANCE, timezone=settings.timezone
    )
    scheduler.setup()
    async with (
        staged(store, launch, agent_ids=AGENT_IDS, environ=environ) as stage,
        open_supervisor(name="root") as root,
    ):
        await root.start(scheduler.start, name="scheduler")
        yield Daemon(
            settings=settings,
            store=store,
            supervisor=stage.supervisor,
            routines=scheduler,
            records=stage.records,
            shutdown=GracefulShutdown(stage.supervisor, scheduler, stage.registry, stage.records),
            events=events,
            metrics=metrics,
            loop_watch=LoopWatch(),
            root=root,
            unreadable=UnreadableTasks(store),
            approvals=WaitingApprovals(store),
            work=WorkWatch(
                store, events, ErrorsOfAgents(), WaitingApprovals(store), instance=INSTANCE
            ),
            lines=LinesOfAgents(redact),
            notes=(),
            redact=redact,
            started_at=datetime(2026, 11, 23, tzinfo=UTC),
            started=trio.current_time(),
        )
        await root.shutdown()
