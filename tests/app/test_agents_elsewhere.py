"""What another daemon runs is told by way of the store."""

from __future__ import annotations

import dataclasses

import pytest
from http_daemon import make_daemon, served

from app.store.protocol import AgentRegistration


@pytest.fixture
async def client(store):
    """A client of a daemon that runs four agents; another one runs `support`."""
    for worker, agents in (("here", ["social", "content"]), ("there", ["support"])):
        await store.touch_worker(
            worker, f"{worker}-run", dict.fromkeys(agents, "running"), silent_after=60.0
        )
        await store.register_agents(
            worker,
            [
                AgentRegistration(agent_id=each, class_name="c", model="m", status="running")
                for each in agents
            ],
        )
    async with served(make_daemon(store, environ={"WORKER_ID": "here"})) as client:
        yield client


async def row(store, agent_id):
    return next(each for each in await store.agents() if each.agent_id == agent_id)


async def test_an_agent_of_another_daemon_is_paused_and_resumed_from_here(store, client):
    answer = await client.post("/agents/support/pause")
    assert answer.status_code == 202
    expected = {"agent_id": "support", "action": "pause", "status": "running"}
    assert answer.json() == expected
    assert (await row(store, "support")).paused_by == "an operator"
    page = (await client.get("/")).text
    assert 'data-post="/agents/support/resume"' in page
    assert (await client.post("/agents/support/resume")).status_code == 202
    assert (await row(store, "support")).paused_at is None


async def test_an_agent_of_another_daemon_is_restarted_by_that_one(store, client):
    assert (await client.post("/agents/support/restart")).status_code == 202
    assert await store.take_restart_requests(["support"], token="t") == ["support"]


async def test_what_no_daemon_runs_is_not_told_anything(store, client):
    assert (await client.post("/agents/nobody/pause")).status_code == 404
    await store.forget_worker("there-run")
    assert (await client.post("/agents/support/pause")).status_code == 404
    assert (await row(store, "support")).paused_at is None


async def test_a_single_agent_that_another_daemon_has_is_restarted_there(store):
    daemon = make_daemon(store, environ={"WORKER_ID": "here"})
    known = daemon.supervisor.statuses["social"]
    daemon.supervisor.statuses["social"] = dataclasses.replace(known, runs_on="there")
    await store.touch_worker("there", "i", {"social": "running"}, silent_after=60.0)
    await store.register_agents(
        "there", [AgentRegistration(agent_id="social", class_name="c", model="m")]
    )
    async with served(daemon) as client:
        assert (await client.post("/agents/social/restart")).status_code == 202
    assert daemon.supervisor.asked == []
    assert (await row(store, "social")).needs_restart
