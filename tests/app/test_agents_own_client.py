"""Calls of the model by a class of one's own: counted, kept within budgets, repeated and shown."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import ClassVar

import anthropic
import pytest
import trio
from agents_at_work import QUICK, QuickAgent, until
from anthropic import beta_async_tool
from store_calls import EPOCH

from actp_supervise import Restart
from actp_supervise.bridge import asyncio_child
from app.agents.assistant import Assistant
from app.agents.counted import counted
from app.agents.counted_log import CallLog
from app.agents.host import run_agent
from app.agents.outcomes import Outcome
from app.agents.replies import read_reply
from app.agents.tools import JSON, tool
from app.agents.work import Worker
from app.demo.claude import Failure, Garbage, HangUp, Reply
from app.store.protocol import Before, Limits, Reservation, TaskStatus

ASK = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 2000,
    "messages": [{"role": "user", "content": "Write it down."}],
}


class OwnClass:
    """A class that calls the model by itself, in the way that `call` says, and then idles."""

    def __init__(self, context):
        self.context = context
        self.client = self.make()

    def make(self):
        made = counted(self.context, patience=QUICK)
        self.context.clients.append(made)
        return made

    async def run_as_daemon(self, poll_interval):
        await self.work()
        await asyncio.sleep(poll_interval)

    async def work(self):
        """Call."""


def calling(call):
    """Return a class that makes one call when it starts, and remembers what came of it."""

    class Calling(OwnClass):
        heard: ClassVar[list[object]] = []

        async def work(self):
            try:
                self.heard.append(await call(self.client))
            except Exception as error:  # noqa: BLE001  (the test's to judge)
                self.heard.append(error)

    return Calling


async def create(client):
    reply = await client.messages.create(**ASK)
    return reply.content[0].text


async def create_stream(client):
    events = await client.messages.create(**ASK, stream=True)
    return "".join([e.delta.text async for e in events if e.type == "content_block_delta"])


async def stream(client):
    async with client.messages.stream(**ASK) as events:
        return await events.get_final_text()


async def beta_stream(client):
    async with client.beta.messages.stream(**ASK) as events:
        return await events.get_final_text()


async def raw(client):
    async with client.messages.with_streaming_response.create(**ASK) as response:
        return (await response.parse()).content[0].text


async def with_options(client):
    return await create(client.with_options(timeout=30.0))


async def a_runner(client, thread=False):
    @beta_async_tool
    async def save_note(text: str) -> str:
        """Save a note.

        Args:
            text: What it says.
        """
        return f"saved {text}"

    runner = client.beta.messages.tool_runner(**ASK, tools=[save_note], thread=thread)
    return (await runner.until_done()).content[0].text


WAYS = [create, create_stream, stream, beta_stream, raw, with_options]
A_REPLY = Reply(text="Noted.", usage={"input_tokens": 1000, "output_tokens": 200})


async def heard(at_work, cls, **changes):
    """Run a class until it has heard of its call; stop it; what it has heard."""
    child, activity = at_work.start(cls, **changes)
    await until(lambda: cls.heard)
    await at_work.tree.stop(child.name)
    return cls.heard[0], activity


@pytest.mark.parametrize("call", WAYS)
async def test_a_call_of_whatever_kind_is_booked(at_work, store, call):
    at_work.claude.plan(A_REPLY)
    text, activity = await heard(at_work, calling(call))

    assert text == "Noted."
    (cost,) = await store.costs(since=EPOCH)
    assert (cost.agent_id, cost.calls) == ("social", 1)
    assert (cost.input_tokens, cost.output_tokens) == (1000, 200)
    assert activity.spent_usd == pytest.approx(cost.cost_usd)
    assert cost.cost_usd > 0
    assert await open_reservations(store) == 0


async def open_reservations(store):
    """Return what is set aside for calls under way, by asking for more than there may be."""
    call = Reservation(
        id="a-look", agent_id="social", run_id=None, task_id=None, model="opus", amount_usd=1.0
    )
    answer = await store.reserve(call, since=EPOCH, limits=Limits(agent=0.0), lifetime=60.0)
    return answer.held


@pytest.mark.parametrize("call", WAYS)
async def test_a_call_that_fails_is_repeated_by_the_same_patience_and_booked_if_it_may_cost(
    at_work, store, call
):
    at_work.claude.plan(Failure(status=529), HangUp(), A_REPLY)
    text, _ = await heard(at_work, calling(call))

    assert text == "Noted."
    assert len(at_work.claude.requests) == 3
    assert sum(cost.calls for cost in await store.costs(since=EPOCH)) == 2


async def test_what_the_api_takes_for_wrong_is_the_error_of_the_sdk(at_work, store):
    at_work.claude.plan(Failure(status=400, message="messages: too few"))
    error, _ = await heard(at_work, calling(create))

    assert isinstance(error, anthropic.BadRequestError)
    assert "too few" in str(error)
    assert await store.costs(since=EPOCH) == []


async def test_trouble_that_does_not_pass_is_the_error_of_the_sdk_after_all_patience(at_work):
    at_work.claude.plan(*[Failure(status=529)] * 100)
    error, _ = await heard(at_work, calling(create))

    assert isinstance(error, anthropic.APIStatusError)
    assert error.status_code == 529
    assert len(at_work.claude.requests) > 3


async def test_the_calls_of_tools_are_in_their_log(at_work, store):
    at_work.claude.plan(Reply(tools=(("save_note", {"text": "a"}),)), A_REPLY)
    text, _ = await heard(at_work, calling(a_runner))

    assert text == "Noted."
    (logged,) = await store.tool_calls(agent_id="social")
    assert (logged.tool, logged.arguments, logged.result) == (
        "save_note",
        {"text": "a"},
        "saved a",
    )
    assert logged.error is None


async def test_a_stream_that_is_left_early_is_booked_as_estimated(at_work, store):
    async def leave(client):
        events = await client.messages.create(**ASK, stream=True)
        async for event in events:
            if event.type == "content_block_delta":
                break
        await events.close()

    at_work.claude.plan(Reply(text="word " * 20, usage={"input_tokens": 1000}))
    at_work.store, entries = watched(store)
    await heard(at_work, calling(leave))

    ((entry, _),) = entries
    assert (entry.input_tokens, entry.estimated) == (1000, True)
    assert 0 < entry.output_tokens < 200


async def test_a_stream_that_breaks_off_is_booked_and_not_begun_again_behind_its_readers_back(
    at_work, store
):
    start = {"type": "message", "id": "m", "role": "assistant", "model": "claude-sonnet-5-5"}
    start |= {"content": [], "usage": {"input_tokens": 1000, "output_tokens": 1}}
    event = json.dumps({"type": "message_start", "message": start})
    broken = Garbage(
        body=f"event: message_start\ndata: {event}\n\n".encode(), content_type="text/event-stream"
    )
    at_work.claude.plan(broken)
    at_work.store, entries = watched(store)
    await heard(at_work, calling(create_stream))

    assert [entry.estimated for entry, _ in entries] == [True]
    assert len(at_work.claude.requests) == 1


async def test_an_error_in_place_of_a_reply_is_waited_out_also_in_a_stream(at_work):
    event = json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})
    overloaded = Garbage(
        body=f"event: error\ndata: {event}\n\n".encode(), content_type="text/event-stream"
    )
    at_work.claude.plan(overloaded, A_REPLY)
    text, _ = await heard(at_work, calling(create_stream))

    assert text == "Noted."
    assert len(at_work.claude.requests) == 2


def test_what_the_api_holds_of_a_thread_counts_for_what_its_next_call_may_cost():
    asyncio.run(remember_a_thread())


async def remember_a_thread():
    log = CallLog(None)
    await log.answered(
        read_reply(
            {
                "type": "message",
                "id": "msg_1",
                "model": "claude-sonnet-5-5",
                "content": [],
                "usage": {"input_tokens": 70_000, "output_tokens": 5},
            }
        )
    )
    thread = {"type": "continue", "previous_message_id": "msg_1"}
    assert log.held({**ASK, "thread": thread}) == 70_005
    assert log.held(ASK) == 0


def watched(store):
    """Return the store and what is booked in it."""
    entries = []

    class Watched(Before):
        async def record_cost(self, entry, *, reservation=None):
            entries.append((entry, reservation))
            await super().record_cost(entry, reservation=reservation)

    return Watched(store), entries


class Paying(OwnClass):
    """Calls until it is over."""

    async def run_as_daemon(self, poll_interval):
        while True:
            await self.client.messages.create(**ASK)
            await asyncio.sleep(0.01)


async def test_a_class_whose_budget_is_spent_waits_and_says_so(at_work, store):
    context = at_work.context(daily_budget_usd=0.05)
    activity = context.activity
    child = at_work.tree.start_soon(
        asyncio_child(run_agent),
        Paying,
        context,
        30.0,
        name="social",
        restart=Restart.TEMPORARY,
        shutdown_timeout=600.0,
    )
    await until(lambda: activity.paused)
    made = len(at_work.claude.requests)
    await trio.sleep(0.3)

    assert "its daily budget" in activity.paused
    assert activity.paused_until is not None
    assert len(at_work.claude.requests) == made
    assert 0 < sum(cost.cost_usd for cost in await store.costs(since=EPOCH)) <= 0.05
    with trio.fail_after(120):  # nothing is in flight, so its time to drain is not used up
        await at_work.tree.stop(child.name)
    assert child.last_error is None


async def test_a_class_whose_key_is_refused_waits_for_its_operator(at_work):
    at_work.claude.plan(Failure(status=401, message="invalid x-api-key"))
    child, activity = at_work.start(Paying)
    await until(lambda: activity.paused)

    assert "Set ANTHROPIC_API_KEY" in activity.paused
    assert len(at_work.claude.requests) == 1
    await at_work.tree.stop(child.name)
    assert child.last_error is None


async def test_after_a_call_no_progress_is_expected_of_a_class_that_never_reports_any(at_work):
    at_work.claude.plan(A_REPLY)
    _, activity = await heard(at_work, calling(create))

    assert activity.progress_at is None
    assert activity.doing == "starting"


class WithTasks(OwnClass):
    """Keeps its own conversation, and takes tasks."""

    async def run_as_daemon(self, poll_interval):
        await Worker(self.context, self.do).run(poll_interval)

    async def do(self, task):
        runner = a_runner(self.client)
        return Outcome(failure=None, result={"text": await runner})


async def test_a_call_for_a_task_is_booked_on_it_and_in_its_transcript(at_work, store):
    at_work.claude.plan(Reply(tools=(("save_note", {"text": "a"}),)), A_REPLY)
    at_work.store, entries = watched(store)
    task = await at_work.do(cls=WithTasks)

    assert task.status is TaskStatus.SUCCEEDED
    assert [entry.task_id for entry, _ in entries] == [task.id] * 2
    turns = await store.turns(task.id)
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "assistant"]
    (logged,) = await store.tool_calls(task_id=task.id)
    assert logged.tool == "save_note"


async def test_a_task_whose_call_cannot_go_on_now_is_handed_back_and_no_attempt_counts(
    at_work, store
):
    at_work.claude.plan(*[Failure(status=529)] * 100)
    task_id = await at_work.add()
    child, _ = at_work.start(WithTasks)
    task = await at_work.when(task_id, lambda task: task.error is not None)
    await at_work.tree.stop(child.name)

    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)
    assert "529" in task.error


async def test_the_budget_of_a_task_holds_for_the_calls_of_a_class_of_ones_own(at_work, store):
    from dataclasses import replace

    options = replace(at_work.context().options, task_budget_usd=0.001)
    task_id = await at_work.add()
    child, _ = at_work.start(WithTasks, options=options)
    task = await at_work.when(task_id, lambda task: task.error is not None)
    await at_work.tree.stop(child.name)

    assert "the budget of this task" in task.error
    assert not at_work.claude.requests


async def test_a_conversation_of_ours_is_booked_once(at_work, store):
    at_work.claude.plan(A_REPLY)
    await at_work.do(cls=QuickAgent)
    assert [cost.calls for cost in await store.costs(since=EPOCH)] == [1]


# With an assistant, and without deriving from ours.

NOTES: list[str] = []


class Helped:
    """A class of one's own that has Claude do its tasks."""

    def __init__(self, context):
        self.claude = Assistant(
            context, prompt="You keep notes.", tools=[self.save_note, self.count], patience=QUICK
        )

    async def run_as_daemon(self, poll_interval):
        await self.claude.work(poll_interval)

    async def run_daily_check(self):
        return await self.claude.do("run_daily_check", "Summarize the day.")

    @tool(effect="keyed")
    async def save_note(self, text: str) -> JSON:
        """Save a note.

        Args:
            text: What it says.
        """
        NOTES.append(text)
        return {"saved": text}

    def count(self) -> JSON:
        """Count the notes."""
        return {"notes": len(NOTES)}


async def test_an_assistant_does_tasks_with_the_tools_of_any_class(at_work, store):
    NOTES.clear()
    at_work.claude.plan(Reply(tools=(("save_note", {"text": "a"}), ("count", {}))), A_REPLY)
    task = await at_work.do(cls=Helped)

    assert (task.status, task.result["text"]) == (TaskStatus.SUCCEEDED, "Noted.")
    assert NOTES == ["a"]
    tools = {call.tool: call for call in await store.tool_calls(task_id=task.id)}
    assert tools.keys() == {"save_note", "count"}
    assert tools["count"].error is None
    assert len(await store.turns(task.id)) == 5
    definitions = {each["name"]: each for each in at_work.claude.requests[0]["tools"]}
    assert definitions["count"]["description"] == "Count the notes."
    assert at_work.claude.requests[0]["system"][0]["text"].startswith("You keep notes.")


async def test_an_assistant_does_what_the_class_itself_wants_as_a_task(at_work, store):
    at_work.claude.plan(A_REPLY)
    result = await at_work.routine(Helped, "run_daily_check")

    task = await store.task(result["task_id"])
    assert (task.status, task.goal) == (TaskStatus.SUCCEEDED, "Summarize the day.")
    assert task.routine.startswith("social.run_daily_check/")


PAGE = Path(__file__).parents[2] / "docs/how-to/use-your-own-agent.md"


def of_the_page(name):
    """Return a class that the how-to shows, as it stands there."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if f"class {name}:" in block)
    namespace = {"__name__": "a_page"}
    exec(block, namespace)
    return namespace[name]


async def test_the_class_with_an_assistant_that_the_how_to_shows_does_a_task(at_work):
    at_work.claude.plan(Reply(tools=(("save_note", {"text": "a"}),)), A_REPLY)
    task = await at_work.do(cls=of_the_page("NoteKeeper"))
    assert (task.status, task.result["tool_calls"]) == (TaskStatus.SUCCEEDED, 1)


async def test_the_class_with_our_client_that_the_how_to_shows_is_booked(at_work, store):
    at_work.claude.plan(A_REPLY)
    child, _ = at_work.start(of_the_page("NotesAgent"))
    with trio.fail_after(60):
        while not (costs := await store.costs(since=EPOCH)):  # noqa: ASYNC110  (no event tells)
            await trio.sleep(0.01)
    assert costs[0].calls == 1
    await at_work.tree.stop(child.name)
