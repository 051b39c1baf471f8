"""Claude that sends its replies byte by byte, and Claude that is away for long.

The limits are lowered, so that a minute is what an hour is to a daemon with the defaults: an agent
counts as hung after 5 s in place of 90, and gives a task back after it has waited for 15 s in place
of 900.
"""

from __future__ import annotations

import random
import signal
from functools import partial

import pytest
import trio
from accounts import check_all
from campaign import AGENTS, Campaign, finish
from scripted import ScriptedClaude, install

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

BYTE_EACH = 0.03
"""Seconds between two bytes: a reply takes most of a minute."""

AWAY = 60.0

IMPATIENT = """
from actp_supervise import Backoff
from app.agents.claude import Patience
from noting import Noting


class Impatient(Noting):
    patience = Patience(backoff=Backoff(initial=0.25, factor=2.0, maximum=15.0), total=15.0)
"""


@pytest.fixture
def limited(place):
    install(place)
    place.environ |= {
        "WORKER_HEARTBEAT_INTERVAL": "1",
        "WORKER_STALE_THRESHOLD": "5",
        "SOCIAL_MEDIA_AGENT_WORKERS": "4",
        "CONTENT_AGENT_WORKERS": "4",
    }
    return place


class Dripping(trio.abc.HalfCloseableStream):
    """A connection over which an answer comes byte by byte."""

    def __init__(self, stream):
        self._stream = stream

    async def send_all(self, data):
        for n in range(len(data)):
            await self._stream.send_all(data[n : n + 1])
            await trio.sleep(BYTE_EACH)

    async def wait_send_all_might_not_block(self):
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self):
        await self._stream.send_eof()

    async def receive_some(self, max_bytes=None):
        return await self._stream.receive_some(max_bytes)

    async def aclose(self):
        await self._stream.aclose()


async def test_claude_that_drips_is_waited_for_and_nobody_is_accused(limited, figures):
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        claude = ScriptedClaude(random.Random(3))
        limited.claude = await nursery.start(partial(claude.serve, through=Dripping))
        campaign = Campaign(limited, claude, random.Random(3))
        async with limited.daemon("--agents", ",".join(AGENTS)) as daemon:
            campaign.up.append(daemon)
            async with trio.open_nursery() as people:
                people.start_soon(campaign.keep_posting)
                people.start_soon(campaign.keep_deciding)
                await trio.sleep(AWAY)
                people.cancel_scope.cancel()
            for agent in AGENTS:
                assert (await daemon.get(f"/agents/{agent}"))["error_count"] == 0
            daemon.signal(signal.SIGTERM)
            daemon.signal(signal.SIGTERM)  # replies that drip are cut off
            assert await daemon.wait() == 0
            campaign.read_the_log(daemon)
        campaign.up.clear()
        limited.claude = await nursery.start(claude.serve)
        await finish(campaign)
        nursery.cancel_scope.cancel()
    found = check_all(campaign)
    figures("Claude drips", **found, seconds=trio.current_time() - began)


async def test_claude_that_is_away_for_long_costs_no_attempt(limited, figures):
    began = trio.current_time()
    (limited.folder / "noting.py").write_text((limited.folder / "own.py").read_text())
    limited.use_class(IMPATIENT, "Impatient")
    limited.environ["CONTENT_AGENT_CLASS"] = "own:Impatient"
    claude = ScriptedClaude(random.Random(4))
    there = trio.CancelScope()

    async def serve_for_a_while(*, task_status):
        with there:
            await claude.serve(task_status=task_status)

    async with trio.open_nursery() as nursery:
        limited.claude = await nursery.start(serve_for_a_while)
        campaign = Campaign(limited, claude, random.Random(4))
        async with limited.daemon("--agents", ",".join(AGENTS)) as daemon:
            campaign.up.append(daemon)
            async with trio.open_nursery() as people:
                people.start_soon(campaign.keep_posting)
                people.start_soon(campaign.keep_deciding)
                await trio.sleep(5)
                there.cancel()
                await daemon.until("/health", lambda health: health["status"] == "degraded")
                await trio.sleep(AWAY)
                assert (await daemon.http.get("/livez")).status_code == 200
                port = int(limited.claude.rpartition(":")[2])
                await nursery.start(partial(claude.serve, port=port))
                people.cancel_scope.cancel()
            for agent in AGENTS:
                assert (await daemon.get(f"/agents/{agent}"))["error_count"] == 0
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() == 0
            campaign.read_the_log(daemon)
        campaign.up.clear()
        await finish(campaign)
        nursery.cancel_scope.cancel()
    found = check_all(campaign)
    attempts = {row["attempts"] for row in limited.rows("select attempts from actp_agent_tasks")}
    assert attempts == {1}
    figures("Claude is away", **found, seconds=trio.current_time() - began)
