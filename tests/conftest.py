"""A Supabase project for the tests that ask for one; started once, and only then."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import default_signals  # noqa: F401  (SIGINT may be ignored)
import property_tests  # noqa: F401  (sets hypothesis up)
import psycopg
import pytest
from services import Postgres, Project, open_project, why_missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Each of httpx's clients reads the certificates anew, which takes longer than many a test.
ssl.create_default_context = cache(ssl.create_default_context)

# To truncate a table takes long, whether or not there is anything in it.
EMPTY = """
    do $$
    declare
        name text;
        is_used boolean;
        used text;
    begin
        for name in
            select oid::regclass::text from pg_class
            where relnamespace = 'public'::regnamespace and relkind = 'r'
        loop
            execute format('select exists (select from %s)', name) into is_used;
            if is_used then
                used := concat_ws(', ', used, name);
            end if;
        end loop;
        if used is not null then
            execute format('truncate %s restart identity', used);
        end if;
    end $$
"""


@pytest.fixture(scope="session")
def running_project() -> Iterator[Project]:
    """A project with all migrations, for the whole session, whatever is in its tables."""
    missing = why_missing()
    if missing is not None:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("services.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is pytest's alone
    )
    with process:
        told = process.stdout.readline()
        if not told:
            pytest.fail("the services did not start; run: python tests/services.py", pytrace=False)
        yield Project(**json.loads(told))
        process.stdin.close()  # which ends it
        process.wait(timeout=120)


@pytest.fixture(scope="session")
def project_db(running_project: Project) -> Iterator[psycopg.Connection]:
    """A connection to the project's database that stays open, for a new one reads all it needs."""
    with psycopg.connect(running_project.db_url, autocommit=True) as db:
        yield db


@pytest.fixture
def project(running_project: Project, project_db: psycopg.Connection) -> Project:
    """A project with all migrations and empty tables."""
    project_db.execute(EMPTY)
    return running_project


@pytest.fixture
def postgres(running_project: Project) -> Postgres:
    """The server on which `running_project` is."""
    return Postgres(Path(running_project.socket).parent)


@pytest.fixture
def new_database(postgres: Postgres) -> Iterator[str]:
    """The address of a database without any of our tables."""
    name = f"own{next(_numbers)}"
    yield postgres.create(name)
    postgres.drop(name)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket, and that another user can enter."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
async def new_project(
    postgres: Postgres, new_database: str, short_folder: Path
) -> AsyncIterator[Project]:
    """A project without any of our tables."""
    async with open_project(postgres, new_database, short_folder) as project:
        yield project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of this folder itself: the last of them would run alone for long."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures of the campaigns in tests/faults, which captured output would hide."""
    reports = (report for found in terminalreporter.stats.values() for report in found)
    properties = (getattr(report, "user_properties", ()) for report in reports)
    figures = (value for found in properties for name, value in found if name == "figures")
    lines = dict.fromkeys(figures)  # each of a test's three reports has them
    if lines:
        terminalreporter.section("figures of the campaigns")
    for line in lines:
        terminalreporter.write_line(str(line))


_numbers = count()
