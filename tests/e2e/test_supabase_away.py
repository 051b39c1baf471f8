"""A daemon whose Supabase project is away, slow, or answers nonsense: it waits and loses nothing.

The gateway is in the test's own process and fails as it is told to, while the daemon works. Two
daemons with a gateway each go through their faults at the same time, because most of it is waiting.
"""

from __future__ import annotations

import dataclasses
import json
import random
import signal
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from daemons import SupabasePlace, until
from services import (
    Gateway,
    another_clock,
    http_answer,
    open_gateway,
    open_postgres,
    open_postgrest,
    open_project,
)

from actp_supervise.clock import SystemWallClock
from app.store.migrate import migrate

pytestmark = pytest.mark.long

PAGE = "<html><head><title>Bad gateway</title></head>\n<body>\n<h1>502</h1></body></html>"

GOALS = {
    "social": "List the engagement actions and queue a like for the post '{}' [simulate: slow 0.4]",
    "content": "Find viral templates and save a viral template named '{}' [simulate: slow 0.4]",
    "revenue": "Compare goals and set a revenue goal of 1,000 for '{}' [simulate: slow 0.4]",
    "acquisition": "List the deals and add a prospect named '{}' [simulate: slow 0.4]",
}
"""A task of two tools and three replies; the last reply takes long enough to do something."""

EFFECTS = {
    "social": "select target as what from actp_engagement_actions",
    "content": "select name as what from actp_viral_templates",
    "revenue": "select metric as what from actp_revenue_goals",
    "acquisition": "select name as what from actp_deal_log",
}


# -- faults: each gets what PostgREST would be asked, and makes the answer


def answering(*answer):
    async def fault(forward):
        return [http_answer(*answer)]

    return fault


async def cut(forward):
    """Done, and the answer breaks off in its middle."""
    answer = await forward()
    return [answer[:-1]]


async def slow(forward):
    await trio.sleep(11)
    return [await forward()]


FAULTS = {
    "social": {
        "cut": (cut, "cannot be reached: RemoteProtocolError"),
        "429": (answering(429, '{"message":"rate limit exceeded"}'), "with status 429: rate limit"),
    },
    "content": {
        "500": (answering(500, '{"code":"XX000","message":"oh"}'), "be used just now: XX000 oh"),
        "401": (answering(401, '{"message":"Invalid API key"}'), "with status 401: Invalid API"),
    },
    "revenue": {
        "503": (answering(503, '{"message":"no database"}'), "with status 503: no database"),
        "page": (answering(200, PAGE, "text/html"), "answered with status 200: <html>"),
    },
    "acquisition": {"slow": (slow, "did not answer within 10 s")},
}
"""Of each agent's daemon: name -> fault, and what is said of it."""


@asynccontextmanager
async def open_place(folder, claude, project):
    """Give a place that reaches the project through a gateway of the test's own, and this."""
    folder.mkdir(exist_ok=True)
    gateway = Gateway(Path(project.socket))
    async with open_gateway(gateway) as url:
        yield SupabasePlace(folder, claude, project=dataclasses.replace(project, url=url)), gateway


@pytest.fixture
async def place_and_gateway(tmp_path, claude, project):
    async with open_place(tmp_path, claude, project) as opened:
        yield opened


@pytest.fixture
def place(place_and_gateway):
    return place_and_gateway[0]


@pytest.fixture
def gateway(place_and_gateway):
    return place_and_gateway[1]


# -- what is seen of it


async def at_its_last_reply(place, daemon, agent, name):
    """Post a task and wait until it only has to be said that it is done; gives its id."""
    task_id = await daemon.post(agent, GOALS[agent].format(name))
    calls = "select 1 from actp_tool_call_log where task_id = ?"
    await until(lambda: len(place.rows(calls, task_id)) == 2)
    return task_id


async def succeeded(place, task_id):
    await until(lambda: place.task(task_id)["status"] == "succeeded")


async def healthy(daemon):
    await daemon.until("/health", lambda health: health["status"] == "healthy")


async def shows_that_it_is_away(daemon, agent, why):
    health = await daemon.until("/health", lambda health: why in str(health["reasons"]))
    assert health["status"] == "degraded"
    assert any(reason.startswith("the store is away: ") for reason in health["reasons"])
    assert (await daemon.http.get("/livez")).status_code == 200
    assert (await daemon.http.get("/readyz")).status_code == 503
    waits = f"{agent} is waiting for the store"
    health = await daemon.until("/health", lambda health: waits in health["reasons"])
    assert health["status"] == "degraded"


def nothing_was_lost_or_done_twice(place, agent, names):
    tasks = place.rows("select status, attempts from actp_agent_tasks where agent_type = ?", agent)
    assert tasks == [{"status": "succeeded", "attempts": 1}] * len(names)
    effects = [row["what"] for row in place.rows(EFFECTS[agent])]
    assert len(effects) == len(names)
    assert all(any(name in effect for effect in effects) for name in names)
    calls = place.rows("select 1 from actp_tool_call_log where agent_id = ?", agent)
    assert len(calls) == 2 * len(names)
    costs = place.rows("select request_id from anthropic_cost_log where agent_id = ?", agent)
    assert len(costs) == 3 * len(names)
    assert len({cost["request_id"] for cost in costs}) == len(costs)


async def never_crashed(daemon, agent):
    found = await daemon.get(f"/agents/{agent}")
    assert found["last_error"] is None
    assert (found["crashes"], found["restarts"], found["status"]) == (0, 0, "running")
    assert "Traceback" not in daemon.log.read_text()
    daemon.signal(signal.SIGTERM)
    assert await daemon.wait() == 0


# -- the rules


async def test_while_a_fault_lasts_the_daemon_is_degraded_and_then_goes_on_as_if_nothing_had_been(
    tmp_path, claude, project
):
    async def endure(agent):
        async with (
            open_place(tmp_path / agent, claude, project) as (place, gateway),
            place.daemon("--agents", agent) as daemon,
        ):
            for name, (fault, why) in FAULTS[agent].items():
                task_id = await at_its_last_reply(place, daemon, agent, name)
                gateway.fault = fault
                await shows_that_it_is_away(daemon, agent, why)
                assert place.task(task_id)["status"] == "running"
                gateway.fault = None
                # A slow answer may still be waited for.
                with trio.fail_after(20 if fault is slow else 10):
                    await succeeded(place, task_id)
                    await healthy(daemon)
            nothing_was_lost_or_done_twice(place, agent, FAULTS[agent])
            await never_crashed(daemon, agent)

    async with trio.open_nursery() as nursery:
        for agent in FAULTS:
            nursery.start_soon(endure, agent)


async def test_where_every_fifth_request_goes_wrong_all_work_is_done_once(place, gateway):
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    rng = random.Random(seed)
    faults = [FAULTS["content"]["500"][0], FAULTS["revenue"]["page"][0], cut, cut]

    async def now_and_then(forward):
        return await rng.choice(faults)(forward) if rng.random() < 1 / 5 else None

    names = [f"No {number}" for number in (1, 2)]
    async with place.daemon("--agents", ",".join(GOALS)) as daemon:
        tasks = [
            await daemon.post(agent, goal.format(name).replace("0.4", "0"))
            for name in names
            for agent, goal in GOALS.items()
        ]
        gateway.fault = now_and_then
        for task_id in tasks:
            await succeeded(place, task_id)
        gateway.fault = None
        for agent in GOALS:
            nothing_was_lost_or_done_twice(place, agent, names)
        await never_crashed(daemon, "social")


async def test_what_is_due_or_posted_while_answers_are_lost_happens_once(place, gateway):
    due = place.use_zone(6, within=3)
    before = due - timedelta(days=1)
    place.fired("content.run_daily_pipeline", before)
    wanted = {"agent_type": "content", "goal": GOALS["content"].format("posted")}
    key = {"Idempotency-Key": "once"}
    async with place.daemon("--agents", "content") as daemon:
        gateway.fault = cut
        answer = await daemon.http.post("/agents/task", json=wanted, headers=key)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        await until(lambda: SystemWallClock().now() > due + timedelta(seconds=1))
        gateway.fault = None
        answer = await daemon.http.post("/agents/task", json=wanted, headers=key)
        assert answer.status_code == 201
        await succeeded(place, answer.json()["id"])
        fires = "select scheduled_at, outcome from actp_job_runs order by scheduled_at"
        await until(lambda: all(fire["outcome"] for fire in place.rows(fires)))
        assert place.rows(fires) == [
            {"scheduled_at": moment, "outcome": "succeeded"} for moment in (before, due)
        ]
        (count,) = place.rows("select count(*) from actp_agent_tasks")
        assert count == {"count": 1}
        await never_crashed(daemon, "content")


def _renamed(kind, name, other):
    return f"alter {kind} {name} rename to {other}", f"alter {kind} {other} rename to {name}"


GOING = [
    _renamed("function", "actp_claim_task", "gone"),
    _renamed("table", "actp_agent_tasks", "gone"),
    _renamed("table", "actp_agent_runs", "gone"),
]


async def test_what_is_dropped_under_a_daemon_and_comes_back_is_an_absence(place):
    reload = "notify pgrst, 'reload schema'"
    agents = tuple(GOALS)
    names = [f"No {number}" for number, _ in enumerate(GOING)]
    async with place.daemon("--agents", ",".join(agents)) as daemon:
        for name, (away, back) in zip(names, GOING, strict=True):
            tasks = [await at_its_last_reply(place, daemon, agent, name) for agent in agents]
            place.rows(away)
            try:
                place.rows(reload)
                if "actp_agent_runs" in away:
                    await daemon.http.post("/agents/social/restart")
                health = await daemon.until("/health", lambda health: "lacks" in str(health))
                assert health["status"] == "degraded"
            finally:
                place.rows(back)
                place.rows(reload)
            for task_id in tasks:
                await succeeded(place, task_id)
            await healthy(daemon)
        for agent in agents:
            nothing_was_lost_or_done_twice(place, agent, names)
            found = await daemon.get(f"/agents/{agent}")
            assert (found["last_error"], found["crashes"]) == (None, 0)
        assert "Traceback" not in daemon.log.read_text()


async def test_a_daemon_that_is_stopped_while_the_store_is_away_ends_well(place, gateway):
    async with place.daemon("--agents", "social") as daemon:
        task_id = await at_its_last_reply(place, daemon, "social", "stopped")
        gateway.fault, why = FAULTS["social"]["429"]
        await shows_that_it_is_away(daemon, "social", why)
        daemon.signal(signal.SIGTERM)
        with trio.move_on_after(0.5):
            await daemon.process.wait()
        assert daemon.process.returncode is None  # the result is kept as long as may be
        daemon.signal(signal.SIGTERM)
        with trio.fail_after(15):
            assert await daemon.wait() == 0
        assert place.task(task_id)["status"] == "running"
        assert "the store is away" in daemon.logged("stopped")["message"]
    gateway.fault = None
    async with place.daemon("--agents", "social") as daemon:
        assert daemon.logged("worker_died")
        await succeeded(place, task_id)
        assert place.task(task_id)["attempts"] == 2
        assert len(place.rows(EFFECTS["social"])) == 1


async def test_a_daemon_that_waits_for_the_store_can_be_stopped_at_once(supabase):
    supabase.environ["SUPABASE_URL"] = "http://127.0.0.1:1"
    async with supabase.starting_daemon() as daemon:
        await until(lambda: daemon.logged("store_awaited"))
        daemon.signal(signal.SIGTERM)
        with trio.fail_after(5):
            assert await daemon.wait() == 130
        assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize("offset", [3600, -3600])
async def test_the_clock_of_the_database_is_an_hour_off(tmp_path, claude, short_folder, offset):
    environ = await another_clock(short_folder, offset)
    if environ is None:
        pytest.skip("no C compiler to make another clock with")
    folder = short_folder / "pg"
    folder.mkdir()
    async with open_postgres(folder, environ=environ) as postgres:
        db_url = postgres.create("worker")
        migrate(db_url)
        async with open_project(postgres, db_url, short_folder) as project:
            place = SupabasePlace(tmp_path, claude, project=project)
            place.environ["WORKER_TASK_LEASE"] = "1"
            due = place.use_zone(6, within=2)
            place.fired("content.run_daily_pipeline", due - timedelta(days=1))
            async with place.daemon("--agents", "social,content") as daemon:
                task_id = await daemon.post("social", GOALS["social"].replace("0.4", "0.7"))
                listed = json.loads((await place.run("--list-agents", "--json")).out)
                assert [agent["status"] for agent in listed] == ["disabled", "running"] * 2
                await succeeded(place, task_id)
                assert place.task(task_id)["attempts"] == 1
                fires = "select 1 from actp_job_runs where outcome = 'succeeded'"
                await until(lambda: place.rows(f"{fires} and scheduled_at = ?", due))
                await healthy(daemon)
                await never_crashed(daemon, "social")


async def test_postgrest_stopped_and_the_port_closed(
    tmp_path, claude, postgres, project, short_folder
):
    socket = short_folder / "p.sock"
    gateway = Gateway(socket)
    async with open_gateway(gateway) as url, open_gateway(gateway) as page:
        pass  # for their ports
    place = SupabasePlace(tmp_path, claude, project=dataclasses.replace(project, url=url))
    place.environ["WORKER_HEALTH_PORT"] = page.rpartition(":")[2]
    port = int(url.rpartition(":")[2])
    async with place.starting_daemon("--agents", "social") as daemon:
        # Who only wants to check does not wait for it.
        ended = await place.run("--dry-run")
        assert (ended.code, ended.out) == (1, "")
        (line,) = ended.err.splitlines()
        assert "cannot be reached: ConnectError" in line
        awaited = await until(lambda: daemon.logged("store_awaited"))
        assert "cannot be reached: ConnectError" in awaited["message"]
        assert daemon.logged("starting") is None
        health = (await daemon.http.get(f"{page}/health")).json()
        assert health["status"] == "degraded"
        assert "waiting for the store" in health["reasons"][0]
        async with (
            open_postgrest(postgres, project.db_url, socket),
            open_gateway(gateway, port=port),
        ):
            await daemon.until_up()
            task_id = await at_its_last_reply(place, daemon, "social", "stopped")
        await shows_that_it_is_away(daemon, "social", "cannot be reached: ConnectError")
        async with (
            open_postgrest(postgres, project.db_url, socket),
            open_gateway(gateway, port=port),
        ):
            await succeeded(place, task_id)
            await healthy(daemon)
            nothing_was_lost_or_done_twice(place, "social", ["stopped"])
            await never_crashed(daemon, "social")
