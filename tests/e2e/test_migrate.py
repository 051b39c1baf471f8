"""`--migrate` as an operator has it, against a real PostgreSQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import psycopg
import pytest

from app.store.functions import migrations

TABLES = (
    "select count(*) from pg_tables"
    " where tablename like 'actp%' or tablename = 'anthropic_cost_log'"
)


def tables(db_url):
    with psycopg.connect(db_url) as db:
        return db.execute(TABLES).fetchone()[0]


async def test_the_tables_are_made_and_a_second_time_does_no_harm(idle_place, new_database):
    for _ in range(2):
        ended = await idle_place.run(
            "--migrate", SUPABASE_DB_URL=new_database, ANTHROPIC_API_KEY=""
        )
        assert (ended.code, ended.err) == (0, "")
        lines = ended.out.splitlines()
        assert lines == [f"applied {path.name}" for path in migrations()]
        assert tables(new_database) >= 11


async def test_without_the_database_s_address_the_other_way_is_told(idle_place):
    ended = await idle_place.run(
        "--migrate", SUPABASE_URL="https://x.supabase.co", SUPABASE_SERVICE_ROLE_KEY="key"
    )
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert "SUPABASE_DB_URL is not set" in line
    assert "supabase db push" in line


async def test_with_export_the_files_are_copied_and_nothing_is_applied(idle_place, tmp_path):
    folder = tmp_path / "theirs"
    ended = await idle_place.run("--migrate", "--export", str(folder))
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.splitlines()) == len(list(folder.iterdir())) == len(migrations())
    alone = await idle_place.run("--export", str(folder))
    assert (alone.code, alone.err.splitlines()[-1]) == (
        2,
        "error: --export goes with --migrate (see python -m app.main --help)",
    )


async def test_a_file_of_a_newer_release_is_one_line_with_its_name_and_exit_code_2(idle_place):
    assert (await idle_place.run("--dry-run")).code == 0
    with closing(sqlite3.connect(idle_place.database)) as db, db:
        db.execute("update actp_schema_version set version = version + 1")
    for arguments in (("--dry-run",), ("--list-agents",), ()):
        ended = await idle_place.run(*arguments)
        assert ended.code == 2
        assert str(idle_place.database) in ended.err.splitlines()[-1]
        assert "update the program" in ended.err.splitlines()[-1]


async def test_sqlite_needs_no_migration_and_says_so(idle_place):
    ended = await idle_place.run("--migrate")
    assert (ended.code, ended.err) == (0, "")
    assert "gets its tables by itself" in ended.out
    assert "supabase db push" in ended.out


@pytest.mark.parametrize(
    ("db_url", "code", "says"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/postgres", 1, "refused"),
        ("not-a-connection-string", 2, "is no connection string"),
    ],
)
async def test_what_goes_wrong_is_one_line_without_the_password(idle_place, db_url, code, says):
    ended = await idle_place.run("--migrate", SUPABASE_DB_URL=db_url)
    assert (ended.code, ended.out) == (code, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert "hunter2" not in line
