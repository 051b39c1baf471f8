"""The HTTP API on a whole daemon: real agents' supervisor, scheduler, store and port."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio
from http_daemon import AGENT_IDS, served
from whole_daemon import whole_daemon

from actp_supervise import current_child


class Agents:
    """Four agents that idle; acquisition crashes twice, each looks up when a task is posted."""

    def __init__(self) -> None:
        self.crashes = 2
        self.worked = trio.Event()
        self.social_runs = 0
        self.restarted = trio.Event()

    async def launch(self, config, run):
        child = current_child()
        if config.agent_id == "social":
            self.social_runs += 1
            if self.social_runs == 2:
                self.restarted.set()
        if config.agent_id == "acquisition" and self.crashes:
            self.crashes -= 1
            raise ValueError("no such stage")
        with child.cancel_on_stop():
            while True:
                run.activity.beat()
                await run.wait_for_work(60)
                self.worked.set()


class Routines:
    """What routines there were run."""

    def __init__(self) -> None:
        self.ran = trio.Event()

    async def run(self, _agent_id, _method):
        self.ran.set()


@pytest.fixture
def agents():
    return Agents()


@pytest.fixture
def routines():
    return Routines()


@pytest.fixture
async def daemon(store, agents, routines):
    environ = {"ENABLE_REVENUE_AGENT": "false"}
    async with whole_daemon(store, agents.launch, routines.run, environ) as daemon:
        yield daemon


@pytest.fixture
async def client(daemon):
    async with served(daemon) as client:
        yield client


async def statuses(client):
    return {a["agent_id"]: a["status"] for a in (await client.get("/agents")).json()}


async def until(client, agent_id, status):
    with trio.fail_after(60):
        # The client is outside of the daemon, and can only ask.
        while (await statuses(client))[agent_id] != status:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_health_server_returns_all_agents(daemon, client):
    assert set((await statuses(client)).values()) == {"starting", "disabled"}
    await daemon.supervisor.start_all()
    await until(client, "acquisition", "running")
    answer = await client.get("/agents")
    assert answer.status_code == 200
    agents = {agent["agent_id"]: agent for agent in answer.json()}
    assert list(agents) == list(AGENT_IDS)
    assert {agent_id: agent["status"] for agent_id, agent in agents.items()} == {
        "social": "running",
        "content": "running",
        "acquisition": "running",
        "revenue": "disabled",
    }
    assert {agent_id: agent["error_count"] for agent_id, agent in agents.items()} == {
        "social": 0,
        "content": 0,
        "acquisition": 2,
        "revenue": 0,
    }
    for agent in agents.values():
        assert {"uptime", "last_run_at", "health"} <= agent.keys()
    assert agents["social"]["health"]["heartbeat_age"] >= 0


async def test_the_daemon_is_ready_once_its_agents_are_started(daemon, client):
    assert (await client.get("/readyz")).status_code == 503
    await daemon.supervisor.start_all()
    await until(client, "acquisition", "running")
    assert (await client.get("/readyz")).status_code == 200
    health = (await client.get("/health")).json()
    assert (health["status"], health["agents"]) == ("healthy", 3)
    assert health["uptime"] > 0
    assert health["reasons"] == []


async def test_crashes_are_in_the_run_history(daemon, client):
    await daemon.supervisor.start_all()
    await until(client, "acquisition", "running")
    await daemon.records.flush()
    runs = (await client.get("/agents/acquisition")).json()["runs"]
    assert [run["outcome"] for run in runs] == [None, "crashed", "crashed"]
    assert runs[1]["error"].endswith("ValueError: no such stage\n")


async def test_a_paused_agent_takes_tasks_again_once_it_is_resumed(daemon, client):
    await daemon.supervisor.start_all()
    await until(client, "social", "running")
    answer = await client.post("/agents/social/pause")
    assert (answer.status_code, answer.headers["location"]) == (202, "/agents/social")
    health = (await client.get("/agents/social")).json()["health"]
    assert health["paused"] == "paused by an operator"
    assert (await client.post("/agents/social/resume")).status_code == 202
    assert (await client.get("/agents/social")).json()["health"]["paused"] is None
    for agent_id, status in (("revenue", 409), ("nobody", 404)):
        assert (await client.post(f"/agents/{agent_id}/pause")).status_code == status


async def test_the_tree_shows_what_runs(client):
    tree = (await client.get("/tree")).json()
    assert (tree["kind"], tree["name"]) == ("supervisor", "root")
    assert [child["name"] for child in tree["children"]] == ["scheduler"]


async def test_a_restart_makes_a_new_run(daemon, agents, client):
    await daemon.supervisor.start_all()
    await until(client, "social", "running")
    assert agents.social_runs == 1
    assert (await client.post("/agents/social/restart")).status_code == 202
    with trio.fail_after(60):
        await agents.restarted.wait()
    assert (await client.get("/agents/social")).json()["error_count"] == 0


async def test_an_agent_stays_stopped_until_it_is_started(daemon, client):
    await daemon.supervisor.start_all()
    await until(client, "social", "running")
    assert (await client.post("/agents/social/stop")).status_code == 202
    await until(client, "social", "stopped")
    assert (await client.get("/health")).json()["reasons"] == ["social is stopped"]
    assert (await client.post("/agents/social/start")).status_code == 202
    await until(client, "social", "running")


async def test_a_disabled_agent_says_which_flag_it_is(client):
    answer = await client.post("/agents/revenue/restart")
    assert answer.status_code == 409
    assert "ENABLE_REVENUE_AGENT is false" in answer.json()["detail"]


async def test_a_posted_task_wakes_its_agent(daemon, agents, client):
    await daemon.supervisor.start_all()
    await until(client, "content", "running")
    body = {"agent_type": "content", "goal": "Draft three hooks"}
    assert (await client.post("/agents/task", json=body)).status_code == 201
    with trio.fail_after(60):
        await agents.worked.wait()


async def test_all_routines_are_listed_and_one_is_run_paused_and_resumed(routines, client):
    jobs = (await client.get("/scheduler/jobs")).json()
    assert len(jobs) == 6
    for job in jobs:
        assert datetime.fromisoformat(job["next_run_time"]).tzinfo == UTC
    path = "/scheduler/jobs/revenue.run_cost_audit"
    assert (await client.post(f"{path}/run")).status_code == 202
    with trio.fail_after(60):
        await routines.ran.wait()
    assert (await client.post(f"{path}/pause")).json()["paused"] is True
    assert (await client.post(f"{path}/resume")).json()["paused"] is False


async def test_the_page_shows_the_whole_daemon(daemon, client):
    await daemon.supervisor.start_all()
    await until(client, "acquisition", "running")
    await client.post("/scheduler/jobs/revenue.run_cost_audit/run")
    answer = await client.get("/")
    assert answer.status_code == 200
    for shown in (*AGENT_IDS, "revenue.run_weekly_report", "ValueError: no such stage"):
        assert shown in answer.text


async def test_a_stopping_daemon_is_not_ready_and_takes_no_commands(daemon, client):
    daemon.shutdown.stop_event.set()
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.post("/agents/social/restart")).status_code == 503
