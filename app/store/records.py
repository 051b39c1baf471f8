"""How values travel between the domain's rows and a database: moments, JSON, whole rows.

Both stores use it. Columns are named as the fields they fill, so a row is read by its type alone.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, date, datetime
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from app.store.domain import DomainTable, Query, Row, domain_columns
from app.store.protocol import JSON, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RowT = TypeVar("RowT")
ValueT = TypeVar("ValueT")

_LONGEST = 100 * 366 * 86_400.0


def duration(seconds: float) -> float:
    """Return a duration that a database can add to its time.

    Raises:
        ValueError: If it is negative, not finite, or longer than a century.
    """
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"a duration of {seconds} s: it must be between 0 and {_LONGEST:.0f} s")
    return seconds


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


def clean(value: ValueT) -> ValueT:
    """Replace what no database can hold in a text, also within lists and dicts.

    NUL and halves of surrogate pairs, as a careless tool may hand on, become U+FFFD.
    """
    if isinstance(value, str):
        return _UNHOLDABLE.sub("\ufffd", value)  # type: ignore[return-value]  # a str for a str
    if isinstance(value, dict):
        return {clean(key): clean(each) for key, each in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return [clean(each) for each in value]  # type: ignore[return-value]
    return value


_UNHOLDABLE = re.compile("[\0\ud800-\udfff]")


def json_text(value: JSON) -> str:
    """Write a value as strict JSON, which has no NaN, cleaned as by `clean`.

    Raises:
        StoreError: If it is not JSON.
    """
    try:
        return json.dumps(clean(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot be stored as JSON: {error}") from error


def read_json(value: JSON) -> JSON:
    """Read JSON that came as text; what the driver has read already stays as it is.

    So does a text that is no JSON: a driver may have read that already, too.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _read_object(value: JSON) -> dict[str, JSON]:
    """Read a JSON object; what somebody wrote in its place by hand is put into one."""
    read = read_json(value)
    if read is None:
        return {}
    return read if isinstance(read, dict) else {"value": read}


def as_it_is(value: JSON) -> JSON:
    """Read JSON that the driver has read already."""
    return value


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
            values[name] = None if value is None and optional else read(value)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
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


def _read_text(value: JSON) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _read_truth(value: JSON) -> bool:
    if value not in (False, True):  # 0 and 1 count as these, which is what SQLite has
        raise ValueError(f"{value!r:.40} is neither true nor false")
    return bool(value)


def _reader(plain: type[Any]) -> Callable[[Any], Any]:
    known: dict[Any, Callable[[Any], Any]] = {
        datetime: read_moment,
        date: date.fromisoformat,
        dict: _read_object,
        Any: read_json,
        str: _read_text,
        bool: _read_truth,
    }
    # int, float and the enums are themselves what reads them.
    return known.get(plain) or plain


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
    for column in query.equal:
        if _kind(table, column) == "json":
            raise StoreError(f"{table}.{column} holds JSON, which has no one form to compare")
    for column in query.contains:
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
