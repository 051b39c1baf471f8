"""The agents' own tables in a Supabase project, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from app.store.errors import StoreError
from app.store.records import as_it_is, clean
from app.store.supabase_connection import SupabaseDatabase, any_rows

from .contract import DomainTable, Query, Row, Tables
from .values import check_query, read_domain_row, write_domain_columns, write_domain_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from postgrest import AsyncSelectRequestBuilder

    from app.store.verbs import JSON


class SupabaseTables(Tables):
    """Rows of the agents' own tables, which differ in their columns and so have no functions."""

    db: SupabaseDatabase

    @override
    async def select(self, table: DomainTable, query: Query) -> list[Row]:
        check_query(table, query)
        behind = None
        if query.before is not None:
            behind = await self._behind(table, query.before)
            if behind is None:
                return []

        def refine(rows: AsyncSelectRequestBuilder) -> AsyncSelectRequestBuilder:
            for column, value in query.equal.items():
                written = write_domain_value(table, column, value)
                if written is None:
                    rows = rows.filter(column, "is", "null")
                else:
                    rows = rows.filter(column, "eq", str(clean(written)))
            for column, texts in query.one_of.items():
                found = [f"{column}.eq.{_quoted(text)}" for text in texts if text is not None]
                found += [f"{column}.is.null"] * (None in texts)
                # Where none is wanted, none is found.
                rows = rows.or_(",".join(found) or f"and({column}.is.null,{column}.not.is.null)")
            for column, text in query.contains.items():
                # A pattern that begins so is plain text; upper and lower case are alike.
                rows = rows.filter(column, "imatch", "***=" + clean(text))
            if behind is not None:
                rows = rows.or_(behind)
            return rows.order(query.order_by, desc=query.descending, nullsfirst=False).order(
                "seq", desc=query.descending
            )

        return await self.db.rows(table, _rows_of(table), refine, limit=query.limit)

    async def _behind(self, table: DomainTable, row_id: str) -> str | None:
        """Return the condition of what was made before a row; None if it is not there."""
        found = await self.db.ask(
            lambda client: client.table(table).select("created_at,seq").eq("id", clean(row_id))
        )
        if not found:
            return None
        at, seq = _quoted(str(found[0]["created_at"])), found[0]["seq"]
        return f"created_at.lt.{at},and(created_at.eq.{at},seq.lt.{seq})"

    @override
    async def insert(self, table: DomainTable, row_id: str, values: Mapping[str, Any]) -> Row:
        columns = clean({"id": row_id, **write_domain_columns(table, values)})
        read = _rows_of(table)
        added: list[Row] = await self.db.ask(
            lambda client: client.table(table).upsert(
                columns, on_conflict="id", ignore_duplicates=True
            ),
            read,
        ) or await self.db.ask(
            lambda client: client.table(table).select("*").eq("id", columns["id"]), read
        )
        if not added:
            raise StoreError(f"{self.db.where} added row {row_id} to {table} and does not have it")
        return added[0]

    @override
    async def update(
        self, table: DomainTable, row_id: str, values: Mapping[str, Any]
    ) -> Row | None:
        # PostgreSQL reads the text "now" as the time of the transaction.
        columns = clean({**write_domain_columns(table, values), "updated_at": "now"})
        changed: list[Row] = await self.db.ask(
            lambda client: client.table(table).update(columns).eq("id", clean(row_id)),
            _rows_of(table),
        )
        return changed[0] if changed else None


def _quoted(text: str) -> str:
    """Return a text as PostgREST reads it within a list of conditions."""
    escaped = clean(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _rows_of(table: DomainTable) -> Callable[[JSON], list[Row]]:
    return lambda answer: [read_domain_row(table, row, as_it_is) for row in any_rows(answer)]
