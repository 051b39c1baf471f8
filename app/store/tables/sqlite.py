"""The agents' own tables on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from app.store.records import json_text
from app.store.sqlite_connection import OnSqlite
from app.store.sqlite_schema import sql

from .contract import DomainTable, Query, Row, Tables, domain_columns
from .values import check_query, read_domain_row, write_domain_columns, write_domain_value

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping


_BEFORE: Final = (
    "(created_at, rowid) < (select created_at, rowid from {table} as last where last.id = ?)"
)


class SqliteTables(Tables, OnSqlite):
    """Tables in a file of SQLite."""

    @override
    async def select(self, table: DomainTable, query: Query) -> list[Row]:
        check_query(table, query)
        conditions, values = _conditions(table, query)
        if query.before is not None:
            conditions.append(sql(_BEFORE, table=table))
            values.append(query.before)
        statement = sql(
            "select * from {table} {where} order by {order_by} {direction} nulls last,"
            " rowid {direction} limit ?",
            table=table,
            where="where " * bool(conditions) + " and ".join(conditions),
            order_by=query.order_by,
            direction="desc" if query.descending else "asc",
        )
        values.append(max(0, query.limit))

        def fetch(db: sqlite3.Connection) -> list[Row]:
            return [read_domain_row(table, dict(row)) for row in db.execute(statement, values)]

        return await self.db.read(fetch)

    @override
    async def insert(self, table: DomainTable, row_id: str, values: Mapping[str, Any]) -> Row:
        columns = {"id": row_id, **_written(table, values)}
        statement = sql(
            "insert into {table} ({columns}, created_at, updated_at)"
            " values ({places}, {now}, {now}) on conflict (id) do nothing",
            table=table,
            columns=", ".join(columns),
            places=", ".join("?" * len(columns)),
        )

        def add(db: sqlite3.Connection) -> Row:
            db.execute(statement, list(columns.values()))
            return _rows(db, table, row_id)[0]

        return await self.db.write(add)

    @override
    async def update(
        self, table: DomainTable, row_id: str, values: Mapping[str, Any]
    ) -> Row | None:
        write_domain_columns(table, values)  # what is wrong with them is told at once

        def change(db: sqlite3.Connection) -> Row | None:
            change_row(db, table, row_id, values)
            return row_of(db, table, row_id)

        return await self.db.write(change)


def row_of(db: sqlite3.Connection, table: DomainTable, row_id: str) -> Row | None:
    """Return a row by its id; None if it is not there."""
    return next(iter(_rows(db, table, row_id)), None)


def change_row(
    db: sqlite3.Connection, table: DomainTable, row_id: str, values: Mapping[str, Any]
) -> None:
    """Change columns of a row, within a transaction of the caller's."""
    columns = _written(table, values)
    statement = sql(
        "update {table} set {assignments} updated_at = {now} where id = ?",
        table=table,
        assignments="".join(f"{column} = ?, " for column in columns),
    )
    db.execute(statement, [*columns.values(), row_id])


def _conditions(table: DomainTable, query: Query) -> tuple[list[str], list[Any]]:
    """Make the conditions and the values that they bind, in order."""
    conditions, values = [], []
    for column, value in query.equal.items():
        conditions.append(f"{column} is ?")
        values.append(write_domain_value(table, column, value))
    for column, texts in query.one_of.items():
        found = [f"{column} is ?" for _ in texts]
        conditions.append(f"({' or '.join(found) or 'false'})")
        values += [write_domain_value(table, column, text) for text in texts]
    for column, text in query.contains.items():
        conditions.append(f"instr(casefold({column}), ?)")
        values.append(text.casefold())
    return conditions, values


def _written(table: DomainTable, values: Mapping[str, Any]) -> dict[str, Any]:
    written = write_domain_columns(table, values)
    return {
        column: json_text(value)
        if value is not None and domain_columns(table)[column] == "json"
        else value
        for column, value in written.items()
    }


def _rows(db: sqlite3.Connection, table: DomainTable, row_id: str) -> list[Row]:
    statement = sql("select * from {table} where id = ?", table=table)
    return [read_domain_row(table, dict(row)) for row in db.execute(statement, (row_id,))]
