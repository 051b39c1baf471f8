"""`--show tasks`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import httpx

from actp_supervise.service import shorten, visible
from app.facts import to_json
from app.settings import SettingsError
from app.store.protocol import TaskRow, TaskStatus
from app.terminal.errors import RefusedError
from app.terminal.looking import look
from app.web.words import error_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.settings import Settings
    from app.store.protocol import Store
    from app.terminal.api import Api
    from app.terminal.shows import Wanted

MOST_OF_GOAL: Final = 60
MOST_OF_REASON: Final = 100


async def show_tasks(settings: Settings, wanted: Wanted) -> None:
    """Write tasks, the newest first.

    Raises:
        SettingsError: If what is wanted is not as it must be.
        DaemonError: If no daemon answers, and there is no store to look at.
    """
    given = {"agent_type": wanted.agent_id, "status": wanted.status, "q": wanted.text}
    query = {name: value for name, value in given.items() if value is not None}

    async def ask(api: Api) -> list[TaskRow]:
        return await api.get(list[TaskRow], "/tasks", limit=wanted.limit, **query)

    async def read(store: Store) -> list[TaskRow]:
        status = None if wanted.status is None else TaskStatus(wanted.status)
        return await store.tasks(
            status=status, agent_type=wanted.agent_id, limit=wanted.limit, search=wanted.text
        )

    try:
        tasks = await look(settings, ask, read)
    except RefusedError as error:
        if error.status == httpx.codes.UNPROCESSABLE_ENTITY:
            raise SettingsError(str(error)) from error
        raise
    print(json.dumps(to_json(tasks), indent=2) if wanted.as_json else _table(tasks, settings))


def _table(tasks: Sequence[TaskRow], settings: Settings) -> str:
    if not tasks:
        return "There are no such tasks."
    lines = []
    for task in tasks:
        made = task.created_at.astimezone(settings.timezone)
        goal = shorten(visible(task.goal), MOST_OF_GOAL)
        lines.append(
            f"{task.id}  {made:%Y-%m-%d %H:%M}  {task.agent_type:<12}  {task.status:<9}  {goal}"
        )
        if task.error:
            lines.append(f"    {shorten(visible(error_line(task.error)), MOST_OF_REASON)}")
    return "\n".join(lines)
