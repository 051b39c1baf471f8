"""`--list-agents` and `--restart-agent`: what a command can see of the daemons, and ask of them.

Both look only at the store, so they work beside a running daemon, and without one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import trio

from actp_supervise.clock import SystemWallClock
from actp_supervise.service import shorten, visible
from app.facts import JSON, from_json
from app.running import with_store_of_running
from app.settings import Settings, SettingsError, unknown_agent
from app.status import AgentHealth, AgentState
from app.store.open import open_store
from app.store.protocol import AgentRow, StoreError, WorkerRow
from app.web.shapes import RestartRequest, restart_of
from app.web.words import error_line
from app.worker import Life, life_of, silent_after

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from app.store.protocol import Store

_OF_ONE: Final = frozenset(
    {AgentState.PAUSED, AgentState.WAITING, AgentState.BACKING_OFF, AgentState.CRASHED}
)
"""Where the reason is the agent's own, and not one of its daemon."""

NEWS: Final = 86_400.0
"""Seconds for which the answer to a request to restart an agent is shown."""

LOOK_EVERY: Final = 0.5
"""Seconds between two looks whether a request was answered."""

MOST_OF_REASON: Final = 200
MOST_OF_NAME: Final = 18
"""Characters of a daemon's name in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAt:
    """An agent in one of several daemons."""

    worker_id: str
    status: AgentState
    seen_age: float
    """Seconds since that daemon was last heard of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAgent:
    """An agent in the registry, and what is to be believed of it; `to_json` makes its JSON."""

    agent_id: str
    status: AgentState
    """What it says itself, or *unknown* or *stale*; and *paused* or *waiting* while it runs so."""
    why: str | None
    """Why it is not believed, is disabled, does not work, or crashed."""
    last_status: str
    """What it says itself."""
    last_seen: str | None
    """ISO 8601 in UTC."""
    seen_age: float | None
    """Seconds since it was last seen."""
    last_heartbeat: str | None
    heartbeat_age: float | None
    needs_restart: bool
    restart: RestartRequest | None
    """The last request to restart it, and what came of it."""
    paused_by: str | None
    """Who paused it, in all daemons."""
    paused_at: str | None
    worker_id: str | None
    """The daemon that last spoke of it."""
    workers: tuple[AgentAt, ...]
    """Where it is, if any daemon is there that speaks of it."""
    class_: str
    model: str
    health: JSON
    """As its daemon has written it, which may be of another version."""

    @property
    def doing(self) -> str | None:
        """What it does, in words."""
        return _read_health(self.health).doing

    @property
    def note(self) -> str | None:
        """The reason, if there is one, as a line for people; one that many share names none."""
        if self.why is None:
            return None
        whose = f"{self.agent_id} is " if self.status in _OF_ONE else ""
        return shorten(f"{whose}{self.status.words}: {self.why}", MOST_OF_REASON)


async def listed_agents(settings: Settings) -> list[ListedAgent]:
    """Return every registered agent, with a status that does not outlive its daemon.

    Raises:
        SettingsError: If the store is not there yet.
        StoreError: If it cannot be read.
    """
    settings = with_store_of_running(settings)
    if never_used(settings):
        return []
    async with open_store(settings) as store:
        workers = await store.live_workers()
        now = await store.ping()
        agents = [_judge(row, workers, now, settings) for row in await store.agents()]
        return [await _with_last_error(agent, store) for agent in agents]


async def _with_last_error(agent: ListedAgent, store: Store) -> ListedAgent:
    if agent.status not in {AgentState.BACKING_OFF, AgentState.CRASHED}:
        return agent
    try:
        runs = await store.runs(agent.agent_id, limit=1)
    except StoreError:  # as where that table is missing: all else is known
        return agent
    why = next((error_line(run.error) for run in runs if run.error), None)
    return dataclasses.replace(agent, why=why)


def table(agents: list[ListedAgent], settings: Settings) -> str:
    """Write the agents as a table of at most 80 columns: who runs where, and how it is."""
    if not agents:
        return f"No agent is registered: no daemon has run on {where(settings)} yet."
    rows = [("AGENT", "STATUS", "DAEMON", "LAST SEEN", "HEARTBEAT", "RESTART")]
    for agent in agents:
        rows.append(
            (
                agent.agent_id,
                agent.status.words,
                shorten(agent.worker_id or "-", MOST_OF_NAME),
                age(agent.seen_age),
                age(agent.heartbeat_age),
                "requested" if agent.needs_restart else "-",
            )
        )
        rows += [
            (
                agent.agent_id,
                place.status.words,
                shorten(place.worker_id, MOST_OF_NAME),
                age(place.seen_age),
                "-",
                "-",
            )
            for place in agent.workers
            if place.worker_id != agent.worker_id
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    notes = dict.fromkeys(agent.note for agent in agents if agent.note)
    notes |= dict.fromkeys(
        visible(f"restart of {agent.agent_id}: {agent.restart.words}")
        for agent in agents
        if agent.restart is not None and _is_news(agent)
    )
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _is_news(agent: ListedAgent) -> bool:
    """Whether a request to restart an agent waits, or was answered lately."""
    asked = None if agent.restart is None else agent.restart.answered_at
    return asked is None or SystemWallClock().now() - asked < timedelta(seconds=NEWS)


async def await_restart(settings: Settings, agent_id: str) -> RestartRequest:
    """Wait until a daemon has obeyed or refused the last request to restart an agent.

    Raises:
        StoreError: If the store cannot be asked.
    """
    async with open_store(with_store_of_running(settings)) as store:
        while True:
            for row in await store.agents():
                request = restart_of(row) if row.agent_id == agent_id else None
                if request is not None and request.answer is not None:
                    return request
            await trio.sleep(LOOK_EVERY)


async def request_restart(settings: Settings, agent_id: str, by: str | None = None) -> str:
    """Ask whichever daemon runs the agent to restart it; return what will happen.

    Args:
        settings: Where the store is.
        agent_id: The agent.
        by: Who asks.

    Raises:
        SettingsError: If there is no such agent, or the store is not there yet.
        StoreError: If it cannot be asked.
    """
    settings = with_store_of_running(settings)
    specified = [agent.agent_id for agent in settings.agents]
    if never_used(settings):
        if agent_id not in specified:
            raise SettingsError(unknown_agent(agent_id, specified))
        return f"No daemon has run on {where(settings)} yet, so there is nothing to restart."
    async with open_store(settings) as store:
        rows = {row.agent_id: row for row in await store.agents()}
        if not await store.set_needs_restart(agent_id, value=True, by=by):
            known = dict.fromkeys([*specified, *rows])
            if agent_id not in known:
                raise SettingsError(unknown_agent(agent_id, known))
            return f"No daemon has registered {agent_id} yet, so there is nothing to restart."
        workers = await store.live_workers()
    if all(_fault(worker, settings) for worker in workers):
        return (
            f"The restart of {agent_id} is noted, but no daemon is running: "
            "the next one that starts will see to it."
        )
    if not any(_runs(worker, agent_id) for worker in workers):
        return (
            f"The restart of {agent_id} is noted, but it is disabled in the daemon that runs: "
            "one that has it enabled will see to it."
        )
    return (
        f"The restart of {agent_id} is requested: its daemon will let it finish what it does, "
        "for its WORKER_DRAIN_TIMEOUT at most, then start it anew. It looks every "
        f"{settings.watch_interval:g} s."
    )


def never_used(settings: Settings) -> bool:
    """Whether the store is a file that is not there yet."""
    return settings.supabase_url is None and not settings.db_path.exists()


def where(settings: Settings) -> str:
    """Return where the store is, in words."""
    if settings.supabase_url is not None:
        return f"the Supabase project {settings.supabase_url}"
    return str(settings.db_path)


def _fault(worker: WorkerRow, settings: Settings) -> str | None:
    """Say why what a daemon says is not to be believed any more, or None where it is."""
    life = life_of(settings, worker.instance)
    if life is Life.DEAD:
        return "its daemon ended without a word"
    if life is Life.UNKNOWN and worker.seen_age > silent_after(settings):
        return f"its daemon was last heard of {age(worker.seen_age)}"
    return None


def _judge(
    row: AgentRow, workers: Sequence[WorkerRow], now: datetime, settings: Settings
) -> ListedAgent:
    faults = {worker.instance: _fault(worker, settings) for worker in workers}
    places = tuple(
        AgentAt(
            worker_id=worker.worker_id,
            status=_read_state(worker.agents[row.agent_id]),
            seen_age=worker.seen_age,
        )
        for worker in workers
        if faults[worker.instance] is None and _runs(worker, row.agent_id)
    )
    # Of several starts of one name, the one that is there counts.
    own = [faults[worker.instance] for worker in workers if worker.worker_id == row.worker_id]
    status, why = _believed(row, own, settings)
    if status in {AgentState.STOPPED, AgentState.UNKNOWN, AgentState.DISABLED}:
        # The last to speak of it runs it no more, and another that does will speak soon.
        idle = {AgentState.STOPPED, AgentState.STANDBY}
        active = [place for place in places if place.status not in idle]
        if active:
            status, why = active[0].status, None
    return ListedAgent(
        agent_id=row.agent_id,
        status=status,
        why=why,
        last_status=row.status,
        last_seen=_iso(row.last_seen),
        seen_age=None if row.last_seen is None else max(0.0, (now - row.last_seen).total_seconds()),
        last_heartbeat=_iso(row.last_heartbeat),
        heartbeat_age=row.heartbeat_age,
        needs_restart=row.needs_restart,
        restart=restart_of(row),
        paused_by=row.paused_by,
        paused_at=_iso(row.paused_at),
        worker_id=row.worker_id,
        workers=places,
        class_=row.class_name,
        model=row.model,
        health=row.health,
    )


def _believed(
    row: AgentRow, own: Sequence[str | None], settings: Settings
) -> tuple[AgentState, str | None]:
    """Return an agent's state and the reason for it; `own` is what is wrong with its daemon."""
    reported, health = _read_state(row.status), _read_health(row.health)
    if reported is AgentState.DISABLED:
        return reported, (row.health or {}).get("why_disabled")
    if reported is not AgentState.STOPPED and None not in own:
        why = own[0] if own else "its daemon ended without a word"
        return AgentState.UNKNOWN, f"{why}; it last said {row.status!r}"
    if reported is AgentState.RUNNING and (row.heartbeat_age or 0.0) > settings.stale_threshold:
        return AgentState.STALE, f"no heartbeat for {settings.stale_threshold:g} s"
    if row.paused_by is not None and reported is AgentState.RUNNING:  # at once, in all daemons
        since = "" if row.paused_at is None else f" since {row.paused_at:%Y-%m-%d %H:%M} UTC"
        return AgentState.PAUSED, f"by {row.paused_by}{since}"
    state = health.state(reported)
    reasons = {AgentState.PAUSED: health.paused, AgentState.WAITING: health.throttled_why}
    return state, reasons.get(state)


def _runs(worker: WorkerRow, agent_id: str) -> bool:
    """Whether a daemon has an agent enabled."""
    return worker.agents.get(agent_id, AgentState.DISABLED) != AgentState.DISABLED


def _read_state(text: str) -> AgentState:
    """Return what a daemon wrote of an agent, *unknown* where a newer one has another word."""
    return AgentState.__members__.get(text.upper(), AgentState.UNKNOWN)


def _read_health(health: JSON) -> AgentHealth:
    """Return what a daemon wrote of an agent's health; of another version, what can be read."""
    try:
        return from_json(AgentHealth, health or {})
    except ValueError:
        return AgentHealth()


def age(seconds: float | None) -> str:
    """Say how long ago something was.

    >>> age(None), age(3.2), age(130), age(7300), age(200_000)
    ('-', '3 s ago', '2 min ago', '2 h ago', '2 d ago')
    """
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
