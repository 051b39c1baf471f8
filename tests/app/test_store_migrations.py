"""The migrations: released files stay, each change is a new one, and old databases get there."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from hashlib import sha256

import psycopg
import pytest
from services import open_project
from store_calls import add, claim

from app.settings import load_settings
from app.store.errors import WrongVersion
from app.store.export import export
from app.store.functions import (
    functions_in,
    last_definitions,
    migrations,
    schema_version,
)
from app.store.migrate import migrate
from app.store.next_migration import changed_functions
from app.store.open import open_store
from app.store.protocol import DomainTable, Query, StoreError, TaskStatus
from app.store.schema import check_required_tables
from app.store.supabase import open_supabase_store

RELEASES = (
    {
        "20261123000001_tables.sql": "b70feacfb07f55ecc17cdefbce8cf660",
        "20261123000002_functions.sql": "7200a59b97121ec9aa6051d8cd27c7b1",
        "20261123000003_access.sql": "377056f6556acac06fbd7b5e4e6999a4",
    },
    {
        "20261129000001_store_by_noun.sql": "7df4ea46bc55b50e9e4134514c65e708",
        "20261129000002_beat.sql": "4c83ae175882266014516286a350e819",
        "20261129000003_rows_made_by_hand.sql": "49e632a37764a2fc3e60c4d955270140",
        "20261129000004_rights.sql": "3590736191a931a5b1052b50f90a6c90",
        "20261129000005_conversations.sql": "b706f644c7705f4d32e0d0868d4a7512",
        "20261129000006_routine_times.sql": "7bc3f453995d725b3662e262964ec3c0",
        "20261129000007_approvals.sql": "8964be253b9e7df74ac3b1b791a70e37",
    },
    {
        "20261129000008_daemons_that_come_back.sql": "4b679cc7d96d6dfac7bbe5046114cac7",
        "20261129000009_search_and_pages_of_tasks.sql": "7d593ce01fa0e61fd8e00e20b4d0c395",
        "20261129000010_history_of_tasks.sql": "c124cd6ea467fb43c32260781b6e1e8f",
        "20261129000011_operators_word.sql": "076a2c59a644101fdc0cbb5e203e896a",
        "20261129000012_reviews_and_reports.sql": "b718ae4d6e8833e724788a5b9f41554a",
    },
    {
        "20261129000013_history_is_forgotten.sql": "cab8d17688acf183b51f5365ac3624a6",
    },
)
"""For each release, the first one first: its new files -> the begin of their SHA-256."""

RELEASED = {name: digest for files in RELEASES for name, digest in files.items()}

BY_HAND = {
    "actp_agent_tasks": "(agent_type, goal) values ('social', 'by hand')",
    "actp_engagement_actions": "(action) values ('like')",
    "actp_viral_templates": "(name) values ('n')",
    "actp_deal_log": "(name) values ('n')",
    "actp_revenue_goals": "(metric) values ('n')",
    "actp_weekly_snapshots": "(week) values ('2026-W48')",
}


def last_release():
    """The migrations as the last release has them."""
    return [path for path in migrations() if path.name in RELEASED]


def older_releases():
    """The numbers of the releases to which a migration has been added since."""
    last = migrations()[-1].name
    return [number for number, files in enumerate(RELEASES) if last not in files]


def make_release(database, number):
    """Bring a new database to what a release had."""
    names = {name for files in RELEASES[: number + 1] for name in files}
    with psycopg.connect(database, autocommit=True) as db:
        for path in migrations():
            if path.name in names:
                db.execute(path.read_bytes())


@pytest.fixture
def first_release(new_database):
    make_release(new_database, 0)
    return new_database


@pytest.fixture(params=older_releases())
def released_database(new_database, request):
    make_release(new_database, request.param)
    return new_database


def test_a_released_migration_never_changes():
    found = {path.name: sha256(path.read_bytes()).hexdigest()[:32] for path in last_release()}
    assert found == RELEASED


def test_the_last_word_of_the_migrations_on_each_function_is_its_current_text():
    assert [each.identity for each in changed_functions()] == []


def test_the_last_migration_gives_the_database_its_version():
    last = last_definitions(path.read_text() for path in migrations())
    assert f"select {schema_version()}\n" in last["actp_schema_version()"].text
    assert f"select {schema_version()}\n" in migrations()[-1].read_text()


def test_no_later_migration_changes_what_a_released_function_takes_or_answers():
    released = last_definitions(path.read_text() for path in last_release())
    now = last_definitions(path.read_text() for path in migrations())
    assert released.keys() <= now.keys()
    for identity, function in released.items():
        assert now[identity].signature == function.signature


def test_only_the_service_role_may_call_a_function_of_a_later_migration():
    for path in migrations():
        if path.name in RELEASED:
            continue
        text = path.read_text()
        for function in functions_in(text):
            grant = f"grant execute on function public.{function.identity} to service_role"
            assert grant in text, f"{path.name}: {function.identity}"


async def test_a_database_of_an_older_release_is_brought_up_with_its_data(
    released_database, postgres, short_folder
):
    with psycopg.connect(released_database, autocommit=True) as db:
        db.execute("""
            insert into actp_agent_tasks (id, agent_type, goal, status, created_at, context) values
                ('old', 'social', 'of before', 'queued', now(), '{"n": 1}'),
                ('done', 'social', 'done', 'succeeded', now(), '{}');
            insert into actp_deal_log (id, name) values ('d1', 'a deal');
        """)
    migrate(released_database)
    async with (
        open_project(postgres, released_database, short_folder) as project,
        open_supabase_store(project.url, project.service_key) as store,
    ):
        assert (await check_required_tables(store)).complete
        assert (await store.task("done")).status is TaskStatus.SUCCEEDED
        task = await claim(store)
        assert (task.id, task.context) == ("old", {"n": 1})
        deals = await store.select(DomainTable.DEAL_LOG, Query(limit=2))
        assert [deal["name"] for deal in deals] == ["a deal"]


async def test_a_database_of_the_first_release_is_brought_up_with_rows_that_cannot_be_read(
    first_release, postgres, short_folder
):
    with psycopg.connect(first_release, autocommit=True) as db:
        db.execute("""
            insert into actp_agent_tasks (id, agent_type, goal, status, created_at, context) values
                ('old', 'social', 'of before', 'queued', now(), '{}'),
                ('done', 'social', 'done', 'succeeded', now(), '{}'),
                ('never', 'social', 'x', 'queued', 'infinity', '{}'),
                ('large', 'social', 'x', 'queued', now(), '{"n": 1e5000}');
            insert into actp_deal_log (id, name) values ('d1', 'a deal');
        """)
    migrate(first_release)
    async with (
        open_project(postgres, first_release, short_folder) as project,
        open_supabase_store(project.url, project.service_key) as store,
    ):
        assert (await check_required_tables(store)).complete
        tasks = {task.id: task for task in await store.tasks()}
        assert tasks["never"].error.startswith("cannot be read: created_at infinity")
        assert tasks["large"].error == "cannot be read: context"
        assert {task.status for task in (tasks["never"], tasks["large"])} == {TaskStatus.FAILED}
        assert (await claim(store)).id == "old"
        # As a daemon of that release still calls it.
        released = await store.db.call(
            "actp_release_task",
            {"p_id": "old", "p_token": "k1", "p_uncounted": 1, "p_delay": 0, "p_error": None},
            bool,
        )
        assert released
        assert (await store.task("old")).attempts == 0


async def test_a_row_made_by_hand_needs_no_key(new_database):
    migrate(new_database)
    with psycopg.connect(new_database, autocommit=True) as db:
        for table, values in BY_HAND.items():
            for _ in range(2):
                db.execute(f"insert into {table} {values}")
            assert db.execute(f"select count(distinct id) from {table}").fetchone() == (2,)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "'Queued'"),
        ("created_at", "'infinity'"),
        ("context", """'{"n": 1e5000}'"""),
        ("context", f"'{'[' * 3000}{']' * 3000}'"),
    ],
    ids=["status", "time", "number", "depth"],
)
async def test_a_task_that_could_never_be_read_is_refused(new_database, column, value):
    migrate(new_database)
    insert = f"insert into actp_agent_tasks (agent_type, goal, {column})"
    with (
        psycopg.connect(new_database, autocommit=True) as db,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        db.execute(f"{insert} values ('social', 'x', {value})")


async def test_tasks_of_another_program_keep_their_states(new_database):
    with psycopg.connect(new_database, autocommit=True) as db:
        db.execute("create table actp_agent_tasks (id text primary key, status text)")
        db.execute("insert into actp_agent_tasks values ('a', 'pending')")
        told = migrate(new_database)
        assert any("actp_agent_tasks_status_known" in line for line in told)
        db.execute("insert into actp_agent_tasks values ('b', 'pending')")


# -- versions


async def test_a_database_of_an_older_release_is_told_in_one_line_at_the_start(
    released_database, postgres, short_folder
):
    async with open_project(postgres, released_database, short_folder) as project:
        with pytest.raises(
            WrongVersion, match=r"of (an earlier release|version).* --migrate"
        ) as older:
            async with open_supabase_store(project.url, project.service_key):
                pytest.fail("opened")
    assert "\n" not in str(older.value)


async def test_a_database_of_a_newer_release_is_told_in_one_line_and_left_alone(
    new_database, postgres, short_folder
):
    migrate(new_database)
    with psycopg.connect(new_database, autocommit=True) as db:
        db.execute(
            "create or replace function actp_schema_version() returns bigint"
            " language sql immutable set search_path = '' as 'select 99990101000001'"
        )
    with pytest.raises(StoreError, match=r"newer than .* update the program"):
        migrate(new_database)
    async with open_project(postgres, new_database, short_folder) as project:
        environ = {"SUPABASE_URL": project.url, "SUPABASE_SERVICE_ROLE_KEY": project.service_key}
        with pytest.raises(WrongVersion, match=r"newer than .* update the program"):
            async with open_store(load_settings(environ, env_file=None)):
                pytest.fail("opened")


async def test_a_function_that_takes_something_else_is_missing(
    new_database, postgres, short_folder
):
    migrate(new_database)
    with psycopg.connect(new_database, autocommit=True) as db:
        db.execute("drop function actp_forget(text, text)")
        db.execute(
            "create function actp_forget(p_agent_id text) returns boolean"
            " language sql as 'select true'"
        )
    async with (
        open_project(postgres, new_database, short_folder) as project,
        open_supabase_store(project.url, project.service_key) as store,
    ):
        assert await store.check_tables() == {"actp_forget()": ()}


# -- tables that were there before

WITH_KEYS = """
    create table actp_agent_runs (
        id uuid primary key default gen_random_uuid(), agent_id text not null);
    create table actp_tool_call_log (
        id uuid primary key default gen_random_uuid(),
        run_id uuid references actp_agent_runs (id) on delete cascade);
    create table notes (id int, run uuid references actp_agent_runs (id));
    insert into actp_agent_runs (agent_id) values ('social');
    insert into actp_tool_call_log (run_id) select id from actp_agent_runs;
    insert into notes select 1, id from actp_agent_runs;
"""

SHAPES = {
    "a key of type uuid with foreign keys": (WITH_KEYS, "actp_agent_runs.id is of type uuid"),
    "another column of type uuid": (
        "create table actp_tool_call_log (id text primary key, run_id uuid)",
        "actp_tool_call_log.run_id is of type uuid",
    ),
    "a key that counts": (
        "create table actp_deal_log ("
        "id bigint generated always as identity primary key, name text)",
        "actp_deal_log.id is of type bigint",
    ),
    "one more column that needs a value": (
        "create table actp_deal_log (id text primary key, deal_name text not null)",
        "column deal_name of table actp_deal_log needs a value",
    ),
    "a check of the status": (
        "create table actp_agent_tasks (id text primary key,"
        " status text check (status in ('pending', 'done')))",
        "column status of table actp_agent_tasks has the check",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_table_that_was_there_is_named_with_the_command_that_helps(
    new_database, postgres, short_folder, shape
):
    made, what = SHAPES[shape]
    with psycopg.connect(new_database, autocommit=True) as db:
        db.execute(made)
        with pytest.raises(StoreError, match=re.escape(what)) as refused:
            migrate(new_database)
        assert "\n" not in str(refused.value)
        (command,) = re.findall(r" \((alter table .*)\)$", str(refused.value))
        db.execute(command)
        migrate(new_database)
        if made == WITH_KEYS:
            joined = "select count(*) from actp_tool_call_log c join actp_agent_runs r"
            assert db.execute(f"{joined} on r.id = c.run_id").fetchone() == (1,)
            db.execute("delete from notes")
            db.execute("delete from actp_agent_runs")
            assert db.execute("select count(*) from actp_tool_call_log").fetchone() == (0,)
    async with (
        open_project(postgres, new_database, short_folder) as project,
        open_supabase_store(project.url, project.service_key) as store,
    ):
        assert (await check_required_tables(store)).complete
        await add(store)
        await store.start_run("r1", "social", "i1")
        assert len(await store.runs("social")) == 1
        await store.insert(DomainTable.DEAL_LOG, "x1", {"name": "n"})


async def test_what_came_between_since_the_migration_is_told_by_the_look_at_the_start(
    new_database, postgres, short_folder
):
    migrate(new_database)
    with psycopg.connect(new_database, autocommit=True) as db:
        db.execute("alter table actp_agent_runs add column goal text not null")
    async with (
        open_project(postgres, new_database, short_folder) as project,
        open_supabase_store(project.url, project.service_key) as store,
    ):
        report = await check_required_tables(store)
    assert not report.complete
    assert "column goal of table actp_agent_runs needs a value" in report.warning
    assert "(alter table public.actp_agent_runs alter column goal drop not null)" in report.warning


# -- the repository of others


def test_an_export_has_versions_of_its_moment_and_what_is_there_is_left_out(tmp_path):
    folder = tmp_path / "supabase" / "migrations"
    told = export(folder, datetime(2026, 11, 30, 9, 0, 58, tzinfo=UTC))
    names = sorted(path.name for path in folder.iterdir())
    assert names[:3] == [
        "20261130090058_actp_tables.sql",
        "20261130090059_actp_functions.sql",
        "20261130090100_actp_access.sql",
    ]
    assert [line.split()[0] for line in told] == ["wrote"] * len(names)
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == [
        path.read_bytes() for path in migrations()
    ]
    (folder / names[-1]).unlink()
    told = export(folder, datetime(2026, 12, 24, tzinfo=UTC))
    assert [line.split()[0] for line in told if line.startswith("wrote")] == ["wrote"]
    assert len(list(folder.iterdir())) == len(names)


def test_a_folder_that_cannot_be_written_to_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot export to"):
        export(tmp_path / "file", datetime(2026, 11, 30, tzinfo=UTC))
