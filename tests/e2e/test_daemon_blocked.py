"""An agent whose code blocks: the daemon says which one, and where."""

from __future__ import annotations

import json
import signal

import pytest
import trio
from daemons import PATIENCE, until

BLOCKS_ONCE = """
import time
from pathlib import Path

from actp_supervise import current_child

class Agent:
    async def run_as_daemon(self, poll_interval):
        if not Path("blocked").exists():
            Path("blocked").touch()
            time.sleep(5)
        await current_child().stopping.wait()
"""
BLOCKING_LINE = 1 + BLOCKS_ONCE.splitlines().index("            time.sleep(5)")


async def events_until_the_end(daemon):
    """Stop the daemon; gives all events that it told."""
    with trio.fail_after(PATIENCE):
        async with daemon.http.stream("GET", "/events?recent=1000") as answer:
            daemon.signal(signal.SIGTERM)
            lines = [line async for line in answer.aiter_lines()]
    told = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    return [json.loads(event) for event in told]


async def test_an_agent_that_blocks_the_loop_is_named_while_it_does(idle_place):
    idle_place.use_class(BLOCKS_ONCE, "Agent")
    async with idle_place.starting_daemon() as daemon:
        began = await until(lambda: daemon.logged("loop_blocked"))
        assert daemon.logged("loop_blocked_over") is None
        assert began["agent_id"] == "social"
        assert (
            f'own.py", line {BLOCKING_LINE}, in run_as_daemon\n    time.sleep(5)'
            in began["message"]
        )
        over = await until(lambda: daemon.logged("loop_blocked_over"))
        assert over["seconds"] > 4.9
        await daemon.until_up()
        health = await daemon.get("/health")
        assert health["status"] == "critical"
        (reason,) = health["reasons"]
        assert reason.startswith("the loop was blocked for ")
        assert reason.endswith(f" s by worker/agents/social at own.py:{BLOCKING_LINE}")
        events = await events_until_the_end(daemon)
        assert [e["agent_id"] for e in events if e.get("kind") == "loop_blocked"] == ["social"]
        assert await daemon.wait() == 0


async def test_an_agent_in_a_thread_blocks_nobody(idle_place):
    idle_place.use_class(BLOCKS_ONCE, "Agent")
    async with idle_place.daemon(SOCIAL_MEDIA_AGENT_ISOLATION="thread") as daemon:
        await until((idle_place.folder / "blocked").exists)
        before = trio.current_time()
        while trio.current_time() < before + 3:
            assert (await daemon.get("/health"))["status"] == "healthy"
            await trio.sleep(0.1)
        assert daemon.logged("loop_blocked") is None


@pytest.mark.long
async def test_a_daemon_that_was_suspended_accuses_nobody(idle_place):
    async with idle_place.daemon() as daemon:
        await daemon.until_agent("social", "running")
        daemon.signal(signal.SIGSTOP)
        await trio.sleep(4)
        daemon.signal(signal.SIGCONT)
        assert (await daemon.get("/health"))["status"] == "healthy"
        await trio.sleep(1)
        assert daemon.logged("loop_blocked") is None
