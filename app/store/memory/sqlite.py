"""The memory of agents on SQLite."""

from __future__ import annotations

from typing_extensions import override

from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import sql

from .contract import Memory, MemoryRow


class SqliteMemory(Memory, OnSqlite):
    """Memory in a file of SQLite."""

    @override
    async def remember(self, agent_id: str, key: str, value: str) -> None:
        await self.db.execute(_REMEMBER, {"agent_id": agent_id, "key": key, "value": value})

    @override
    async def recall(
        self, agent_id: str, *, key: str | None = None, search: str | None = None, limit: int = 20
    ) -> list[MemoryRow]:
        values = {
            "agent_id": agent_id,
            "key": key,
            "search": None if search is None else search.casefold(),
            "limit": max(0, limit),
        }
        return await self.db.rows(MemoryRow, _RECALL, values)

    @override
    async def forget(self, agent_id: str, key: str) -> bool:
        return bool(await self.db.execute(_FORGET, {"agent_id": agent_id, "key": key}))


_REMEMBER = sql("""
    insert into actp_agent_memory (agent_id, key, value, created_at, updated_at)
    values (:agent_id, :key, :value, {now}, {now})
    on conflict (agent_id, key) do update
        set value = excluded.value, updated_at = excluded.updated_at
""")
_RECALL = """
    select * from actp_agent_memory
    where agent_id = :agent_id
        and (:key is null or key = :key)
        and (:search is null or instr(casefold(key), :search) or instr(casefold(value), :search))
    order by updated_at desc, rowid desc limit :limit
"""
_FORGET = "delete from actp_agent_memory where agent_id = :agent_id and key = :key"
