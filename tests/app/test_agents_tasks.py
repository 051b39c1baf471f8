"""What becomes of tasks: done by a conversation, handed back, cancelled, done by another."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio
from agents_at_work import QuickAgent, office, until

from app.demo.claude import Failure, HangUp, Reply
from app.store.protocol import TaskStatus

QUEUE_A_LIKE = ("queue_engagement_action", {"platform": "x", "action": "like", "target": "@ada"})


@pytest.fixture
async def at_work(store):
    async with office(store) as place:
        yield place


async def test_a_task_becomes_a_conversation_with_tools_and_keeps_what_came_of_it(at_work, store):
    at_work.claude.plan(
        Reply(text="Let me look.", tools=(("list_engagement_actions", {"status": "queued"}),)),
        Reply(tools=(QUEUE_A_LIKE,)),
        Reply(text="One like is queued."),
    )

    task = await at_work.do("Like Ada's post.")

    assert (task.status, task.error, task.attempts) == (TaskStatus.SUCCEEDED, None, 1)
    assert task.result["text"] == "One like is queued."
    assert (task.result["turns"], task.result["tool_calls"]) == (3, 2)
    assert task.result["tokens"]["output_tokens"] > 0
    assert task.result["usd"] > 0
    calls = await store.tool_calls(task_id=task.id)
    assert [call.tool for call in calls] == ["queue_engagement_action", "list_engagement_actions"]
