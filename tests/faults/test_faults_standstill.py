"""Daemons that stand still for minutes, as by SIGSTOP, a frozen machine or `docker pause`.

The limits are lowered, so that 20 seconds are what 6 minutes are to a daemon with the defaults: a
lease lasts 3 s in place of 60, and an agent counts as hung after 5 s in place of 90.
"""

from __future__ import annotations

import os
import random
import signal

import pytest
import trio
from accounts import check_all
from campaign import AGENTS, Campaign, finish
from processes import processes_of
from scripted import ScriptedClaude, install

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

STANDSTILL = 20.0
LIMITS = {
    "WORKER_TASK_LEASE": "3",
    "WORKER_HEARTBEAT_INTERVAL": "1",
    "WORKER_STALE_THRESHOLD": "5",
    "SOCIAL_MEDIA_AGENT_SINGLE": "no",
    "SOCIAL_MEDIA_AGENT_WORKERS": "3",
}


@pytest.fixture
def limited(place):
    install(place)
    place.environ |= LIMITS
    return place


async def stand_still(worker_id, *, with_agents):
    """Stop a daemon for a while, alone or with the processes of its agents."""
    everything = processes_of(worker_id)
    stopped = everything if with_agents else [min(everything)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    await trio.sleep(STANDSTILL)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("isolation", ["loop", "thread", "process"])
async def test_a_daemon_that_stood_still_goes_on_as_if_nothing_had_been(
    limited, isolation, figures
):
    began = trio.current_time()
    worker_id = f"still-{os.getpid()}-{isolation}"
    changes = {"WORKER_ID": worker_id, "CONTENT_AGENT_ISOLATION": isolation}
    async with trio.open_nursery() as nursery:
        claude = ScriptedClaude(random.Random(1), latency=2.0)
        limited.claude = await nursery.start(claude.serve)
        campaign = Campaign(limited, claude, random.Random(1))
        async with limited.daemon("--agents", ",".join(AGENTS), **changes) as daemon:
            campaign.up.append(daemon)
            async with trio.open_nursery() as people:
                people.start_soon(campaign.keep_posting)
                people.start_soon(campaign.keep_deciding)
                for with_agents in (False, True):
                    await trio.sleep(4)
                    await stand_still(worker_id, with_agents=with_agents)
                await trio.sleep(6)  # in which a wrong verdict would fall
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
    figures(
        f"Standstill, isolation {isolation}",
        standstills=2,
        **found,
        seconds=trio.current_time() - began,
    )


async def test_one_that_stood_still_beside_another_takes_nothing_back(limited, figures):
    began = trio.current_time()
    names = [f"beside-{os.getpid()}-{n}" for n in range(2)]
    async with trio.open_nursery() as nursery:
        claude = ScriptedClaude(random.Random(2), latency=1.0)
        limited.claude = await nursery.start(claude.serve)
        campaign = Campaign(limited, claude, random.Random(2))
        agents = ("--agents", ",".join(AGENTS))
        async with (
            limited.daemon(*agents, WORKER_ID=names[0]) as one,
            limited.daemon(*agents, WORKER_ID=names[1]) as two,
        ):
            async with trio.open_nursery() as people:
                people.start_soon(campaign.keep_posting)
                people.start_soon(campaign.keep_deciding)
                for stopped, other in ((0, two), (1, one)) * 2:
                    campaign.up[:] = [other]
                    await trio.sleep(3)
                    await stand_still(names[stopped], with_agents=True)
                await trio.sleep(6)
                people.cancel_scope.cancel()
            for daemon in (one, two):
                daemon.signal(signal.SIGTERM)
                assert await daemon.wait() == 0
                campaign.read_the_log(daemon)
        campaign.up.clear()
        await finish(campaign)
        nursery.cancel_scope.cancel()
    found = check_all(campaign)
    figures(
        "Standstill beside another daemon",
        standstills=4,
        **found,
        seconds=trio.current_time() - began,
    )
