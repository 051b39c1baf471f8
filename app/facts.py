"""What is known, as values: a type says once what a field is called, means and looks like as JSON.

A type of the module `status`, or of a view, is a `@fact`. Its JSON has
the names of its fields (a keyword as `class_` without its underscore), its description in OpenAPI
is the docstring below each field, and a program that asks the daemon reads the same type back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import (
    Annotated,
    Any,
    Final,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

T = TypeVar("T")

JSON = Any
"""Whatever `json.dumps` accepts."""


def json_name(field: str) -> str:
    """Return what a field is called in JSON.

    >>> json_name("class_"), json_name("agent_id")
    ('class', 'agent_id')
    """
    return field.rstrip("_")


_SCHEMA: Final = {
    "alias_generator": json_name,
    "extra": "forbid",
    "json_schema_serialization_defaults_required": True,
}


@dataclass_transform(frozen_default=True, kw_only_default=True)
def fact(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass of which OpenAPI says: these fields are always there."""
    made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    # Read by pydantic, which alone is slow to import, and stays out of what only shows a status.
    made.__pydantic_config__ = _SCHEMA  # type: ignore[attr-defined]
    return made


class _LeftOut:
    """Marks a field, in its annotation, that JSON leaves out where it is None."""


LEFT_OUT: Final = _LeftOut()


@dataclass(frozen=True, slots=True)
class About:
    """A field of a value, and what stands in its annotation."""

    name: str
    metadata: tuple[object, ...]

    @property
    def left_out(self) -> bool:
        """Whether JSON leaves it out where it is None."""
        return LEFT_OUT in self.metadata


@cache
def fields_of(kind: type[Any]) -> tuple[About, ...]:
    """Return the fields of a dataclass with the metadata of their `Annotated` types."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        About(
            field.name,
            get_args(hints[field.name])[1:] if get_origin(hints[field.name]) is Annotated else (),
        )
        for field in dataclasses.fields(kind)
    )


def to_json(value: object) -> JSON:
    """Turn a value into JSON: moments as ISO 8601 in UTC, infinite numbers as null."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = ((field, getattr(value, field.name)) for field in fields_of(type(value)))
        return {
            json_name(field.name): to_json(fact)
            for field, fact in known
            if fact is not None or not field.left_out
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], value: JSON) -> T:
    """Read a value, or a list of them, back from JSON; what a newer daemon adds is left out.

    Raises:
        ValueError: If it is another.
    """
    return msgspec.convert(_with_field_names(kind, value), kind)


def _with_field_names(kind: Any, value: JSON) -> JSON:  # noqa: ANN401  (a type)
    if isinstance(value, list) and get_args(kind):
        return [_with_field_names(get_args(kind)[0], item) for item in value]
    if not dataclasses.is_dataclass(kind) or not isinstance(value, dict):
        return value
    names = {json_name(field.name): field.name for field in dataclasses.fields(kind)}
    return {names.get(key, key): item for key, item in value.items()}
