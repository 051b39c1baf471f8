"""AgentRegistry: what others may know of the agents, and ask of them (R10 to R14)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from app.status import AgentState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.store.protocol import AgentRegistration, Store

_IDLE: Final = frozenset({AgentState.DISABLED, AgentState.STANDBY})
"""The statuses of an agent that does not run here."""


class AgentRegistry:
    """The rows of `actp_agent_registry` that this daemon's agents have.

    Every method raises `StoreUnavailable` while the store is away, and may be repeated.

    Args:
        store: Where the registry is kept.
        worker_id: The daemon that says it.
    """

    def __init__(self, store: Store, worker_id: str) -> None:
        self._store = store
        self.worker_id = worker_id
        self._agent_ids: tuple[str, ...] = ()
        self._restartable: tuple[str, ...] = ()
        self._poll_token: str | None = None
        self._registered: dict[str, AgentRegistration] = {}

    async def register_all(self, agents: Sequence[AgentRegistration]) -> None:
        """Upsert a row for every agent; these are the daemon's from now on.

        One that does not run here (*disabled* or *standby*) and that another daemon spoke of
        keeps what that one says of it.
        """
        self._agent_ids = tuple(agent.agent_id for agent in agents)
        self._registered = {agent.agent_id: agent for agent in agents}
        # A request for one that is disabled here is for another daemon to take.
        self._restartable = tuple(a.agent_id for a in agents if a.status != AgentState.DISABLED)
        elsewhere = await self._elsewhere()
        await self._store.register_agents(
            self.worker_id,
            [a for a in agents if a.status not in _IDLE or a.agent_id not in elsewhere],
        )

    async def register(self, agent: AgentRegistration) -> None:
        """Upsert a row for one more agent, which is the daemon's from now on too."""
        self._registered[agent.agent_id] = agent
        self._agent_ids = tuple(self._registered)
        if agent.status != AgentState.DISABLED:
            self._restartable = (*self._restartable, agent.agent_id)
        if agent.status not in _IDLE or agent.agent_id not in await self._elsewhere():
            await self._store.register_agents(self.worker_id, [agent])

    async def register_again(self, agent_ids: Sequence[str]) -> None:
        """Register agents of this daemon that the registry has lost."""
        lost = [self._registered[each] for each in agent_ids if each in self._registered]
        await self._store.register_agents(self.worker_id, lost)

    async def set_paused(self, agent_id: str, by: str | None) -> bool:
        """Pause an agent in all daemons, or resume it; False if there is no such agent.

        Args:
            agent_id: The agent.
            by: Who pauses it; None to resume it.
        """
        return await self._store.set_paused(agent_id, by)

    async def note_restart(self, agent_id: str, by: str | None) -> None:
        """Keep who asked this daemon for a restart, and when."""
        await self._store.note_restart(agent_id, by)

    async def answer_restart(self, agent_id: str, answer: str) -> None:
        """Keep what came of the last request to restart an agent."""
        await self._store.answer_restart(agent_id, self.worker_id, answer)

    async def set_status(self, agent_id: str, status: str) -> None:
        """Set an agent's status, and when it was last seen."""
        await self._store.set_status(agent_id, status, worker_id=self.worker_id)

    async def set_needs_restart(self, agent_id: str, val: bool) -> bool:  # noqa: FBT001  (R12)
        """Ask for a restart, or take the request back; False if there is no such agent."""
        return await self._store.set_needs_restart(agent_id, value=val)

    async def poll_restart_requests(self, agent_ids: Sequence[str] | None = None) -> list[str]:
        """Return the agents whose restart was asked for; each request is returned once.

        Args:
            agent_ids: Those that this daemon runs just now; all that are enabled where not given.
        """
        # The token stays until an answer has come, so that an answer that is lost loses nothing.
        self._poll_token = self._poll_token or uuid.uuid4().hex
        asked = await self._store.take_restart_requests(
            self._restartable if agent_ids is None else agent_ids, token=self._poll_token
        )
        self._poll_token = None
        return asked

    async def heartbeat(
        self, agent_id: str, health: Mapping[str, Any], *, status: str | None = None
    ) -> None:
        """Set an agent's last heartbeat and its health, and its status where given."""
        worker_id = None if status is None else self.worker_id
        await self._store.record_heartbeat(agent_id, health, status=status, worker_id=worker_id)

    async def deregister_all(self) -> None:
        """Set all agents to stopped, those excepted that another daemon has taken over."""
        elsewhere = await self._elsewhere()
        for agent_id in self._agent_ids:
            if agent_id not in elsewhere:
                await self.set_status(agent_id, AgentState.STOPPED)

    async def _elsewhere(self) -> set[str]:
        """Return the agents of which another daemon, not known to have ended, spoke last."""
        others = {worker.worker_id for worker in await self._store.live_workers()}
        others.discard(self.worker_id)
        return {row.agent_id for row in await self._store.agents() if row.worker_id in others}
