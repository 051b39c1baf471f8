"""Writes the next migration, as ``make migration NAME=...`` does.

It holds each function whose text in a `postgres.sql` is another than in the migrations so far, and
what only the service role may call. What else is to change (a column, an index) is then written
into the file by hand.
"""

from __future__ import annotations

import re
import sys
from datetime import date
from typing import TYPE_CHECKING

from app.store.functions import MIGRATIONS, last_definitions, migrations, wanted_functions

if TYPE_CHECKING:
    from app.store.functions import Function

HEAD = """\
-- {title}
--
-- Safe to run again. Daemons of the release before may still be at work on this database, so what
-- they call keeps its parameters and the shape of its answer.
"""

# Not immutable: then its value would stand in plans that other roles share, past its rights.
VERSION = """\
create or replace function public.actp_schema_version() returns bigint
language sql stable set search_path = '' as $$
    select {version}
$$;
"""

ACCESS = """\
revoke all on function public.{identity} from public, anon, authenticated;
grant execute on function public.{identity} to service_role;
"""

TAIL = """\
-- PostgREST keeps what it knows of the schema until it is told.
notify pgrst, 'reload schema';
"""


def changed_functions() -> list[Function]:
    """Return the functions that no migration has defined as they are to be.

    Raises:
        ValueError: If a function has changed its shape, which `create or replace` cannot do, and
            which a daemon of the last release would trip over.
    """
    known = last_definitions(path.read_text(encoding="utf-8") for path in migrations())
    changed = []
    for identity, wanted in wanted_functions().items():
        before = known.get(identity)
        if before is not None and before.signature != wanted.signature:
            raise ValueError(
                f"{before.signature} is released and cannot become {wanted.signature}: "
                "give the new one another name"
            )
        if before is None or before.text != wanted.text:
            changed.append(wanted)
    return changed


def migration_text(title: str, version: int, functions: list[Function]) -> str:
    """Return the text of a migration."""
    access = [ACCESS.format(identity=function.identity) for function in functions]
    access.append(ACCESS.format(identity="actp_schema_version()"))
    return "\n".join(
        (
            HEAD.format(title=title),
            *(f"{function.text}\n" for function in functions),
            VERSION.format(version=version),
            "".join(access),
            TAIL,
        )
    )


def next_version(today: date) -> int:
    """Return a version that no migration has, for a day."""
    last = int(migrations()[-1].name.split("_")[0])
    return max(last + 1, int(f"{today:%Y%m%d}000001"))


def main(arguments: list[str]) -> int:
    """Write the file, and print its name."""
    match arguments:
        case [name] if re.fullmatch("[a-z0-9_]+", name):
            pass
        case _:
            print("say what it does: make migration NAME=words_with_underscores", file=sys.stderr)
            return 2
    version = next_version(date.today())  # noqa: DTZ011  (the day of who writes it)
    path = MIGRATIONS / f"{version}_{name}.sql"
    title = name.replace("_", " ").capitalize() + "."
    path.write_text(migration_text(title, version, changed_functions()), encoding="utf-8")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
