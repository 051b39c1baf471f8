"""The conversation about a task, kept turn by turn."""

from __future__ import annotations

from agents_at_work import office
from anthropic.types.beta import BetaThinkingBlock

from app.agents.base import _block
from app.agents.content import ContentCreationDomainAgent
from app.agents.transcript import MOST_TEXT, shortened
from app.demo.claude import Reply
from app.store.protocol import Before, DomainTable, StoreError, StoreUnavailable, TaskStatus

LIKE = ("queue_engagement_action", {"platform": "x", "action": "like", "target": "@ada"})


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


async def test_a_task_that_is_tried_again_has_one_conversation_after_the_other(at_work, store):
    at_work.claude.plan(Reply(stop_reason="refusal"), Reply(text="Now it is done."))
    task = await at_work.do()
    await store.retry_task(task.id)
    child, _ = at_work.start(name="again")
    await at_work.finished(task.id)
    await at_work.tree.stop(child.name)

    turns = await store.turns(task.id)
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert len({turn.run_id for turn in turns}) == 2
    assert turns[-1].content == [{"type": "text", "text": "Now it is done."}]


class Answerless(Before):
    """A store whose first answer to each `record_turn` is lost on the way."""

    def __init__(self, store):
        super().__init__(store)
        self._heard = set()

    async def record_turn(self, turn):
        await super().record_turn(turn)
        if turn.id not in self._heard:
            self._heard.add(turn.id)
            raise StoreUnavailable("the answer is lost")


async def test_a_turn_whose_answer_is_lost_is_kept_once(store):
    async with office(Answerless(store)) as at_work:
        at_work.claude.plan(Reply(text="I queue it.", tools=(LIKE,)), Reply(text="Done."))
        task = await at_work.do()
    assert task.status is TaskStatus.SUCCEEDED
    assert [turn.role for turn in await store.turns(task.id)] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


class Refusing(Answerless):
    """A store that keeps no turn."""

    async def record_turn(self, turn):
        raise StoreError("there is no such table")


async def test_a_task_is_done_although_its_conversation_cannot_be_kept(store, caplog):
    async with office(Refusing(store)) as at_work:
        at_work.claude.plan(Reply(text="I queue it.", tools=(LIKE,)), Reply(text="Done."))
        task = await at_work.do()
    assert (task.status, task.attempts) == (TaskStatus.SUCCEEDED, 1)
    assert "is not kept" in caplog.text


async def test_of_a_routine_which_is_no_task_no_conversation_is_kept(store):
    await store.insert(DomainTable.VIRAL_TEMPLATES, "t", {"name": "t", "status": "template"})
    recording = Recording(store)
    async with office(recording) as at_work:
        await at_work.routine(ContentCreationDomainAgent, "run_daily_pipeline", agent_id="content")
    assert recording.turns == []
    assert len(at_work.claude.requests) > 0


class Recording(Answerless):
    """A store that notes the turns it is given."""

    def __init__(self, store):
        super().__init__(store)
        self.turns = []

    async def record_turn(self, turn):
        self.turns.append(turn)


def test_what_signs_thoughts_is_no_part_of_what_is_kept():
    thoughts = BetaThinkingBlock(type="thinking", thinking="Hm.", signature="c2lnbmVk" * 100)
    assert _block(thoughts) == {"type": "thinking", "thinking": "Hm."}


def test_texts_behind_the_cut_are_left_out_and_short_ones_stay():
    value = [{"text": "abcde"}, {"type": "text", "text": "fghijk", "n": 7, "none": None}]
    assert shortened(value, 5, short=4) == [
        {"text": "abcde"},
        {"type": "text", "text": "[6 characters cut]", "n": 7, "none": None},
    ]
    assert shortened(value, 11, short=4) == value
