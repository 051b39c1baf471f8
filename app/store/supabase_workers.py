"""Daemons and their leases in a Supabase project: who is there, who has died, who has what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.store.records import duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.store.protocol import LeaseHolder, WorkerRow
    from app.store.supabase_connection import SupabaseDatabase


class SupabaseWorkers:
    """The part of `SupabaseStore` that is about daemons."""

    _db: SupabaseDatabase

    async def touch_worker(
        self, worker_id: str, instance: str, agents: Mapping[str, str], *, silent_after: float
    ) -> list[str]:
        """Note that a daemon is there, and forget those that have been silent for too long."""
        forgotten: list[str] = await self._db.call(
            "actp_touch_worker",
            worker_id=worker_id,
            instance=instance,
            agents=dict(agents),
            silent_after=duration(silent_after),
        )
        return forgotten

    async def live_workers(self) -> list[WorkerRow]:
        """Return all daemons that are not known to have ended, the oldest first."""
        workers: list[WorkerRow] = await self._db.call("actp_live_workers")
        return workers

    async def forget_worker(self, instance: str) -> None:
        """Note that a daemon has ended, well or by a kill."""
        await self._db.call("actp_forget_worker", instance=instance)

    async def hold_lease(self, name: str, instance: str, *, lease: float) -> LeaseHolder:
        """Take a named lease that is free, or prolong one's own, to `lease` seconds from now."""
        holder: LeaseHolder = await self._db.call(
            "actp_hold_lease", name=name, instance=instance, lease=duration(lease)
        )
        return holder

    async def drop_lease(self, name: str, instance: str) -> None:
        """Hand a lease back, if it is this daemon's."""
        await self._db.call("actp_drop_lease", name=name, instance=instance)
