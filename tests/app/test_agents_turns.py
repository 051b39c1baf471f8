"""The conversation about a task, kept turn by turn."""

from __future__ import annotations

import pytest
from agents_at_work import office

from app.agents.transcript import MOST_TEXT, shortened
from app.demo.claude import Reply

LIKE = ("queue_engagement_action", {"platform": "x", "action": "like", "target": "@ada"})


@pytest.fixture
async def at_work(store):
    async with office(store) as place:
        yield place


async def test_a_conversation_is_kept_turn_by_turn(at_work, store):
    at_work.claude.plan(Reply(text="I queue it.", tools=(LIKE,)), Reply(text="One like is queued."))
    task = await at_work.do("Like Ada's post.")

    turns = await store.turns(task.id)
    assert [(turn.role, turn.step) for turn in turns] == [
        ("user", 0),
        ("assistant", 1),
        ("tool", 1),
        ("assistant", 2),
    ]
    opening, asked, answered, last = (turn.content for turn in turns)
    assert "Like Ada's post." in opening[0]["text"]
    said, called = asked
    assert said == {"type": "text", "text": "I queue it."}
    assert (called["type"], called["name"], called["input"]) == ("tool_use", *LIKE)
    assert answered[0]["type"] == "tool_result"
    assert answered[0]["tool_use_id"] == called["id"]
    assert last == [{"type": "text", "text": "One like is queued."}]
    assert {turn.agent_id for turn in turns} == {"social"}


async def test_tools_run_once_although_their_answers_are_kept(at_work, store):
    at_work.claude.plan(Reply(tools=(LIKE,)), Reply(text="Done."))
    task = await at_work.do()
    assert len(await store.tool_calls(task_id=task.id)) == 1


async def test_the_tools_of_a_reply_that_was_cut_off_have_no_answers(at_work, store):
    at_work.claude.plan(Reply(tools=(LIKE,), stop_reason="max_tokens"))
    task = await at_work.do()
    assert [turn.role for turn in await store.turns(task.id)] == ["user", "assistant"]
    assert await store.tool_calls(task_id=task.id) == []


async def test_a_long_turn_is_cut_and_says_so(at_work, store):
    at_work.claude.plan(Reply(text="a" * (MOST_TEXT + 5)))
    task = await at_work.do()
    text = (await store.turns(task.id))[-1].content[0]["text"]
    assert text == "a" * MOST_TEXT + " [5 characters cut]"


def test_texts_behind_the_cut_are_left_out_and_short_ones_stay():
    value = [{"text": "abcde"}, {"type": "text", "text": "fghijk", "n": 7, "none": None}]
    assert shortened(value, 5, short=4) == [
        {"text": "abcde"},
        {"type": "text", "text": "[6 characters cut]", "n": 7, "none": None},
    ]
    assert shortened(value, 11, short=4) == value
