"""Daemons that share a Supabase project: what one does, the others know within seconds."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import trio
from daemons import until
from services import Gateway, open_gateway

WORKING = """
from app.agents.outcomes import Outcome
from app.agents.work import Worker

class Working:
    def __init__(self, context):
        self.context = context

    async def run_as_daemon(self, poll_interval):
        await Worker(self.context, self.do).run(poll_interval)

    async def do(self, task):
        if task.goal == "long":
            import asyncio
            await asyncio.sleep(3600)
        return Outcome(failure=None, result={})
"""


@pytest.fixture
def usual(supabase):
    """Daemons with the usual intervals, whose agents need no Claude."""
    supabase.use_class(WORKING, "Working")
    agents = ("SOCIAL_MEDIA", "CONTENT", "ACQUISITION", "REVENUE")
    supabase.environ |= {"SUPERVISOR_WATCH_INTERVAL": "10"}
    supabase.environ |= {f"{agent}_AGENT_CLASS": "own:Working" for agent in agents}
    supabase.environ |= {f"{agent}_AGENT_POLL_INTERVAL": "120" for agent in agents}
    return supabase


def insert(place, agent_id, goal="by hand"):
    """Make a task by hand, and return its id; nobody is told."""
    with psycopg.connect(place.project.db_url, autocommit=True) as db:
        statement = (
            "insert into actp_agent_tasks (id, agent_type, goal)"
            " values (gen_random_uuid()::text, %s, %s) returning id"
        )
        return db.execute(statement, [agent_id, goal]).fetchone()[0]


async def until_idle(daemon):
    def all_run(agents):
        return all(agent["status"] == "running" for agent in agents)

    await daemon.until("/agents", all_run)


@pytest.mark.long
async def test_a_task_made_by_hand_begins_on_an_idle_daemon_within_five_seconds(usual):
    async with usual.daemon() as daemon:
        await until_idle(daemon)
        await trio.sleep(6)  # whatever a start asks for is over
        for agent_id in ("social", "revenue", "content"):
            task_id = insert(usual, agent_id)
            await until(lambda task_id=task_id: usual.task(task_id)["status"] == "succeeded")
            task = usual.task(task_id)
            begun = (task["started_at"] - task["created_at"]).total_seconds()
            assert begun < 5.0, agent_id


@pytest.mark.long
async def test_an_idle_daemon_asks_at_most_fifteen_times_a_minute(usual, project):
    gateway = Gateway(Path(project.socket))
    async with open_gateway(gateway) as url:
        usual.environ["SUPABASE_URL"] = url
        async with usual.daemon() as daemon:
            await until_idle(daemon)
            await trio.sleep(15)
            gateway.requests.clear()
            await trio.sleep(60)
            asked = [request.rsplit("/", 1)[1] for request in gateway.requests]
    assert set(asked) <= {"actp_beat", "actp_unreadable_tasks"}
    assert 10 <= len(asked) <= 15


@pytest.mark.long
async def test_a_pause_holds_in_all_daemons_and_over_their_restarts(usual):
    there = usual.elsewhere("there")
    async with usual.daemon(WORKER_ID="near") as near:
        await until_idle(near)
        await near.http.post("/agents/content/pause")
        async with there.daemon(WORKER_ID="far") as far:
            await far.until("/agents/content", lambda agent: agent["health"]["paused"])
            task_id = insert(usual, "content")
            await trio.sleep(10)
            assert usual.task(task_id)["status"] == "queued"
            await far.http.post("/agents/content/resume")
            await until(lambda: usual.task(task_id)["status"] == "succeeded")


@pytest.mark.long
async def test_a_task_that_is_cancelled_elsewhere_ends_within_seconds(usual):
    there = usual.elsewhere("there")
    async with (
        usual.daemon("--agents", "revenue") as near,
        there.daemon("--agents", "content") as far,
    ):
        task_id = insert(usual, "revenue", "long")
        await until(lambda: usual.task(task_id)["status"] == "running")
        await far.http.post(f"/tasks/{task_id}/cancel")
        with trio.fail_after(30):
            await until(lambda: usual.task(task_id)["status"] == "cancelled")
        assert (await near.get("/agents/revenue"))["crashes"] == 0


@pytest.mark.long
async def test_after_a_reset_that_empties_the_tables_everything_registers_itself_again(usual):
    usual.environ |= {"WORKER_HEARTBEAT_INTERVAL": "1"}
    async with usual.daemon(WORKER_ID="near") as daemon:
        await until_idle(daemon)
        with psycopg.connect(usual.project.db_url, autocommit=True) as db:
            db.execute("truncate actp_agent_registry, actp_workers, actp_leases")
        await until(lambda: len(usual.statuses()) == 4)
        await until(lambda: usual.rows("select 1 from actp_workers where worker_id = 'near'"))
        task_id = insert(usual, "content")
        await until(lambda: usual.task(task_id)["status"] == "succeeded")
