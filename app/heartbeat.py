"""HealthHeartbeat: who is alive, told to the registry, and who is not any more (R15 to R17).

A heartbeat vouches for the agent and not for the daemon: it is published only where the agent's own
loop has turned since the last one. Whether the store can be reached is another matter, and makes
nobody stale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from actp_supervise.service import clean_json
from app.agents.activity import Activity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from actp_supervise.service import Outbox
    from app.registry import AgentRegistry


FIRST_BEAT: Final = 2.0
"""Seconds that a new run's loop has for its first turns, after which its heartbeat is published."""


@dataclass(slots=True)
class _Watched:
    activity: Activity
    status: Callable[[], str | None]
    published: float
    """The latest beat that the registry knows of, by Trio's time; at first, when the run began."""


class HealthHeartbeat:
    """The heartbeats of the agents that run.

    Args:
        registry: Where they are published.
        records: Writes them down when the store is there.
        redact: Takes secrets out of what agents say that they do.
    """

    def __init__(
        self,
        registry: AgentRegistry,
        records: Outbox,
        *,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._registry = registry
        self._records = records
        self._redact = redact
        self._watched: dict[str, _Watched] = {}
        self._news = trio.Event()

    def watch(
        self, agent_id: str, activity: Activity, status: Callable[[], str | None] = lambda: None
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
        """Publish the heartbeats of all agents that are alive, for ever.

        Args:
            interval: Seconds between two; the first of a new run comes sooner.
        """
        while True:
            self._news = trio.Event()
            with trio.move_on_after(interval):
                await self._news.wait()
                await trio.sleep(FIRST_BEAT)
            self._publish()

    def _publish(self) -> None:
        for agent_id, watched in self._watched.items():
            beat_at = watched.activity.beat_at
            if beat_at == watched.published:
                continue
            watched.published = beat_at
            self._records.put(
                f"heartbeat of {agent_id}",
                partial(self.send, agent_id, watched.activity.snapshot()),
                key=("heartbeat", agent_id),
            )

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
