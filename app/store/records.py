"""How values travel between the domain's rows and a database: moments, JSON, whole rows.

Both stores use it. Columns are named as the fields they fill, so a row is read by its type alone.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from app.store.protocol import JSON, DomainTable, Row, StoreError, domain_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RowT = TypeVar("RowT")


def moment_text(moment: datetime) -> str:
    """Write a moment as UTC text of one width, so that text sorts as time does.

    Raises:
        ValueError: If the moment is naive.
    """
    if moment.tzinfo is None:
        raise ValueError(f"moment {moment.isoformat()} has no time zone")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def read_moment(text: str) -> datetime:
    """Read a moment back, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def json_text(value: JSON) -> str:
    """Write a value as strict JSON, which has no NaN.

    Raises:
        StoreError: If it is not JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot be stored as JSON: {error}") from error


def read_json(value: JSON) -> JSON:
    """Read JSON that came as text; what the driver has read already stays as it is."""
    return json.loads(value) if isinstance(value, str) else value


def read_record(row_type: type[RowT], record: Mapping[str, Any]) -> RowT:
    """Make a row from a database's record; columns that the row does not have are left out.

    Raises:
        StoreError: If a column is missing or its value makes no sense.
    """
    values = {}
    # mypy takes the hash of a class for that of its instances.
    readers = _readers(row_type)  # type: ignore[arg-type]
    for name, (read, optional) in readers.items():
        try:
            value = record[name]
            if value is None and not optional:
                raise ValueError("is null")
            values[name] = None if value is None else read(value)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{row_type.__name__}: {name} makes no sense: {error.__class__.__name__}: {error}"
            ) from error
    return row_type(**values)


@cache
def _readers(row_type: type[Any]) -> dict[str, tuple[Callable[[Any], Any], bool]]:
    readers = {}
    for name, hint in get_type_hints(row_type).items():
        union = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        plain = next(option for option in union if option is not NoneType)
        readers[name] = (_reader(get_origin(plain) or plain), NoneType in union)
    return readers


def _reader(plain: type[Any]) -> Callable[[Any], Any]:
    known: dict[Any, Callable[[Any], Any]] = {
        datetime: read_moment,
        date: date.fromisoformat,
        dict: read_json,
        Any: read_json,
    }
    # str, int, float, bool and the enums are themselves what reads them.
    return known.get(plain) or plain


def write_domain_value(table: DomainTable, column: str, value: JSON | datetime) -> JSON:
    """Turn a value for a domain table's column into what a database takes, by the column's kind.

    JSON is left as it is, checked: one store sends text and the other the value.

    Raises:
        StoreError: If the table has no such column, or the value is not of its kind.
    """
    kind = domain_columns(table).get(column)
    if kind is None:
        known = ", ".join(domain_columns(table))
        raise StoreError(f"{table} has no column {column!r}; it has {known}")
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


_KIND_IN_WORDS = {
    "text": "a text",
    "number": "a finite number",
    "integer": "a whole number",
    "moment": "a moment with a time zone",
}


def read_domain_row(table: DomainTable, record: Mapping[str, Any]) -> Row:
    """Make a domain table's row from a database's record."""
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
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{table}.{column} makes no sense: {error}") from error
    return row
