"""An agent in a process of its own, to be killed: `agent_process.py STORE CLAUDE_URL`."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
import trio_asyncio  # noqa: F401  (before whatever binds asyncio's getters)
from agents_at_work import Office, QuickAgent

from actp_supervise import open_supervisor
from app.demo.claude import SimulatedClaude
from app.store.sqlite import open_sqlite_store


async def main(path: Path, url: str) -> None:
    async with (
        open_sqlite_store(path) as store,
        open_supervisor(name="agents", limit=None) as tree,
    ):
        await store.touch_worker("killed", "killed-run", {}, silent_after=1000.0)
        place = Office(store, SimulatedClaude(), url, tree)
        place.start(QuickAgent, worker_id="killed", instance="killed-run")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
