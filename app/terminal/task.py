"""`--task`: posts a task, and with `--wait` follows it to its end."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import httpx
import trio

from actp_supervise.service import visible
from actp_supervise.service.signals import Interrupted
from app.event_kinds import EventKind
from app.facts import to_json
from app.settings import Settings, SettingsError
from app.status import AgentStatus
from app.store.protocol import TaskRow, TaskStatus
from app.terminal.api import Api, open_api
from app.terminal.errors import DaemonAwayError, DaemonError, RefusedError
from app.terminal.output import painted, wants_colours
from app.terminal.signals import until_interrupted
from app.terminal.tail import ToldEvent, colour_of, line, read_event
from app.web.shapes import PostedTask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from zoneinfo import ZoneInfo

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at a task that is waited for: another daemon may do it."""

LAST_WORDS: Final = 0.5
"""Seconds that the last events of a task that is over are waited for."""

_OVER: Final = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED})
_UNTOLD: Final = frozenset({EventKind.TURN, EventKind.MODEL_CALLED})
"""Events that say little beside the calls of tools."""


class TaskNotDoneError(DaemonError):
    """The task failed or was cancelled."""


async def post(
    settings: Settings,
    *,
    goal: str,
    agent_id: str,
    context: dict[str, Any],
    priority: int,
    details: Mapping[str, Any],
    wait: bool,
    as_json: bool,
) -> None:
    """Post a task and write its id; or follow it on stderr, and write its result.

    Args:
        settings: Where the daemon is.
        goal: What is to be done.
        agent_id: Who is to do it.
        context: Facts for it.
        priority: Higher first.
        details: More of `POST /agents/task`; what is None is left out.
        wait: Whether to follow it until it is over.
        as_json: Whether to write all of the task.

    Raises:
        SettingsError: If the task is not as it must be, or there is no such agent.
        DaemonError: If no daemon takes it.
        TaskNotDoneError: If it was waited for, and did not succeed.
        Interrupted: If a signal ended the wait.
    """
    given = {name: value for name, value in details.items() if value is not None}
    body = {"agent_type": agent_id, "goal": goal, "context": context, "priority": priority, **given}
    async with open_api(settings) as api:
        posted = await _post(api, body)
        task: TaskRow = posted
        if posted.warning is not None and not wait:  # who waits is told why it is not done yet
            _say(posted.warning)
        if wait:
            following = _Following(api, task, settings.timezone)
            if await until_interrupted(following.to_the_end):
                _say(f"The task goes on without you: {api.address}/ui/tasks/{task.id}")
                raise Interrupted
            task = following.task
    if as_json:
        print(json.dumps(to_json(task), indent=2))
    elif not wait:
        print(task.id)
    elif task.status is TaskStatus.SUCCEEDED:
        print(_text(task.result))
    if wait and task.status is not TaskStatus.SUCCEEDED:
        ended = "was cancelled" if task.status is TaskStatus.CANCELLED else str(task.status)
        reason = "" if not task.error else f": {visible(task.error, lines=True)}"
        raise TaskNotDoneError(f"the task {ended}{reason}")


async def _post(api: Api, body: dict[str, Any]) -> PostedTask:
    try:
        return await api.post(PostedTask, "/agents/task", body)
    except RefusedError as error:
        if error.status == httpx.codes.UNPROCESSABLE_ENTITY:
            raise SettingsError(str(error)) from error
        raise


class _Following:
    """Follows a task: this daemon tells what it does, and the store knows when it is over."""

    def __init__(self, api: Api, task: TaskRow, zone: ZoneInfo) -> None:
        self.task = task
        """As it was at the last look."""
        self._api = api
        self._path = f"/tasks/{task.id}"
        self._zone = zone
        self._colours = wants_colours(sys.stderr)
        self._over = trio.Event()
        self._away = False

    async def to_the_end(self) -> None:
        """Write on stderr what happens, until the task is over."""
        _say(f"task {self.task.id}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_events)
            await self._say_why_it_waits()
            while self.task.status not in _OVER:
                with trio.move_on_after(LOOK_EVERY):
                    await self._over.wait()
                await self._look()
            with trio.move_on_after(LAST_WORDS):
                await self._over.wait()
            nursery.cancel_scope.cancel("the task is over")

    async def _look(self) -> None:
        try:
            self.task = await self._api.get(TaskRow, self._path)
        except DaemonAwayError as error:
            if not self._away:
                _say(f"{error}. The task is kept; waiting for the daemon")
            self._away = True
            return
        if self._away:
            _say(f"the daemon at {self._api.address} is back")
        self._away = False
        if self.task.status not in _OVER:
            self._over = trio.Event()  # said too early, or by an earlier attempt

    async def _say_why_it_waits(self) -> None:
        agent_id = self.task.agent_type
        try:
            agents = await self._api.get(list[AgentStatus], "/agents")
        except DaemonAwayError:
            return  # told by whoever looks at the task
        for agent in agents:
            if agent.agent_id == agent_id and not agent.state.works:
                _say(f"{agent_id} is {agent.state.words}, so the task waits in the queue")

    async def _tell_events(self) -> None:
        last_id: str | None = None
        while True:
            try:
                async with self._api.events(
                    last_id=last_id, task_id=self.task.id, recent=50
                ) as events:
                    async for event in events:
                        last_id = event.id or last_id
                        if event.data and event.event not in ("gap", "bye"):
                            self._tell(read_event(event))
            except DaemonAwayError:
                pass  # told by whoever looks at the task
            await trio.sleep(LOOK_EVERY)

    def _tell(self, event: ToldEvent) -> None:
        if event.kind not in _UNTOLD:
            colour = colour_of(event) if self._colours else None
            _say(painted(line(event, self._zone), colour))
        if event.kind == EventKind.TASK_FINISHED:
            self._over.set()


def _text(result: object) -> str:
    text = result.get("text") if isinstance(result, dict) else None
    if not isinstance(text, str):
        return json.dumps(result, indent=2)
    return visible(text, lines=True) if sys.stdout.isatty() else text


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
