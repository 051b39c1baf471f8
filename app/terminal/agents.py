"""`--stop`, `--start`, `--pause`, `--resume` and `--run`: what an operator tells agents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

from app.facts import to_json
from app.settings import SettingsError, unknown_agent
from app.status import AgentStatus, JobStatus
from app.store.protocol import WorkerRow
from app.terminal.api import open_api
from app.terminal.person import person
from app.web.shapes import AgentCommand, JobCommand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.settings import Settings
    from app.terminal.api import Api

Command = Literal["stop", "start", "pause", "resume"]

_WORDS: Final = {
    "stop": "{name} is asked to stop: it finishes what it does, and stays stopped until --start "
    "{name}.",
    "start": "{name} is started.",
    "pause": "{name} is paused, in all daemons and over their restarts, until --resume {name}. "
    "What it is at goes on.",
    "resume": "{name} goes on.",
}


async def command(settings: Settings, action: Command, name: str, *, as_json: bool) -> None:
    """Tell an agent to do something, or a routine to pause or to go on.

    Args:
        settings: Where the daemon is.
        action: What it is told.
        name: The agent, or the routine.
        as_json: Whether to write the daemon's answer as JSON.

    Raises:
        SettingsError: If there is none of that name.
        DaemonError: If the daemon refuses, or none answers.
    """
    async with open_api(settings) as api:
        here = [agent.agent_id for agent in await api.get(list[AgentStatus], "/agents")]
        workers = await api.get(list[WorkerRow], "/workers")
        # What only other daemons run is paused and resumed too; the daemon says what it cannot.
        agents = list(dict.fromkeys([*here, *(each for row in workers for each in row.agents)]))
        if name in agents:
            path = f"/agents/{_quoted(name)}/{action}"
            told = await api.post(AgentCommand, path, {"by": person()})
            _write(told, action, name, as_json=as_json)
            return
        if action in ("stop", "start"):
            raise SettingsError(unknown_agent(name, agents))
        await _check_routine(api, name, agents)
        path = f"/scheduler/jobs/{_quoted(name)}/{action}"
        job = await api.post(JobStatus, path, {"by": person()})
        _write(job, action, name, as_json=as_json)


async def run_routine(settings: Settings, name: str, *, as_json: bool) -> None:
    """Run a routine now.

    Args:
        settings: Where the daemon is.
        name: The routine.
        as_json: Whether to write the daemon's answer as JSON.

    Raises:
        SettingsError: If there is none of that name.
        DaemonError: If the daemon refuses, or none answers.
    """
    async with open_api(settings) as api:
        await _check_routine(api, name, ())
        begun = await api.post(JobCommand, f"/scheduler/jobs/{_quoted(name)}/run")
    if as_json:
        print(json.dumps(to_json(begun), indent=2))
    else:
        agent_id = name.partition(".")[0]
        print(f"{name} runs now. Follow it with: --tail {agent_id}")


async def _check_routine(api: Api, name: str, agents: Iterable[str]) -> None:
    """Raise SettingsError unless there is a routine of that name; the known names are in it."""
    jobs = [job.name for job in await api.get(list[JobStatus], "/scheduler/jobs")]
    if name not in jobs:
        what = "agent or routine" if agents else "routine"
        raise SettingsError(f"there is no {what} {name!r}; known are {', '.join([*agents, *jobs])}")


def _write(told: AgentCommand | JobStatus, action: Command, name: str, *, as_json: bool) -> None:
    print(json.dumps(to_json(told), indent=2) if as_json else _WORDS[action].format(name=name))


def _quoted(name: str) -> str:
    return quote(name, safe="")
