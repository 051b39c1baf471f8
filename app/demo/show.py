"""What `--demo` shows: a simulated Claude, tasks to do, an agent that crashes, nothing of value."""

from __future__ import annotations

import shlex
import sys
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from app.running import STORE_VARIABLES
from app.settings import DEMO_KEY

from .claude import SimulatedClaude, serve_claude

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from app.settings import Settings
    from app.store.protocol import Store

LATENCY: Final = 1.5
"""Seconds that the simulated Claude takes for a reply, so that agents can be seen at work."""

TASKS: Final = (
    ("social", "List the engagement actions that are queued for LinkedIn"),
    ("social", "List the engagement actions and queue a like for 'Hiring is broken' on LinkedIn"),
    ("content", "Find viral templates about launches and save the best hook as a template"),
    ("content", "Find a viral template and draft content about our launch from it"),
    ("content", "Search the web for what others do in the week of a launch"),
    ("acquisition", "List the deals and add the prospect 'Northwind Traders', met in Berlin"),
    ("acquisition", "List the deals and note a next action for 'Northwind Traders'"),
    ("revenue", "Compare the goals and set a revenue goal of 12000 for this month"),
    ("revenue", "Audit the costs and save a weekly snapshot"),
)

_CRASHING: Final = "app.demo.crashing:CrashingRevenueAgent"
_OF_CRASHES: Final = (
    " The agent 'revenue'\ncrashes now and then, so that you see it being restarted."
)

_SETTINGS: Final = {
    "ANTHROPIC_API_KEY": DEMO_KEY,
    "REVENUE_AGENT_CLASS": _CRASHING,
    "SOCIAL_MEDIA_AGENT_POLL_INTERVAL": "3",
    "CONTENT_AGENT_POLL_INTERVAL": "3",
    "ACQUISITION_AGENT_POLL_INTERVAL": "3",
    "REVENUE_AGENT_POLL_INTERVAL": "3",
    # An empty value hides what .env has.
    "SUPABASE_URL": "",
    "SUPABASE_SERVICE_ROLE_KEY": "",
    "WORKER_PRICES": "",
    # Nobody is told of what is simulated.
    "WORKER_ALERT_URLS": "",
    "WORKER_HEARTBEAT_URL": "",
    "TELEGRAM_CHAT_ID": "",
    "WORKER_AGENTS": str(Path(__file__).with_name("agents.toml")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A demonstration that is set up."""

    environ: Mapping[str, str]
    """The environment for its settings."""
    hides_store: bool = False
    """Whether a store is set, in whose place it has one of its own."""

    async def queue_tasks(self, store: Store) -> None:
        """Give the agents something to do."""
        for agent_id, goal in TASKS:
            await store.add_task(uuid.uuid4().hex, agent_id, goal)

    def introduction(self, settings: Settings, page: str) -> str:
        """Say what is to be seen, and that none of it is real."""
        command = f"{shlex.quote(_python())} -m app.main"
        if self.hides_store:  # which the commands would look at
            command = f"WORKER_DB_PATH={shlex.quote(str(settings.db_path))} {command}"
        crashes = any(agent.enabled and agent.class_path == _CRASHING for agent in settings.agents)
        return (
            "This is a demonstration. The model is SIMULATED: no request leaves this machine, no\n"
            "money is spent, and what is stored is thrown away at the end."
            f"{_OF_CRASHES if crashes else ''} The agent 'social' asks\n"
            "for your approval before it queues a like, and 'content' searches the web: the model\n"
            "makes up what it finds.\n\n"
            f"Open {page}/ in a browser.\n\n"
            "In another terminal:\n"
            f"  {command} --list-agents\n"
            f"  {command} --tail content\n"
            f"  {command} --approvals\n"
            f"  {command} --restart-agent content\n\n"
            "Ctrl-C lets the agents finish what they do, and ends it.\n"
        )


def _python() -> str:
    """Return what runs us, as it is to be typed in the folder where we were started."""
    python, here = Path(sys.executable), Path.cwd()
    return str(python.relative_to(here) if python.is_relative_to(here) else python)


@asynccontextmanager
async def open_demo(
    environ: Mapping[str, str], *, given: Collection[str] = ()
) -> AsyncIterator[Demo]:
    """Serve a simulated Claude, and make a folder for a store, for the time of the block.

    Args:
        environ: The environment, much of which holds for the demonstration as well.
        given: The names of variables that are set, in it or in `.env`.
    """
    with tempfile.TemporaryDirectory(prefix="actp-worker-demo-") as folder:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_claude, SimulatedClaude(latency=LATENCY))
            yield Demo(
                environ={
                    **environ,
                    **_SETTINGS,
                    "ANTHROPIC_BASE_URL": address,
                    "WORKER_DB_PATH": str(Path(folder) / "worker.db"),
                },
                hides_store=not STORE_VARIABLES.isdisjoint(given),
            )
            nursery.cancel_scope.cancel(reason="the demonstration is over")
