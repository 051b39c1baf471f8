"""Reviews on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from app.store.records import json_text, read_record
from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import sql
from app.store.tables.contract import DomainTable
from app.store.tables.sqlite import change_row, row_of
from app.store.tables.values import write_domain_columns

from .contract import NewReview, ReviewRow, Reviews, Verdict

if TYPE_CHECKING:
    import sqlite3


class SqliteReviews(Reviews, OnSqlite):
    """Reviews in a file of SQLite."""

    @override
    async def review_row(
        self, review: NewReview, *, shown: dict[str, Any], changes: dict[str, Any]
    ) -> ReviewRow | None:
        table = DomainTable(review.table_name)
        before = write_domain_columns(table, shown)
        after = write_domain_columns(table, changes)
        values = {
            "id": review.id,
            "table_name": review.table_name,
            "row_id": review.row_id,
            "verdict": review.verdict,
            "comment": review.comment,
            "before": json_text({name: before.get(name) for name in after}),
            "after": json_text(after),
            "reviewed_by": review.reviewed_by,
        }

        def keep(db: sqlite3.Connection) -> ReviewRow | None:
            known = _review(db, review.id)
            if known is not None:
                return known
            row = row_of(db, table, review.row_id)
            if row is None:
                return None
            if write_domain_columns(table, {name: row[name] for name in before}) != before:
                return None
            change_row(db, table, review.row_id, changes)
            db.execute(_KEEP, values)
            return _review(db, review.id)

        return await self.db.write(keep)

    @override
    async def reviews(
        self,
        *,
        table_name: str | None = None,
        row_ids: list[str] | None = None,
        verdict: Verdict | None = None,
        limit: int = 200,
    ) -> list[ReviewRow]:
        values = {
            "table_name": table_name,
            "row_ids": None if row_ids is None else json_text(row_ids),
            "verdict": verdict,
            "limit": max(0, limit),
        }
        return await self.db.rows(ReviewRow, _LIST, values)


def _review(db: sqlite3.Connection, review_id: str) -> ReviewRow | None:
    row = db.execute("select * from actp_reviews where id = ?", (review_id,)).fetchone()
    return None if row is None else read_record(ReviewRow, dict(row))


_KEEP = sql("""
    insert into actp_reviews
        (id, table_name, row_id, verdict, comment, before, after, reviewed_by, reviewed_at)
    values (:id, :table_name, :row_id, :verdict, :comment, :before, :after, :reviewed_by, {now})
""")
_LIST = """
    select * from actp_reviews
    where (:table_name is null or table_name = :table_name)
        and (:row_ids is null or row_id in (select value from json_each(:row_ids)))
        and (:verdict is null or verdict = :verdict)
    order by rowid desc limit :limit
"""
