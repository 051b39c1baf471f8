"""Agents, daemons and runs on SQLite: who is there, who has died, who has what."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from app.store.queue.contract import Lease
from app.store.queue.sqlite import REQUEUE_TASKS_OF_WORKER
from app.store.records import json_text, read_moment, read_record, values_of
from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import WORKER_OF_INSTANCE, after, before, sql

from .contract import (
    AgentBeat,
    AgentRegistration,
    AgentRow,
    Beat,
    EndedClaim,
    LeaseHolder,
    NamedLease,
    Pause,
    Presence,
    Registry,
    RoutinePause,
    RoutineTime,
    RunOutcome,
    RunRow,
    WorkerRow,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence


class SqliteRegistry(Registry, OnSqlite):
    """Registry in a file of SQLite."""

    @override
    async def register_agents(self, worker_id: str, agents: Sequence[AgentRegistration]) -> None:
        rows = [{**values_of(agent), "worker_id": worker_id} for agent in agents]
        await self.db.write(lambda db: db.executemany(_REGISTER_AGENT, rows))

    @override
    async def set_status(self, agent_id: str, status: str, *, worker_id: str | None = None) -> None:
        await self.db.execute(
            _SET_STATUS, {"agent_id": agent_id, "status": status, "worker_id": worker_id}
        )

    @override
    async def set_needs_restart(self, agent_id: str, *, value: bool, by: str | None = None) -> bool:
        values = {"agent_id": agent_id, "value": value, "by": by}
        return bool(await self.db.execute(_SET_NEEDS_RESTART, values))

    @override
    async def note_restart(self, agent_id: str, by: str | None) -> None:
        await self.db.execute(_NOTE_RESTART, {"agent_id": agent_id, "by": by})

    @override
    async def answer_restart(self, agent_id: str, worker_id: str, answer: str) -> None:
        values = {"agent_id": agent_id, "worker_id": worker_id, "answer": answer}
        await self.db.execute(_ANSWER_RESTART, values)

    @override
    async def take_restart_requests(
        self, agent_ids: Sequence[str], *, token: str | None = None
    ) -> list[str]:
        values = {"agent_ids": json_text(list(agent_ids)), "token": token}

        def take(db: sqlite3.Connection) -> list[str]:
            return sorted(row["agent_id"] for row in db.execute(_TAKE_RESTARTS, values).fetchall())

        # Most polls find nothing, and a read waits for no other process.
        if not await self.db.read(lambda db: db.execute(_OPEN_RESTARTS, values).fetchall()):
            return []
        return await self.db.write(take)

    @override
    async def record_heartbeat(
        self,
        agent_id: str,
        health: Mapping[str, Any],
        *,
        status: str | None = None,
        worker_id: str | None = None,
    ) -> None:
        beat = AgentBeat(agent_id=agent_id, status=status, health=dict(health))
        await self.db.write(lambda db: _record_heartbeat(db, beat, worker_id))

    @override
    async def beat(
        self,
        instance: str,
        *,
        agents: Sequence[str],
        tokens: Sequence[str],
        leases: Sequence[str],
        lease: float,
        request: str,
        presence: Presence | None,
    ) -> Beat:
        values = {
            "instance": instance,
            "agent_ids": json_text(list(agents)),
            "tokens": json_text(list(tokens)),
            "names": json_text(list(leases)),
            "lease": after(lease),
            "due": after(lease * 2 / 3),
            "token": request,
        }

        def look(db: sqlite3.Connection) -> Beat | None:
            if presence is not None or leases or db.execute(_TO_WRITE, values).fetchone()[0]:
                return None
            return _told(db, values)

        def write(db: sqlite3.Connection) -> Beat:
            dead = [] if presence is None else _touch(db, instance, presence)
            for name in leases:
                db.execute(_HOLD_LEASE, {**values, "name": name})
            db.execute(_RENEW_CLAIMS, values)
            restarts = sorted(row["agent_id"] for row in db.execute(_TAKE_RESTARTS, values))
            told = _told(db, values)
            known = {agent_id for (agent_id,) in db.execute(_AGENT_IDS)}
            ours = [] if presence is None else sorted(presence.agents.keys() - known)
            return replace(told, dead=dead, restarts=restarts, unregistered=ours)

        # A read waits for no other process, and most beats find nothing to write.
        told = await self.db.read(look)
        return await self.db.write(write) if told is None else told

    @override
    async def set_paused(self, agent_id: str, by: str | None) -> bool:
        return bool(await self.db.execute(_SET_PAUSED, {"agent_id": agent_id, "by": by}))

    @override
    async def agents(self) -> list[AgentRow]:
        return await self.db.rows(AgentRow, _AGENTS, {})

    @override
    async def touch_worker(
        self, worker_id: str, instance: str, agents: Mapping[str, str], *, silent_after: float
    ) -> list[str]:
        presence = Presence(
            worker_id=worker_id, agents=dict(agents), silent_after=silent_after, heartbeats=[]
        )
        return await self.db.write(lambda db: _touch(db, instance, presence))

    @override
    async def live_workers(self) -> list[WorkerRow]:
        return await self.db.rows(WorkerRow, _LIVE_WORKERS, {})

    @override
    async def forget_worker(self, instance: str) -> None:
        await self.db.write(lambda db: _forget(db, instance))

    @override
    async def hold_lease(self, name: str, instance: str, *, lease: float) -> LeaseHolder:
        values = {"name": name, "instance": instance, "lease": after(lease)}

        def hold(db: sqlite3.Connection) -> LeaseHolder:
            db.execute(_HOLD_LEASE, values)
            return read_record(LeaseHolder, dict(db.execute(_LEASE, values).fetchone()))

        return await self.db.write(hold)

    @override
    async def drop_lease(self, name: str, instance: str) -> None:
        await self.db.execute(_DROP_LEASE, {"name": name, "instance": instance})

    @override
    async def set_routine_time(
        self, job_name: str, cron: str | None, *, instead_of: str = "", by: str | None = None
    ) -> None:
        values = {"job_name": job_name, "cron": cron, "instead_of": instead_of, "by": by}
        statement = _DROP_ROUTINE_TIME if cron is None else _SET_ROUTINE_TIME
        await self.db.execute(statement, values)

    @override
    async def routine_times(self) -> list[RoutineTime]:
        return await self.db.rows(RoutineTime, _ROUTINE_TIMES, {})

    @override
    async def set_routine_paused(self, job_name: str, by: str | None) -> None:
        statement = _RESUME_ROUTINE if by is None else _PAUSE_ROUTINE
        await self.db.execute(statement, {"job_name": job_name, "by": by})

    @override
    async def routine_pauses(self) -> list[RoutinePause]:
        return await self.db.rows(RoutinePause, _ROUTINE_PAUSES, {})

    @override
    async def start_run(self, run_id: str, agent_id: str, instance: str) -> None:
        await self.db.execute(
            _START_RUN, {"id": run_id, "agent_id": agent_id, "instance": instance}
        )

    @override
    async def finish_run(
        self, run_id: str, outcome: RunOutcome, *, error: str | None = None
    ) -> None:
        await self.db.execute(_FINISH_RUN, {"id": run_id, "outcome": outcome, "error": error})

    @override
    async def crash_ages(self, agent_id: str, *, within: float) -> list[float]:
        values = {"agent_id": agent_id, "within": before(within)}
        return await self.db.read(
            lambda db: [max(0.0, age) for (age,) in db.execute(_CRASH_AGES, values)]
        )

    @override
    async def runs(self, agent_id: str, *, limit: int = 20) -> list[RunRow]:
        return await self.db.rows(RunRow, _RUNS, {"agent_id": agent_id, "limit": max(0, limit)})


def _touch(db: sqlite3.Connection, instance: str, presence: Presence) -> list[str]:
    """Record that a daemon is there; return the worker_ids of those that are forgotten for it."""
    values = {
        "worker_id": presence.worker_id,
        "instance": instance,
        "agents": json_text(presence.agents),
        "silent_after": before(presence.silent_after),
    }
    for statement in _GO_ON:  # before it is known that it is there again
        db.execute(statement, values)
    db.execute(_TOUCH_WORKER, values)
    for beat in presence.heartbeats:
        _record_heartbeat(db, beat, presence.worker_id)
    silent = db.execute(_SILENT_WORKERS, values).fetchall()
    for row in silent:
        _forget(db, row["instance"])
    return [row["worker_id"] for row in silent]


def _record_heartbeat(db: sqlite3.Connection, beat: AgentBeat, worker_id: str | None) -> None:
    values = {
        "agent_id": beat.agent_id,
        "status": beat.status,
        "health": json_text(beat.health),
        "worker_id": worker_id,
    }
    db.execute(_HEARTBEAT, values)
    db.execute(_HEARTBEAT_OF_RUN, values)


def _told(db: sqlite3.Connection, values: dict[str, str]) -> Beat:
    """Return what a beat only reads."""
    held = {row["lease_token"]: row for row in db.execute(_CLAIMS, values)}
    ended = {
        token: Lease.CANCEL_REQUESTED if token in held else Lease.LOST
        for token in json.loads(values["tokens"])
        if token not in held or held[token]["cancel_requested"]
    }
    return Beat(
        now=read_moment(db.execute(_NOW).fetchone()[0]),
        work=[agent_id for (agent_id,) in db.execute(_WORK, values)],
        restarts=[],
        pauses=[read_record(Pause, dict(row)) for row in db.execute(_PAUSES)],
        ended=[EndedClaim(token=token, state=state) for token, state in ended.items()],
        leases=[read_record(NamedLease, dict(row)) for row in db.execute(_LEASES, values)],
        dead=[],
        unregistered=[],
    )


def _forget(db: sqlite3.Connection, instance: str) -> None:
    for statement in (
        REQUEUE_TASKS_OF_WORKER,
        _INTERRUPT_RUNS,
        _INTERRUPT_FIRES,
        _DROP_LEASES,
        _END_WORKER,
    ):
        db.execute(statement, {"instance": instance})


_REGISTER_AGENT = sql("""
    insert into actp_agent_registry
        (agent_id, class_name, model, status, worker_id, health, last_seen, registered_at)
    values (:agent_id, :class_name, :model, :status, :worker_id,
        iif(:why is not null, json_object('why_disabled', :why), null), {now}, {now})
    on conflict (agent_id) do update set
        class_name = excluded.class_name,
        model = excluded.model,
        status = excluded.status,
        worker_id = excluded.worker_id,
        health = coalesce(excluded.health, health),
        last_seen = excluded.last_seen
""")
_SET_STATUS = sql("""
    update actp_agent_registry
    set status = :status, worker_id = coalesce(:worker_id, worker_id), last_seen = {now}
    where agent_id = :agent_id
""")
_SAME_REQUEST = """
    (restart_answered_at is null and restart_asked_by is :by
    and julianday('now') - julianday(restart_asked_at) < 60.0 / 86400.0)
"""
_SET_NEEDS_RESTART = sql(
    """
    update actp_agent_registry set
        needs_restart = :value, restart_token = null,
        restart_asked_at = iif(:value, iif({same}, restart_asked_at, {now}), null),
        restart_asked_by = iif(:value, :by, null),
        restart_answered_at = null, restart_answer = null, restart_answered_by = null
    where agent_id = :agent_id
    """,
    same=_SAME_REQUEST,
)
_NOTE_RESTART = sql(
    """
    update actp_agent_registry set
        restart_asked_at = iif({same}, restart_asked_at, {now}), restart_asked_by = :by,
        restart_answered_at = null, restart_answer = null, restart_answered_by = null
    where agent_id = :agent_id
    """,
    same=_SAME_REQUEST,
)
_ANSWER_RESTART = sql("""
    update actp_agent_registry set
        restart_answered_at = {now}, restart_answer = :answer, restart_answered_by = :worker_id
    where agent_id = :agent_id and restart_asked_at is not null and restart_answered_at is null
""")
_ASKED_TO_RESTART = """
    agent_id in (select value from json_each(:agent_ids))
    and (needs_restart or restart_token = :token)
"""
_OPEN_RESTARTS = sql(
    "select agent_id from actp_agent_registry where {asked}", asked=_ASKED_TO_RESTART
)
_TAKE_RESTARTS = sql(
    """
    update actp_agent_registry set needs_restart = 0, restart_token = :token
    where {asked} returning agent_id
    """,
    asked=_ASKED_TO_RESTART,
)
_HEARTBEAT = sql("""
    update actp_agent_registry set
        last_heartbeat = {now}, last_seen = {now}, health = :health,
        status = coalesce(:status, status), worker_id = coalesce(:worker_id, worker_id)
    where agent_id = :agent_id
""")
_HEARTBEAT_OF_RUN = sql("""
    update actp_agent_runs set last_heartbeat = {now}
    where agent_id = :agent_id and finished_at is null
        and worker_id = coalesce(:worker_id, worker_id)
""")
_AGENTS = """
    select *, max(0.0, (julianday('now') - julianday(last_heartbeat)) * 86400.0) as heartbeat_age
    from actp_agent_registry order by agent_id
"""
_START_RUN = sql(
    """
    insert into actp_agent_runs (id, agent_id, worker_id, instance, started_at)
    values (:id, :agent_id, {worker_id}, :instance, {now})
    on conflict (id) do nothing
    """,
    worker_id=WORKER_OF_INSTANCE,
)
_FINISH_RUN = sql("""
    update actp_agent_runs set outcome = :outcome, error = :error, finished_at = {now}
    where id = :id and (finished_at is null or outcome = 'interrupted')
""")
_CRASH_AGES = sql("""
    select (julianday('now') - julianday(finished_at)) * 86400.0 as age from actp_agent_runs
    where agent_id = :agent_id and outcome = 'crashed'
        and finished_at >= {now :within}
    order by finished_at desc, rowid desc
""")
_RUNS = """
    select * from actp_agent_runs where agent_id = :agent_id order by rowid desc limit :limit
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
_SET_ROUTINE_TIME = sql("""
    insert into actp_routine_times (job_name, cron, instead_of, changed_at, changed_by)
    values (:job_name, :cron, :instead_of, {now}, :by)
    on conflict (job_name) do update set
        cron = excluded.cron, instead_of = excluded.instead_of,
        changed_at = excluded.changed_at, changed_by = excluded.changed_by
    where cron is not excluded.cron or instead_of is not excluded.instead_of
""")
_DROP_ROUTINE_TIME = "delete from actp_routine_times where job_name = :job_name"
_ROUTINE_TIMES = """
    select job_name, cron, instead_of, changed_by, changed_at
    from actp_routine_times order by job_name
"""
_PAUSE_ROUTINE = sql("""
    insert into actp_routine_pauses (job_name, paused_by, paused_at)
    values (:job_name, :by, {now}) on conflict (job_name) do nothing
""")
_RESUME_ROUTINE = "delete from actp_routine_pauses where job_name = :job_name"
_ROUTINE_PAUSES = "select * from actp_routine_pauses order by job_name"
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
_WAS_TAKEN_FOR_DEAD = """
    instance = :instance and outcome = 'interrupted' and exists (
        select 1 from actp_workers where instance = :instance and ended_at is not null
    )
"""
_GO_ON = [
    sql(
        "update {table} set outcome = null, finished_at = null where {which}",
        table=table,
        which=_WAS_TAKEN_FOR_DEAD,
    )
    for table in ("actp_agent_runs", "actp_job_runs")
]
"""Opens what was interrupted because its daemon was taken for dead, which is there again."""
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
_LEASES = """
    select name, instance, worker_id from actp_leases
    where name in (select value from json_each(:names)) order by name
"""
_NOW = sql("select {now}")
_AGENT_IDS = "select agent_id from actp_agent_registry"
_SET_PAUSED = sql("""
    update actp_agent_registry set
        paused_at = iif(:by is null, null, coalesce(paused_at, {now})),
        paused_by = iif(:by is null, null, coalesce(paused_by, :by))
    where agent_id = :agent_id
""")
_PAUSES = """
    select agent_id, coalesce(paused_by, '') as paused_by, paused_at from actp_agent_registry
    where paused_at is not null order by agent_id
"""
_OUR_CLAIMS = "status = 'running' and lease_token in (select value from json_each(:tokens))"
_CLAIMS = sql(
    "select lease_token, cancel_requested from actp_agent_tasks where {ours}", ours=_OUR_CLAIMS
)
_RENEW_CLAIMS = sql(
    """
    update actp_agent_tasks set lease_until = {now :lease}
    where {ours} and lease_until < {now :due}
    """,
    ours=_OUR_CLAIMS,
)
_TO_WRITE = sql(
    """
    select exists (select 1 from actp_agent_registry where {asked})
        or exists (
            select 1 from actp_agent_tasks where {ours} and lease_until < {now :due}
        )
    """,
    asked=_ASKED_TO_RESTART,
    ours=_OUR_CLAIMS,
)
# Each branch has an index of its own, so an empty queue costs three looks.
_WORK = sql("""
    select value from json_each(:agent_ids) as asked
    where not exists (
            select 1 from actp_agent_registry where agent_id = value and paused_at is not null
        )
        and (
            exists (
                select 1 from actp_agent_tasks
                where agent_type = value and status = 'queued' and not_before is null
            )
            or exists (
                select 1 from actp_agent_tasks
                where agent_type = value and status = 'queued' and not_before <= {now}
            )
            or exists (
                select 1 from actp_agent_tasks
                where agent_type = value and status = 'running' and lease_until < {now}
            )
        )
""")
_DROP_LEASE = "delete from actp_leases where name = :name and instance = :instance"
_DROP_LEASES = "delete from actp_leases where instance = :instance"
