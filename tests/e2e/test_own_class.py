"""A class that was written for no daemon, as it is: what it finds, what it spends, how it ends."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest
from daemons import Place, until
from typing_extensions import override

PLAIN = """
import asyncio
import os
import pathlib

from anthropic import AsyncAnthropic


class NotesAgent:
    def __init__(self):
        self.client = AsyncAnthropic()
        self.folder = pathlib.Path(os.environ["NOTES_DIR"])

    async def run_as_daemon(self, poll_interval=30):
        print("notes agent started")
        while True:
            await self.answer()
            await asyncio.sleep(poll_interval)

    async def answer(self):
        inbox = self.folder / "inbox.txt"
        if not inbox.exists():
            return
        ask = inbox.read_text()
        inbox.unlink()
        reply = await self.client.messages.create(
            model="claude-sonnet-5-5", max_tokens=2000, messages=[{"role": "user", "content": ask}]
        )
        (self.folder / "notes.txt").write_text(reply.content[0].text)
"""
COUNTED = PLAIN.replace("def __init__(self):", "def __init__(self, context):").replace(
    "AsyncAnthropic()", "context.claude()"
)


@dataclass
class OwnPlace(Place):
    """A place whose environment knows nothing of Claude: that stands in `.env`."""

    @override
    def environment(self, **changes: str) -> dict[str, str]:
        named = {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"} - changes.keys()
        given = super().environment(**changes)
        return {name: value for name, value in given.items() if name not in named}


@pytest.fixture
def own_place(tmp_path, claude):
    """A place with a class of one's own, whose key and folder stand in `.env` alone."""
    place = OwnPlace(tmp_path, claude)
    place.use_class(PLAIN, "NotesAgent")
    for agent in ("CONTENT", "ACQUISITION", "REVENUE"):
        place.environ[f"ENABLE_{agent}_AGENT"] = "no"
    (tmp_path / "notes").mkdir()
    (tmp_path / ".env").write_text(
        f"ANTHROPIC_API_KEY=e2e-secret-key\nANTHROPIC_BASE_URL={claude}\n"
        f"NOTES_DIR={tmp_path / 'notes'}\nCRM_TOKEN=crm-secret-4711\n"
    )
    return place


async def test_a_class_that_makes_its_own_client_finds_its_key_in_the_env_file(own_place):
    (own_place.folder / "notes" / "inbox.txt").write_text("Say something.")
    async with own_place.daemon() as daemon:
        await until((own_place.folder / "notes" / "notes.txt").exists)
        daemon.signal(signal.SIGTERM)
        assert await daemon.wait() == 0
        assert "crm-secret-4711" not in daemon.log.read_text()
        assert daemon.logged("stopped")["message"] == "Stopped: all work finished"


async def test_with_our_client_its_calls_are_booked(own_place):
    own_place.use_class(COUNTED, "NotesAgent")
    (own_place.folder / "notes" / "inbox.txt").write_text("Say something.")
    async with own_place.daemon() as daemon:
        await until((own_place.folder / "notes" / "notes.txt").exists)
        agent = await daemon.get("/agents/social")
    (cost,) = own_place.rows("select * from anthropic_cost_log")
    assert cost["agent_id"] == "social"
    assert cost["cost_usd"] > 0
    assert agent["spend"][-1]["calls"] == 1
    assert agent["error_count"] == 0


async def test_the_dry_run_names_what_the_env_file_has_and_shows_none_of_it(own_place):
    ended = await own_place.run("--dry-run")
    assert ended.code == 0, ended.err
    assert "ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL, CRM_TOKEN, NOTES_DIR" in ended.out
    assert "crm-secret-4711" not in ended.out + ended.err


async def test_a_class_of_ones_own_finds_the_simulated_claude_of_the_demo(own_place):
    (own_place.folder / "notes" / "inbox.txt").write_text("Say something.")
    environ = {"ANTHROPIC_API_KEY": "real-key", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
    async with own_place.daemon("--demo", **environ):
        await until((own_place.folder / "notes" / "notes.txt").exists)
