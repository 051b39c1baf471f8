"""A class that was written for no daemon, as it is: what it finds, what it spends, how it ends."""

from __future__ import annotations

import signal

import pytest

PLAIN = '''
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
'''
COUNTED = PLAIN.replace("def __init__(self):", "def __init__(self, context):").replace(
    "AsyncAnthropic()", "context.claude()"
)


@pytest.fixture
def own_place(idle_place):
    """A place with a class of one's own, whose key and folder stand in `.env` alone."""
    idle_place.use_class(PLAIN, "NotesAgent")
    env = idle_place.environment()
    (idle_place.folder / "notes").mkdir()
    (idle_place.folder / ".env").write_text(
        f"ANTHROPIC_API_KEY={env['ANTHROPIC_API_KEY']}\n"
        f"ANTHROPIC_BASE_URL={env['ANTHROPIC_BASE_URL']}\n"
        f"NOTES_DIR={idle_place.folder / 'notes'}\nCRM_TOKEN=crm-secret-4711\n"
    )
    return idle_place


def without_claude(place):
    """Return a way to run commands whose environment knows nothing of Claude."""
    environment = place.environment

    def of_file_alone(**changes):
        named = {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"}
        return {name: each for name, each in environment(**changes).items() if name not in named}

    place.environment = of_file_alone
    return place
