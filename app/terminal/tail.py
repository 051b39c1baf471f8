"""`--tail`: what happens in the daemon, one line each."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import trio

from actp_supervise.service import shorten
from app.settings import Settings, SettingsError, unknown_agent
from app.terminal.api import Api, open_api
from app.terminal.errors import DaemonAwayError
from app.terminal.output import CYAN, GREEN, GREY, MOST_ON_LINE, RED, YELLOW, painted, wants_colours
from app.terminal.signals import until_interrupted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from zoneinfo import ZoneInfo

    from httpx_sse import ServerSentEvent

FIRST: Final = 20
"""How many of the newest events to begin with."""

ALL: Final = 1000
"""As many as a daemon keeps."""


async def follow(settings: Settings, *, agent_id: str | None, as_json: bool) -> None:
    """Write what happens, until interrupted; a daemon that goes away is waited for.

    Args:
        settings: Where the daemon is.
        agent_id: The agent to write of, if not of all.
        as_json: Whether to write each event as JSON.

    Raises:
        SettingsError: If there is no such agent.
        DaemonError: If no daemon answers at the start.
    """
    async with open_api(settings) as api:
        if agent_id is not None:
            known = [agent["agent_id"] for agent in await api.get("/agents")]
            if agent_id not in known:
                raise SettingsError(unknown_agent(agent_id, known))
        zone = None if as_json else settings.timezone
        await until_interrupted(_Tail(api, agent_id, zone).follow)


class _Tail:
    """Follows the events over the daemon's restarts; without a time zone it writes JSON."""

    def __init__(self, api: Api, agent_id: str | None, zone: ZoneInfo | None) -> None:
        self._api = api
        self._filter = {} if agent_id is None else {"agent_id": agent_id}
        self._zone = zone
        self._colours = wants_colours(sys.stdout)
        self._last_id: str | None = None
        self._retry_after = 2.0
        self._begun = False
        self._away = False

    async def follow(self) -> None:
        """Write what happens, for ever; DaemonAwayError if none answers at the start."""
        while True:
            try:
                away = await self._read()
            except DaemonAwayError as error:
                if not self._begun:
                    raise
                away = str(error)
            if not self._away:
                self._note(f"{away}; waiting until it is there again")
            self._away = True
            await trio.sleep(self._retry_after)

    async def _read(self) -> str:
        """Write the events of one connection; return why it ended."""
        recent = ALL if self._begun else FIRST
        async with self._api.events(last_id=self._last_id, recent=recent, **self._filter) as events:
            if self._away:
                self._note(f"the daemon at {self._api.address} is back")
            self._begun, self._away = True, False
            async for event in events:
                if event.event == "bye":
                    break
                self._take(event)
        return f"the daemon at {self._api.address} has gone"

    def _take(self, event: ServerSentEvent) -> None:
        if event.retry is not None:
            self._retry_after = event.retry / 1000
        self._last_id = event.id or self._last_id
        if event.event == "gap":
            self._note(json.loads(event.data)["text"])
        elif event.data and self._zone is None:
            print(event.data, flush=True)
        elif event.data and self._zone is not None:
            facts = json.loads(event.data)
            colour = colour_of(facts) if self._colours else None
            print(painted(line(facts, self._zone), colour), flush=True)

    def _note(self, text: str) -> None:
        # Not among the events, which a program may read.
        line = f"-- {shorten(text, MOST_ON_LINE)}"
        print(painted(line, GREY) if wants_colours(sys.stderr) else line, file=sys.stderr)


def line(event: Mapping[str, Any], zone: ZoneInfo) -> str:
    """Write an event: its time, its agent, and what happened."""
    time = datetime.fromisoformat(event["time"]).astimezone(zone)
    agent_id, text = event["agent_id"], str(event["text"])
    if agent_id is not None and not text.startswith(agent_id):
        text = f"{agent_id}: {text}"
    return f"{time:%Y-%m-%d %H:%M:%S}  {shorten(text, 500)}"


def colour_of(event: Mapping[str, Any]) -> str | None:
    """Return the colour of an event: of how it went where it tells, else of its kind."""
    if event.get("failed") is True:
        return RED
    verdict = event.get("outcome") or event.get("status")
    return _COLOURS.get(str(verdict)) or _COLOURS.get(event["kind"])


_COLOURS: Final = {
    **dict.fromkeys(("succeeded", "healthy", "store_back", "child_started"), GREEN),
    **dict.fromkeys(("failed", "critical", "crashed"), RED),
    **dict.fromkeys(("child_crashed", "child_failed", "store_away", "loop_blocked"), RED),
    **dict.fromkeys(("cancelled", "degraded", "backing_off", "paused", "task_released"), YELLOW),
    **dict.fromkeys(("restart_scheduled", "child_stalled", "stop_overdue"), YELLOW),
    **dict.fromkeys(("daemon_stopping", "settings_reloaded"), YELLOW),
    **dict.fromkeys(("task_queued", "task_claimed", "routine_started"), CYAN),
    **dict.fromkeys(("turn", "model_called", "tool_called"), GREY),
}
