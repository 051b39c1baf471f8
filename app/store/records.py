"""How values travel between the domain's rows and a database: moments, JSON, whole rows.

Both stores use it. Columns are named as the fields they fill, so a row is read by its type alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from app.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

    from app.store.verbs import JSON

RowT = TypeVar("RowT")
ValueT = TypeVar("ValueT")

_MORE_THAN_ONE = 2
_LONGEST = 100 * 366 * 86_400.0


# What is written.


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


def values_of(row: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a row by name, their values as they are."""
    return {name: getattr(row, name) for name in _names_of(type(row))}


@cache
def _names_of(row_type: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(row_type))


def clean(value: ValueT) -> ValueT:
    """Replace what no database can hold in a text, also within lists and dicts.

    NUL and halves of surrogate pairs, as a careless tool may hand on, become U+FFFD.
    """
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:  # nearly always, and ten times as quick to see
            return value
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
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if "\\u0000" not in text and (text.isascii() or _UNHOLDABLE.search(text) is None):
            return text  # nearly always, and a walk through the value takes longer
        return json.dumps(clean(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot be stored as JSON: {error}") from error


# What is read.


_ENDLESS: Final = {
    "infinity": datetime.max.replace(tzinfo=UTC),
    "-infinity": datetime.min.replace(tzinfo=UTC),
}


def read_moment(value: JSON) -> datetime:
    """Read a moment, in UTC; one without a zone, as people write by hand, is in UTC too."""
    if (
        isinstance(value, str) and value in _ENDLESS
    ):  # PostgreSQL's words for "until told otherwise"
        return _ENDLESS[value]
    try:
        moment = msgspec.convert(value, datetime, strict=False)
    except msgspec.ValidationError:
        if not isinstance(value, str):
            raise
        moment = datetime.fromisoformat(value)  # a day alone, and other forms of ISO 8601
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def read_json(value: JSON) -> JSON:
    """Read JSON that came as text; what the driver has read already stays as it is.

    So does a text that is no JSON: a driver may have read that already, too.
    """
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def read_object(value: JSON) -> JSON:
    """Read a JSON object; what somebody wrote in its place by hand is put into one."""
    read = read_json(value)
    return read if read is None or isinstance(read, dict) else {"value": read}


def as_it_is(value: JSON) -> JSON:
    """Return JSON that the driver has read."""
    return value


def read_record(row_type: type[RowT], record: Mapping[str, Any], *, parsed: bool = False) -> RowT:
    """Make a row from a database's record; columns that the row does not have are left out.

    Args:
        row_type: The row's type.
        record: The columns by name.
        parsed: Has the driver read what is JSON? A text is then a text, though it look like JSON.

    Raises:
        StoreError: If a column is missing that has no default, or its value makes no sense.
    """
    # mypy takes the hash of a class for that of its instances.
    shape = _shape(row_type)  # type: ignore[arg-type]
    values = {**shape.defaults, **record}
    try:
        _prepare(shape, values, parsed=parsed)
        return msgspec.convert(values, row_type, strict=False)
    except KeyError as error:
        raise StoreError(f"{row_type.__name__}: there is no column {error}") from error
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        if "unreadable" not in shape.defaults or not (
            values["id"] and isinstance(values["id"], str)
        ):
            raise StoreError(f"{row_type.__name__}: {error}") from error
    return _what_can_be_read(row_type, values)


def _prepare(shape: _Shape, values: dict[str, Any], *, parsed: bool) -> None:
    """Read what msgspec would not, in place."""
    read = as_it_is if parsed else read_json
    for name in shape.objects:
        values[name] = read_object(values[name])
    for name in shape.json:
        values[name] = read(values[name])
    for name in shape.never_none:
        if values[name] is None:
            values[name] = {}
    for name in shape.moments:
        text = values[name]
        if text is not None and not (isinstance(text, str) and text.endswith("Z")):
            values[name] = read_moment(text)


def _what_can_be_read(row_type: type[RowT], values: dict[str, Any]) -> RowT:
    """Make a row whose `unreadable` names what made no sense, with stand-ins for that."""
    hints = get_type_hints(row_type)
    wrong = []
    for name, hint in hints.items():
        try:
            read = read_moment(values[name]) if _kind(hint)[0] is datetime else values[name]
            msgspec.convert(read, hint, strict=False)
        except (msgspec.ValidationError, OverflowError, ValueError):
            plain, optional = _kind(hint)
            if values[name] is None and optional:
                continue
            wrong.append(f"{name} {_shortened(values[name])}")
            values[name] = None if optional else _stand_in(plain)
    values["unreadable"] = UNREADABLE + ", ".join(wrong)
    return msgspec.convert(values, row_type, strict=False)


UNREADABLE: Final = "cannot be read: "
"""How the error of a task begins that makes no sense; such rows are made by hand."""


def _stand_in(plain: Any) -> JSON:  # noqa: ANN401  (a type)
    if issubclass(plain, StrEnum):
        return "failed"
    return datetime.fromtimestamp(0, UTC) if plain is datetime else plain()


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


_SHORT: Final = 60


@dataclass(frozen=True, slots=True)
class _Shape:
    """The columns of a row that a database may give in another form than msgspec reads."""

    objects: tuple[str, ...]
    never_none: tuple[str, ...]
    json: tuple[str, ...]
    moments: tuple[str, ...]
    defaults: dict[str, Any]


@cache
def _shape(row_type: type[Any]) -> _Shape:
    kinds = {name: _kind(hint) for name, hint in get_type_hints(row_type).items()}

    def of(kind: object) -> tuple[str, ...]:
        return tuple(name for name, (found, _) in kinds.items() if found is kind)

    objects = of(dict)
    return _Shape(
        objects=objects,
        never_none=tuple(name for name in objects if not kinds[name][1]),
        json=of(Any),
        moments=of(datetime),
        defaults={
            field.name: field.default for field in fields(row_type) if field.default is not MISSING
        },
    )


def _kind(hint: Any) -> tuple[object, bool]:  # noqa: ANN401  (a type)
    """Return what a column holds, and whether it may be null."""
    union = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    plain = next(option for option in union if option is not NoneType)
    return get_origin(plain) or plain, NoneType in union


def read_answer(hint: Any, answer: JSON) -> Any:  # noqa: ANN401  (a type, and what it describes)
    """Read what a database has answered to a verb.

    Args:
        hint: The type of the verb's answer: rows, a row or None, or plain values.
        answer: What came, as JSON.

    Raises:
        StoreError: If it makes no sense.
    """
    if hint is NoneType:
        if answer not in (None, []):  # a list is supabase-py's word for an empty answer
            raise StoreError("there is an answer where none belongs")
        return None
    plain, optional = _kind(hint)
    if is_dataclass(plain) and isinstance(answer, list) and len(answer) < _MORE_THAN_ONE:
        if not answer and optional:
            return None
        answer = answer[0] if answer else None  # a function that returns rows, of which one is
    # Where a row is wanted, an empty list says that there is none; null is a gateway's word.
    elif answer is None and optional and not is_dataclass(plain):
        return None
    try:
        if plain is datetime:
            return read_moment(answer)
        if is_dataclass(plain):
            assert isinstance(plain, type)  # noqa: S101  (for mypy: no instance)
            return read_record(plain, msgspec.convert(answer, dict), parsed=True)
        if plain is list and is_dataclass(get_args(hint)[0]):
            rows = msgspec.convert(answer, list[dict[str, Any]])
            return [read_record(get_args(hint)[0], row, parsed=True) for row in rows]
        return msgspec.convert(answer, hint)
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise StoreError(str(error)) from error
