"""Hundreds of kills, of daemons that work: nothing lost, nothing twice, nobody accused.

Three daemons at a time share a database. Each is ended at a moment of chance, a quarter of them
while they start: by kill -9, by SIGTERM, or by kill -9 while they drain. Tasks are posted and calls
are approved meanwhile, some while no daemon lives. `make test-long KILLS=20` is a short one; one of
300 ends after KILL_MINUTES=60 at the latest.
"""

from __future__ import annotations

import os
import random

import pytest
import trio
from accounts import check_all
from campaign import WORKERS, Campaign, wage
from scripted import ScriptedClaude, install

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("KILLS") or 300)
LONGEST = 60 * float(os.environ.get("KILL_MINUTES") or 60)
"""Seconds after which it is enough on a busy machine; the figures say how many kills there were."""


async def killed_often(place, kills, figures, title):
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    install(place)
    place.environ |= {
        "SOCIAL_MEDIA_AGENT_SINGLE": "no",
        "SOCIAL_MEDIA_AGENT_WORKERS": str(WORKERS),
        "WORKER_TASK_LEASE": "3",
        "WORKER_HEARTBEAT_INTERVAL": "1",
        "WORKER_STALE_THRESHOLD": "20",
    }
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        claude = ScriptedClaude(random.Random(seed))
        place.claude = await nursery.start(claude.serve)
        campaign = Campaign(place, claude, random.Random(seed))
        await wage(campaign, kills, LONGEST)
        nursery.cancel_scope.cancel()
    found = check_all(campaign)
    figures(title, **campaign.counts, **found, seconds=trio.current_time() - began)


@pytest.mark.timeout(5400)
async def test_killed_three_hundred_times_on_sqlite(place, figures):
    await killed_often(place, KILLS, figures, "Kills on SQLite")
    assert place.rows("pragma integrity_check") == [{"integrity_check": "ok"}]


@pytest.mark.timeout(5400)
async def test_killed_a_hundred_times_on_postgresql(supabase, figures):
    await killed_often(supabase, KILLS // 3, figures, "Kills on PostgreSQL with PostgREST")
