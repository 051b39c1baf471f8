"""The Supabase store while something is wrong: in the gateway, in PostgREST, in PostgreSQL.

The gateway of these tests stands before the session's PostgREST and fails as it is told to; what
can really be stopped is stopped. The clock is the real one.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trio
from services import (
    Gateway,
    another_clock,
    http_answer,
    key_of,
    open_gateway,
    open_postgres,
    open_postgrest,
    open_project,
)
from store_calls import LONG, NOON, SHORT, add, claim, cost, lapse, live, reserve, turn

from app.store.errors import WrongSettings
from app.store.migrate import migrate
from app.store.open import patiently
from app.store.protocol import (
    DomainTable,
    Effect,
    Lease,
    Query,
    StoreError,
    StoreUnavailable,
    TaskStatus,
)
from app.store.supabase import open_supabase_store

ANSWER_WITHIN = 0.4
PATIENCE = 0.25


@pytest.fixture
def gateway(project):
    return Gateway(Path(project.socket))


@pytest.fixture
async def address(gateway):
    async with open_gateway(gateway) as address:
        yield address


@pytest.fixture
async def store(address, project):
    """Gives up soon, also where the machine alone is slow: what must go well is asked `again`."""
    async with AsyncExitStack() as stack:
        opening = partial(
            open_supabase_store,
            address,
            project.service_key,
            answer_within=ANSWER_WITHIN,
            patience=PATIENCE,
        )
        yield await again(lambda: stack.enter_async_context(opening()))


async def again(verb):
    """Ask until it goes well."""
    with trio.fail_after(60):
        return await patiently(verb, lambda *_: None)


@pytest.fixture
async def patient_store(address, project):
    """For what must go well, however busy the machine is."""
    async with open_supabase_store(address, project.service_key) as store:
        yield store


# -- faults: each gets what PostgREST would be asked, and makes the answer


def answering(*answer):
    async def fault(forward):
        return [http_answer(*answer)]

    return fault


async def lost(forward):
    """Done, but the answer never arrives."""
    await forward()
    return []


async def cut(forward):
    """Done, and the answer breaks off in its middle."""
    answer = await forward()
    return [answer[:-1]]


async def unheard(forward):
    """Not done, and no answer."""
    return []


async def slow(forward):
    await trio.sleep(10 * ANSWER_WITHIN)
    return [await forward()]


async def dripping(forward):
    """Each piece comes in time, and the whole never does."""
    return [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b" "] * 900]


PAGE = "<html><head><title>Bad gateway</title></head>\n<body>\n<h1>502</h1></body></html>"

FAULTS = {
    "500": answering(500, '{"code":"XX000","message":"internal error"}'),
    "500 without a code": answering(500, '{"message":"An unexpected error occurred"}'),
    "502": answering(502, PAGE, "text/html"),
    "503": answering(503, '{"code":"PGRST002","message":"Could not query the database"}'),
    "503 of the gateway": answering(503, '{"message":"name resolution failed"}'),
    "504": answering(504, '{"code":"PGRST003","message":"Timed out acquiring connection"}'),
    "429": answering(429, '{"message":"API rate limit exceeded"}'),
    "540 of a paused project": answering(540, "Project paused", "text/plain"),
    "404 of another server": answering(404, PAGE, "text/html"),
    "a redirect": answering(302, ""),
    "statement timeout": answering(500, '{"code":"57014","message":"canceling statement"}'),
    "too many connections": answering(503, '{"code":"53300","message":"sorry, too many"}'),
    "deadlock": answering(500, '{"code":"40P01","message":"deadlock detected"}'),
    "a page with status 200": answering(200, PAGE, "text/html"),
    "an object of somebody else's": answering(200, '{"status":"ok"}'),
    "an empty object": answering(200, "{}"),
    "null": answering(200, "null"),
    "a list of something else": answering(200, "[1, 2]"),
    "a row without columns": answering(200, "[{}]"),
    "a number for a text": answering(200, '[{"id": 5, "agent_id": 5, "status": "queued"}]'),
    "a text for a time": answering(200, '"tomorrow"'),
    "too deep a JSON": answering(200, "[" * 5000 + "]" * 5000),
    "a gateway's own number for an error": answering(401, '{"code":401,"msg":"no key"}'),
    "a gateway's own name for an error": answering(500, '{"code":"BOOT_ERROR","message":"oh"}'),
    "a replica after a failover": answering(400, '{"code":"0A000","message":"in recovery"}'),
    "a read-only database": answering(405, '{"code":"25006","message":"read-only transaction"}'),
    "an error inside PostgREST": answering(500, '{"code":"PGRSTX00","message":"hasql"}'),
    "half a JSON with status 200": answering(200, '[{"id": "t1", "agent_ty'),
    "a key that expired": answering(401, '{"code":"PGRST301","message":"JWT expired"}'),
    "a key of newer servers": answering(401, '{"code":"PGRST303","message":"JWT expired"}'),
    "a key that the gateway refuses": answering(401, '{"message":"Invalid API key"}'),
    "rights that were taken": answering(403, '{"code":"42501","message":"permission denied"}'),
    "no HTTP": lambda forward: _bytes(b"\x00\xff" * 300),
    "lost": lost,
    "cut": cut,
    "unheard": unheard,
    "slow": slow,
    "dripping": dripping,
}


async def _bytes(answer):
    return [answer]


@pytest.mark.parametrize("fault", FAULTS)
async def test_while_a_fault_lasts_the_store_is_unavailable_and_after_it_goes_on(
    store, patient_store, gateway, project, fault
):
    await add(patient_store)
    gateway.fault = FAULTS[fault]
    verbs = (
        partial(store.task, "t1"),
        partial(claim, store, "k1"),
        store.ping,
        store.agents,
    )
    errors = []

    async def fails(verb):
        with pytest.raises(StoreUnavailable) as unavailable:
            await verb()
        errors.append(str(unavailable.value))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for verb in verbs:
                nursery.start_soon(fails, verb)
    for error in errors:
        assert "\n" not in error
        assert len(error) < 400
        assert project.service_key not in error
        assert "Supabase project http" in error
    gateway.fault = None
    task = await again(partial(claim, store, "k1"))
    assert (task.id, task.attempts) == ("t1", 1)


async def test_an_answer_that_says_nothing_is_not_taken_for_a_word_on_a_task(
    store, patient_store, gateway
):
    await add(patient_store)
    await claim(patient_store)
    gateway.fault = answering(200, "{}")
    for verb in (
        partial(store.finish_task, "t1", "k1", TaskStatus.SUCCEEDED),
        partial(store.begin_effect, "e1", agent_id="social", task_id="t1"),
        partial(store.hold_lease, "social", "i1", lease=LONG),
        partial(store.claim_fire, "job", NOON, "i1"),
        partial(store.remember, "social", "key", "value"),
    ):
        with pytest.raises(StoreUnavailable, match=r"answered with status 200: .*\{\}"):
            await verb()
    gateway.fault = None
    assert await again(partial(store.finish_task, "t1", "k1", TaskStatus.SUCCEEDED))


BODIES = (
    *("null", "5", "1e999", '"x"', "true", "{}", "[]", "[1]", "[true]", '["x"]', "[null]", "[[]]"),
    *("[{}]", '[{"status":"bad"}]', '[{"status":null}]', '[{"status":"queued","id":["x"]}]'),
    *('[{"agent_type":"x","status":"bad","tasks":1}]', '{"state":5}', '{"state":[]}'),
    *('{"instance":5,"worker_id":null}', '{"tables":5,"functions":6}', '{"tables":{"a":5}}'),
    *('"2026-13-45"', '"infinity"', '"0001-01-01T00:00:00+05:00"'),
)
"""JSON that may come in place of an answer, with status 200."""


@pytest.mark.parametrize("body", BODIES)
async def test_whatever_json_comes_is_an_answer_or_an_absence(address, project, gateway, body):
    async with open_supabase_store(address, project.service_key, patience=0.0) as store:
        gateway.fault = answering(200, body)
        verbs = (
            store.ping,
            store.agents,
            partial(store.task, "t1"),
            store.tasks,
            store.count_tasks,
            store.oldest_queued,
            partial(claim, store),
            partial(store.renew_task, "t1", "k1", lease=LONG),
            partial(store.cancel_task, "t1"),
            partial(store.touch_worker, "w1", "i1", {}, silent_after=LONG),
            store.live_workers,
            partial(store.hold_lease, "social", "i1", lease=LONG),
            partial(store.crash_ages, "social", within=LONG),
            partial(store.runs, "social"),
            partial(store.turns, "t1"),
            store.tool_calls,
            partial(store.tool_stats, "social"),
            partial(store.costs, since=NOON),
            partial(store.begin_effect, "e1", agent_id="social", task_id="t1"),
            partial(store.recall, "social"),
            partial(store.last_fire, "job"),
            partial(store.take_restart_requests, ["social"]),
            partial(store.select, DomainTable.DEAL_LOG, Query()),
            partial(store.update, DomainTable.DEAL_LOG, "d1", {}),
            store.check_tables,
        )

        async def ask(verb):
            with suppress(StoreUnavailable):
                await verb()

        async with trio.open_nursery() as nursery:
            for verb in verbs:
                nursery.start_soon(ask, verb)


@pytest.mark.parametrize("status", [413, 414])
async def test_what_is_too_large_for_a_gateway_is_refused_for_good(store, gateway, status):
    gateway.fault = answering(status, "<html>Request Entity Too Large</html>", "text/html")
    with pytest.raises(StoreError, match=f"status {status}: <html>Request") as refused:
        await store.remember("social", "key", "a long value")
    assert not isinstance(refused.value, StoreUnavailable)


async def test_what_the_database_refuses_for_good_is_no_absence(patient_store, gateway):
    gateway.fault = answering(400, '{"code":"22P02","message":"invalid input syntax"}')
    with pytest.raises(StoreError, match="22P02") as refused:
        await patient_store.ping()
    assert not isinstance(refused.value, StoreUnavailable)


def once(fault, gateway):
    """Fail at the next request, and no more."""

    async def only_now(forward):
        gateway.fault = None
        return await fault(forward)

    gateway.fault = only_now


@pytest.mark.parametrize("fault", ["lost", "cut", "unheard", "slow", "502", "deadlock"])
async def test_a_fault_that_passes_is_not_noticed_and_nothing_is_done_twice(
    address, project, gateway, fault
):
    async with open_supabase_store(
        address, project.service_key, answer_within=ANSWER_WITHIN, patience=60
    ) as store:
        broken = partial(once, FAULTS[fault], gateway)
        broken()
        await add(store)
        await add(store, "t2")
        broken()
        assert (await claim(store, "k1")).id == "t1"
        broken()
        assert await store.renew_task("t1", "k1", lease=LONG) is Lease.HELD
        broken()
        assert await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED, result={"a": 1})
        broken()
        assert await reserve(store, "b1", amount=6)
        broken()
        await store.record_cost(cost("c1", 6.0), reservation="b1")
        assert await reserve(store, "b2", amount=4)
        broken()
        begun = await store.begin_effect("post", agent_id="a", task_id="t1", token="one")
        assert begun.state is Effect.NEW
        broken()
        assert await store.claim_fire("daily", NOON, "w1-run")
        assert await store.count_tasks() == {
            "social": {TaskStatus.SUCCEEDED: 1, TaskStatus.QUEUED: 1}
        }
        assert (await store.task("t1")).attempts == 1
        assert gateway.fault is None


async def test_requests_that_arrive_when_their_repeats_were_answered_do_nothing(
    address, project, gateway
):
    on_its_way = []

    async def late(forward):
        on_its_way.append(forward)
        return []

    async with open_supabase_store(address, project.service_key, patience=60) as store:
        for name in ("t1", "t2"):
            await add(store, name)
        once(late, gateway)
        assert (await claim(store, "k1")).id == "t1"
        assert await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
        once(late, gateway)
        assert await reserve(store, "b1", amount=6)
        await store.release_budget("b1")

        answers = [await forward() for forward in on_its_way]

        assert [answer.split()[1] for answer in answers] == [b"200", b"200"]
        assert (await store.task("t2")).status is TaskStatus.QUEUED
        assert await reserve(store, "b2", amount=10)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["lost", "cut", "unheard", "slow", "502", "deadlock"])
async def test_daemons_leases_and_turns_outlive_a_fault_that_passes(
    address, project, gateway, fault
):
    async with open_supabase_store(
        address, project.service_key, answer_within=ANSWER_WITHIN, patience=60
    ) as store:
        broken = partial(once, FAULTS[fault], gateway)
        await store.touch_worker("dead", "dead-run", {}, silent_after=LONG)
        await add(store)
        await claim(store, worker="dead")
        await lapse()
        broken()
        await store.touch_worker("w1", "w1-run", {"social": "running"}, silent_after=SHORT)
        assert await live(store) == [("w1", "w1-run")]
        task = await store.task("t1")
        assert (task.status, task.attempts) == (TaskStatus.QUEUED, 1)
        broken()
        assert (await store.hold_lease("social", "w1-run", lease=LONG)).instance == "w1-run"
        broken()
        await store.drop_lease("social", "w1-run")
        assert (await store.hold_lease("social", "w2-run", lease=LONG)).instance == "w2-run"
        broken()
        await store.record_turn(turn("one"))
        broken()
        assert [each.id for each in await store.turns("t1")] == ["one"]
        assert gateway.fault is None


async def test_a_store_that_says_there_is_too_much_is_not_asked_again_at_once(
    patient_store, gateway
):
    gateway.requests.clear()
    gateway.fault = FAULTS["429"]
    with pytest.raises(StoreUnavailable):
        await patient_store.ping()
    assert len(gateway.requests) == 1


async def test_a_project_that_is_away_is_unavailable_at_the_start_too(gateway, address, project):
    gateway.fault = FAULTS["502"]
    with pytest.raises(StoreUnavailable):
        async with open_supabase_store(address, project.service_key, patience=PATIENCE):
            pytest.fail("opened")
    with pytest.raises(StoreUnavailable, match="ConnectError"):
        async with open_supabase_store("http://127.0.0.1:1", "key", patience=PATIENCE):
            pytest.fail("opened")


@pytest.mark.parametrize("fault", [name for name in FAULTS if "key" in name or "rights" in name])
async def test_a_key_that_is_refused_at_the_start_is_a_wrong_setting(
    gateway, address, project, fault
):
    gateway.fault = FAULTS[fault]
    with pytest.raises(WrongSettings, match="SUPABASE_SERVICE_ROLE_KEY"):
        async with open_supabase_store(address, project.service_key, patience=PATIENCE):
            pytest.fail("opened")


async def test_a_name_that_resolves_to_nothing_is_unavailable():
    with pytest.raises(StoreUnavailable):
        async with open_supabase_store("http://nothing.invalid", "key", patience=PATIENCE):
            pytest.fail("opened")


async def test_a_call_to_a_silent_project_can_be_cancelled(patient_store, gateway):
    async def silent(forward):
        await trio.sleep_forever()

    gateway.fault = silent
    with trio.move_on_after(0.05) as scope:
        await patient_store.ping()
    assert scope.cancelled_caught
    gateway.fault = None
    await patient_store.ping()


async def test_callers_that_wait_while_it_is_away_do_not_use_up_the_connections(store, gateway):
    gateway.fault = FAULTS["slow"]

    async def fails():
        with pytest.raises(StoreUnavailable):
            await store.ping()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(fails)
    gateway.fault = None
    await again(store.ping)


async def test_postgrest_stopped_and_started_again(postgres, project, short_folder):
    socket = short_folder / "p.sock"
    gateway = Gateway(socket)
    async with open_gateway(gateway) as address:
        async with open_postgrest(postgres, project.db_url, socket):
            opening = open_supabase_store(address, project.service_key, patience=PATIENCE)
            store = await opening.__aenter__()
            await add(store)
            await claim(store, "k1")
        with pytest.raises(StoreUnavailable):
            await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
        async with open_postgrest(postgres, project.db_url, socket):
            assert await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
            await opening.__aexit__(None, None, None)


async def test_postgresql_away_and_back_again(postgres, new_database, short_folder):
    migrate(new_database)
    name = psycopg.conninfo.conninfo_to_dict(new_database)["dbname"]

    def admit(allowed):
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as db:
            db.execute(f'alter database "{name}" allow_connections {allowed}')
            db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name]
            )

    async with (
        open_project(postgres, new_database, short_folder) as project,
        open_supabase_store(project.url, project.service_key, patience=PATIENCE) as store,
    ):
        await add(store)
        admit("false")
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.task("t1")
        admit("true")
        with trio.fail_after(60):
            while True:
                try:
                    assert (await store.task("t1")).goal == "do it"
                    break
                except StoreUnavailable:
                    await trio.sleep(0.1)


# -- the clock


@pytest.mark.parametrize("offset", [3600, -3600])
async def test_a_database_whose_clock_is_an_hour_off(running_project, short_folder, offset):
    """Nothing compares its time with the worker's: leases, ages, delays and budgets are right."""
    environ = await another_clock(short_folder, offset)
    if environ is None:
        pytest.skip("no C compiler to make another clock with")
    folder = short_folder / "pg"
    folder.mkdir()
    async with open_postgres(folder, environ=environ) as postgres:
        db_url = postgres.create("worker")
        migrate(db_url)
        async with (
            open_project(postgres, db_url, short_folder) as project,
            open_supabase_store(project.url, key_of("service_role")) as store,
        ):
            with psycopg.connect(running_project.db_url) as db:
                (true_time,) = db.execute("select now()").fetchone()
            assert abs((await store.ping() - true_time).total_seconds() - offset) < 60
            await keeps_time(store)


async def keeps_time(store):
    await add(store)
    await claim(store, "k1", lease=LONG)
    assert await claim(store, "k2") is None
    await store.renew_task("t1", "k1", lease=SHORT)
    await lapse()
    assert (await claim(store, "k3")).attempts == 2
    await store.release_task("t1", "k3", delay=SHORT)
    await lapse()
    assert (await claim(store, "k4")).id == "t1"
    await store.start_run("r1", "social", "w1-run")
    await store.finish_run("r1", "crashed")
    (age,) = await store.crash_ages("social", within=LONG)
    assert age < LONG
    await reserve(store, "b1", amount=10, lifetime=LONG)
    assert not await reserve(store, "b2", amount=10)
