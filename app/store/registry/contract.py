"""Who is there: the agents, the daemons that run them, and each run of an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.store.queue.contract import Lease
from app.store.verbs import Noun, Seconds, verb


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    """One agent in the registry (`actp_agent_registry`)."""

    agent_id: str
    class_name: str
    """The import path of its class, to be shown only, never to be imported from here."""
    model: str
    status: str
    worker_id: str | None
    """The daemon that last said something of it."""
    needs_restart: bool
    health: dict[str, Any] | None
    last_seen: datetime | None
    last_heartbeat: datetime | None
    heartbeat_age: float | None
    """Seconds since `last_heartbeat` by the database's clock."""
    paused_by: str | None = None
    """Who paused it, for all daemons; None where it is not paused."""
    paused_at: datetime | None = None
    restart_asked_at: datetime | None = None
    """When its restart was last asked for; None where it never was."""
    restart_asked_by: str | None = None
    restart_answered_at: datetime | None = None
    """When a daemon had obeyed, or refused; None where none has yet."""
    restart_answer: str | None = None
    """*obeyed*, or why it was refused."""
    restart_answered_by: str | None = None
    """The daemon that did so."""


OBEYED = "obeyed"
"""The answer to a request to restart an agent that runs anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRegistration:
    """What is written of an agent at start-up."""

    agent_id: str
    class_name: str
    model: str
    status: str = "starting"
    why: str | None = None
    """Why it is disabled, if it is: in its health, where a heartbeat would replace it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutineTime:
    """When a routine runs in place of what is configured (`actp_routine_times`)."""

    job_name: str
    cron: str
    instead_of: str
    """What was configured when it was changed; once another time is configured, that one holds."""
    changed_by: str | None = None
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutinePause:
    """A routine that an operator has paused, in all daemons (`actp_routine_pauses`)."""

    job_name: str
    paused_by: str
    paused_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One daemon that is not known to have ended (`actp_workers`)."""

    worker_id: str
    instance: str
    """Which start of it."""
    started_at: datetime
    last_seen: datetime
    seen_age: float
    """Seconds since `last_seen` by the database's clock."""
    agents: dict[str, str]
    """agent_id -> what the agent's status is in this daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """Who has a named lease (`actp_leases`)."""

    instance: str
    worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentBeat:
    """The heartbeat of one agent, as a daemon passes it on."""

    agent_id: str
    status: str | None
    """None to leave the status as it is."""
    health: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a daemon says of itself in a beat, when it is due."""

    worker_id: str
    agents: dict[str, str]
    """agent_id -> what the agent's status is in this daemon."""
    silent_after: Seconds
    """Seconds of silence after which another daemon counts as dead."""
    heartbeats: list[AgentBeat]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """An agent that an operator has paused."""

    agent_id: str
    paused_by: str
    paused_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedClaim:
    """A claim that its holder may not simply go on with."""

    token: str
    state: Lease
    """`LOST` or `CANCEL_REQUESTED`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLease:
    """Who has a named lease that was asked for in a beat."""

    name: str
    instance: str
    worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a beat brings back."""

    now: datetime
    """The database's time."""
    work: list[str]
    """The agents with a task that could be claimed."""
    restarts: list[str]
    """The agents whose restart was asked for."""
    pauses: list[Pause]
    """All agents that are paused."""
    ended: list[EndedClaim]
    leases: list[NamedLease]
    dead: list[str]
    """The worker_ids of daemons that this beat has forgotten."""
    unregistered: list[str]
    """Agents of this daemon that the registry does not have, as after a reset of the tables."""


class RunOutcome(StrEnum):
    """How a run of an agent ended."""

    STOPPED = "stopped"
    """Asked to end, and did."""
    CRASHED = "crashed"
    """Ended by an error, or found stale. R7 counts these."""
    INTERRUPTED = "interrupted"
    """Its daemon died without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of an agent, from start to end (`actp_agent_runs`)."""

    id: str
    agent_id: str
    worker_id: str
    started_at: datetime
    last_heartbeat: datetime | None
    """When it was last heard of: of an interrupted run, the only sign of how long it lived."""
    finished_at: datetime | None
    outcome: RunOutcome | None
    """None while it runs."""
    error: str | None
    """The formatted traceback of a crash."""


class Registry(Noun):
    """Agents (R10 to R14), daemons and named leases, and the runs of agents (R7)."""

    @verb
    async def register_agents(self, worker_id: str, agents: Sequence[AgentRegistration]) -> None:
        """Upsert a row for every agent and set `last_seen`; an open restart request stays."""

    @verb
    async def set_status(self, agent_id: str, status: str, *, worker_id: str | None = None) -> None:
        """Set an agent's status and `last_seen`."""

    @verb
    async def set_needs_restart(self, agent_id: str, *, value: bool, by: str | None = None) -> bool:
        """Ask for a restart, or take the request back; False if no such agent is registered.

        Args:
            agent_id: The agent.
            value: Whether it is to be restarted.
            by: Who asks, to be kept with when. The same one again within a minute, with no answer
                in between, is taken for the same request.
        """

    @verb
    async def note_restart(self, agent_id: str, by: str | None) -> None:
        """Keep that a restart was asked for which its daemon knows of already: who, and when."""

    @verb
    async def answer_restart(self, agent_id: str, worker_id: str, answer: str) -> None:
        """Keep what came of the last request to restart an agent; the first answer stands.

        Args:
            agent_id: The agent.
            worker_id: The daemon that answers.
            answer: `OBEYED`, or why it was refused.
        """

    @verb
    async def take_restart_requests(
        self, agent_ids: Sequence[str], *, token: str | None = None
    ) -> list[str]:
        """Return those of `agent_ids` that are to be restarted; each request is returned once.

        Repeated with the `token` that took a request, it is returned again: so a lost answer
        loses no request.
        """

    @verb
    async def record_heartbeat(
        self,
        agent_id: str,
        health: Mapping[str, Any],
        *,
        status: str | None = None,
        worker_id: str | None = None,
    ) -> None:
        """Set `last_heartbeat`, `last_seen`, `health`, and the status where it is given.

        `last_heartbeat` of its open runs too: of those in that daemon, where it is given.
        """

    @verb
    async def beat(
        self,
        instance: str,
        *,
        agents: Sequence[str],
        tokens: Sequence[str],
        leases: Sequence[str],
        lease: Seconds,
        request: str,
        presence: Presence | None,
    ) -> Beat:
        """Do in one step all that a daemon says and asks every few seconds.

        Where there is nothing to write, nothing is written.

        Args:
            instance: This start of the daemon.
            agents: The agents that it runs just now, whose restarts and work it asks about.
            tokens: The claims of tasks that it holds; each is prolonged to `lease` seconds from
                now once a third of that has passed.
            leases: The named leases that it holds or wants, as by `hold_lease`.
            lease: Seconds that claims and named leases last.
            request: Made by the caller. A beat that is repeated with the same one is told of the
                same restarts again, so a lost answer loses none.
            presence: As by `touch_worker` and `record_heartbeat`, when that is due.
        """

    @verb
    async def set_paused(self, agent_id: str, by: str | None) -> bool:
        """Pause an agent in all daemons, or resume it; False if no such agent is registered.

        No task of a paused agent can be claimed.

        Args:
            agent_id: The agent.
            by: Who pauses it; None to resume it. One that is paused already stays as it is.
        """

    @verb
    async def agents(self) -> list[AgentRow]:
        """Return every registered agent, by agent_id."""

    @verb
    async def touch_worker(
        self, worker_id: str, instance: str, agents: Mapping[str, str], *, silent_after: Seconds
    ) -> list[str]:
        """Note that a daemon is there, and forget those that have been silent for too long.

        `instance` is new at every start, `worker_id` may stay. One that was forgotten and comes
        back is there again, and its runs and fires, marked interrupted meanwhile, are open again.

        Args:
            worker_id: What the daemon is called.
            instance: This start of it.
            agents: agent_id -> status of its agents.
            silent_after: Seconds of silence after which another daemon counts as dead.

        Returns:
            The worker_ids of those that this call has forgotten.
        """

    @verb
    async def live_workers(self) -> list[WorkerRow]:
        """Return all daemons that are not known to have ended, the oldest first."""

    @verb
    async def forget_worker(self, instance: str) -> None:
        """Note that a daemon has ended, well or by a kill.

        Its tasks go back to the queue at once, their attempt counted (so after `max_attempts` they
        fail); its open runs and fires are marked interrupted, and its leases are free.
        """

    @verb
    async def hold_lease(self, name: str, instance: str, *, lease: Seconds) -> LeaseHolder:
        """Take a named lease that is free, or prolong one's own, to `lease` seconds from now.

        Returns:
            Who has it now.
        """

    @verb
    async def drop_lease(self, name: str, instance: str) -> None:
        """Hand a lease back, if it is this daemon's."""

    @verb
    async def set_routine_time(
        self, job_name: str, cron: str | None, *, instead_of: str = "", by: str | None = None
    ) -> None:
        """Keep when a routine runs in place of what is configured.

        Args:
            job_name: The routine.
            cron: When; None for as it is configured.
            instead_of: What is configured.
            by: Who has changed it; to what it is already, nothing is changed.
        """

    @verb
    async def routine_times(self) -> list[RoutineTime]:
        """Return the times of routines that were changed, by name."""

    @verb
    async def set_routine_paused(self, job_name: str, by: str | None) -> None:
        """Pause a routine in all daemons, or resume it.

        No moment of a paused routine can be claimed (`Journal.claim_fire`).

        Args:
            job_name: The routine.
            by: Who pauses it; None to resume it. One that is paused already stays as it is.
        """

    @verb
    async def routine_pauses(self) -> list[RoutinePause]:
        """Return the routines that are paused, by name."""

    @verb
    async def start_run(self, run_id: str, agent_id: str, instance: str) -> None:
        """Record that a run of an agent begins."""

    @verb
    async def finish_run(
        self, run_id: str, outcome: RunOutcome, *, error: str | None = None
    ) -> None:
        """Record how a run ended; the first answer stands.

        What was marked interrupted, because its daemon was taken for dead, ends as this says.
        """

    @verb
    async def crash_ages(self, agent_id: str, *, within: Seconds) -> list[float]:
        """Return how many seconds ago each crash of the last `within` seconds was, newest first."""

    @verb
    async def runs(self, agent_id: str, *, limit: int = 20) -> list[RunRow]:
        """Return an agent's runs, newest first."""
