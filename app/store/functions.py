"""The functions of a Supabase project's database, as the files of SQL define them.

Their current text stands by noun in `postgres.sql`. What brings a database there stands in
`supabase/migrations`, whose last word on each function is that text: a file that is released never
changes, and what has changed since is a new one, which `make migration NAME=...` writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MIGRATIONS: Final = Path(__file__).parents[2] / "supabase" / "migrations"

_DEFINITION = re.compile(
    r"^create or replace function public\.(?P<name>\w+)\((?P<parameters>[^)]*)\)"
    r"\s+returns\s+(?P<returns>.*?)\s+language\b.*?\$\$.*?\$\$;",
    re.DOTALL | re.MULTILINE,
)

_TYPES: Final = {
    "timestamptz": "timestamp with time zone",
    "int": "integer",
    "bool": "boolean",
}
"""What PostgreSQL calls a type that the files call otherwise."""


@dataclass(frozen=True, slots=True)
class Function:
    """One definition of a function."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    """Name and type of each, as PostgreSQL calls the type."""
    returns: str
    text: str
    """The whole statement."""

    @property
    def identity(self) -> str:
        """What PostgreSQL knows it by: its name and the types of its parameters."""
        return f"{self.name}({', '.join(kind for _, kind in self.parameters)})"

    @property
    def signature(self) -> str:
        """What who calls it must know: the names of the parameters too, and what it answers."""
        parameters = ", ".join(f"{name} {kind}" for name, kind in self.parameters)
        return f"{self.name}({parameters}) returns {self.returns}"


def functions_in(text: str) -> list[Function]:
    """Return the definitions in a text of SQL, in their order."""
    return [
        Function(
            name=found["name"],
            parameters=tuple(_parameter(part) for part in found["parameters"].split(",") if part),
            returns=_kind(found["returns"]),
            text=found[0],
        )
        for found in _DEFINITION.finditer(text)
    ]


def _parameter(text: str) -> tuple[str, str]:
    name, kind = text.split(maxsplit=1)
    return name, _kind(kind)


def _kind(text: str) -> str:
    words = " ".join(text.split()).replace("public.", "")
    plain = words.removesuffix("[]")
    return _TYPES.get(plain, plain) + words[len(plain) :]


def last_definitions(texts: Iterable[str]) -> dict[str, Function]:
    """Return what is left after texts of SQL, by `Function.identity`: the last one stands."""
    return {function.identity: function for text in texts for function in functions_in(text)}


def wanted_functions() -> dict[str, Function]:
    """Return the functions as they are to be, by `Function.identity`."""
    return last_definitions(
        path.read_text(encoding="utf-8")
        for path in sorted(Path(__file__).parent.glob("*/postgres.sql"))
    )


def migrations() -> list[Path]:
    """Return the files of the migrations, in the order in which they are applied."""
    return sorted(MIGRATIONS.glob("*.sql"))


def schema_version() -> int:
    """Return the version of the schema that this program needs: that of the last migration."""
    return int(migrations()[-1].name.split("_")[0])
