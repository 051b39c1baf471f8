"""Makes the tables and functions in a Supabase project's database, by a direct connection."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from actp_supervise.service import shorten
from app.store.errors import StoreError, StoreUnavailable, WrongSettings
from app.store.functions import migrations, schema_version
from app.store.old_tables import type_changes

if TYPE_CHECKING:
    import psycopg

WITHOUT_DB_URL = (
    "SUPABASE_DB_URL is not set, so the tables cannot be made from here. Set it (in the Supabase "
    "dashboard: Connect, Session pooler), or use the Supabase CLI: "
    "supabase link --project-ref <ref> && supabase db push (where other repositories push to the "
    "project too, from the one into which --migrate --export DIR has copied the files)"
)
"""What `--migrate` has to say without an address."""

LOCK_TIMEOUT: Final = 1
"""Seconds that a try waits for a table in use, and others behind it; so long they have between."""

TRIES: Final = 10


def migrate(db_url: str, *, tries: int = TRIES) -> list[str]:
    """Apply all of `supabase/migrations`, which may be done any number of times.

    It blocks: for a command, not for the daemon. Daemons may be at work meanwhile.

    Args:
        db_url: A connection string of PostgreSQL, whose user owns the tables that exist.
        tries: How often they are begun where tables that it changes are in use.

    Returns:
        What to tell the operator, a line each: the files, and warnings of the database.

    Raises:
        WrongSettings: If `db_url` is no connection string. Each error is one line.
        StoreUnavailable: If the database cannot be reached.
        StoreError: If it refuses; then nothing was done, and the message ends with the SQL that
            helps where there is some.
    """
    try:
        import psycopg  # only a migration needs it
    except ImportError as error:
        raise StoreError("psycopg is not installed: pip install 'psycopg[binary]'") from error

    try:
        psycopg.conninfo.conninfo_to_dict(db_url)
    except psycopg.ProgrammingError:
        # Its message quotes the string, and with it the password.
        raise WrongSettings(
            "SUPABASE_DB_URL is no connection string; one looks like "
            "postgresql://user:password@host:5432/postgres"
        ) from None
    told: list[str] = []

    def tell(notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            told.append(f"warning: {notice.message_primary}")

    try:
        # Without prepared statements, because Supabase's transaction pooler has none.
        with psycopg.connect(
            db_url, connect_timeout=10, prepare_threshold=None, autocommit=True
        ) as db:
            db.add_notice_handler(tell)
            _apply(db, tries)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise StoreUnavailable(
            "the tables are in use, and could not be had in time: end what holds them (a "
            f"transaction left open, a backup) and run it again: {_without_password(error)}"
        ) from error
    except psycopg.OperationalError as error:
        raise StoreUnavailable(f"SUPABASE_DB_URL: {_without_password(error)}") from error
    except psycopg.Error as error:
        hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
        raise StoreError(f"the migration was refused: {_without_password(error)}{hint}") from error
    return [*dict.fromkeys(told), *(f"applied {path.name}" for path in migrations())]


def _apply(db: psycopg.Connection, tries: int) -> None:
    """Apply all files in one transaction, so that nothing is ever half migrated."""
    from psycopg import errors

    for left in reversed(range(tries)):
        try:
            with db.transaction():
                db.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}s'".encode())
                # One at a time, or two would stumble over each other's functions.
                db.execute("select pg_advisory_xact_lock(hashtextextended('actp_migrations', 0))")
                _check_what_is_there(db)
                for path in migrations():
                    # No parameters, so that a file may hold many statements.
                    db.execute(path.read_bytes())
                _check_what_would_refuse(db)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if not left:
                raise
            db.execute(f"select pg_sleep({LOCK_TIMEOUT})".encode())
        else:
            return


_ROLES: Final = ("anon", "authenticated", "service_role")
"""Those of every Supabase project, which a plain PostgreSQL lacks."""


def _check_what_is_there(db: psycopg.Connection) -> None:
    """Refuse what the files cannot change, with what helps; make roles that are missing."""
    known = db.execute("select to_regprocedure('public.actp_schema_version()')").fetchone()
    if known is not None and known[0] is not None:
        row = db.execute("select public.actp_schema_version()").fetchone()
        if row is not None and row[0] > schema_version():
            raise StoreError(
                f"the tables are of version {row[0]}, newer than the {schema_version()} of this "
                "program: update the program"
            )
    if (changes := type_changes(db)) is not None:
        what, command = changes
        raise StoreError(f"the migration was refused: {what} ({command})")
    roles = {name for (name,) in db.execute("select rolname from pg_roles").fetchall()}
    for role in _ROLES:
        if role not in roles:
            bypass = " bypassrls" if role == "service_role" else ""
            db.execute(f"create role {role} nologin noinherit{bypass}".encode())


def _check_what_would_refuse(db: psycopg.Connection) -> None:
    row = db.execute("select public.actp_obstacles()").fetchone()
    obstacles = row[0] if row is not None else []
    if obstacles:
        what = "; ".join(
            f"column {each['column']} of table {each['table']} {each['why']}" for each in obstacles
        )
        commands = "; ".join(each["command"] for each in obstacles)
        raise StoreError(f"the migration was refused: {what} ({commands})")


def _without_password(error: Exception) -> str:
    """Return the first line of an error, without the password that a driver may quote."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return shorten(re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:...@", line))
