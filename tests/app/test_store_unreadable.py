"""Tasks that make no sense, as a person may make them by hand: they hold up nobody."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import psycopg
import pytest
from http_daemon import make_daemon, served
from store_calls import LONG, add, claim

from app.store.errors import WrongVersion
from app.store.functions import schema_version
from app.store.protocol import DomainTable, Query, TaskStatus
from app.store.sqlite import open_sqlite_store

BAD = "'20000-01-01'"
"""A time that PostgreSQL knows and the calendar of Python does not."""


@pytest.fixture
def write(request, store, tmp_path):
    """Run SQL as somebody with an editor does, past the checks of the tables."""
    if "memory" in request.node.name:
        memory = request.getfixturevalue("memory")

        def run(statement):
            memory.connection.execute("pragma ignore_check_constraints = 1")
            memory.connection.execute(statement)
            memory.connection.execute("pragma ignore_check_constraints = 0")

    elif "sqlite" in request.node.name:

        def run(statement):
            with closing(sqlite3.connect(tmp_path / "store.db")) as db, db:
                db.execute("pragma ignore_check_constraints = 1")
                db.execute(statement)

    else:
        project = request.getfixturevalue("project")

        def run(statement):
            with psycopg.connect(project.db_url, autocommit=True) as db:
                db.execute(statement)

    return run


async def test_a_task_made_by_hand_needs_an_agent_and_a_goal_and_is_work(store, write):
    write("insert into actp_agent_tasks (agent_type, goal) values ('social', 'by hand')")
    task = await claim(store)
    assert (task.goal, task.attempts, task.unreadable) == ("by hand", 1, None)
    assert len(task.id) >= 32


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("actp_engagement_actions", "action"),
        ("actp_viral_templates", "name"),
        ("actp_deal_log", "name"),
        ("actp_revenue_goals", "metric"),
        ("actp_weekly_snapshots", "week"),
    ],
)
async def test_a_row_of_the_agents_made_by_hand_needs_no_key_and_no_time(
    store, write, table, column
):
    write(f"insert into {table} ({column}) values ('by hand')")
    (row,) = await store.select(DomainTable(table), Query())
    assert row[column] == "by hand"
    assert abs((row["created_at"] - await store.ping()).total_seconds()) < LONG
    changed = await store.update(DomainTable(table), row["id"], {column: "changed"})
    assert changed[column] == "changed"


async def test_a_task_that_cannot_be_read_is_shown_and_its_claim_settles_it(store, write):
    await add(store, "bad")
    await add(store, "good")
    write(f"update actp_agent_tasks set created_at = {BAD} where id = 'bad'")
    listed = {task.id: task for task in await store.tasks()}
    assert list(listed) == ["good", "bad"]
    assert listed["good"].unreadable is None
    assert listed["bad"].unreadable.startswith("cannot be read: created_at '20000-01-01")
    assert listed["bad"].goal == "do it"
    assert await store.unreadable_tasks(within=LONG) == []
    assert (await claim(store)).id == "good"
    bad = await store.task("bad")
    assert (bad.status, bad.error) == (TaskStatus.FAILED, bad.unreadable)
    assert (await store.count_tasks())["social"][TaskStatus.FAILED] == 1
    assert await store.unreadable_tasks(within=LONG) == ["bad"]


async def test_a_claim_passes_by_several_that_cannot_be_read_and_takes_one_task(store, write):
    for name in ("bad", "worse", "good", "next"):
        await add(store, name)
    write(f"update actp_agent_tasks set created_at = {BAD} where id in ('bad', 'worse')")
    assert (await claim(store, "k1")).id == "good"
    assert await store.finish_task("good", "k1", TaskStatus.SUCCEEDED)
    assert await claim(store, "k1") is None
    assert set(await store.unreadable_tasks(within=LONG)) == {"bad", "worse"}
    assert (await store.task("next")).status is TaskStatus.QUEUED


async def test_a_task_on_hold_until_infinity_is_listed_and_waits(store, write, request):
    if "sqlite" in request.node.name:
        pytest.skip("SQLite has no such time")
    await add(store, "held")
    await add(store, "good")
    write("update actp_agent_tasks set not_before = 'infinity' where id = 'held'")
    assert [task.unreadable for task in await store.tasks()] == [None, None]
    assert (await claim(store)).id == "good"
    assert await claim(store, "k2") is None


async def test_pages_lists_and_metrics_answer_and_health_names_it(store, write):
    await add(store, "bad")
    write(f"update actp_agent_tasks set created_at = {BAD} where id = 'bad'")
    daemon = make_daemon(store)
    async with served(daemon) as client:
        for path in ("/", "/ui/tasks", "/ui/tasks/bad", "/metrics", "/tasks", "/tasks/bad"):
            assert (await client.get(path)).status_code == 200, path
        assert await claim(store) is None
        await daemon.unreadable.look()
        (found,) = daemon.unreadable.reasons
        assert found.text.startswith("1 task could not be read and has failed: bad;")
        assert "actp_tasks_unreadable 1.0" in (await client.get("/metrics")).text


# -- files of earlier versions

OLD_ROWS = {
    "no id": "(null, 'social', 'g', '2026-01-01T00:00:00.000000Z', 'queued', 0)",
    "status": "('status', 'social', 'g', '2026-01-01T00:00:00.000000Z', 'Queued', 0)",
    "time": "('time', 'social', 'g', '1764388000', 'queued', 0)",
    "priority": "('priority', 'social', 'g', '2026-01-01T00:00:00.000000Z', 'queued', 'high')",
}


OLD_TABLE = """
    create table actp_agent_tasks (
        id text primary key,
        agent_type text not null,
        goal text not null,
        context text not null default '{}',
        priority integer not null default 0,
        status text not null default 'queued',
        attempts integer not null default 0,
        max_attempts integer not null default 3,
        result text, error text, worker_id text, instance text, lease_token text, lease_until text,
        settled_token text, not_before text,
        cancel_requested integer not null default 0,
        created_at text not null,
        started_at text, finished_at text,
        own_column text
    )
"""
"""As the last release made it, with a column that somebody added."""


@pytest.fixture
def old_file(tmp_path):
    """A file of the last release, with tasks of its and rows that somebody made."""
    path = tmp_path / "old.db"
    of_before = "('t{}', 'social', 'of before', '2026-01-01T00:00:00.000000Z', 'queued', 0)"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(OLD_TABLE)
        for values in (of_before.format(0), *OLD_ROWS.values(), of_before.format(1)):
            db.execute(
                "insert into actp_agent_tasks (id, agent_type, goal, created_at, status, priority)"
                f" values {values}"
            )
        db.execute("update actp_agent_tasks set own_column = 'kept'")
    return path


async def test_a_file_of_the_last_release_is_brought_up_with_its_rows_in_their_order(old_file):
    async with open_sqlite_store(old_file) as store:
        assert await store.check_tables() == {}
        tasks = list(reversed(await store.tasks()))
        assert [task.unreadable for task in tasks] == [None] * 6
        first, made, *wrong, last = tasks
        assert (first.id, last.id) == ("t0", "t1")
        assert len(made.id) == 32
        assert {task.status for task in (first, made, last)} == {TaskStatus.QUEUED}
        assert {task.id: task.error for task in wrong} == {
            "status": "cannot be read: status 'Queued'",
            "time": "cannot be read: created_at '1764388000'",
            "priority": "cannot be read: priority 'high'",
        }
        assert len(await store.unreadable_tasks(within=LONG)) == 3
        assert [(await claim(store, f"k{n}")).id for n in range(3)] == ["t0", made.id, "t1"]
    with closing(sqlite3.connect(old_file)) as db, db:
        kept = "select count(*) from actp_agent_tasks where own_column = 'kept'"
        assert db.execute(kept).fetchone() == (6,)
        db.execute("insert into actp_agent_tasks (agent_type, goal) values ('social', 'by hand')")
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            db.execute("update actp_agent_tasks set status = 'Queued'")


async def test_a_file_is_brought_up_once(old_file):
    async with open_sqlite_store(old_file):
        pass
    before = old_file.stat().st_mtime_ns
    async with open_sqlite_store(old_file) as store:
        assert await store.check_tables() == {}
    assert old_file.stat().st_mtime_ns == before


async def test_a_file_of_a_newer_release_is_named_in_one_line_and_left_alone(tmp_path):
    path = tmp_path / "new.db"
    async with open_sqlite_store(path):
        pass
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("update actp_schema_version set version = ?", (schema_version() + 1,))
    with pytest.raises(WrongVersion, match="made by a newer version") as refused:
        async with open_sqlite_store(path):
            pytest.fail("opened")
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
