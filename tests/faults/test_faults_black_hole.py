"""A black hole between a daemon and its database: what is sent arrives nowhere, unheard of.

The way leads through a relay that stops passing bytes for a minute and takes new connections all
the same. Requests to the database may take 10 s, so that is several of them.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import sqlite3
from contextlib import closing

import pytest
import trio
from accounts import check_all
from campaign import AGENTS, Campaign, finish
from scripted import ScriptedClaude, install

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

HOLE = 60.0
LOCK = 30.0


class Relay:
    """Passes the bytes of connections on, unless it is told to let them vanish.

    Args:
        port: Where it passes them to, on loopback.
    """

    def __init__(self, port):
        self._port = port
        self.is_hole = False

    async def serve(self, *, task_status):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        await trio.serve_listeners(self._relay, listeners)

    async def _relay(self, near):
        async with near, await trio.open_tcp_stream("127.0.0.1", self._port) as far:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, far, near)
                    await self._pass_on(near, far)
                    nursery.cancel_scope.cancel()
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _pass_on(self, source, target):
        async for data in source:
            if not self.is_hole:
                await target.send_all(data)
            # What was swallowed never comes, so neither does what follows it.
            elif not await self._closed(source):
                return

    async def _closed(self, source):
        while await source.receive_some():
            pass
        return False


@pytest.mark.parametrize("stopped", [False, True], ids=["goes on", "is stopped"])
async def test_a_black_hole_before_the_database(supabase, stopped, figures):
    began = trio.current_time()
    relay = Relay(int(supabase.project.url.rpartition(":")[2]))
    async with trio.open_nursery() as nursery:
        url = await nursery.start(relay.serve)
        project = dataclasses.replace(supabase.project, url=url)
        place = dataclasses.replace(supabase, project=project)
        install(place)
        place.environ |= {"SOCIAL_MEDIA_AGENT_WORKERS": "3", "WORKER_DRAIN_TIMEOUT": "5"}
        claude = ScriptedClaude(random.Random(5))
        place.claude = await nursery.start(claude.serve)
        campaign = Campaign(place, claude, random.Random(5))
        async with place.daemon("--agents", ",".join(AGENTS)) as daemon:
            campaign.up.append(daemon)
            async with trio.open_nursery() as people:
                people.start_soon(campaign.keep_posting)
                people.start_soon(campaign.keep_deciding)
                await trio.sleep(5)
                relay.is_hole = True
                await daemon.until("/health", lambda health: "the store is away" in str(health))
                assert (await daemon.http.get("/livez")).status_code == 200
                if not stopped:
                    await trio.sleep(HOLE)
                    relay.is_hole = False
                    await daemon.until(
                        "/health", lambda health: "the store is away" not in str(health)
                    )
                    for agent in AGENTS:
                        assert (await daemon.get(f"/agents/{agent}"))["error_count"] == 0
                people.cancel_scope.cancel()
            daemon.signal(signal.SIGTERM)
            assert await daemon.wait() == 0
            campaign.read_the_log(daemon)
        relay.is_hole = False
        campaign.up.clear()
        await finish(campaign)
        nursery.cancel_scope.cancel()
    found = check_all(campaign)
    what = "stopped in it" if stopped else "waited for"
    figures(f"Black hole, {what}", **found, seconds=trio.current_time() - began)


async def test_a_file_of_sqlite_that_another_program_locks(place, figures):
    began = trio.current_time()
    install(place)
    place.environ["SOCIAL_MEDIA_AGENT_WORKERS"] = "3"
    async with trio.open_nursery() as nursery:
        claude = ScriptedClaude(random.Random(6))
        place.claude = await nursery.start(claude.serve)
        campaign = Campaign(place, claude, random.Random(6))
        async with place.daemon("--agents", ",".join(AGENTS)) as daemon:
            campaign.up.append(daemon)
            async with trio.open_nursery() as people:
                people.start_soon(campaign.keep_posting)
                people.start_soon(campaign.keep_deciding)
                await trio.sleep(5)
                with closing(sqlite3.connect(place.database, check_same_thread=False)) as db:
                    await trio.to_thread.run_sync(lock, db)
                    await daemon.until("/health", lambda health: "store is away" in str(health))
                    await trio.sleep(LOCK)
                    db.rollback()
                await daemon.until("/health", lambda health: "store is away" not in str(health))
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
    figures("Locked by another program", **found, seconds=trio.current_time() - began)


def lock(db):
    db.execute("pragma busy_timeout = 30000")
    db.execute("begin exclusive")
