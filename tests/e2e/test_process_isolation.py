"""An agent in a process of its own, below a real daemon."""

from __future__ import annotations

import os
import signal

import pytest
import trio
from daemons import IDLER, PATIENCE, until
from processes import is_alive

OWN = """
import asyncio
import time
from pathlib import Path

from app.agents.outcomes import Outcome
from app.agents.work import Worker

class Sleeper:
    def __init__(self, context):
        self.context = context

    async def run_as_daemon(self, poll_interval):
        await Worker(self.context, self.do).run(poll_interval)

    async def do(self, task):
        if task.goal == "block" and not Path("blocked").exists():
            Path("blocked").touch()
            time.sleep(1000)
        await asyncio.sleep(float(task.context.get("seconds", 0)))
        return Outcome(failure=None, result={"text": "done"})
"""


@pytest.fixture
def place(idle_place):
    """A place where the social agent has a process of its own, and content idles in the daemon."""
    idle_place.use_class(OWN + IDLER, "Sleeper")
    idle_place.environ |= {
        "SOCIAL_MEDIA_AGENT_ISOLATION": "process",
        "ENABLE_CONTENT_AGENT": "yes",
        "CONTENT_AGENT_CLASS": "own:Idler",
    }
    return idle_place


async def with_task(daemon, task_id):
    """Wait until the social agent is at a task; gives its process."""
    agent = await daemon.until(
        "/agents/social", lambda agent: agent["health"]["task_id"] == task_id
    )
    assert agent["pid"] != daemon.process.pid
    return agent["pid"]


async def done(place, task_id):
    await until(lambda: place.task(task_id)["status"] in {"succeeded", "failed"})
    return place.task(task_id)


async def test_one_that_blocks_for_ever_is_found_and_started_again_while_others_go_on(place):
    # A start that takes longer, on a machine that is busy, is a crash more.
    seconds = {"WORKER_HEARTBEAT_INTERVAL": "1", "WORKER_STALE_THRESHOLD": "12"}
    async with place.daemon(**seconds) as daemon:
        task_id = await daemon.post("social", "block")
        blocked = await with_task(daemon, task_id)

        def started_again(agent):
            return agent["crashes"] and agent["pid"] not in {None, blocked}

        with trio.fail_after(PATIENCE):
            while not started_again(await daemon.get("/agents/social")):
                assert (await daemon.get("/agents/content"))["status"] == "running"

        assert (await daemon.get("/agents/content"))["crashes"] == 0
        crashed = "select * from actp_agent_runs where outcome = 'crashed' order by finished_at"
        first, *_ = await until(lambda: place.rows(crashed))
        assert "the agent hung: its loop has not turned for" in first["error"]
        assert not is_alive(blocked)
        assert daemon.logged("loop_blocked") is None
        task = await done(place, task_id)
        assert (task["status"], task["attempts"]) == ("succeeded", 2)
        assert (await daemon.get("/agents/content"))["crashes"] == 0
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0


async def test_at_sigterm_it_finishes_what_is_in_flight(place):
    async with place.daemon() as daemon:
        task_id = await daemon.post("social", "sleep", context={"seconds": 2})
        pid = await with_task(daemon, task_id)
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
    assert place.task(task_id)["status"] == "succeeded"
    assert not is_alive(pid)
    (run,) = place.rows("select * from actp_agent_runs where agent_id = 'social'")
    assert (run["outcome"], run["error"]) == ("stopped", None)


async def test_at_sigterm_what_takes_too_long_is_queued_again(place):
    async with place.daemon(WORKER_DRAIN_TIMEOUT="1") as daemon:
        task_id = await daemon.post("social", "sleep", context={"seconds": 1000})
        pid = await with_task(daemon, task_id)
        daemon.signal(signal.SIGTERM)
        await daemon.wait()
    task = place.task(task_id)
    assert (task["status"], task["attempts"]) == ("queued", 0)
    assert not is_alive(pid)


async def test_killed_it_is_a_crash_and_its_task_is_done_all_the_same(place):
    async with place.daemon() as daemon:
        task_id = await daemon.post("social", "sleep", context={"seconds": 1})
        os.kill(await with_task(daemon, task_id), signal.SIGKILL)
        task = await done(place, task_id)
        assert (task["status"], task["attempts"]) == ("succeeded", 2)
        agent = await daemon.get("/agents/social")
        assert agent["crashes"] == 1
        assert agent["last_error"].endswith("the agent's process was killed by SIGKILL\n")
    (run,) = place.rows("select * from actp_agent_runs where outcome = 'crashed'")
    assert run["error"] == agent["last_error"]


@pytest.mark.parametrize("goal", ["sleep", "block"])
async def test_it_ends_with_a_daemon_that_is_killed(place, goal):
    async with place.daemon() as daemon:
        task_id = await daemon.post("social", goal, context={"seconds": 1000})
        pid = await with_task(daemon, task_id)
        daemon.signal(signal.SIGKILL)
        await daemon.wait()
        await until(lambda: not is_alive(pid))
