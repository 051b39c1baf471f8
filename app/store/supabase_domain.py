"""The Supabase store's access to the agents' own tables, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.store.protocol import StoreError
from app.store.records import check_query, clean, write_domain_columns, write_domain_value
from app.store.supabase_answers import domain_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from postgrest import AsyncSelectRequestBuilder

    from app.store.domain import DomainTable, Query, Row
    from app.store.supabase_connection import SupabaseDatabase


class SupabaseDomainTables:
    """The verbs of the Store that are about the domain tables."""

    _db: SupabaseDatabase

    async def select(self, table: DomainTable, query: Query) -> list[Row]:
        """Return rows; unknown columns are a `StoreError`."""
        check_query(table, query)

        def refine(rows: AsyncSelectRequestBuilder) -> AsyncSelectRequestBuilder:
            for column, value in query.equal.items():
                written = write_domain_value(table, column, value)
                if written is None:
                    rows = rows.filter(column, "is", "null")
                else:
                    rows = rows.filter(column, "eq", str(clean(written)))
            for column, text in query.contains.items():
                # A pattern that begins so is plain text; upper and lower case are alike.
                rows = rows.filter(column, "imatch", "***=" + clean(text))
            return rows.order(query.order_by, desc=query.descending, nullsfirst=False).order(
                "seq", desc=query.descending
            )

        return await self._db.rows(table, domain_rows(table), refine, limit=query.limit)

    async def insert(self, table: DomainTable, row_id: str, values: Mapping[str, Any]) -> Row:
        """Add a row under an id of the caller's; if that id is there, return it unchanged."""
        columns = clean({"id": row_id, **write_domain_columns(table, values)})
        read = domain_rows(table)
        added: list[Row] = await self._db.ask(
            lambda client: client.table(table).upsert(
                columns, on_conflict="id", ignore_duplicates=True
            ),
            read,
        ) or await self._db.ask(
            lambda client: client.table(table).select("*").eq("id", columns["id"]), read
        )
        if not added:
            raise StoreError(f"{self._db.where} added row {row_id} to {table} and does not have it")
        return added[0]

    async def update(
        self, table: DomainTable, row_id: str, values: Mapping[str, Any]
    ) -> Row | None:
        """Change columns of a row and its `updated_at`; None if there is no such row."""
        # PostgreSQL reads the text "now" as the time of the transaction.
        columns = clean({**write_domain_columns(table, values), "updated_at": "now"})
        changed: list[Row] = await self._db.ask(
            lambda client: client.table(table).update(columns).eq("id", clean(row_id)),
            domain_rows(table),
        )
        return changed[0] if changed else None
