"""What a daemon among others says of itself, and makes of the silence of others."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import trio

from actp_supervise.testing import TrioWallClock
from app.record_keeper import RecordKeeper
from app.settings import load_settings
from app.store.sqlite import open_sqlite_store
from app.worker import Presence


async def test_a_daemon_that_was_silent_itself_gives_others_time_to_speak(tmp_path):
    """As two on a laptop whose lid was closed: the first to wake had called the other dead."""
    path = tmp_path / "store.db"
    settings = load_settings({"WORKER_DB_PATH": str(path)}, env_file=None)
    clock = TrioWallClock(datetime(2026, 12, 1, 22, tzinfo=UTC))
    records = RecordKeeper()
    async with open_sqlite_store(path) as store, trio.open_nursery() as nursery:
        presence = Presence(settings, store, records, "own-run", wall_clock=clock)
        nursery.start_soon(records.run)

        async def speak():
            presence.publish()
            await records.flush()
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
        nursery.cancel_scope.cancel()
