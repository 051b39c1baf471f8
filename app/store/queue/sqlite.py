"""The queue of tasks on SQLite: claiming, leases, the ways a task ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from app.store.approvals.sqlite import WITHDRAW
from app.store.records import UNREADABLE, json_text, moment_text, read_record
from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import after, before, sql

from .contract import (
    NOT_OVER,
    PART_OF_ID,
    TO_BE_RETRIED,
    Lease,
    Queue,
    TaskFilter,
    TaskRow,
    TaskStatus,
    TaskSum,
    check_final,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from datetime import datetime


class SqliteQueue(Queue, OnSqlite):
    """Queue in a file of SQLite."""

    @override
    async def add_task(
        self,
        task_id: str,
        agent_type: str,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        priority: int = 0,
        max_attempts: int = 3,
        not_before: datetime | None = None,
        timeout: float | None = None,
        unique_key: str | None = None,
    ) -> TaskRow:
        values = {
            "id": task_id,
            "agent_type": agent_type,
            "goal": goal,
            "context": json_text(dict(context or {})),
            "priority": priority,
            "max_attempts": max_attempts,
            "not_before": None if not_before is None else moment_text(not_before),
            "timeout": timeout,
            "unique_key": unique_key,
        }

        def add(db: sqlite3.Connection) -> TaskRow:
            found = db.execute(_ADDED_ALREADY, values).fetchone()
            if found is None:
                db.execute(_ADD, values)
                found = db.execute(_TASK, values).fetchone()
            return read_record(TaskRow, dict(found))

        return await self.db.write(add)

    @override
    async def begin_task(
        self,
        task_id: str,
        agent_type: str,
        goal: str,
        *,
        context: Mapping[str, Any] | None = None,
        routine: str | None = None,
        worker_id: str,
        instance: str,
        token: str,
        lease: float,
    ) -> TaskRow | None:
        values = {
            "id": task_id,
            "agent_type": agent_type,
            "goal": goal,
            "context": json_text(dict(context or {})),
            "routine": routine,
            "worker_id": worker_id,
            "instance": instance,
            "token": token,
            "lease": after(lease),
        }

        def begin(db: sqlite3.Connection) -> TaskRow | None:
            db.execute(_BEGIN, values)
            found = db.execute(_CLAIMED_ALREADY + " and id = :id", values).fetchone()
            return None if found is None else read_record(TaskRow, dict(found))

        return await self.db.write(begin)

    @override
    async def task(self, task_id: str) -> TaskRow | None:
        return await self.db.read(lambda db: _task(db, task_id))

    @override
    async def tasks(
        self,
        *,
        status: TaskStatus | None = None,
        agent_type: str | None = None,
        limit: int = 50,
        search: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
    ) -> list[TaskRow]:
        which = TaskFilter(
            status=status, agent_type=agent_type, search=search, since=since, until=until
        )
        values = _filter(which, limit) | {"before": before}
        # Only what is asked for, or no index would serve.
        conditions = [
            condition for name, condition in _CONDITIONS.items() if values[name] is not None
        ]
        statement = sql(
            "select * from actp_agent_tasks {where} order by rowid desc limit :limit",
            where="where " * bool(conditions) + " and ".join(conditions),
        )
        return await self.db.rows(TaskRow, statement, values)

    @override
    async def count_matching(
        self, which: TaskFilter, among: Sequence[TaskStatus], *, limit: int = 1000
    ) -> int:
        statement = _among(among)
        return await self.db.read(
            lambda db: len(db.execute(statement, _filter(which, limit)).fetchall())
        )

    @override
    async def count_tasks(self) -> dict[str, dict[TaskStatus, int]]:
        def query(db: sqlite3.Connection) -> dict[str, dict[TaskStatus, int]]:
            counts: dict[str, dict[TaskStatus, int]] = {}
            for agent_type, status, tasks in db.execute(_COUNT):
                if status not in TaskStatus.__members__.values():
                    continue  # one of another program's
                counts.setdefault(agent_type, {})[TaskStatus(status)] = tasks
            return counts

        return await self.db.read(query)

    @override
    async def task_history(self, edges: Sequence[datetime]) -> list[TaskSum]:
        values = {"edges": json_text([moment_text(edge) for edge in edges])}
        return await self.db.rows(TaskSum, _HISTORY, values)

    @override
    async def unreadable_tasks(self, *, within: float, limit: int = 20) -> list[str]:
        values = {"since": before(within), "limit": max(0, limit), "error": f"{UNREADABLE}%"}
        return await self.db.read(
            lambda db: [task_id for (task_id,) in db.execute(_UNREADABLE, values)]
        )

    @override
    async def oldest_queued(self) -> dict[str, float]:
        return await self.db.read(
            lambda db: {
                agent_type: age
                for agent_type, age in db.execute(_OLDEST_QUEUED)
                if age is not None  # of a time that is none
            }
        )

    @override
    async def claim_task(
        self, agent_type: str, *, worker_id: str, instance: str, token: str, lease: float
    ) -> TaskRow | None:
        values = {
            "agent_type": agent_type,
            "worker_id": worker_id,
            "instance": instance,
            "token": token,
            "lease": after(lease),
        }

        def claim(db: sqlite3.Connection) -> TaskRow | None:
            claimed = []
            if not db.execute(_NOTE_CLAIM, values).rowcount:
                claimed = db.execute(_CLAIMED_ALREADY, values).fetchall()
            elif db.execute(_BARRED, values).fetchone() is None:
                # Apart from the claim: with all in one `where`, no index would serve any.
                db.execute(_LEASE_RAN_OUT, values)
                db.execute(_IS_TIME, values)
                claimed = db.execute(_CLAIM, values).fetchall()
            while claimed:
                task = read_record(TaskRow, dict(claimed[0]))
                if task.unreadable is None:
                    return task
                db.execute(_SETTLE_UNREADABLE, {"id": task.id, "error": task.unreadable})
                claimed = db.execute(_CLAIM, values).fetchall()
            return None

        return await self.db.write(claim)

    @override
    async def renew_task(self, task_id: str, token: str, *, lease: float) -> Lease:
        values = {"id": task_id, "token": token, "lease": after(lease)}

        def renew(db: sqlite3.Connection) -> Lease:
            renewed = db.execute(_RENEW, values).fetchall()
            if not renewed:
                return Lease.LOST
            return Lease.CANCEL_REQUESTED if renewed[0]["cancel_requested"] else Lease.HELD

        return await self.db.write(renew)

    @override
    async def finish_task(
        self,
        task_id: str,
        token: str,
        status: TaskStatus,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> bool:
        check_final(status)
        values = {
            "id": task_id,
            "token": token,
            "status": status,
            "result": None if result is None else json_text(dict(result)),
            "error": error,
        }
        return await self.db.write(lambda db: _settle(db, _FINISH, values))

    @override
    async def release_task(
        self,
        task_id: str,
        token: str,
        *,
        count_attempt: bool = False,
        delay: float = 0.0,
        error: str | None = None,
    ) -> bool:
        values = {
            "id": task_id,
            "token": token,
            "uncounted": 0 if count_attempt else 1,
            "delay": after(delay) if delay else None,
            "error": error,
        }
        return await self.db.write(lambda db: _settle(db, _RELEASE, values))

    @override
    async def cancel_task(self, task_id: str) -> TaskRow | None:
        def cancel(db: sqlite3.Connection) -> TaskRow | None:
            db.execute(_CANCEL_IDLE, {"id": task_id})
            db.execute(_CANCEL_RUNNING, {"id": task_id})
            db.execute(WITHDRAW, {"id": task_id})
            return _task(db, task_id)

        return await self.db.write(cancel)

    @override
    async def retry_task(self, task_id: str) -> TaskRow | None:
        def retry(db: sqlite3.Connection) -> TaskRow | None:
            db.execute(_RETRY, {"id": task_id})
            return _task(db, task_id)

        return await self.db.write(retry)

    @override
    async def cancel_tasks(self, which: TaskFilter, *, limit: int = 1000) -> int:
        def cancel(db: sqlite3.Connection) -> int:
            found = db.execute(_TO_CANCEL, _filter(which, limit)).fetchall()
            for row in found:
                db.execute(_CANCEL_IDLE, {"id": row["id"]})
                db.execute(_CANCEL_RUNNING, {"id": row["id"]})
                db.execute(WITHDRAW, {"id": row["id"]})
            return len(found)

        return await self.db.write(cancel)

    @override
    async def retry_tasks(self, which: TaskFilter, *, limit: int = 1000) -> int:
        def retry(db: sqlite3.Connection) -> int:
            found = db.execute(_TO_RETRY, _filter(which, limit)).fetchall()
            return sum(db.execute(_RETRY, {"id": row["id"]}).rowcount for row in found)

        return await self.db.write(retry)


def _filter(which: TaskFilter, limit: int) -> dict[str, Any]:
    return {
        "agent_type": which.agent_type,
        "status": which.status,
        "text": None if which.text is None else which.text.casefold(),
        "search": which.search,
        "folded": None if which.search is None else which.search.casefold(),
        "since": None if which.since is None else moment_text(which.since),
        "until": None if which.until is None else moment_text(which.until),
        "limit": max(0, limit),
    }


def _among(statuses: Sequence[TaskStatus]) -> str:
    """Make the statement that finds the tasks of a filter, the oldest first."""
    return sql(
        """
        select id from actp_agent_tasks where status in ({statuses}) and {conditions}
        order by rowid limit :limit
        """,
        statuses=", ".join(f"'{TaskStatus(status)}'" for status in statuses),
        conditions=" and ".join(
            f"(:{name} is null or {condition})"
            for name, condition in _CONDITIONS.items()
            if name != "before"
        ),
    )


def _hand_back(where: str, *, error: str, uncounted: str = "0", more: str = "") -> str:
    """Make the statement that ends a claim without a result.

    The task goes back to the queue, unless its cancelling was asked for or its attempts are used
    up.

    Args:
        where: Which tasks.
        error: SQL for the reason to be kept.
        uncounted: SQL for how many attempts are taken back, 0 or 1.
        more: Further assignments.
    """
    return sql(
        """
        update actp_agent_tasks set
            status = case when cancel_requested then 'cancelled'
                          when {spent} then 'failed'
                          else 'queued' end,
            attempts = attempts - {uncounted},
            error = {error},
            worker_id = case when cancel_requested or {spent} then worker_id end,
            started_at = case when cancel_requested or {spent} then started_at end,
            finished_at = case when cancel_requested or {spent} then {now} end,
            {more}
            instance = null,
            lease_token = null,
            lease_until = null
        where status = 'running' and {where}
        """,
        more=more,
        spent=f"attempts - {uncounted} >= max_attempts",
        uncounted=uncounted,
        error=error,
        where=where,
    )


def _task(db: sqlite3.Connection, task_id: str) -> TaskRow | None:
    row = db.execute(_TASK, {"id": task_id}).fetchone()
    return None if row is None else read_record(TaskRow, dict(row))


def _settle(db: sqlite3.Connection, statement: str, values: dict[str, Any]) -> bool:
    """End a claim; True also if this very token ended it before, whose answer was lost."""
    if db.execute(statement, values).rowcount:
        return True
    return db.execute(_SETTLED_ALREADY, values).fetchone() is not None


_ADD = sql("""
    insert into actp_agent_tasks
        (id, agent_type, goal, context, priority, status, max_attempts, not_before, timeout,
         unique_key, created_at)
    values (:id, :agent_type, :goal, :context, :priority, 'queued', :max_attempts,
        iif(:not_before > {now}, :not_before, null), :timeout, :unique_key, {now})
""")
_BEGIN = sql("""
    insert into actp_agent_tasks
        (id, agent_type, goal, context, routine, status, attempts, worker_id, instance,
         lease_token, lease_until, created_at, started_at)
    values (:id, :agent_type, :goal, :context, :routine, 'running', 1, :worker_id, :instance,
        :token, {now :lease}, {now}, {now})
    on conflict (id) do nothing
""")
_ADDED_ALREADY = """
    select * from actp_agent_tasks where id = :id
    union all
    select * from actp_agent_tasks
    where agent_type = :agent_type and unique_key = :unique_key
        and status in ('queued', 'running', 'waiting')
    limit 1
"""
_TASK = "select * from actp_agent_tasks where id = :id"
_OLDEST_QUEUED = sql("""
    select agent_type, max(0.0, (julianday('now') - julianday(min(created_at))) * 86400.0)
    from (
        select agent_type, min(created_at) as created_at from actp_agent_tasks
        where status = 'queued' and not_before is null group by agent_type
        union all
        select agent_type, min(created_at) from actp_agent_tasks
        where status = 'queued' and not_before <= {now} group by agent_type
    ) group by agent_type
""")
_COUNT = """
    select agent_type, status, sum(tasks) as tasks from actp_task_totals
    group by agent_type, status having sum(tasks) > 0
"""
_HISTORY = """
    with edges as (select value as edge from json_each(:edges))
    select agent_type, (select max(edge) from edges where edge <= quarter) as since,
        sum(succeeded) as succeeded, sum(failed) as failed, sum(cancelled) as cancelled,
        sum(begun) as begun, sum(waited) as waited
    from actp_task_history where quarter >= (select min(edge) from edges)
    group by agent_type, since order by since, agent_type
"""
# A token claims once. Of a claim that its caller repeats, a copy may arrive when the task is over:
# it would take another one, of which nobody knows.
_NOTE_CLAIM = sql("""
    insert into actp_requests (key, done_at) values ('claim ' || :token, {now})
    on conflict (key) do nothing
""")
_CLAIMED_ALREADY = """
    select * from actp_agent_tasks where agent_type = :agent_type and status = 'running'
        and lease_token = :token
"""
_UNREADABLE = sql("""
    select id from actp_agent_tasks
    where status = 'failed' and error like :error and finished_at >= {now :since}
    order by finished_at desc, rowid desc
    limit :limit
""")

_SETTLE_UNREADABLE = sql("""
    update actp_agent_tasks set
        status = 'failed', error = :error, instance = null, lease_token = null, lease_until = null,
        finished_at = {now}
    where id = :id
""")
# The lease of an agent's name is that of a *single* one; only the daemon that has it may claim.
_BARRED = sql("""
    select 1 from actp_agent_registry where agent_id = :agent_type and paused_at is not null
    union all
    select 1 from actp_leases
    where name = :agent_type and instance <> :instance and expires_at >= {now}
""")
_IS_TIME = sql("""
    update actp_agent_tasks set not_before = null
    where agent_type = :agent_type and status = 'queued' and not_before <= {now}
""")
_CLAIM = sql("""
    update actp_agent_tasks set
        status = 'running',
        attempts = attempts + 1,
        worker_id = :worker_id,
        instance = :instance,
        lease_token = :token,
        lease_until = {now :lease},
        started_at = {now}
    where id = (
        select id from actp_agent_tasks
        where agent_type = :agent_type and status = 'queued' and not_before is null
        order by priority desc, rowid
        limit 1
    )
    returning *
""")
_RENEW = sql("""
    update actp_agent_tasks set lease_until = {now :lease}
    where id = :id and lease_token = :token and status = 'running'
    returning cancel_requested
""")
_FINISH = sql("""
    update actp_agent_tasks set
        status = :status,
        result = :result,
        error = :error,
        lease_token = null,
        lease_until = null,
        settled_token = :token,
        finished_at = {now}
    where id = :id and lease_token = :token and status = 'running'
""")
_SETTLED_ALREADY = "select 1 from actp_agent_tasks where id = :id and settled_token = :token"
_LEASE_RAN_OUT = _hand_back(
    "agent_type = :agent_type and lease_until < {now}",
    error="'the lease of ' || worker_id || ' ran out in attempt ' || attempts"
    " || ' of ' || max_attempts",
)
_RELEASE = _hand_back(
    "id = :id and lease_token = :token",
    error="coalesce(:error, error)",
    uncounted=":uncounted",
    more="""
            settled_token = :token,
            not_before = case when not (cancel_requested or {spent})
                then {now :delay} end,""",
)
_CANCEL_IDLE = sql("""
    update actp_agent_tasks set status = 'cancelled', instance = null, lease_token = null,
        lease_until = null, not_before = null, finished_at = {now}
    where id = :id
        and (status in ('queued', 'waiting') or (status = 'running' and lease_until < {now}))
""")
_CANCEL_RUNNING = """
    update actp_agent_tasks set cancel_requested = 1 where id = :id and status = 'running'
"""
_RETRY = """
    update actp_agent_tasks set status = 'queued', attempts = 0, result = null, error = null,
        worker_id = null, settled_token = null, not_before = null, cancel_requested = 0,
        started_at = null, finished_at = null
    where id = :id and status in ('failed', 'cancelled') and not exists (
        select 1 from actp_agent_tasks other
        where other.agent_type = actp_agent_tasks.agent_type
            and other.unique_key = actp_agent_tasks.unique_key
            and other.status in ('queued', 'running', 'waiting')
    )
"""
_CONDITIONS = {
    "agent_type": "agent_type = :agent_type",
    "status": "status = :status",
    "text": "instr(casefold(goal), :text)",
    "search": f"""(
        instr(casefold(goal), :folded) or instr(casefold(error), :folded)
        or agent_type = :search or id = :search
        or length(:search) >= {PART_OF_ID} and substr(id, 1, length(:search)) = :search
    )""",
    "since": "created_at >= :since",
    "until": "created_at < :until",
    "before": "rowid < (select rowid from actp_agent_tasks where id = :before)",
}
_TO_CANCEL = _among(NOT_OVER)
_TO_RETRY = _among(TO_BE_RETRIED)
REQUEUE_TASKS_OF_WORKER = _hand_back(
    "instance = :instance",
    error="worker_id || ' ended in attempt ' || attempts || ' of ' || max_attempts",
)
