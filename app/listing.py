"""`--list-agents` and `--restart-agent`: what a command can see of the daemons, and ask of them.

Both look only at the store, so they work beside a running daemon, and without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.agents.spec import AGENT_SPECS
from app.settings import Settings, SettingsError, unknown_agent
from app.store.open import open_store
from app.store.protocol import AgentRow
from app.worker import Life, life_of

if TYPE_CHECKING:
    from datetime import datetime

    from app.store.protocol import Store

SILENCE: Final = 400.0
"""Seconds after which an agent that says nothing is not believed to be what it last said.

More than the longest backoff, during which there is nothing to say.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAgent:
    """An agent in the registry, and what is to be believed of it."""

    row: AgentRow
    status: str
    """What it says itself, or *unknown* or *stale*."""
    why: str | None
    """Why it is not believed, if it is not."""
    seen_age: float | None
    """Seconds since it was last seen."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "agent_id": self.row.agent_id,
            "status": self.status,
            "why": self.why,
            "last_status": self.row.status,
            "last_seen": _iso(self.row.last_seen),
            "last_heartbeat": _iso(self.row.last_heartbeat),
            "heartbeat_age": self.row.heartbeat_age,
            "needs_restart": self.row.needs_restart,
            "worker_id": self.row.worker_id,
            "class": self.row.class_name,
            "model": self.row.model,
            "health": self.row.health,
        }


async def listed_agents(settings: Settings) -> list[ListedAgent]:
    """Return every registered agent, with a status that does not outlive its daemon.

    Raises:
        SettingsError: If the store is not there yet.
        StoreError: If it cannot be read.
    """
    if _never_used(settings):
        return []
    async with open_store(settings) as store:
        lives = await _lives(settings, store)
        now = await store.ping()
        return [
            _judge(row, lives.get(row.worker_id or "", Life.DEAD), now, settings)
            for row in await store.agents()
        ]


def table(agents: list[ListedAgent], settings: Settings) -> str:
    """Write the agents as a table of at most 80 columns."""
    if not agents:
        return f"No agent is registered: no daemon has run on {settings.db_path} yet."
    rows = [("AGENT", "STATUS", "LAST SEEN", "LAST HEARTBEAT", "RESTART")]
    rows += [
        (
            agent.row.agent_id,
            agent.status.replace("_", " "),
            age(agent.seen_age),
            age(agent.row.heartbeat_age),
            "requested" if agent.row.needs_restart else "-",
        )
        for agent in agents
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    notes = dict.fromkeys(f"{agent.status}: {agent.why}" for agent in agents if agent.why)
    return "\n".join([*lines, *([""] if notes else []), *notes])


async def request_restart(settings: Settings, agent_id: str) -> str:
    """Ask whichever daemon runs the agent to restart it; return what will happen.

    Raises:
        SettingsError: If there is no such agent, or the store is not there yet.
        StoreError: If it cannot be asked.
    """
    specified = [spec.agent_id for spec in AGENT_SPECS]
    if _never_used(settings):
        if agent_id not in specified:
            raise SettingsError(unknown_agent(agent_id, specified))
        return f"No daemon has run on {settings.db_path} yet, so there is nothing to restart."
    async with open_store(settings) as store:
        rows = {row.agent_id: row for row in await store.agents()}
        if not await store.set_needs_restart(agent_id, value=True):
            known = dict.fromkeys([*specified, *rows])
            if agent_id not in known:
                raise SettingsError(unknown_agent(agent_id, known))
            return f"No daemon has registered {agent_id} yet, so there is nothing to restart."
        lives = await _lives(settings, store)
    if set(lives.values()) <= {Life.DEAD}:
        return (
            f"The restart of {agent_id} is noted, but no daemon is running: "
            "the next one that starts will see to it."
        )
    if rows[agent_id].status == "disabled":
        return (
            f"The restart of {agent_id} is noted, but it is disabled in the daemon that runs: "
            "one that has it enabled will see to it."
        )
    return (
        f"The restart of {agent_id} is requested: its daemon will let it finish what it does, "
        f"then start it anew. It looks every {settings.watch_interval:g} s."
    )


def _never_used(settings: Settings) -> bool:
    return settings.supabase_url is None and not settings.db_path.exists()


async def _lives(settings: Settings, store: Store) -> dict[str, Life]:
    """Return worker_id -> whether one of that name is alive."""
    lives: dict[str, Life] = {}
    for worker_id, instance in await store.live_workers():
        lives[worker_id] = max(lives.get(worker_id, Life.DEAD), life_of(settings, instance))
    return lives


def _judge(row: AgentRow, life: Life, now: datetime, settings: Settings) -> ListedAgent:
    seen_age = None if row.last_seen is None else max(0.0, (now - row.last_seen).total_seconds())
    status, why = row.status, None
    if status in {"stopped", "disabled"}:
        pass
    elif life is Life.DEAD:
        status, why = "unknown", f"its daemon ended without a word; it last said {row.status!r}"
    elif life is Life.UNKNOWN and (seen_age is None or seen_age > SILENCE):
        status, why = "unknown", f"nothing was heard of it for long; it last said {row.status!r}"
    elif status == "running" and (row.heartbeat_age or 0.0) > settings.stale_threshold:
        status, why = "stale", f"no heartbeat for {settings.stale_threshold:g} s"
    return ListedAgent(row=row, status=status, why=why, seen_age=seen_age)


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
