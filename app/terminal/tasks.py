"""`--retry` and `--cancel`: tasks by their ids, or all that a filter fits."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import httpx

from app.facts import JSON, to_json
from app.settings import SettingsError
from app.store.protocol import TaskRow, TaskStatus
from app.terminal.api import open_api
from app.terminal.errors import DaemonError, RefusedError
from app.web.shapes import TaskNumber

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.settings import Settings
    from app.terminal.api import Api

Change = Literal["retry", "cancel"]


class NotAllError(DaemonError):
    """Some of the tasks that were named could not be changed."""


async def change(
    settings: Settings,
    action: Change,
    *,
    ids: Sequence[str],
    which: Mapping[str, str | None],
    as_json: bool,
) -> None:
    """Retry or cancel tasks.

    Args:
        settings: Where the daemon is.
        action: What is done with them.
        ids: Which, where they are named.
        which: Else a filter, as `POST /tasks/retry` has it; what is None leaves none out.
        as_json: Whether to write the answers as JSON.

    Raises:
        SettingsError: If the filter is not as it must be.
        NotAllError: If one that was named is not there, or it cannot be done with it.
        DaemonError: If no daemon answers.
    """
    async with open_api(settings) as api:
        if ids:
            await _each(api, action, ids, as_json=as_json)
        else:
            await _in_bulk(api, action, which, as_json=as_json)


async def _each(api: Api, action: Change, ids: Sequence[str], *, as_json: bool) -> None:
    done: list[TaskRow] = []
    refused = 0
    for task_id in dict.fromkeys(ids):
        try:
            task = await api.post(TaskRow, f"/tasks/{quote(task_id, safe='')}/{action}")
        except RefusedError as error:
            if error.status not in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
                raise
            refused += 1
            print(f"{task_id}: {error}", file=sys.stderr)
            continue
        done.append(task)
        if not as_json:
            print(f"{task.id} {_words(task)}")
    if as_json:
        print(json.dumps(to_json(done), indent=2))
    if refused:
        raise NotAllError(f"{refused} of {len(done) + refused} tasks were left as they are")


def _words(task: TaskRow) -> str:
    if task.status is TaskStatus.RUNNING:
        return f"is to be cancelled: {task.agent_type} was asked to end it"
    return f"is {task.status}"


async def _in_bulk(
    api: Api, action: Change, which: Mapping[str, str | None], *, as_json: bool
) -> None:
    body: dict[str, JSON] = {name: value for name, value in which.items() if value is not None}
    try:
        number = await api.post(TaskNumber, f"/tasks/{action}", body)
    except RefusedError as error:
        if error.status == httpx.codes.UNPROCESSABLE_ENTITY:
            raise SettingsError(str(error)) from error
        raise
    if as_json:
        print(json.dumps(to_json(number)))
        return
    tasks = f"{number.tasks} task{'' if number.tasks == 1 else 's'}"
    print(f"{tasks} {'queued again' if action == 'retry' else 'cancelled, or asked to end'}")
