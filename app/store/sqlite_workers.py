"""Daemons and their leases in the embedded store: who is there, who has died, who has what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.store.protocol import LeaseHolder, WorkerRow
from app.store.records import json_text, read_record
from app.store.sqlite_schema import after, before, sql
from app.store.sqlite_tasks import REQUEUE_TASKS_OF_WORKER

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from app.store.sqlite_connection import SqliteDatabase


class SqliteWorkers:
    """The part of `SqliteStore` that is about daemons."""

    _db: SqliteDatabase

    async def touch_worker(
        self, worker_id: str, instance: str, agents: Mapping[str, str], *, silent_after: float
    ) -> list[str]:
        """Note that a daemon is there, and forget those that have been silent for too long."""
        values = {
            "worker_id": worker_id,
            "instance": instance,
            "agents": json_text(dict(agents)),
            "silent_after": before(silent_after),
        }

        def touch(db: sqlite3.Connection) -> list[str]:
            db.execute(_TOUCH_WORKER, values)
            silent = db.execute(_SILENT_WORKERS, values).fetchall()
            for row in silent:
                _forget(db, row["instance"])
            return [row["worker_id"] for row in silent]

        return await self._db.write(touch)

    async def live_workers(self) -> list[WorkerRow]:
        """Return all daemons that are not known to have ended, the oldest first."""
        return await self._db.rows(WorkerRow, _LIVE_WORKERS, {})

    async def forget_worker(self, instance: str) -> None:
        """Note that a daemon has ended, well or by a kill."""
        await self._db.write(lambda db: _forget(db, instance))

    async def hold_lease(self, name: str, instance: str, *, lease: float) -> LeaseHolder:
        """Take a named lease that is free, or prolong one's own, to `lease` seconds from now."""
        values = {"name": name, "instance": instance, "lease": after(lease)}

        def hold(db: sqlite3.Connection) -> LeaseHolder:
            db.execute(_HOLD_LEASE, values)
            return read_record(LeaseHolder, dict(db.execute(_LEASE, values).fetchone()))

        return await self._db.write(hold)

    async def drop_lease(self, name: str, instance: str) -> None:
        """Hand a lease back, if it is this daemon's."""
        await self._db.execute(_DROP_LEASE, {"name": name, "instance": instance})


def _forget(db: sqlite3.Connection, instance: str) -> None:
    for statement in (
        REQUEUE_TASKS_OF_WORKER,
        _INTERRUPT_RUNS,
        _INTERRUPT_FIRES,
        _DROP_LEASES,
        _END_WORKER,
    ):
        db.execute(statement, {"instance": instance})


WORKER_OF_INSTANCE = """
    coalesce((select worker_id from actp_workers where instance = :instance), :instance)
"""

_TOUCH_WORKER = sql("""
    insert into actp_workers (instance, worker_id, started_at, last_seen, agents)
    values (:instance, :worker_id, {now}, {now}, :agents)
    on conflict (instance) do update set
        worker_id = excluded.worker_id,
        last_seen = excluded.last_seen,
        agents = excluded.agents,
        ended_at = null
""")
_SILENT_WORKERS = sql("""
    select instance, worker_id from actp_workers
    where ended_at is null and instance <> :instance
        and coalesce(last_seen, started_at) < {now :silent_after}
    order by started_at, rowid
""")
_LIVE_WORKERS = """
    select worker_id, instance, started_at, coalesce(last_seen, started_at) as last_seen, agents,
        max(0.0, (julianday('now') - julianday(coalesce(last_seen, started_at))) * 86400.0)
            as seen_age
    from actp_workers where ended_at is null order by started_at, rowid
"""
_INTERRUPT_RUNS = sql("""
    update actp_agent_runs set outcome = 'interrupted', finished_at = {now}
    where instance = :instance and finished_at is null
""")
_INTERRUPT_FIRES = sql("""
    update actp_job_runs set outcome = 'interrupted', finished_at = {now}
    where instance = :instance and finished_at is null
""")
_END_WORKER = sql("""
    update actp_workers set ended_at = {now} where instance = :instance and ended_at is null
""")

_HOLD_LEASE = sql(
    """
    insert into actp_leases (name, instance, worker_id, expires_at)
    values (:name, :instance, {worker_id}, {now :lease})
    on conflict (name) do update set
        instance = excluded.instance,
        worker_id = excluded.worker_id,
        expires_at = excluded.expires_at
    where actp_leases.instance = excluded.instance or actp_leases.expires_at < {now}
    """,
    worker_id=WORKER_OF_INSTANCE,
)
_LEASE = "select instance, worker_id from actp_leases where name = :name"
_DROP_LEASE = "delete from actp_leases where name = :name and instance = :instance"
_DROP_LEASES = "delete from actp_leases where instance = :instance"
