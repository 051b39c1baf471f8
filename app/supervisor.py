"""AgentSupervisor: the agents as children of a tree, their state, and what may be asked (R1 to R9).

The tree restarts; in here is what the daemon adds to that: each run is a row in the store, a crash
before the daemon's own restart counts, and an agent that hangs is made to crash.
"""

from __future__ import annotations

import logging
import math
import traceback
import uuid
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import trio

from actp_supervise import (
    ChildState,
    Restart,
    ShutdownOrder,
    SupervisorClosedError,
    current_child,
    open_supervisor,
)
from actp_supervise.clock import SystemWallClock, WallClock
from actp_supervise.service import LeaderLease, bind_log_context, log_context, shorten
from app.agents.activity import Activity, SignsOfLife
from app.crashes import AGENT_BACKOFF, DAY, HOUR
from app.looks import USUAL
from app.settings import AgentSettings, unknown_agent
from app.status import AgentState, AgentStatus, ToolStatus
from app.store.outbox import store_lease
from app.store.protocol import OBEYED, AgentRegistration, RunOutcome, StoreError
from app.supervised import AgentRun, SupervisedAgent, Worker, paused_or, state_of, status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, KeysView, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from actp_supervise.events import Event
    from actp_supervise.service import Outbox
    from app.beat import DaemonBeat
    from app.heartbeat import HealthHeartbeat
    from app.registry import AgentRegistry
    from app.store.protocol import Pause, Store

    Launch = Callable[["AgentSettings", "AgentRun"], Awaitable[object]]
    """Runs one agent to its end: see `app.launcher`."""

    Hold = Callable[["AgentSettings"], AbstractAsyncContextManager[object]]

logger = logging.getLogger(__name__)

HISTORY_TIMEOUT: Final = 5.0
"""Seconds that the start of the agents waits for the store to say how often they crashed."""

PAUSE_TIMEOUT: Final = 2.0
"""Seconds that one who pauses an agent waits until the store has it; it is written later, too."""


class UnknownAgentError(LookupError):
    """There is no agent of that name; the message names the known ones."""


class AgentDisabledError(RuntimeError):
    """The agent is disabled and cannot be started; the message says by what."""


class AgentEndedError(RuntimeError):
    """An agent returned although nobody had asked it to stop; it counts as a crash."""


class AgentSupervisor:
    """The agents of one daemon, to be used in an ``async with``; leaving it stops them all.

    Args:
        agents_config: The agents, with their poll intervals; those not enabled are listed only.
        launch: Runs one of them to its end.
        hold: Holds open, for a block, what the workers of an agent share where it has several.
        store: Where runs are recorded.
        registry: Where their status is published.
        heartbeat: Knows which of them are alive.
        records: Writes all that down, also when the store was away for a while.
        beat: Tells what others ask of the agents.
        instance: This start of the daemon.
        drain_timeout: Seconds that an agent asked to stop has for its work in flight.
        single_lease: Seconds after which another daemon takes over a *single* agent of one that
            died.
        watch_interval: The most seconds between two beats, which look for what others ask.
        stale_threshold: Seconds after which an agent that gives no sign of life is hung.
        sign_every: Seconds between two signs of life of an agent's loop, at least.
        signs: Gives those of all agents in Trio's thread; without it each loop gives its own.
        redact: Takes secrets out of what is recorded of an error.
        on_status: Called when the status of an agent may have changed.
        wall_clock: Tells the time of day.
    """

    def __init__(
        self,
        agents_config: Sequence[AgentSettings],
        *,
        launch: Launch,
        hold: Hold = lambda _config: nullcontext(),
        store: Store,
        registry: AgentRegistry,
        heartbeat: HealthHeartbeat,
        records: Outbox,
        beat: DaemonBeat,
        instance: str,
        drain_timeout: float = 30.0,
        single_lease: float = 60.0,
        watch_interval: float = 10.0,
        stale_threshold: float = 90.0,
        sign_every: float = USUAL.agents,
        signs: SignsOfLife | None = None,
        redact: Callable[[str], str] = str,
        on_status: Callable[[], object] = lambda: None,
        wall_clock: WallClock | None = None,
    ) -> None:
        self._launch = launch
        self._hold_shared = hold
        self._store = store
        self._registry = registry
        self._heartbeat = heartbeat
        self._records = records
        self._beat = beat
        self._instance = instance
        self.watch_interval = watch_interval
        self._stale_threshold = stale_threshold
        self._sign_every = sign_every
        self._signs = signs
        self._redact = redact
        self._on_status = on_status
        self._wall_clock = SystemWallClock() if wall_clock is None else wall_clock
        self._begun = trio.Event()  # once the agents are there, or never will be
        self._stopping = False
        self._drain_timeout = drain_timeout
        self._single_lease = single_lease
        self._agents = {config.agent_id: self._made(config) for config in agents_config}

    async def __aenter__(self) -> Self:
        self._manager = open_supervisor(
            name="agents",
            limit=None,
            shutdown_order=ShutdownOrder.TOGETHER,
            shutdown_timeout=self._drain_timeout,
            on_event=self._on_event,
        )
        self._tree = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> bool:
        if exc_type is None:
            await self.stop_all()  # noqa: ASYNC102  (bounded by the drain timeout)
        return await self._manager.__aexit__(exc_type, exc, exc_traceback)  # noqa: ASYNC102

    # What may be asked.

    async def start_all(self) -> None:
        """Start every enabled agent, once it is known how often each has crashed lately."""
        enabled = [agent for agent in self._agents.values() if agent.config.enabled]
        await self._load_histories(enabled)
        if self._stopping:  # meanwhile
            return
        for agent in enabled:
            self._start(agent)
        self._begun.set()

    def add_agent(self, config: AgentSettings) -> None:
        """Add an agent, and start it if it is enabled; its status is registered."""
        agent = self._agents[config.agent_id] = self._made(config)
        registration = AgentRegistration(
            agent_id=config.agent_id,
            class_name=config.class_path,
            model=config.model,
            status=self._status(agent),
            why=config.why_disabled,
        )
        self._records.put(
            f"registration of {config.agent_id}", partial(self._registry.register, registration)
        )
        if config.enabled and self._begun.is_set() and not self._stopping:
            self._start(agent)
        self._on_status()

    async def remove_agent(self, agent_id: str) -> None:
        """Stop an agent, work in flight finishing, and forget it.

        Raises:
            UnknownAgentError: If there is no such agent.
        """
        agent = self._known(agent_id)
        await self.stop_agent(agent_id)
        if agent.child is not None and not self._stopping:
            await self._tree.remove(agent_id)
        self.publish_status(agent_id)
        await self._records.flush()
        if self._agents.get(agent_id) is agent:
            del self._agents[agent_id]
        self._on_status()

    async def watch_loop(self) -> None:
        """Beat, and take up what others ask, for ever; the tree itself restarts hung agents."""
        async with trio.open_nursery() as restarts:
            while True:
                beat = await self._beat.once(self._served())
                if beat is not None:
                    self._heed_pauses(beat.pauses)
                    for agent_id in beat.restarts:
                        restarts.start_soon(self._restart_as_asked, agent_id)
                await self._beat.wait(self.watch_interval)

    async def restart_agent(self, agent_id: str) -> None:
        """Stop an agent, work in flight finishing, and start a new instance of it.

        Raises:
            UnknownAgentError: If there is no such agent.
            AgentDisabledError: If it is disabled.
            SupervisorClosedError: If all are being stopped.
        """
        agent = await self._startable(agent_id)
        agent.restarting += 1
        try:
            await self._tree.restart(agent_id)
        finally:
            agent.restarting -= 1

    async def restart_as_told(self, agent_id: str, by: str | None = None) -> None:
        """Restart an agent as this daemon is asked to, and keep what comes of it.

        Args:
            agent_id: The agent.
            by: Who asks.

        Raises:
            Exception: As `restart_agent`.
        """
        self._known(agent_id)
        note = partial(self._registry.note_restart, agent_id, by)
        self._records.put(f"request to restart {agent_id}", note)
        await self._restart_and_answer(agent_id)

    async def stop_agent(self, agent_id: str) -> None:
        """Stop an agent, work in flight finishing; it stays stopped.

        Raises:
            UnknownAgentError: If there is no such agent.
        """
        agent = self._known(agent_id)
        if agent.config.enabled:
            await self._begun.wait()
        if agent.child is not None:
            with suppress(SupervisorClosedError):  # then it is stopped already
                await self._tree.stop(agent_id)

    async def start_agent(self, agent_id: str) -> None:
        """Start an agent that was stopped; one that waits for its restart waits no longer.

        Raises:
            UnknownAgentError: If there is no such agent.
            AgentDisabledError: If it is disabled.
            SupervisorClosedError: If all are being stopped.
        """
        child = (await self._startable(agent_id)).child
        if child is None or child.state is not ChildState.RUNNING:
            await self._tree.restart(agent_id)

    async def stop_all(self) -> None:
        """Stop all, work in flight finishing, and start nothing any more."""
        self._stopping = True
        self._begun.set()
        async with trio.open_nursery() as nursery:
            for agent_id in self._agents:
                nursery.start_soon(self.stop_agent, agent_id)

    async def cancel_all(self) -> None:
        """Stop all at once; what was in flight goes back to the queue."""
        self._stopping = True
        for run in [run for agent in self._agents.values() for run in agent.runs]:
            run.cut = True
            run.end_watch()
            run.scope.cancel(reason="the daemon is to stop at once")
        await self.stop_all()

    async def pause_agent(self, agent_id: str, by: str = "an operator") -> None:
        """Pause an agent: it takes no new task in any daemon until it is resumed.

        What is in flight goes on. It stays paused over its restarts, and over those of daemons.

        Args:
            agent_id: The agent.
            by: Who pauses it.

        Raises:
            UnknownAgentError: If there is no such agent.
            AgentDisabledError: If it is disabled.
        """
        await self._hold(agent_id, by)

    async def resume_agent(self, agent_id: str) -> None:
        """Have a paused agent take tasks again.

        Raises:
            UnknownAgentError: If there is no such agent.
            AgentDisabledError: If it is disabled.
        """
        await self._hold(agent_id, None)
        self._beat.hurry()  # for what it has to do

    def reconfigure(self, config: AgentSettings) -> bool:
        """Give an agent other settings, from its next run on.

        Returns:
            Whether a run with those from before is under way.
        """
        agent = self._known(config.agent_id)
        agent.config = config
        return bool(agent.runs)

    def notify_task(self, agent_id: str) -> None:
        """Have an agent look now at its queue, and whether the task in flight is cancelled."""
        self._known(agent_id).notify()

    def wake(self, agent_id: str) -> None:
        """Wake an agent, if there is one of that name here."""
        if agent_id in self._agents:
            self.notify_task(agent_id)

    def wake_all(self) -> None:
        """Wake all agents."""
        for agent_id in self._agents:
            self.notify_task(agent_id)

    # What is to be seen.

    @property
    def agent_ids(self) -> KeysView[str]:
        """The names of all agents, those included that are disabled; it follows changes."""
        return self._agents.keys()

    def get_status(self) -> dict[str, AgentStatus]:
        """Return agent_id -> what is known of it, without asking the store."""
        return {
            agent_id: status_of(agent, stopping=self._stopping, moment=self._moment)
            for agent_id, agent in self._agents.items()
        }

    def tools(self, agent_id: str) -> tuple[ToolStatus, ...]:
        """Return the tools of an agent, as its present run has them; none where it does not run."""
        runs = self._known(agent_id).runs
        return next((run.tools() for run in runs), ())

    def statuses(self) -> dict[str, AgentState]:
        """Return agent_id -> status, in one word each."""
        return {agent_id: self._status(agent) for agent_id, agent in self._agents.items()}

    def states(self) -> dict[str, AgentState]:
        """Return agent_id -> what it is about, a pause included; less than `get_status` costs."""
        return {
            agent_id: paused_or(agent, self._status(agent))
            for agent_id, agent in self._agents.items()
        }

    async def get_crash_count(self, agent_id: str) -> int:
        """Return how often an agent crashed in the last 24 hours.

        While the store is away it is what this daemon knows.
        """
        agent = self._known(agent_id)
        try:
            return len(await self._store.crash_ages(agent_id, within=DAY))
        except StoreError:
            return agent.history.count(DAY)

    def publish_status(self, agent_id: str) -> None:
        """Have an agent's status written to the registry, as it is by then."""

        async def write() -> None:
            if agent_id not in self._agents:  # any more
                return
            status = self._status(self._agents[agent_id])
            if status is not AgentState.STANDBY:  # or the one that runs it would be overruled
                await self._registry.set_status(agent_id, status)

        self._records.put(f"status of {agent_id}", write, key=("status", agent_id))
        self._on_status()

    def _should_backoff(self, agent_id: str) -> bool:
        return self._known(agent_id).history.count(HOUR) > 5

    def _backoff_delay(self, agent_id: str) -> float:
        agent = self._known(agent_id)
        return AGENT_BACKOFF.delay(agent.history.count(HOUR))

    # A run.

    async def _run(self, agent: SupervisedAgent) -> None:
        if agent.config.single:
            await self._run_where_single(agent)
        else:
            await self._work(agent)

    async def _work(self, agent: SupervisedAgent) -> None:
        """Run an agent's worker, or all of them as children of its own."""
        agent.set_workers()
        if len(agent.workers) == 1:
            await self._run_once(agent, agent.workers[0])
            return
        current_child().beat(within=math.inf)  # each worker has a watchdog of its own
        async with (
            self._hold_shared(agent.config),
            open_supervisor(
                name=agent.config.agent_id,
                limit=None,
                shutdown_order=ShutdownOrder.TOGETHER,
                shutdown_timeout=self._drain_timeout,
            ) as agent.tree,
        ):
            for worker in agent.workers:
                with log_context(worker=str(worker.number)):
                    worker.child = agent.tree.start_soon(
                        self._run_once,
                        agent,
                        worker,
                        name=worker.name,
                        restart=Restart.PERMANENT,
                        backoff=AGENT_BACKOFF,
                        watchdog=self._stale_threshold,
                        crash_ages=agent.history.ages(HOUR),
                    )
        agent.tree = None

    async def _run_where_single(self, agent: SupervisedAgent) -> None:
        """Run an agent whenever no other daemon does."""
        lease = agent.lease
        child = current_child()
        while not child.stopping:
            child.beat(within=math.inf)  # nothing of the agent's runs, so nothing of it can hang
            with child.cancel_on_stop():
                await self._stand_by(agent, lease)
            if agent.standby:  # asked to stop before it was our turn
                agent.standby = False
                await lease.release()  # an answer may have been lost
                return
            try:
                async with lease.renewing(partial(self._give_way, agent)):
                    await self._work(agent)
            finally:
                # After a crash it stays ours, for the next run; so it does for a restart.
                if current_child().stopping and not agent.restarting:
                    await lease.release()  # noqa: ASYNC102  (which bounds and shields itself)

    async def _stand_by(self, agent: SupervisedAgent, lease: LeaderLease) -> None:
        """Wait until it is this daemon's turn to run an agent."""

        def elsewhere(worker_id: str) -> None:
            if agent.runs_on != worker_id:
                extra = {"action": "agent_standby"}
                logger.info("Waiting: %s runs it", worker_id, extra=extra)
            agent.runs_on = worker_id
            self.publish_status(agent.config.agent_id)

        agent.standby = True
        try:
            await lease.acquire(elsewhere)
        except Exception as error:
            self._note_crash(agent, error)
            raise
        agent.standby, agent.runs_on = False, None
        self.publish_status(agent.config.agent_id)

    def _give_way(self, agent: SupervisedAgent) -> None:
        """End a run because another daemon has the agent's lease."""
        logger.warning("Another daemon runs it now", extra={"action": "agent_lost"})
        if agent.tree is not None:  # else it would start its workers again
            agent.tree.request_shutdown()
        for run in agent.runs:
            run.lost = True
            run.end_watch()
            run.scope.cancel(reason="another daemon has the lease")

    async def _run_once(self, agent: SupervisedAgent, worker: Worker) -> None:
        agent_id = agent.config.agent_id
        child = current_child()
        run = AgentRun(
            run_id=uuid.uuid4().hex,
            activity=Activity(
                trio.lowlevel.current_clock().current_time,
                threshold=self._stale_threshold,
                every=self._sign_every,
                vouch=lambda within: child.beat(within=within),
                signs=self._signs if agent.config.isolation == "loop" else None,
            ),
            wait_for_work=worker.wait_for_work,
        )
        run.activity.held = agent.held_by is not None
        child.beat()
        worker.run = run
        self._heartbeat.watch(agent_id, agent.together, partial(self._status, agent))
        self._records.put(
            f"start of run {run.run_id}",
            partial(self._store.start_run, run.run_id, agent_id, self._instance),
            kind="start of run",
        )
        bind_log_context(run=run.run_id)
        outcome, error_text = RunOutcome.STOPPED, None
        try:
            await self._carry_out(agent.config, run)
        except Exception as error:
            error_text = self._note_crash(agent, error)
            if not current_child().stopping:
                outcome = RunOutcome.CRASHED
            raise
        finally:
            if current_child().stalled and outcome is not RunOutcome.CRASHED:
                outcome, error_text = RunOutcome.CRASHED, self._note_stall(agent, run.activity)
            run.end_watch()  # what the run has left behind vouches for no other
            worker.run = None
            if not agent.runs:
                self._heartbeat.forget(agent_id)
            agent.last_run_at = run.activity.health().last_run_at or agent.last_run_at
            worker.last_beat_at = run.activity.beat_at
            self._records.put(
                f"end of run {run.run_id}",
                partial(self._store.finish_run, run.run_id, outcome, error=error_text),
                kind="end of run",
            )

    def _note_crash(self, agent: SupervisedAgent, error: Exception) -> str:
        """Note why an agent ends, and that it crashed unless it was to end; return the error."""
        agent.last_error = shorten(
            self._redact("".join(traceback.format_exception(error))), ends=True
        )
        if not current_child().stopping:
            agent.history.note()
        return agent.last_error

    def _note_stall(self, agent: SupervisedAgent, activity: Activity) -> str:
        """Note that the agent hung, which is a crash; return what it did, or did not do."""
        agent.last_error = self._redact(f"the agent hung: {activity.what_is_missing()}")
        agent.history.note()
        return agent.last_error

    async def _carry_out(self, config: AgentSettings, run: AgentRun) -> None:
        with run.scope:
            await self._launch(config, run)
        if run.cut:  # it is about to be asked as well, and is no crash
            await current_child().stopping.wait()
        if not run.lost and not current_child().stopping:
            raise AgentEndedError("run_as_daemon returned although nobody had asked it to stop")

    # Watching.

    def _served(self) -> list[str]:
        """Return the agents that run here just now, or are about to."""
        return [
            agent_id
            for agent_id, agent in self._agents.items()
            if agent.config.enabled and not agent.standby
        ]

    def _heed_pauses(self, pauses: Sequence[Pause]) -> None:
        paused = {pause.agent_id: pause for pause in pauses}
        for agent_id, agent in self._agents.items():
            if agent.holding:  # this is what the store had before
                continue
            pause = paused.get(agent_id)
            if pause is None:
                self._set_held(agent, None, None)
            else:
                self._set_held(agent, pause.paused_by, pause.paused_at)

    async def _restart_as_asked(self, agent_id: str) -> None:
        extra = {"action": "restart_requested", "agent_id": agent_id}
        logger.info("A restart of %s was asked for in the registry", agent_id, extra=extra)
        try:
            await self._restart_and_answer(agent_id)
        except Exception:
            logger.exception("Could not restart %s", agent_id, extra=extra)

    async def _restart_and_answer(self, agent_id: str) -> None:
        """Restart an agent, and keep that it was, or why it was not."""
        answer = "refused: the daemon stopped before"
        try:
            await self.restart_agent(agent_id)
            answer = OBEYED
        except Exception as error:
            answer = f"refused: {shorten(self._redact(str(error)), 200)}"
            raise
        finally:
            write = partial(self._registry.answer_restart, agent_id, answer)
            self._records.put(f"answer to the request to restart {agent_id}", write)

    async def _load_histories(self, agents: Sequence[SupervisedAgent]) -> None:
        async def load() -> None:
            for agent in agents:
                ages = await self._store.crash_ages(agent.config.agent_id, within=DAY)
                agent.history.load(ages)

        try:
            with trio.fail_after(HISTORY_TIMEOUT):
                await load()
        except (StoreError, trio.TooSlowError):
            self._records.put("recent crashes, to be read", load)

    def _on_event(self, event: Event) -> None:
        agent_id = next((name for name in event.path[1:] if name in self._agents), None)
        if agent_id is not None:  # the event is about it, or about a worker of its own
            self.publish_status(agent_id)

    # Small things.

    def _known(self, agent_id: str) -> SupervisedAgent:
        if agent_id not in self._agents:
            raise UnknownAgentError(unknown_agent(agent_id, self._agents))
        return self._agents[agent_id]

    async def _hold(self, agent_id: str, by: str | None) -> None:
        """Pause an agent, or resume it: here at once, and in the store as soon as may be."""
        agent = self._enabled(agent_id)
        self._set_held(agent, by, None if by is None else self._wall_clock.now())
        agent.holding = True

        async def write() -> None:
            await self._registry.set_paused(agent_id, by)
            agent.holding = False

        self._records.put(f"pause of {agent_id}", write, key=("pause", agent_id))
        with trio.move_on_after(PAUSE_TIMEOUT):
            await self._records.flush()

    def _set_held(self, agent: SupervisedAgent, by: str | None, at: datetime | None) -> None:
        if (by, at) == (agent.held_by, agent.held_at):  # with nearly each beat
            return
        agent.held_by, agent.held_at = by, at
        for run in agent.runs:
            run.activity.held = by is not None

    def _enabled(self, agent_id: str) -> SupervisedAgent:
        agent = self._known(agent_id)
        if not agent.config.enabled:
            raise AgentDisabledError(f"agent {agent_id!r} is disabled: {agent.config.why_disabled}")
        return agent

    async def _startable(self, agent_id: str) -> SupervisedAgent:
        """Return an agent that can be started, once it has been for the first time."""
        agent = self._enabled(agent_id)
        await self._begun.wait()
        if self._stopping:
            raise SupervisorClosedError("the daemon is stopping")
        return agent

    def _made(self, config: AgentSettings) -> SupervisedAgent:
        lease = store_lease(self._store, config.agent_id, self._instance, self._single_lease)
        agent = SupervisedAgent(config=config, lease=lease)
        agent.set_workers()
        return agent

    def _start(self, agent: SupervisedAgent) -> None:
        agent_id = agent.config.agent_id
        with log_context(agent_id=agent_id):  # which all of its runs begin with
            agent.child = self._tree.start_soon(
                self._run,
                agent,
                name=agent_id,
                restart=Restart.PERMANENT,
                backoff=AGENT_BACKOFF,
                watchdog=self._stale_threshold,
                crash_ages=agent.history.ages(HOUR),
            )

    def _status(self, agent: SupervisedAgent) -> AgentState:
        return state_of(agent, stopping=self._stopping)

    def _moment(self, time: float | None) -> datetime | None:
        """Turn Trio's time, if it lies ahead, into the time of day."""
        ahead = 0.0 if time is None else time - trio.current_time()
        return self._wall_clock.now() + timedelta(seconds=ahead) if ahead > 0 else None
