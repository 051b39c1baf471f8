"""Approvals on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from app.store.records import json_text, read_record
from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import after, sql, where_equal

from .contract import ApprovalRow, Approvals, ApprovalStatus, Question

if TYPE_CHECKING:
    import sqlite3


class SqliteApprovals(Approvals, OnSqlite):
    """Approvals in a file of SQLite."""

    @override
    async def ask_approval(self, question: Question, *, expires_in: float = 0.0) -> ApprovalRow:
        values = {
            "id": question.id,
            "task_id": question.task_id,
            "agent_id": question.agent_id,
            "about": question.about,
            "tool": question.tool,
            "arguments": json_text(question.arguments),
            "why": question.why,
            "expires": after(expires_in) if expires_in else None,
        }

        def ask(db: sqlite3.Connection) -> ApprovalRow:
            db.execute(_ASK, values)
            return read_record(ApprovalRow, dict(db.execute(_ASKED, values).fetchone()))

        return await self.db.write(ask)

    @override
    async def park_task(self, task_id: str, token: str) -> bool:
        values = {"id": task_id, "token": token}

        def park(db: sqlite3.Connection) -> bool:
            if db.execute(_PARK, values).rowcount:
                return True
            return db.execute(_PARKED_ALREADY, values).fetchone() is not None

        return await self.db.write(park)

    @override
    async def approval(self, approval_id: str) -> ApprovalRow | None:
        return await self.db.read(lambda db: _approval(db, approval_id))

    @override
    async def approvals(
        self,
        *,
        status: ApprovalStatus | None = None,
        task_id: str | None = None,
        limit: int = 50,
    ) -> list[ApprovalRow]:
        conditions = {"status": status, "task_id": task_id}
        given = {column: value for column, value in conditions.items() if value is not None}
        statement = sql(
            "select * from actp_approvals {where} order by rowid desc limit :limit",
            where=where_equal(given),
        )
        return await self.db.rows(ApprovalRow, statement, {**given, "limit": max(0, limit)})

    @override
    async def count_waiting_approvals(self) -> int:
        return await self.db.read(lambda db: int(db.execute(_COUNT).fetchone()[0]))

    @override
    async def decide_approval(
        self,
        approval_id: str,
        *,
        approve: bool,
        decided_by: str,
        comment: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> ApprovalRow | None:
        values = {
            "id": approval_id,
            "status": ApprovalStatus.APPROVED if approve else ApprovalStatus.DENIED,
            "decided_by": decided_by,
            "comment": comment,
            "arguments": json_text(arguments) if approve and arguments is not None else None,
        }

        def decide(db: sqlite3.Connection) -> ApprovalRow | None:
            _expire(db)
            db.execute(_DECIDE, values)
            decided = _approval(db, approval_id)
            if decided is not None:
                db.execute(_GO_ON, {"task_id": decided.task_id})
            return decided

        return await self.db.write(decide)

    @override
    async def expire_approvals(self) -> list[ApprovalRow]:
        # A look first: this is called often, and nearly always in vain.
        if await self.db.read(lambda db: db.execute(_OVERDUE).fetchone()) is None:
            return []
        return await self.db.write(_expire)

    @override
    async def told_approval(self, approval_id: str) -> None:
        await self.db.execute(_TOLD, {"id": approval_id})


def _approval(db: sqlite3.Connection, approval_id: str) -> ApprovalRow | None:
    row = db.execute("select * from actp_approvals where id = :id", {"id": approval_id}).fetchone()
    return None if row is None else read_record(ApprovalRow, dict(row))


def _expire(db: sqlite3.Connection) -> list[ApprovalRow]:
    overdue = [row["id"] for row in db.execute(_OVERDUE).fetchall()]
    for approval_id in overdue:
        db.execute(_EXPIRE, {"id": approval_id})
    expired = [row for row in (_approval(db, each) for each in overdue) if row is not None]
    for row in expired:
        db.execute(_GO_ON, {"task_id": row.task_id})
    return expired


TASK_IS_OVER = "its task was over before it was decided"
"""Why an approval expired whose task was cancelled, or ended otherwise."""

# What was withdrawn with its task has no `about` any more, so that it is asked anew.
_ASK = sql("""
    insert into actp_approvals
        (id, task_id, agent_id, about, tool, arguments, why, expires_at, created_at)
    values (:id, :task_id, :agent_id, :about, :tool, :arguments, :why,
        case when :expires is not null then {now :expires} end, {now})
    on conflict do nothing
""")
_ASKED = "select * from actp_approvals where task_id = :task_id and about = :about"
_PARK = sql("""
    update actp_agent_tasks set
        status = case
            when cancel_requested then 'cancelled'
            when exists (
                select 1 from actp_approvals a
                where a.task_id = actp_agent_tasks.id and a.status = 'waiting'
            ) then 'waiting'
            else 'queued' end,
        attempts = attempts - 1,
        finished_at = case when cancel_requested then {now} end,
        worker_id = null,
        instance = null,
        lease_token = null,
        lease_until = null,
        settled_token = :token
    where id = :id and lease_token = :token and status = 'running'
""")
_PARKED_ALREADY = "select 1 from actp_agent_tasks where id = :id and settled_token = :token"
_COUNT = "select count(*) from actp_approvals where status = 'waiting'"
_DECIDE = sql("""
    update actp_approvals set
        status = :status,
        comment = :comment,
        decided_by = :decided_by,
        decided_at = {now},
        asked = case when :arguments is not null and :arguments <> arguments then arguments end,
        arguments = coalesce(:arguments, arguments)
    where id = :id and status = 'waiting'
""")
_GO_ON = """
    update actp_agent_tasks set status = 'queued'
    where id = :task_id and status = 'waiting' and not exists (
        select 1 from actp_approvals a where a.task_id = :task_id and a.status = 'waiting'
    )
"""
_OVERDUE = sql("""
    select a.id from actp_approvals a
    left join actp_agent_tasks t on t.id = a.task_id
    where a.status = 'waiting' and (
        a.expires_at <= {now} or t.id is null
        or t.status not in ('queued', 'running', 'waiting')
    )
""")
_EXPIRE = sql(
    """
    update actp_approvals set
        status = 'expired',
        decided_at = {now},
        comment = case when {over} then '{task_is_over}' end,
        about = case when not {over} then about end
    where id = :id and status = 'waiting'
    """,
    over="""not exists (
            select 1 from actp_agent_tasks t
            where t.id = actp_approvals.task_id and t.status in ('queued', 'running', 'waiting')
        )""",
    task_is_over=TASK_IS_OVER,
)
_TOLD = sql("update actp_approvals set told_at = {now} where id = :id and told_at is null")
WITHDRAW = sql(
    """
    update actp_approvals set
        status = 'expired', decided_at = {now}, comment = '{task_is_over}', about = null
    where task_id = :id and status = 'waiting'
        and exists (select 1 from actp_agent_tasks where id = :id and status = 'cancelled')
    """,
    task_is_over=TASK_IS_OVER,
)
"""Ends what a task that was cancelled has asked for."""
