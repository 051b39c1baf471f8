"""Makes the tables and functions in a Supabase project's database, by a direct connection."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from actp_supervise.service import shorten
from app.store.errors import StoreError, StoreUnavailable, WrongSettings

if TYPE_CHECKING:
    import psycopg

MIGRATIONS = Path(__file__).parents[2] / "supabase" / "migrations"

WITHOUT_DB_URL = (
    "SUPABASE_DB_URL is not set, so the tables cannot be made from here. Set it (in the Supabase "
    "dashboard: Connect, Session pooler), or use the Supabase CLI: "
    "supabase link --project-ref <ref> && supabase db push"
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
        tries: How often a file is begun where tables that it changes are in use.

    Returns:
        What to tell the operator, a line each: the files, and warnings of the database.

    Raises:
        WrongSettings: If `db_url` is no connection string. Each error is one line.
        StoreUnavailable: If the database cannot be reached.
        StoreError: If it refuses; then nothing of that file was done.
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
            for path in sorted(MIGRATIONS.glob("*.sql")):
                _apply(db, path, tries)
                told.append(f"applied {path.name}")
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
    return told


def _apply(db: psycopg.Connection, path: Path, tries: int) -> None:
    from psycopg import errors

    for left in reversed(range(tries)):
        try:
            with db.transaction():
                db.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}s'".encode())
                # One at a time, or two would stumble over each other's functions.
                db.execute("select pg_advisory_xact_lock(hashtextextended('actp_migrations', 0))")
                # No parameters, so that a file may hold many statements.
                db.execute(path.read_bytes())
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if not left:
                raise
            db.execute(f"select pg_sleep({LOCK_TIMEOUT})".encode())
        else:
            return


def _without_password(error: Exception) -> str:
    """Return the first line of an error, without the password that a driver may quote."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return shorten(re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:...@", line))
