"""`--tail`: what happens in the daemon, one line each; of one agent, its own log lines too."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import quote

import trio

from actp_supervise.service import shorten
from app.event_kinds import tone_of_event
from app.facts import from_json, to_json
from app.logged_lines import LogLine
from app.settings import Settings, SettingsError, unknown_agent
from app.status import AgentStatus
from app.terminal.api import Api, open_api
from app.terminal.errors import DaemonAwayError
from app.terminal.output import (
    COLOURS,
    GREY,
    MOST_ON_LINE,
    painted,
    wants_colours,
)
from app.terminal.signals import until_interrupted

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from httpx_sse import ServerSentEvent

FIRST: Final = 20
"""How many of the newest events to begin with."""

ALL: Final = 1000
"""As many as a daemon keeps."""

MOST_LINES: Final = 200
"""Log lines that are asked for at once."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the log lines of an agent."""


async def follow(settings: Settings, *, agent_id: str | None, as_json: bool) -> None:
    """Write what happens, until interrupted; a daemon that goes away is waited for.

    Args:
        settings: Where the daemon is.
        agent_id: The agent to write of, and to write the log lines of, if not of all.
        as_json: Whether to write each event as JSON.

    Raises:
        SettingsError: If there is no such agent.
        DaemonError: If no daemon answers at the start.
    """
    async with open_api(settings) as api:
        if agent_id is not None:
            known = [agent.agent_id for agent in await api.get(list[AgentStatus], "/agents")]
            if agent_id not in known:
                raise SettingsError(unknown_agent(agent_id, known))
        zone = None if as_json else settings.timezone
        tail = _Tail(api, agent_id, zone)

        async def both() -> None:
            async with trio.open_nursery() as nursery:
                if agent_id is not None:
                    nursery.start_soon(_Lines(api, agent_id, zone).follow)
                await tail.follow()

        await until_interrupted(both)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldEvent:
    """What is shown of an event of the daemon."""

    time: datetime
    kind: str
    """An `EventKind`, unless the daemon is newer."""
    agent_id: str | None
    text: str
    outcome: str | None = None
    status: str | None = None
    failed: bool | None = None


def read_event(event: ServerSentEvent) -> ToldEvent:
    """Read an event as the stream has it."""
    return from_json(ToldEvent, json.loads(event.data))


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

    async def follow(self) -> NoReturn:
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
            told = read_event(event)
            colour = colour_of(told) if self._colours else None
            print(painted(line(told, self._zone), colour), flush=True)

    def _note(self, text: str) -> None:
        # Not among the events, which a program may read.
        line = f"-- {shorten(text, MOST_ON_LINE)}"
        print(painted(line, GREY) if wants_colours(sys.stderr) else line, file=sys.stderr)


class _Lines:
    """Follows the log lines of an agent; without a time zone it writes JSON."""

    def __init__(self, api: Api, agent_id: str, zone: ZoneInfo | None) -> None:
        self._api = api
        self._agent_id = agent_id
        self._path = f"/agents/{quote(agent_id, safe='')}/log"
        self._zone = zone
        self._colours = wants_colours(sys.stdout)
        self._last_id = 0

    async def follow(self) -> NoReturn:
        """Write each line, for ever; those of a daemon that starts again from the first."""
        limit = FIRST
        while True:
            # That it is away is told by who follows the events.
            with suppress(DaemonAwayError):
                newest = await self._api.get(list[LogLine], self._path, limit=1)
                if newest and newest[-1].id < self._last_id:
                    self._last_id = 0
                for each in await self._api.get(
                    list[LogLine], self._path, after=self._last_id, limit=limit
                ):
                    self._last_id = each.id
                    self._write(each)
                limit = MOST_LINES
            await trio.sleep(LOOK_EVERY)

    def _write(self, each: LogLine) -> None:
        if self._zone is None:
            facts = {"kind": "agent_logged", "agent_id": self._agent_id, **to_json(each)}
            print(json.dumps(facts), flush=True)
            return
        level = "" if each.level == "info" else f"{each.level.upper()} "
        text = f"{each.time.astimezone(self._zone):%Y-%m-%d %H:%M:%S}  | {level}{each.text}"
        print(painted(text, GREY if self._colours else None), flush=True)


def line(event: ToldEvent, zone: ZoneInfo) -> str:
    """Write an event: its time, its agent, and what happened."""
    agent_id, text = event.agent_id, event.text
    if agent_id is not None and not text.startswith(agent_id):
        text = f"{agent_id}: {text}"
    return f"{event.time.astimezone(zone):%Y-%m-%d %H:%M:%S}  {shorten(text, 500)}"


def colour_of(event: ToldEvent) -> str | None:
    """Return the colour of an event: of how it went where it tells, else of its kind."""
    facts = {"failed": event.failed, "outcome": event.outcome, "status": event.status}
    return COLOURS.get(tone_of_event(event.kind, facts))
