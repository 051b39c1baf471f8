"""A daemon among others: what its lock tells, how it ends, who clears up, whose silence counts."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime

import pytest
import trio
from agents_stage import Flaky
from store_calls import add, live

from actp_supervise.testing import TrioWallClock
from app.settings import load_settings
from app.store.outbox import store_outbox
from app.store.protocol import TaskStatus
from app.store.sqlite import open_sqlite_store
from app.worker import DaemonPresence, Life, life_of, open_worker


@pytest.fixture
def settings(tmp_path):
    environ = {"WORKER_DB_PATH": str(tmp_path / "store.db"), "WORKER_ID": "w"}
    return load_settings(environ, env_file=None)


@asynccontextmanager
async def daemon(settings, store, instance):
    """Be a daemon for the time of the block, which begins when it is made known."""
    records = store_outbox()
    presence = DaemonPresence(settings, instance)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(records.run)
        async with open_worker(settings, store, records, presence):
            await records.flush()
            yield
        nursery.cancel_scope.cancel()


async def test_a_daemon_that_ends_well_is_forgotten_and_leaves_no_lock(settings, store):
    async with daemon(settings, store, "one"):
        assert await live(store) == [("w", "one")]
        assert life_of(settings, "one") is Life.ALIVE
    assert await live(store) == []
    assert life_of(settings, "one") is Life.UNKNOWN


async def test_after_a_daemon_that_could_not_say_that_it_ended_the_next_one_clears_up(
    settings, store, caplog
):
    flaky = Flaky(store)
    await add(store)
    async with daemon(settings, flaky, "one"):
        options = {"worker_id": "w", "instance": "one", "token": "k1", "lease": 1000.0}
        await store.claim_task("social", **options)
        flaky.away = True
    assert life_of(settings, "one") is Life.DEAD
    assert [record.action for record in caplog.records] == ["farewell_failed"]

    async with daemon(settings, store, "two"):
        assert await live(store) == [("w", "two")]
        assert life_of(settings, "one") is Life.UNKNOWN
        assert (await store.task("t1")).status is TaskStatus.QUEUED


async def test_daemons_that_live_are_left_alone(settings, store):
    async with daemon(settings, store, "one"), daemon(settings, store, "two"):
        assert await live(store) == [("w", "one"), ("w", "two")]
        assert life_of(settings, "one") is life_of(settings, "two") is Life.ALIVE


async def test_a_daemon_that_was_silent_itself_gives_others_time_to_speak(tmp_path, settings):
    """As two on a laptop whose lid was closed: the first to wake had called the other dead."""
    path = tmp_path / "store.db"
    clock = TrioWallClock(datetime(2026, 12, 1, 22, tzinfo=UTC))
    async with open_sqlite_store(path) as store:
        presence = DaemonPresence(settings, "own-run", wall_clock=clock)

        async def speak():
            await presence.arrive(store)
            return [worker.instance for worker in await store.live_workers()]

        await store.touch_worker("other", "other-run", {}, silent_after=60.0)
        assert await speak() == ["other-run", "own-run"]
        clock.step(8 * 3600)
        with closing(sqlite3.connect(path)) as db, db:
            now = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-8 hours')"
            db.execute(f"update actp_workers set last_seen = {now}")

        assert await speak() == ["other-run", "own-run"]
        clock.step(80)
        assert await speak() == ["other-run", "own-run"]
        clock.step(11)
        assert await speak() == ["own-run"], "it has had 90 s to speak since"
