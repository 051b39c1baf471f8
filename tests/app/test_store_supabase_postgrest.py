"""What Supabase's store does against what PostgREST and PostgreSQL would get wrong."""

from __future__ import annotations

import psycopg
import pytest
import trio
from services import Gateway, key_of, open_gateway, open_postgrest
from store_calls import LONG, SHORT, add, claim, lapse, live

from app.store.migrate import migrate
from app.store.protocol import DomainTable, Query, TaskStatus
from app.store.supabase import open_supabase_store


@pytest.fixture
async def store(project):
    async with open_supabase_store(project.url, project.service_key) as store:
        yield store


async def test_a_list_is_not_cut_at_the_servers_limit_of_rows(store, project):
    with psycopg.connect(project.db_url) as db:
        db.execute(
            "insert into actp_agent_tasks (id, agent_type, goal)"
            " select 't' || n, 'social', 'g' from generate_series(1, 2100) n"
        )
        db.execute(
            "insert into actp_agent_runs (id, agent_id, outcome, finished_at)"
            " select 'r' || n, 'social', 'crashed', now() from generate_series(1, 1100) n"
        )
    tasks = await store.tasks(limit=5000)
    assert [task.id for task in tasks] == [f"t{n}" for n in range(2100, 0, -1)]
    assert len(await store.tasks(limit=1500)) == 1500
    assert len(await store.crash_ages("social", within=LONG)) == 1100


async def test_a_claim_repeated_while_the_first_is_at_work_waits_for_it(store, project):
    """As when a caller gave up waiting for the answer, and asks again."""
    await add(store, "t1")
    await add(store, "t2")
    ask = "select id from actp_claim_task('social', 'w', 'i', 'k1', 60)"
    with psycopg.connect(project.db_url) as first, psycopg.connect(project.db_url) as second:
        assert first.execute(ask).fetchall() == [("t1",)]
        second.execute("set lock_timeout = '100ms'")
        second.commit()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            second.execute(ask)
        second.rollback()
        first.commit()
        assert second.execute(ask).fetchall() == [("t1",)]


async def test_a_word_on_an_unreadable_task_that_comes_late_lets_no_token_claim_again(
    store, project
):
    for name in ("bad", "good", "next"):
        await add(store, name)
    settle = "select actp_settle_unreadable('bad', 'k1', 'cannot be read')"
    with psycopg.connect(project.db_url, autocommit=True) as db:
        assert (await claim(store, "k1")).id == "bad"
        db.execute(settle)
        assert (await claim(store, "k1")).id == "good"
        await store.finish_task("good", "k1", TaskStatus.SUCCEEDED)
        db.execute(settle)
        assert await claim(store, "k1") is None
    assert (await store.task("bad")).status is TaskStatus.FAILED


async def test_two_claims_at_once_with_one_token_get_one_task(store):
    for number in range(10):
        await add(store, f"t{number}")
    claimed = []

    async def ask():
        claimed.append((await claim(store, "k1")).id)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert claimed == ["t0"] * 10
    assert await store.count_tasks() == {"social": {TaskStatus.QUEUED: 9, TaskStatus.RUNNING: 1}}


async def test_a_daemon_that_shows_itself_just_now_is_not_forgotten_nor_waited_for(store, project):
    await store.touch_worker("late", "late-run", {}, silent_after=LONG)
    await lapse()
    with psycopg.connect(project.db_url) as late:
        late.execute("select actp_touch_worker('late', 'late-run', '{}', 60)")
        with trio.fail_after(60):
            assert await store.touch_worker("w1", "w1-run", {}, silent_after=SHORT) == []
    assert await live(store) == [("late", "late-run"), ("w1", "w1-run")]


WAITS_FOR_US = "select from pg_locks where pg_backend_pid() = any (pg_blocking_pids(pid))"


async def test_clearing_up_after_a_daemon_by_two_ways_at_once_is_no_deadlock(store, project):
    """One forgets it by its name, another by its silence: both lock the daemon before its tasks."""
    await store.touch_worker("dead", "dead-run", {}, silent_after=LONG)
    await add(store)
    await claim(store, worker="dead")
    await lapse()
    with psycopg.connect(project.db_url) as one:
        one.execute("select from actp_workers where instance = 'dead-run' for update")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.forget_worker, "dead-run")
            with trio.fail_after(60):
                while not one.execute(WAITS_FOR_US).fetchall():  # noqa: ASYNC110  (another process)
                    await trio.sleep(0.01)
            one.execute("select from actp_agent_tasks for update nowait")
            one.commit()
    assert (await store.task("t1")).status is TaskStatus.QUEUED


async def test_the_sessions_time_zone_does_not_matter(store, project):
    with psycopg.connect(project.db_url, autocommit=True) as db:
        db.execute("alter role authenticator set timezone = 'Asia/Kolkata'")
    try:
        before = await store.ping()
        await add(store)
        assert before <= (await store.task("t1")).created_at <= await store.ping()
    finally:
        with psycopg.connect(project.db_url, autocommit=True) as db:
            db.execute("alter role authenticator reset timezone")


async def test_a_task_that_is_just_handed_back_is_cancelled_all_the_same(store, project):
    await add(store)
    await claim(store)
    with psycopg.connect(project.db_url) as worker, psycopg.connect(project.db_url) as watch:
        worker.execute("select actp_release_task('t1', 'k1', 1, 0, null)")
        cancelled = []

        async def cancel():
            cancelled.append((await store.cancel_task("t1")).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            with trio.fail_after(60):
                # Another program is waited for.
                while not watch.execute("select 1 from pg_locks where not granted").fetchone():  # noqa: ASYNC110
                    await trio.sleep(0.02)
            worker.commit()
    assert cancelled == [TaskStatus.CANCELLED]


async def test_claims_look_at_no_task_but_what_waits_in_that_queue(project):
    with psycopg.connect(project.db_url, autocommit=True) as db:
        db.execute(
            "insert into actp_agent_tasks (id, agent_type, goal, status)"
            " select 't' || n, 'social', 'g', 'succeeded' from generate_series(1, 5000) n"
        )
        db.execute("insert into actp_agent_tasks (id, agent_type) values ('queued', 'social')")
        db.execute("analyze actp_agent_tasks")
        db.execute("select pg_stat_force_next_flush()")
        db.execute("select pg_stat_reset()")
        db.execute("select actp_claim_task('social', 'w', 'i', 'k', 60)")
        db.execute("select pg_stat_force_next_flush()")
        assert db.execute(
            "select seq_scan from pg_stat_user_tables where relname = 'actp_agent_tasks'"
        ).fetchone() == (0,)
        scanned = db.execute(
            "select indexrelname, idx_tup_read from pg_stat_user_indexes"
            " where relname = 'actp_agent_tasks' and idx_scan > 0"
        )
        assert dict(scanned)["actp_agent_tasks_ready"] == 1


async def test_tasks_are_counted_without_a_look_at_their_rows(project):
    with psycopg.connect(project.db_url, autocommit=True) as db:
        db.execute(
            "insert into actp_agent_tasks (id, agent_type, goal, status, result)"
            " select 't' || n, 'social', 'g', 'succeeded', to_jsonb(repeat(md5(n::text), 20))"
            " from generate_series(1, 5000) n"
        )
        db.execute("vacuum analyze actp_agent_tasks")
        db.execute("select pg_stat_force_next_flush()")
        db.execute("select pg_stat_reset()")
        db.execute("select actp_count_tasks()")
        db.execute("select pg_stat_force_next_flush()")
        assert db.execute(
            "select seq_scan from pg_stat_user_tables where relname = 'actp_agent_tasks'"
        ).fetchone() == (0,)


async def test_lists_are_whole_where_the_project_allows_few_rows_in_one_answer(
    postgres, new_database, short_folder
):
    migrate(new_database)
    with psycopg.connect(new_database) as db:
        db.execute(
            "insert into actp_deal_log (id, name) select n::text, 'n' from generate_series(1, 25) n"
        )
    socket = short_folder / "few.sock"
    gateway = Gateway(socket)
    async with (
        open_postgrest(postgres, new_database, socket, max_rows=10),
        open_gateway(gateway) as url,
        open_supabase_store(url, key_of("service_role")) as store,
    ):
        for number in range(25):
            await add(store, f"t{number}")
        assert len(await store.tasks(limit=22)) == 22
        assert len(await store.select(DomainTable.DEAL_LOG, Query(limit=22))) == 22
        assert len(await store.select(DomainTable.DEAL_LOG, Query(limit=100))) == 25
        gateway.requests.clear()
        few = Query(equal={"id": "7"}, limit=20)
        assert len(await store.select(DomainTable.DEAL_LOG, few)) == 1
        assert len(gateway.requests) == 1
