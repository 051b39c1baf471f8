"""What is the Supabase store's own: who gets in, and what the migrations make of a database."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

import httpx
import psycopg
import pytest
import trio
from services import SECRET_KEY, key_of
from store_calls import EPOCH, LONG, add, claim, register

from app.store.errors import WrongSettings
from app.store.functions import functions_in, migrations, wanted_functions
from app.store.migrate import migrate
from app.store.protocol import (
    DomainTable,
    Query,
    StoreError,
    StoreUnavailable,
    TableMissing,
    TaskStatus,
)
from app.store.schema import check_required_tables
from app.store.steady import steady
from app.store.supabase import functions_in_use, open_supabase_store
from app.store.supabase_schema import columns_in_use

ROOT = Path(__file__).parents[2]
TABLES = tuple(columns_in_use())


@pytest.fixture
async def store(project):
    async with open_supabase_store(project.url, project.service_key) as store:
        yield store


async def reload_schema(project):
    """Have PostgREST read the schema anew, and wait until it has."""
    marker = f"marker_of_reload_{next(_reloads)}"  # one that PostgREST cannot know yet
    with psycopg.connect(project.db_url, autocommit=True) as db:
        db.execute(f"create function public.{marker}() returns int language sql as 'select 1'")
        db.execute("notify pgrst, 'reload schema'")
    async with httpx.AsyncClient() as http:
        with trio.fail_after(60):
            # Another program is waited for.
            while (await call(http, project, project.service_key, marker)).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
    with psycopg.connect(project.db_url, autocommit=True) as db:
        db.execute(f"drop function public.{marker}")


_reloads = count()


async def call(http, project, key, function, **values):
    address = f"{project.url}/rest/v1/rpc/{function}"
    return await http.post(address, json=values, headers=headers(key))


def headers(key):
    return {} if key is None else {"apikey": key, "Authorization": f"Bearer {key}"}


# -- who gets in


def foreign_key_of(project, role):
    return {"nobody": None, "anon": project.anon_key, "authenticated": project.authenticated_key}[
        role
    ]


@pytest.mark.parametrize("role", ["nobody", "anon", "authenticated"])
@pytest.mark.parametrize("table", TABLES)
async def test_a_table_is_closed_to_all_but_the_service_role(project, role, table):
    key = foreign_key_of(project, role)
    address = f"{project.url}/rest/v1/{table}"
    column = columns_in_use()[table][0]
    async with httpx.AsyncClient(headers=headers(key)) as http:
        answers = [
            await http.get(address),
            await http.post(address, json={column: "x"}),
            await http.patch(address, params={column: "eq.x"}, json={column: "y"}),
            await http.delete(address, params={column: "eq.x"}),
        ]
    assert [answer.json()["code"] for answer in answers] == ["42501"] * 4


@pytest.mark.parametrize("role", ["nobody", "anon", "authenticated"])
async def test_every_function_is_closed_to_all_but_the_service_role(project, role):
    with psycopg.connect(project.db_url) as db:
        functions = db.execute(
            "select proname, coalesce(proargnames, '{}'), prorettype = 'trigger'::regtype"
            " from pg_proc where pronamespace = 'public'::regnamespace"
        ).fetchall()
    assert {name for name, *_ in functions} == functions_of_migrations()
    async with httpx.AsyncClient() as http:
        for name, parameters, is_trigger in functions:
            if is_trigger:  # which cannot be called
                continue
            values = dict.fromkeys(parameters)
            answer = await call(http, project, foreign_key_of(project, role), name, **values)
            assert answer.status_code in {401, 403}, (name, answer.text)
            assert answer.json()["code"] == "42501", name


async def test_rows_stay_hidden_even_where_somebody_grants_a_table(store, project):
    await add(store)
    with psycopg.connect(project.db_url) as db:
        db.execute("grant select on all tables in schema public to anon")
        db.execute("set local role anon")
        for table in TABLES:
            assert db.execute(f"select count(*) from public.{table}").fetchone() == (0,), table
        db.rollback()
        assert db.execute("select count(*) from public.actp_agent_tasks").fetchone() == (1,)


async def refusal(project, key):
    with pytest.raises(StoreError) as refused:
        async with open_supabase_store(project.url, key, patience=0.1, believe_after=0.1):
            pytest.fail("opened")
    assert not isinstance(refused.value, StoreUnavailable)
    assert "SUPABASE_SERVICE_ROLE_KEY" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert key not in str(refused.value)


async def test_a_key_of_another_role_is_refused_and_not_taken_for_an_empty_database(project):
    await refusal(project, project.anon_key)
    await refusal(project, project.authenticated_key)


async def test_a_key_of_another_role_is_refused_where_the_functions_are_missing_too(new_project):
    migrate(new_project.db_url)
    with psycopg.connect(new_project.db_url, autocommit=True) as db:
        db.execute("drop function actp_now(), actp_schema(), actp_schema_version()")
    await reload_schema(new_project)
    await refusal(new_project, new_project.anon_key)


@pytest.mark.parametrize(
    "key",
    [
        "no-key",
        key_of("service_role")[:-4] + "AAAA",
        key_of("service_role", exp=1_000_000_000),
        key_of("postgres"),
    ],
    ids=["garbage", "wrong signature", "expired", "unknown role"],
)
async def test_a_key_that_is_not_taken_is_refused_in_one_line(project, key):
    await refusal(project, key)


async def test_a_key_of_the_newer_kind_is_taken(project):
    async with open_supabase_store(project.url, SECRET_KEY) as store:
        await add(store)
        assert (await store.task("t1")).goal == "do it"


@pytest.mark.parametrize(
    "loss",
    [
        "revoke execute on all functions in schema public from service_role",
        "revoke all on table actp_agent_tasks from service_role",
        "drop schema public cascade; create schema public",
    ],
)
async def test_rights_that_were_taken_are_an_absence_that_a_migration_ends(new_project, loss):
    migrate(new_project.db_url)
    await reload_schema(new_project)
    async with open_supabase_store(new_project.url, new_project.service_key) as store:
        with psycopg.connect(new_project.db_url, autocommit=True) as db:
            db.execute(loss)
        with pytest.raises(StoreUnavailable) as away:
            await add(store)
        assert "denies this to the key's role: 42501 permission denied for " in str(away.value)
        assert "by: python -m app.main --migrate" in str(away.value)
        assert "refused the key" not in str(away.value)
        migrate(new_project.db_url)
        await reload_schema(new_project)
        assert (await add(store)).goal == "do it"


async def test_an_address_that_is_none_is_refused_in_one_line():
    for address in ("nowhere", "ftp://example.org"):
        with pytest.raises(StoreError, match="SUPABASE_URL"):
            async with open_supabase_store(address, "key"):
                pytest.fail("opened")


# -- what the migrations make


def schema(db_url):
    """Everything that the migrations make, as PostgreSQL describes it."""
    with psycopg.connect(db_url) as db:
        return [
            db.execute(query).fetchall()
            for query in (
                "select table_name, column_name, data_type, is_nullable, column_default"
                " from information_schema.columns where table_schema = 'public' order by 1, 2",
                "select indexdef from pg_indexes where schemaname = 'public' order by 1",
                "select oid::regprocedure::text, prosrc, proacl::text, proconfig from pg_proc"
                " where pronamespace = 'public'::regnamespace order by 1",
                "select relname, relrowsecurity, relacl::text from pg_class"
                " where relnamespace = 'public'::regnamespace order by 1",
            )
        ]


async def test_migrating_again_changes_nothing(new_database):
    migrate(new_database)
    first = schema(new_database)
    migrate(new_database)
    assert schema(new_database) == first


def functions_of_migrations():
    """The names of all functions that a migration ever made: those of older releases stay."""
    return {found.name for path in migrations() for found in functions_in(path.read_text())}


async def test_the_migrations_make_just_the_columns_in_use(project):
    columns, _, functions, _ = schema(project.db_url)
    made = {}
    for table, column, *_ in columns:
        made.setdefault(table, set()).add(column)
    assert made == {table: set(names) for table, names in columns_in_use().items()}
    assert {name.split("(")[0] for name, *_ in functions} == functions_of_migrations()


def test_every_function_that_the_store_calls_is_among_the_current_ones():
    assert set(functions_in_use()) <= {each.name for each in wanted_functions().values()}


async def test_every_function_has_an_empty_search_path(project):
    for name, _, _, settings in schema(project.db_url)[2]:
        assert settings == ['search_path=""'], name


async def test_tables_that_were_there_keep_their_rows_and_columns(new_project):
    with psycopg.connect(new_project.db_url, autocommit=True) as db:
        db.execute("""
            create table actp_agent_registry (
                id uuid primary key default gen_random_uuid(),
                agent_id varchar(40) not null,
                status varchar(20) not null default 'idle',
                team text not null default 'growth'
            );
            insert into actp_agent_registry (agent_id) values ('social');
            create table actp_deal_log (id text primary key, name text, owner text);
            insert into actp_deal_log values ('old', 'Old deal', 'Ada');
            create table actp_agent_tasks (
                id text primary key, goal text, status text not null, assignee text
            );
            insert into actp_agent_tasks values ('done', 'long ago', 'succeeded', 'Bob');
        """)
    migrate(new_project.db_url)
    await reload_schema(new_project)
    async with open_supabase_store(new_project.url, new_project.service_key) as store:
        assert await store.check_tables() == {}
        await register(store, "social", "content")
        await store.record_heartbeat("social", {"doing": "idle"})
        assert [agent.agent_id for agent in await store.agents()] == ["content", "social"]
        await store.insert(DomainTable.DEAL_LOG, "new", {"name": "New deal"})
        names = [row["name"] for row in await store.select(DomainTable.DEAL_LOG, Query())]
        assert names == ["New deal", "Old deal"]
        assert (await store.task("done")).status is TaskStatus.SUCCEEDED
        await add(store)
        assert (await claim(store)).id == "t1"
    with psycopg.connect(new_project.db_url) as db:
        assert db.execute(
            "select agent_id, team from actp_agent_registry order by agent_id"
        ).fetchall() == [("content", "growth"), ("social", "growth")]
        assert db.execute("select owner from actp_deal_log where id = 'old'").fetchone() == ("Ada",)


async def test_rows_that_were_there_are_no_work_and_harm_no_list(new_project):
    with psycopg.connect(new_project.db_url, autocommit=True) as db:
        db.execute("""
            create table actp_agent_tasks (
                id text primary key, agent_type text, status text, priority integer
            );
            insert into actp_agent_tasks values
                ('of another', 'social', 'in_progress', null),
                ('of nobody', null, null, null),
                ('of ours', 'social', 'queued', null);
            create table actp_agent_runs (id text primary key, agent_id text, outcome text);
            insert into actp_agent_runs values ('r1', 'social', 'success');
            create table anthropic_cost_log (id text primary key, input_tokens integer);
            insert into anthropic_cost_log values ('c1', null);
        """)
    migrate(new_project.db_url)
    migrate(new_project.db_url)
    await reload_schema(new_project)
    async with open_supabase_store(new_project.url, new_project.service_key) as store:
        await add(store, "urgent", priority=1)
        assert await store.count_tasks() == {"social": {TaskStatus.QUEUED: 2}}
        assert [task.id for task in await store.tasks()] == ["urgent", "of ours"]
        assert await store.task("of another") is None
        assert await store.cancel_task("of another") is None
        assert [(await claim(store, f"k{n}")).id for n in (1, 2)] == ["urgent", "of ours"]
        assert await store.runs("social") == []
        assert [cost.calls for cost in await store.costs(since=EPOCH)] == [1]
    with psycopg.connect(new_project.db_url) as db:
        others = "select status from actp_agent_tasks where id like '%of %' order by id"
        assert db.execute(others).fetchall() == [("in_progress",), (None,), ("running",)]


async def test_json_that_somebody_wrote_by_hand_stops_no_work_and_no_list(store, project):
    contexts = {
        '{"a": 1}': {"a": 1},
        "[1, 2]": {"value": [1, 2]},
        '"a text"': {"value": "a text"},
        '"{\\"a\\": 1}"': {"a": 1},
        "null": {},
        "5": {"value": 5},
    }
    with psycopg.connect(project.db_url) as db:
        for number, context in enumerate(contexts):
            db.execute(
                "insert into actp_agent_tasks (id, agent_type, goal, context)"
                " values (%s, 'social', 'g', %s)",
                (f"t{number}", context),
            )
            db.execute(
                "insert into actp_task_turns (id, task_id, content) values (%s, 't', %s)",
                (f"u{number}", context),
            )
    claimed = [(await claim(store, f"k{number}")).context for number, _ in enumerate(contexts)]
    assert claimed == list(contexts.values())
    assert [task.context for task in reversed(await store.tasks())] == claimed
    turns = [turn.content for turn in await store.turns("t")]
    assert turns == [{"a": 1}, [1, 2], "a text", '{"a": 1}', None, 5]


async def test_what_a_project_has_of_its_own_stays_open_to_whom_it_was(new_database):
    with psycopg.connect(new_database, autocommit=True) as db:
        db.execute("create table actp_posts (id int primary key)")
        db.execute("create function actp_posts_of_today() returns int language sql as 'select 1'")
        migrate(new_database)
        db.execute("set role anon")
        assert db.execute("select * from actp_posts").fetchall() == []
        assert db.execute("select actp_posts_of_today()").fetchone() == (1,)


async def test_a_key_column_of_another_type_is_refused_with_the_command_that_helps(new_database):
    with psycopg.connect(new_database, autocommit=True) as db:
        db.execute("create table actp_agent_runs (id uuid primary key)")
    with pytest.raises(StoreError) as refused:
        migrate(new_database)
    assert "actp_agent_runs.id is of type uuid" in str(refused.value)
    assert "(alter table actp_agent_runs alter column id type text using" in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_priority_in_words_is_refused(new_database):
    with psycopg.connect(new_database, autocommit=True) as db:
        db.execute("create table actp_agent_tasks (id text primary key, priority text)")
    with pytest.raises(StoreError, match="priority is of type text, and the worker needs integer"):
        migrate(new_database)


async def test_the_migrations_tell_what_they_did(new_database):
    assert migrate(new_database) == [f"applied {path.name}" for path in migrations()]


async def test_a_migration_waits_for_tables_in_use_and_others_need_not_wait_for_it(new_database):
    migrate(new_database)
    with psycopg.connect(new_database) as user, psycopg.connect(new_database) as other:
        user.execute("select from actp_deal_log")
        with pytest.raises(StoreUnavailable, match="the tables are in use") as given_up:
            await trio.to_thread.run_sync(lambda: migrate(new_database, tries=1))
        assert "\n" not in str(given_up.value)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, migrate, new_database)
            with trio.fail_after(60):
                # Another program is waited for.
                while not other.execute("select from pg_locks where not granted").fetchall():  # noqa: ASYNC110
                    await trio.sleep(0.02)
            other.commit()
            other.execute("select from actp_deal_log")  # behind it in the queue for the lock
            other.commit()
            user.commit()


async def test_migrations_at_the_same_time_do_not_disturb_each_other(new_database):
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(trio.to_thread.run_sync, migrate, new_database)


@pytest.mark.parametrize(
    ("db_url", "error"),
    [
        ("postgresql://postgres:geheim@127.0.0.1:1/postgres", StoreUnavailable),
        ("postgresql://postgres:geheim@[no/postgres", WrongSettings),
        ("host=127.0.0.1 password=geheim port=1", StoreUnavailable),
        ("password geheim", WrongSettings),
        ("", StoreError),
    ],
)
def test_a_database_that_cannot_be_migrated_is_one_line_without_the_password(db_url, error):
    with pytest.raises(error) as refused:
        migrate(db_url)
    assert "SUPABASE_DB_URL" in str(refused.value)
    assert "geheim" not in str(refused.value)
    assert "\n" not in str(refused.value)


# -- what is missing


async def test_a_project_without_migrations_opens_and_lacks_everything(new_project):
    async with open_supabase_store(new_project.url, new_project.service_key) as store:
        report = await check_required_tables(store)
        assert set(report.missing) == {*TABLES, "actp_schema()"}
        assert "table actp_deal_log is missing" in report.warning
        assert "function actp_schema() is missing" in report.warning
        for used in (store, steady(store, report)):
            with pytest.raises(TableMissing):
                await add(used)
            with pytest.raises(TableMissing, match="actp_runs"):
                await used.runs("social")


async def test_without_the_check_each_table_is_asked_for_its_columns(new_project):
    migrate(new_project.db_url)
    with psycopg.connect(new_project.db_url, autocommit=True) as db:
        db.execute("drop function actp_schema")
        db.execute("drop table actp_deal_log")
        db.execute("alter table actp_agent_memory drop column value, drop column created_at")
    await reload_schema(new_project)
    async with open_supabase_store(new_project.url, new_project.service_key) as store:
        missing = await store.check_tables()
    assert missing == {
        "actp_deal_log": (),
        "actp_agent_memory": ("value", "created_at"),
        "actp_schema()": (),
    }


async def test_missing_tables_columns_and_functions_are_named(new_project):
    migrate(new_project.db_url)
    with psycopg.connect(new_project.db_url, autocommit=True) as db:
        db.execute("drop function actp_forget")
        db.execute("drop table actp_deal_log")
        db.execute("alter table actp_agent_memory drop column value")
    await reload_schema(new_project)
    async with open_supabase_store(new_project.url, new_project.service_key) as store:
        report = await check_required_tables(store)
        assert report.missing == {
            "actp_deal_log": (),
            "actp_agent_memory": ("value",),
            "actp_forget()": (),
        }
        # Without its functions no agent can do anything.
        assert report.lacking([]) == "function actp_forget() is missing"
        with pytest.raises(TableMissing, match="actp_deal_log"):
            await store.select(DomainTable.DEAL_LOG, Query())
        with pytest.raises(TableMissing, match="value"):
            await store.remember("social", "k", "v")
        await add(store)


def _renamed(kind, name, other):
    return f"alter {kind} {name} rename to {other}", f"alter {kind} {other} rename to {name}"


GOING = {
    "a function": _renamed("function", "actp_claim_task", "gone"),
    "a table": _renamed("table", "actp_agent_tasks", "gone"),
    "one of two functions": (
        "create function actp_renew_task(p_id text, p_token text, p_lease double precision,"
        " p_more boolean default true) returns text language sql as 'select null'",
        "drop function actp_renew_task(text, text, double precision, boolean)",
    ),
}
"""What -> how it goes, and how it comes back."""


@pytest.mark.parametrize("what", GOING)
async def test_what_goes_from_a_project_in_use_is_away_until_it_is_back(new_project, what):
    migrate(new_project.db_url)
    await reload_schema(new_project)
    away, back = GOING[what]
    async with open_supabase_store(new_project.url, new_project.service_key) as kept:
        store = steady(kept, await check_required_tables(kept))
        await add(store)
        await claim(store, "k1")

        async def ask():
            await claim(store, "k1")
            await store.renew_task("t1", "k1", lease=LONG)

        with psycopg.connect(new_project.db_url, autocommit=True) as db:
            db.execute(away)
            await reload_schema(new_project)
            with pytest.raises(StoreUnavailable, match=r"lacks a (function|table)"):
                await ask()
            db.execute(back)
            await reload_schema(new_project)
        await ask()


async def test_a_column_that_is_changed_under_postgrest_is_an_absence(new_project):
    """What it has prepared does not fit any more, until it reads the schema anew."""
    migrate(new_project.db_url)
    await reload_schema(new_project)
    async with open_supabase_store(new_project.url, new_project.service_key, patience=0.1) as store:

        async def ask_often():
            for number in range(50):
                await add(store, f"t{next(numbers)}")
                await claim(store, f"k{number}-{next(numbers)}")

        numbers = count()
        await ask_often()
        with psycopg.connect(new_project.db_url, autocommit=True) as db:
            with pytest.raises(StoreUnavailable, match="attribute 8 of type record has wrong type"):
                # It may just read the schema a second time, and then begins with new connections.
                for kind in ("bigint", "integer", "bigint", "integer"):
                    change = "alter table actp_agent_tasks alter column attempts type"
                    db.execute(f"{change} {kind}")
                    await ask_often()
            db.execute("alter table actp_agent_tasks drop column settled_token")
            with pytest.raises(StoreUnavailable, match="of type record has"):
                await ask_often()
        migrate(new_project.db_url)
        await reload_schema(new_project)
        await ask_often()


def test_every_column_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "tables.md").read_text()
    parts = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL))
    assert set(parts) == set(TABLES)
    for table, columns in columns_in_use().items():
        documented = {
            name
            for row in re.findall(r"^\| (`.*?) \|", parts[table], re.MULTILINE)
            for name in re.findall(r"`(\w+)`", row)
        }
        assert documented == set(columns) - {"seq"}, table
