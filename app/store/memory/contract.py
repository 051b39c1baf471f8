"""What agents remember from one conversation to the next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.store.verbs import Noun, verb


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """One thing that an agent remembers (`actp_agent_memory`)."""

    agent_id: str
    key: str
    value: str
    updated_at: datetime


class Memory(Noun):
    """The memory of each agent (`actp_agent_memory`)."""

    @verb
    async def remember(self, agent_id: str, key: str, value: str) -> None:
        """Keep a value under a key; a known key is overwritten."""

    @verb
    async def recall(
        self, agent_id: str, *, key: str | None = None, search: str | None = None, limit: int = 20
    ) -> list[MemoryRow]:
        """Return memories by exact key, or whose key or value contains a text, newest first."""

    @verb
    async def forget(self, agent_id: str, key: str) -> bool:
        """Drop a memory; False if there was none."""
