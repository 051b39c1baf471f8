"""`--task --wait`: a task is followed to its end, whatever becomes of the daemon meanwhile."""

from __future__ import annotations

import dataclasses
from zoneinfo import ZoneInfo

import httpx

from app.facts import from_json
from app.store.protocol import TaskRow, TaskStatus
from app.terminal.api import Api
from app.terminal.task import _Following

TASK = {
    **dict.fromkeys(field.name for field in dataclasses.fields(TaskRow)),
    "id": "t1",
    "agent_type": "social",
    "goal": "do it",
    "context": {},
    "status": "queued",
    "priority": 0,
    "attempts": 0,
    "max_attempts": 3,
    "cancel_requested": False,
    "created_at": "2026-11-23T07:00:00.000Z",
}


async def test_a_daemon_that_goes_away_as_soon_as_it_has_the_task_is_waited_for(
    autojump_clock, capsys
):
    looks = iter(["away", "queued", "succeeded"])

    def answer(request):
        status = next(looks) if request.url.path == "/tasks/t1" else "away"
        if status == "away":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=TASK | {"status": status})

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        following = _Following(
            Api(http, "http://here", None), from_json(TaskRow, TASK), ZoneInfo("UTC")
        )
        await following.to_the_end()

    assert following.task.status is TaskStatus.SUCCEEDED
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "task t1"
    assert told[1].endswith("The task is kept; waiting for the daemon")
    assert told[2:] == ["the daemon at http://here is back"]
