"""How values travel between the agents' own tables and a database, by the kind of their column."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.store.errors import StoreError
from app.store.records import json_text, moment_text, read_json, read_moment

from .contract import DomainTable, Query, Row, domain_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.store.verbs import JSON


def write_domain_value(table: DomainTable, column: str, value: JSON | datetime) -> JSON:
    """Turn a value for a domain table's column into what a database takes, by the column's kind.

    JSON is left as it is, checked: one store sends text and the other the value.

    Raises:
        StoreError: If the table has no such column, or the value is not of its kind.
    """
    kind = _kind(table, column)
    if value is None:
        return None
    if kind == "json":
        json_text(value)
        return value
    if kind == "moment" and isinstance(value, datetime) and value.tzinfo is not None:
        return moment_text(value)
    if kind == "text" and isinstance(value, str):
        return value
    # bool is an int to Python, and a mistake here.
    if kind == "integer" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if (
        kind == "number"
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    ):
        return float(value)
    raise StoreError(f"{table}.{column} takes {_KIND_IN_WORDS[kind]}, not {value!r:.80}")


def write_domain_columns(table: DomainTable, values: Mapping[str, Any]) -> dict[str, JSON]:
    """Turn what a caller sets in a row into what a database takes. Raises as the above."""
    for column in ("id", "created_at", "updated_at"):
        if column in values:
            raise StoreError(f"{table}.{column} is set by the store")
    return {column: write_domain_value(table, column, value) for column, value in values.items()}


def check_query(table: DomainTable, query: Query) -> None:
    """Check that a query asks for columns that are there and can be compared so.

    The names are about to become part of a statement or an address.

    Raises:
        StoreError: If it does not.
    """
    _kind(table, query.order_by)
    if query.before is not None and (query.order_by, query.descending) != ("created_at", True):
        raise StoreError(f"rows of {table} behind another are those that were made before it")
    for column in query.equal:
        if _kind(table, column) == "json":
            raise StoreError(f"{table}.{column} holds JSON, which has no one form to compare")
    for column in (*query.contains, *query.one_of):
        if _kind(table, column) != "text":
            raise StoreError(f"{table}.{column} is no text that could contain one")


def _kind(table: DomainTable, column: str) -> str:
    kind = domain_columns(table).get(column)
    if kind is None:
        known = ", ".join(domain_columns(table))
        raise StoreError(f"{table} has no column {column!r}; it has {known}")
    return kind


_KIND_IN_WORDS = {
    "text": "a text",
    "number": "a finite number",
    "integer": "a whole number",
    "moment": "a moment with a time zone",
}


def read_domain_row(
    table: DomainTable,
    record: Mapping[str, Any],
    read_json: Callable[[Any], JSON] = read_json,
) -> Row:
    """Make a domain table's row from a database's record.

    Args:
        table: Whose row it is.
        record: The columns by name.
        read_json: Reads a column of JSON, which one database gives as text.
    """
    readers: dict[str, Callable[[Any], Any]] = {
        "text": str,
        "number": float,
        "integer": int,
        "moment": read_moment,
        "json": read_json,
    }
    row: Row = {}
    for column, kind in domain_columns(table).items():
        try:
            value = record[column]
            row[column] = None if value is None else readers[kind](value)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"{table}.{column} makes no sense: {error}") from error
    return row
