"""HealthHeartbeat: who is alive, told with each beat, and who is not any more (R15 to R17).

A heartbeat vouches for the agent and not for the daemon: it is published only where the agent's own
loop has turned since the last one. Whether the store can be reached is another matter, and makes
nobody stale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from actp_supervise.service import clean_json
from app.store.protocol import AgentBeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.registry import AgentRegistry


FIRST_BEAT: Final = 2.0
"""Seconds that a new run's loop has for its first turns, after which its heartbeat is published."""


class Signs(Protocol):
    """What tells whether an agent lives."""

    @property
    def beat_at(self) -> float:
        """When its loop last turned, by Trio's time."""

    def why_stale(self, threshold: float) -> str | None:
        """Return why it counts as hung, or None where it does not."""

    def snapshot(self) -> dict[str, Any]:
        """Return its health as JSON."""


@dataclass(slots=True)
class _Watched:
    activity: Signs
    status: Callable[[], str | None]
    published: float
    """The latest beat that the registry knows of, by Trio's time; at first, when the run began."""
    sending: float = 0.0
    """The beat that is under way to it."""


class HealthHeartbeat:
    """The heartbeats of the agents that run.

    Args:
        registry: Where they are published.
        redact: Takes secrets out of what agents say that they do.
    """

    def __init__(self, registry: AgentRegistry, *, redact: Callable[[str], str] = str) -> None:
        self._registry = registry
        self._redact = redact
        self._watched: dict[str, _Watched] = {}
        self._due: set[str] = set()
        self._news = trio.Event()

    def watch(
        self, agent_id: str, activity: Signs, status: Callable[[], str | None] = lambda: None
    ) -> None:
        """Follow an agent from now on, in place of an earlier run of it.

        Args:
            agent_id: The agent.
            activity: What it does, with the sign of life that its loop gives.
            status: Tells its status, which is published with each heartbeat.
        """
        self._watched[agent_id] = _Watched(activity, status, published=activity.beat_at)
        self._news.set()

    def forget(self, agent_id: str) -> None:
        """Follow an agent no longer, because it has ended."""
        self._watched.pop(agent_id, None)

    async def start(self, interval: float = 30.0) -> None:
        """Send the heartbeats of all agents that are alive with the next beat, for ever.

        Args:
            interval: Seconds between two; the first of a new run comes sooner.
        """
        while True:
            self._news = trio.Event()
            with trio.move_on_after(interval):
                await self._news.wait()
                await trio.sleep(FIRST_BEAT)
            self._due |= {
                agent_id
                for agent_id, watched in self._watched.items()
                if watched.activity.beat_at != watched.published
            }

    def due(self) -> list[AgentBeat]:
        """Return the heartbeats that are to be sent; they stay due until they were."""
        beats = []
        for agent_id in sorted(self._due & self._watched.keys()):
            watched = self._watched[agent_id]
            watched.sending = watched.activity.beat_at
            health = clean_json(watched.activity.snapshot(), self._redact)
            beats.append(AgentBeat(agent_id=agent_id, status=watched.status(), health=health))
        return beats

    def sent(self, beats: Iterable[AgentBeat]) -> None:
        """Note that these have arrived."""
        for beat in beats:
            self._due.discard(beat.agent_id)
            watched = self._watched.get(beat.agent_id)
            if watched is not None:
                watched.published = watched.sending

    async def send(self, agent_id: str, health_dict: Mapping[str, Any]) -> None:
        """Set an agent's last heartbeat and health in the registry.

        Raises:
            StoreUnavailable: If the store cannot be reached just now.
        """
        watched = self._watched.get(agent_id)
        status = None if watched is None else watched.status()
        health = clean_json(health_dict, self._redact)
        await self._registry.heartbeat(agent_id, health, status=status)

    def detect_stale(self, threshold: float = 90.0) -> dict[str, str]:
        """Return agent_id -> why, for agents without a sign of life for `threshold` seconds."""
        reasons = {
            agent_id: watched.activity.why_stale(threshold)
            for agent_id, watched in self._watched.items()
        }
        return {agent_id: reason for agent_id, reason in reasons.items() if reason is not None}
