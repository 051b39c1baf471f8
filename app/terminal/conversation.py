"""`--show ID`: a task, and the conversation about it as it was recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from actp_supervise.service import visible
from app.facts import to_json
from app.store.protocol import TaskRow, Turn
from app.terminal.errors import DaemonError
from app.terminal.looking import found_or_none, look
from app.web.transcript import transcript
from app.web.words import elapsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from app.settings import Settings
    from app.store.protocol import Store
    from app.terminal.api import Api
    from app.web.transcript import Call, Step

AT_ONCE: Final = 200
"""Turns that are asked for at once."""


async def show_task(
    settings: Settings, task_id: str, *, lists: Sequence[str], as_json: bool
) -> None:
    """Write a task and the conversation about it.

    Args:
        settings: Where the daemon and the store are.
        task_id: Which.
        lists: The names that stand for lists, for the error.
        as_json: Whether to write an object with `task` and `turns`.

    Raises:
        DaemonError: If there is no task of that id, or neither a daemon nor a store to ask.
    """
    path = f"/tasks/{quote(task_id, safe='')}"

    async def ask(api: Api) -> tuple[TaskRow | None, list[Turn]]:
        task = await found_or_none(api.get(TaskRow, path))
        turns: list[Turn] = []
        while task is not None:
            after = {"after": turns[-1].id} if turns else {}
            more = await api.get(list[Turn], f"{path}/turns", limit=AT_ONCE, **after)
            turns += more
            if len(more) < AT_ONCE:
                break
        return task, turns

    async def read(store: Store) -> tuple[TaskRow | None, list[Turn]]:
        task = await store.task(task_id)
        turns: list[Turn] = []
        while task is not None:
            more = await store.turns(task_id, limit=AT_ONCE, after=turns[-1].id if turns else None)
            turns += more
            if len(more) < AT_ONCE:
                break
        return task, turns

    task, turns = await look(settings, ask, read)
    if task is None:
        raise DaemonError(
            f"there is no task {visible(task_id)!r}, and no such list; lists are {', '.join(lists)}"
        )
    if as_json:
        print(json.dumps({"task": to_json(task), "turns": to_json(turns)}, indent=2))
    else:
        print(in_words(task, turns, settings.timezone))


def in_words(task: TaskRow, turns: Sequence[Turn], zone: ZoneInfo) -> str:
    """Return a task and its conversation as lines for people."""
    lines = [
        *_head(task, zone),
        *(line for step in transcript(turns) for line in _step(step, zone)),
    ]
    if not turns:
        lines += ["", "No word of a conversation is recorded."]
    if task.result is not None:
        lines += ["", "result:", *_indented(_result(task.result))]
    if task.error:
        lines += ["", "error:", *_indented(task.error)]
    return visible("\n".join(lines), lines=True)


def _head(task: TaskRow, zone: ZoneInfo) -> Iterator[str]:
    attempts = f"attempt {task.attempts} of {task.max_attempts}"
    yield f"{task.id}  {task.agent_type}  {task.status}  {attempts}"
    yield from _indented(task.goal)
    if task.context:
        yield from _indented(f"context: {json.dumps(task.context, ensure_ascii=False)}")
    times = (("made", task.created_at), ("begun", task.started_at), ("ended", task.finished_at))
    yield "  " + ", ".join(f"{what} {_moment(at, zone)}" for what, at in times if at is not None)


def _step(step: Step, zone: ZoneInfo) -> Iterator[str]:
    who = "opening" if step.role == "user" else f"reply {step.step}"
    yield ""
    yield who if step.at is None else f"{who}, {_moment(step.at, zone)}"
    for thought in step.thoughts:
        yield from _indented(thought, "  (thinks) ")
    for text in step.texts:
        yield from _indented(text)
    for call in step.calls:
        yield from _call(call)


def _call(call: Call) -> Iterator[str]:
    took = "" if call.duration is None else f"  {elapsed(call.duration)}"
    yield f"  -> {call.tool}{took}"
    yield from _indented(call.arguments, "     ")
    if call.answer is None:
        yield "  <- not answered"
        return
    yield "  <- failed" if call.failed else "  <- answered"
    yield from _indented(call.answer, "     ")


def _indented(text: str, by: str = "  ") -> list[str]:
    return [f"{by}{line}" for line in text.splitlines()]


def _result(result: dict[str, object]) -> str:
    text = result.get("text")
    return text if isinstance(text, str) else json.dumps(result, ensure_ascii=False, indent=2)


def _moment(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"
