"""JSON Schemas of what is answered and sent, made of the types themselves and their docstrings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from copy import deepcopy
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

from pydantic import TypeAdapter

from app.facts import JSON, fields_of, json_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REFERENCE: Final = "#/components/schemas/{model}"

Schema = dict[str, JSON]


def schemas_of(types: Iterable[Any]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """Return the schema of each type that is answered, and those that they refer to."""
    return deepcopy(_schemas_of(tuple(dict.fromkeys(types))))


@cache  # it takes half a second
def _schemas_of(types: tuple[Any, ...]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    made, shared = TypeAdapter.json_schemas(
        [(number, "serialization", TypeAdapter(kind)) for number, kind in enumerate(types)],
        ref_template=REFERENCE,
    )
    named = {types[number]: plain_schema(schema) for (number, _), schema in made.items()}
    components: dict[str, Schema] = plain_schema(shared.get("$defs", {}))
    for kind in dict.fromkeys(dataclasses_in(types)):
        properties = components[kind.__name__]["properties"]
        for field, text in descriptions(kind).items():
            properties[field]["description"] = text
        for name in (json_name(field.name) for field in fields_of(kind) if field.left_out):
            properties[name] = without_null(properties[name])
            components[kind.__name__]["required"].remove(name)
    return named, components


@cache
def field_names(types: tuple[Any, ...]) -> frozenset[str]:
    """Return what the fields of types are called in JSON, and of those that they refer to."""
    return frozenset(
        json_name(field.name) for kind in dataclasses_in(types) for field in fields_of(kind)
    )


def descriptions(kind: type) -> dict[str, str]:
    """Return field -> the docstring below it, of a dataclass and of those that it extends."""
    found = {}
    for cls in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        source = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        for field, below in pairwise(getattr(source, "body", ())):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[json_name(name)] = inspect.cleandoc(text)
                case _:
                    pass
    return found


def dataclasses_in(types: Iterable[Any]) -> Iterator[type]:
    """Return the dataclasses among types and in them, their fields' included."""
    seen: set[Any] = set()
    waiting = list(types)
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in seen:
            seen.add(kind)
            waiting += get_type_hints(kind).values()
            yield kind


def plain_schema(schema: dict[str, Any]) -> Schema:
    """Return pydantic's schema without its titles."""
    plain: Schema = deepcopy(schema)
    _simplify(plain)
    return plain


def _simplify(schema: JSON) -> None:
    if isinstance(schema, list):
        for item in schema:
            _simplify(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for item in schema.values():
            _simplify(item)


def without_null(field: Schema) -> Schema:
    """Return the schema of what is left out and never null."""
    schema = {name: each for name, each in field.items() if name != "anyOf"}
    if schema.get("default", ...) is None:
        del schema["default"]
    kinds = [each for each in field.get("anyOf", []) if each != {"type": "null"}]
    return {**schema, **kinds[0]} if kinds else schema
