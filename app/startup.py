"""How the daemon starts, works and ends: `run_daemon`, to be read from top to bottom (R33)."""

from __future__ import annotations

import logging
import math
import os
import uuid
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from actp_supervise import Restart, Supervisor, open_supervisor
from actp_supervise.clock import SystemWallClock
from actp_supervise.service import Block, ServiceManager, open_private
from app import banner
from app.agents.activity import SignsOfLife
from app.agents.traces import start_tracing
from app.alerts.channels import make_channels
from app.alerts.service import Alerts
from app.beat import DaemonBeat
from app.daemon import SERVICE_BACKOFF, Daemon, hold_agents, hold_services
from app.desk import Desk
from app.edges import Edges, MakeChannels
from app.event_kinds import EventKind
from app.event_log import EventLog
from app.hands.telegram import API
from app.happenings import tell_of_changes, tell_of_tree
from app.heartbeat import HealthHeartbeat
from app.launcher import AgentLauncher, with_unknown_models, without_tables
from app.logged_errors import ErrorsOfAgents
from app.logged_lines import LinesOfAgents
from app.metrics import Metrics
from app.observed_store import ObservedStore
from app.reasons import Reason, ReasonKind, reason
from app.redaction import Redaction
from app.registry import AgentRegistry
from app.reload import Reloader, catch_hangups
from app.retention import forget_old, kept_for
from app.routine import DailyRoutineScheduler
from app.settings import SettingsError
from app.shutdown import GracefulShutdown
from app.status import AgentState
from app.store.clock import StoreClock
from app.store.open import open_patiently, open_store, patiently
from app.store.outbox import store_outbox
from app.store.protocol import AgentRegistration
from app.store.schema import TableReport, check_required_tables
from app.store.steady import steady
from app.supervisor import AgentSupervisor
from app.telegram_approvals import TelegramApprovals
from app.unreadable import UnreadableTasks
from app.waiting_approvals import WaitingApprovals
from app.work_watch import WorkWatch
from app.worker import DaemonPresence, open_worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from actp_supervise.service import Outbox
    from app.alerts.channels import Channel
    from app.settings import AgentSettings, Settings
    from app.store.protocol import Store, StoreUnavailable
    from app.web.listening import Address

logger = logging.getLogger(__name__)

START_TIMEOUT = 5.0
"""Seconds that the start waits for the store to take note of the daemon and its agents."""

WEB_STOP_TIMEOUT = 5.0
"""Seconds that the web server has to stop; it gives answers under way somewhat less."""


async def run_daemon(
    settings: Settings,
    address: Address,
    *,
    reread: Callable[[], Settings],
    prepare: Callable[[Store], Awaitable[object]] | None = None,
    announce: Callable[[str], object] | None = None,
    edges: Edges | None = None,
) -> None:
    """Be the daemon until a signal ends it.

    Args:
        settings: What is configured.
        address: Where its page is to be.
        reread: Reads it anew, on SIGHUP.
        prepare: Does something to the store before anything else does.
        announce: Gets the address of the page, once it is there.
        edges: The outer world, where it is not the real one.

    Raises:
        SettingsError: If an agent's class, the price table or the log's file cannot be used.
        StoreError: If the store cannot be opened.
    """
    edges = Edges() if edges is None else edges
    wall_clock, looks = edges.wall_clock, edges.looks
    redact = Redaction(settings.secrets)
    with _log_errors(settings):
        edges.configure_logs(settings, redact)
    start_tracing(os.environ, settings.worker_id)
    service = ServiceManager()
    clock = StoreClock(wall_clock)
    events = EventLog(redact=redact, wall_clock=clock)
    metrics = Metrics()
    events.listeners.append(metrics.count)
    records = store_outbox(partial(_tell_of_store, events))
    hangups = catch_hangups(edges.catch)
    async with AsyncExitStack() as stack:
        async with edges.open_waiting_room(settings, address, redact) as show:
            waiting = partial(_say_waiting, service, show)
            kept = await stack.enter_async_context(
                open_patiently(partial(edges.open_store, settings), waiting=waiting)
            )
            report = await patiently(partial(check_required_tables, kept), waiting)
            desk = Desk(steady(kept, report), clock, fresh=looks.fresh, wall_clock=wall_clock)
            store = ObservedStore(desk, events)
            if prepare is not None:
                await prepare(store)
        settings = without_tables(settings, report)

        instance = uuid.uuid4().hex
        channels = await _channels(settings, edges.make_channels)
        alerts = Alerts(
            channels, instance=instance, lease=settings.task_lease, wall_clock=wall_clock
        )
        launcher = AgentLauncher(settings, store, instance, make_client=edges.make_client)
        settings = with_unknown_models(settings, launcher.prices)
        settings = launcher.with_classes_without_queue(settings)
        unreadable = UnreadableTasks(store)
        errors = ErrorsOfAgents(redact)
        lines = LinesOfAgents(redact)
        stack.enter_context(errors.listening())
        stack.enter_context(lines.listening())
        approvals = WaitingApprovals(store, wall_clock)
        work = WorkWatch(store, events, errors, approvals, instance=instance, wall_clock=wall_clock)
        registry = AgentRegistry(store, settings.worker_id)
        heartbeat = HealthHeartbeat(registry, redact=redact)
        presence = DaemonPresence(settings, instance, wall_clock=wall_clock)
        beat = DaemonBeat(
            desk,
            presence=presence,
            heartbeat=heartbeat,
            registry=registry,
            records=records,
            lease=settings.task_lease,
            every=looks.beat,
        )
        signs = SignsOfLife()
        agents = AgentSupervisor(
            settings.agents,
            launch=launcher.run,
            hold=launcher.hold,
            store=store,
            registry=registry,
            heartbeat=heartbeat,
            records=records,
            beat=beat,
            instance=instance,
            drain_timeout=settings.drain_timeout,
            single_lease=settings.task_lease,
            watch_interval=settings.watch_interval,
            stale_threshold=settings.stale_threshold,
            sign_every=looks.agents,
            signs=signs,
            redact=redact,
            on_status=presence.publish,
            wall_clock=wall_clock,
        )
        presence.statuses = agents.statuses
        desk.wake, desk.wake_all = agents.wake, agents.wake_all
        routines = DailyRoutineScheduler(
            launcher.routines(),
            run=launcher.run_routine,
            store=store,
            instance=instance,
            timezone=settings.timezone,
            drain_timeout=settings.drain_timeout,
            wall_clock=wall_clock,
        )
        routines.setup()
        shutdown = GracefulShutdown(agents, routines, registry, records)
        loop_watch = edges.make_loop_watch(partial(_tell_of_block, events))
        loop_watch.on_beat = metrics.note_lag

        async with (
            open_worker(settings, store, records, presence, take_lock=edges.take_lock),
            open_supervisor(
                name="worker",
                limit=None,
                backoff=SERVICE_BACKOFF,
                on_event=tell_of_tree(events, agents.agent_ids),
            ) as root,
        ):
            daemon = Daemon(
                settings=settings,
                store=store,
                supervisor=agents,
                routines=routines,
                records=records,
                shutdown=shutdown,
                events=events,
                metrics=metrics,
                loop_watch=loop_watch,
                root=root,
                unreadable=unreadable,
                work=work,
                lines=lines,
                approvals=approvals,
                notes=_notes(report),
                delivery=alerts.reasons,
                redact=redact,
                clock=clock,
                started_at=wall_clock.now(),
                wall_clock=wall_clock,
                started=trio.current_time(),
            )
            reread_all = partial(_reread, reread, report, launcher)
            try:
                services = await _subtree(root, "services")

                async def take_alerts(new: Settings) -> None:
                    redact.learn(new.secrets)
                    channels = await _channels(new, edges.make_channels)
                    await alerts.retake(services, daemon, channels, looks.alerts)

                reloader = Reloader(daemon, launcher, service, reread_all, take_alerts=take_alerts)
                services.start_soon(records.run, name="records")
                services.start_soon(unreadable.watch, looks.unreadable, name="unreadable tasks")
                services.start_soon(approvals.watch, looks.approvals, name="approvals")
                events.listeners.append(approvals.notice)
                _ask_on_telegram(services, settings, store, events, instance, redact)
                await _register(registry, settings, records)
                await services.start(
                    routines.start,
                    name="scheduler",
                    restart=Restart.TRANSIENT,
                    shutdown_timeout=math.inf,  # bounded by that of its runs
                )
                services.start_soon(routines.watch_times, looks.times, name="times of routines")
                web = await _subtree(root, "web")
                page = await web.start(
                    edges.make_server(daemon, address),
                    name="http",
                    shutdown_timeout=WEB_STOP_TIMEOUT,
                )
                services.start_soon(heartbeat.start, settings.heartbeat_interval, name="heartbeat")
                await services.start(loop_watch.run, name="loop_watch")
                give_signs = partial(signs.give, settings.stale_threshold, looks.agents)
                services.start_soon(give_signs, name="signs_of_life")
                shutdown.register(edges.catch)
                banner.show(settings, where=store.where, page=page)
                if announce is not None:
                    announce(page)
                services.start_soon(work.watch, lambda: daemon.settings, looks.work, name="work")
                await root.start(hold_agents, agents, name="agents", shutdown_timeout=math.inf)
                services.start_soon(agents.watch_loop, name="watch")
                services.start_soon(reloader.run, hangups, name="reload")
                await services.start(service.run, daemon, name="service")
                tell = partial(
                    tell_of_changes,
                    events,
                    health=daemon.health,
                    states=agents.states,
                    every=looks.changes,
                    health_every=looks.health,
                )
                services.start_soon(tell, name="happenings")
                alerts.start(services, daemon, looks.alerts)
                ages = kept_for(settings)
                services.start_soon(forget_old, store, ages, looks.old, name="retention")

                await shutdown.stop_event.wait()
                service.stopping()
                events.publish(
                    EventKind.DAEMON_STOPPING, "the daemon stops, work in flight finishes"
                )
                finished = await shutdown.drain_wait(settings.drain_timeout)
            finally:
                with trio.CancelScope(shield=True):  # bounded
                    await shutdown.force_stop()
                events.close()  # or whoever reads them would hold up the web server
            await root.shutdown()
    how = _how_it_ended(records, finished=finished)
    logger.info("Stopped: %s", how, extra={"action": "stopped"})


async def check(settings: Settings) -> tuple[str, str | None]:
    """Check what a start would check and start nothing (R36). Raises as `run_daemon`.

    Returns:
        The banner, and what the store lacks with the command that makes it; None if it is whole.
    """
    if settings.log_file is not None:
        with _log_errors(settings):
            os.close(open_private(settings.log_file))
    await trio.to_thread.run_sync(make_channels, settings)
    async with open_store(settings) as store:
        report = await check_required_tables(store)
        settings = without_tables(settings, report)
        launcher = AgentLauncher(settings, store, instance="none")
        settings = with_unknown_models(settings, launcher.prices)
        settings = launcher.with_classes_without_queue(settings)
        agents = banner.agents_in_full(
            settings, launcher.prices, launcher.routines(), SystemWallClock().now().date()
        )
        return f"{banner.text(settings, where=store.where)}\n{agents}", report.warning


async def _channels(settings: Settings, make: MakeChannels) -> Sequence[Channel]:
    if settings.alert_urls:  # apprise takes a second to load all that it knows
        return await trio.to_thread.run_sync(make, settings)
    return make(settings)


async def _register(registry: AgentRegistry, settings: Settings, records: Outbox) -> None:
    """Register all agents; if the store is away, as soon as it is back."""
    registrations = [
        AgentRegistration(
            agent_id=agent.agent_id,
            class_name=agent.class_path,
            model=agent.model,
            status=_first_status(agent),
            why=agent.why_disabled,
        )
        for agent in settings.agents
    ]
    records.put("registration of the agents", partial(registry.register_all, registrations))
    with trio.move_on_after(START_TIMEOUT):
        await records.flush()


def _first_status(agent: AgentSettings) -> AgentState:
    if not agent.enabled:
        return AgentState.DISABLED
    return AgentState.STANDBY if agent.single else AgentState.STARTING


def _how_it_ended(records: Outbox, *, finished: bool) -> str:
    if finished:
        return "all work finished"
    if records.away_because is None:
        return "what was in flight is queued again"
    return "the store is away, so what was in flight is queued again when its lease ends"


def _tell_of_store(events: EventLog, error: str | None) -> None:
    if error is None:
        events.publish(EventKind.STORE_BACK, "the store is back")
    else:
        events.publish(EventKind.STORE_AWAY, f"the store is away: {error}")


def _tell_of_block(events: EventLog, block: Block) -> None:
    events.publish(
        EventKind.LOOP_BLOCKED,
        block.text,
        agent_id=block.fields.get("agent_id"),
        seconds=round(block.seconds, 1),
        where=block.where,
    )


@contextmanager
def _log_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"WORKER_LOG_FILE={settings.log_file}: cannot be written: {error.strerror}"
        ) from error


def _reread(
    reread: Callable[[], Settings], report: TableReport, launcher: AgentLauncher
) -> Settings:
    new = with_unknown_models(without_tables(reread(), report), launcher.prices)
    return launcher.with_classes_without_queue(new)


def _say_waiting(
    service: ServiceManager,
    show: Callable[[StoreUnavailable], object],
    error: StoreUnavailable,
    seconds: float,
) -> None:
    service.waiting("for the store", seconds)
    show(error)
    extra = {"action": "store_awaited", "seconds": seconds}
    logger.warning("Waiting for the store: %s (next try in %.1f s)", error, seconds, extra=extra)


def _ask_on_telegram(
    services: Supervisor,
    settings: Settings,
    store: Store,
    events: EventLog,
    instance: str,
    redact: Callable[[str], str],
) -> None:
    """Ask for approvals on the operator's phone, where a bot is set up."""
    token, chat_id = settings.telegram_bot_token, settings.telegram_chat_id
    if token is None or chat_id is None:
        return
    telegram = TelegramApprovals(
        store,
        token,
        chat_id,
        instance=instance,
        redact=redact,
        api=settings.telegram_api_url or API,
    )
    events.listeners.append(telegram.notice)
    services.start_soon(telegram.run, name="telegram")


async def _subtree(root: Supervisor, name: str) -> Supervisor:
    subtree: Supervisor = await root.start(
        hold_services, name, name=name, shutdown_timeout=math.inf
    )
    return subtree


def _notes(report: TableReport) -> tuple[Reason, ...]:
    """Return, and warn of, what is missing in the store (R40)."""
    if report.warning is None:
        return ()
    logger.warning(report.warning, extra={"action": "tables_missing"})
    return (reason(ReasonKind.TABLES_MISSING, report.warning),)
