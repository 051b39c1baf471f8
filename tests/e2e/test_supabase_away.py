"""A daemon whose Supabase project is away, slow, or answers nonsense: it waits and loses nothing.

The gateway is in the test's own process and fails as it is told to, while the daemon works.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trio
from daemons import SupabasePlace, until
from services import Gateway, http_answer, open_gateway

GOAL = "List the engagement actions and queue a like for the post '{}' [simulate: slow 0.4]"

PAGE = "<html><head><title>Bad gateway</title></head>\n<body>\n<h1>502</h1></body></html>"


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
    "cut": (cut, "cannot be reached"),
    "500": (answering(500, '{"code":"XX000","message":"internal error"}'), "internal error"),
    "503": (answering(503, '{"message":"name resolution failed"}'), "status 503: name resolution"),
    "429": (answering(429, '{"message":"API rate limit exceeded"}'), "rate limit"),
    "a page": (answering(200, PAGE, "text/html"), "status 200: <html>"),
    "a key that was revoked": (answering(401, '{"message":"Invalid API key"}'), "Invalid API key"),
}


@pytest.fixture
def gateway(project):
    return Gateway(Path(project.socket))


@pytest.fixture
async def place(tmp_path, claude, project, gateway):
    async with open_gateway(gateway) as url:
        yield SupabasePlace(tmp_path, claude, project=dataclasses.replace(project, url=url))


async def at_its_last_reply(place, daemon, name):
    """Post a task and wait until it only has to be said that it is done."""
    task_id = await daemon.post("social", GOAL.format(name))
    calls = "select 1 from actp_tool_call_log where task_id = ?"
    await until(lambda: len(place.rows(calls, task_id)) == 2)
    return task_id


async def shows_that_it_is_away(daemon, why):
    health = await daemon.until("/health", lambda health: "store is away" in str(health))
    assert health["status"] == "degraded"
    (reason,) = [reason for reason in health["reasons"] if "store is away" in reason]
    assert why in reason
    assert (await daemon.http.get("/livez")).status_code == 200
    assert (await daemon.http.get("/readyz")).status_code == 503
    await daemon.until("/health", lambda health: "social is waiting for the store" in str(health))


def nothing_was_done_twice(place, names):
    actions = place.rows("select target from actp_engagement_actions order by target")
    assert [action["target"] for action in actions] == sorted(names)
    tasks = place.rows("select status, attempts from actp_agent_tasks")
    assert tasks == [{"status": "succeeded", "attempts": 1}] * len(names)
    costs = place.rows("select request_id from anthropic_cost_log")
    assert len({cost["request_id"] for cost in costs}) == len(costs) == 3 * len(names)
    calls = place.rows("select 1 from actp_tool_call_log")
    assert len(calls) == 2 * len(names)


async def test_while_a_fault_lasts_the_daemon_is_degraded_and_after_it_all_is_as_it_should_be(
    place, gateway
):
    async with place.daemon("--agents", "social") as daemon:
        for name, (fault, why) in FAULTS.items():
            t0 = trio.current_time()
            task_id = await at_its_last_reply(place, daemon, name)
            t1 = trio.current_time()
            gateway.fault = fault
            await shows_that_it_is_away(daemon, why)
            t2 = trio.current_time()
            assert place.task(task_id)["status"] == "running"
            gateway.fault = None
            await until(lambda: place.task(task_id)["status"] == "succeeded")
            t3 = trio.current_time()
            await daemon.until("/health", lambda health: health["status"] == "healthy")
            t4 = trio.current_time()
            print(name, *(round(t, 2) for t in (t1 - t0, t2 - t1, t3 - t2, t4 - t3)))
        nothing_was_done_twice(place, FAULTS)
        agent = await daemon.get("/agents/social")
        assert (agent["crashes"], agent["restarts"]) == (0, 0)
        print(daemon.log.read_text())
