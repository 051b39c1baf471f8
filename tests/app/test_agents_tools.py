"""Tools: described to the model by their methods, checked, answered, logged."""

from __future__ import annotations

import gc
import json
from collections import Counter
from datetime import date
from functools import partial
from typing import Annotated, Literal

import pytest
import trio
from agents_at_work import QuickAgent, office
from pydantic import Field

from app.agents.tools import MOST_LOGGED, MOST_SHOWN, AgentTool, ToolError, tool
from app.demo.claude import Garbage, Reply
from app.logs import make_redactor
from app.store.protocol import Before, DomainTable, Query, StoreError, TaskStatus


class Toolbox(QuickAgent):
    """An agent of somebody's own, with tools of all kinds."""

    @tool
    async def greet(
        self,
        name: Annotated[str, Field(min_length=2)],
        mood: Literal["glad", "sad"] = "glad",
        on: date | None = None,
    ):
        """Greet somebody.

        Args:
            name: Whom to greet.
            mood: How.
            on: The day.
        """
        return {"greeting": f"{name} is {mood}", "on": on, "nothing": None}

    @tool
    async def refuse(self):
        """Refuse."""
        raise ToolError("name: nobody of that name")

    @tool
    async def break_down(self):
        """Break down."""
        raise RuntimeError("the password is hunter2")

    @tool
    async def return_bytes(self) -> bytes:
        """Return bytes."""
        return b"bytes"

    @tool
    async def talk(self):
        """Talk for long."""
        return "x" * 50_000

    @tool
    async def add_deal(self, name: str):
        """Add a deal, once."""
        row, is_new = await self.create_once(
            "add_deal", name, DomainTable.DEAL_LOG, {"name": name, "stage": "prospect"}
        )
        return {"id": row["id"], "is_new": is_new}


async def call(place, name, /, **arguments):
    """Have a tool called by the model; what it was told, and whether that was an error."""
    place.claude.plan(Reply(tools=((name, arguments),)), Reply(text="Done."))
    task = await place.do("Do it.", Toolbox)
    assert task.status is TaskStatus.SUCCEEDED
    (result,) = place.claude.requests[-1]["messages"][-1]["content"]
    return result["content"], result.get("is_error", False)


async def test_a_method_is_described_by_its_signature_and_docstring(at_work):
    await call(at_work, "greet", name="Ada")

    tools = {described["name"]: described for described in at_work.claude.requests[0]["tools"]}
    greet = tools["greet"]
    assert greet["description"] == "Greet somebody."
    assert greet["input_schema"]["required"] == ["name"]
    properties = greet["input_schema"]["properties"]
    assert properties["name"]["description"] == "Whom to greet."
    assert properties["mood"]["enum"] == ["glad", "sad"]
    assert "self" not in properties
    assert {"remember", "recall"} <= tools.keys()


async def test_the_answer_is_json_with_moments_as_text_and_nothing_for_none(at_work, store):
    answer, is_error = await call(at_work, "greet", name="Ada", on="2026-11-23")

    assert json.loads(answer) == {"greeting": "Ada is glad", "on": "2026-11-23"}
    assert not is_error
    (logged,) = await store.tool_calls(agent_id="social")
    assert logged.tool == "greet"
    assert logged.arguments == {"name": "Ada", "on": "2026-11-23"}
    assert logged.result == answer
    assert logged.error is None
    assert 0 <= logged.duration < 5
    assert logged.run_id is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "name: Missing required argument"),
        ({"name": "A"}, "name: String should have at least 2 characters"),
        ({"name": "Ada", "mood": "angry"}, "mood: Input should be 'glad' or 'sad'"),
        ({"name": "Ada", "on": "some day"}, "on: Input should be a valid date"),
        ({"name": "Ada", "colour": "red"}, "colour: Unexpected keyword argument"),
        ({"name": ["hunter2"]}, "name: Input should be a valid string"),
    ],
)
async def test_wrong_arguments_are_answered_field_by_field(at_work, store, arguments, said):
    answer, is_error = await call(at_work, "greet", **arguments)

    assert is_error
    assert said in answer
    assert "pydantic" not in answer
    assert "hunter2" not in answer
    (logged,) = await store.tool_calls()
    assert logged.error == answer
    assert logged.result is None


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # the SDK's, of what it parsed itself
@pytest.mark.parametrize("arguments", ['{"name": ', ["Ada"], None])
async def test_arguments_that_are_no_object_are_told_to_the_model_alone(at_work, arguments, caplog):
    call = {"type": "tool_use", "id": "toolu_1", "name": "greet", "input": arguments}
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [call],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    at_work.claude.plan(Garbage(body=json.dumps(message).encode()), Reply(text="Done."))

    await at_work.do("Do it.", Toolbox)

    (result,) = at_work.claude.requests[-1]["messages"][-1]["content"]
    assert result["is_error"]
    assert "They must be an object" in str(result["content"])
    assert "failed" not in caplog.text


async def test_what_a_tool_refuses_is_told_to_the_model_in_its_words(at_work):
    assert await call(at_work, "refuse") == ("name: nobody of that name", True)


async def test_a_tool_that_breaks_down_tells_the_model_nothing_of_ours(at_work, store, caplog):
    answer, is_error = await call(at_work, "break_down")

    assert is_error
    assert "break_down failed" in answer
    assert "hunter2" not in answer
    assert "RuntimeError" not in answer
    (logged,) = await store.tool_calls()
    assert "hunter2" not in logged.error
    assert "Tool break_down failed" in caplog.text, "the operator is told"


async def test_a_tool_that_returns_what_is_no_json_has_broken_down(at_work, caplog):
    answer, is_error = await call(at_work, "return_bytes")

    assert is_error
    assert "return_bytes failed for a reason that is not in its arguments" in answer
    assert "Tool return_bytes failed" in caplog.text


async def test_a_long_answer_is_shortened_for_the_model_and_more_so_for_the_log(at_work, store):
    answer, _ = await call(at_work, "talk")

    assert 20_000 <= len(answer) <= 20_100
    assert answer.endswith("characters more)")
    (logged,) = await store.tool_calls()
    assert len(logged.result) <= 2_100


async def test_the_tools_of_a_task_that_is_done_are_freed(at_work):
    def tools():
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, AgentTool)]

    others = tools()  # what other tests in this process have left
    at_work.start(Toolbox)
    for _ in range(3):
        at_work.claude.plan(Reply(tools=(("greet", {"name": "Ada"}),)), Reply(text="Done."))
        await at_work.finished(await at_work.add())

    known = {id(each) for each in others}
    alive = Counter(each.name for each in tools() if id(each) not in known)
    assert max(alive.values(), default=0) <= 1, "of one task, which may not be put away yet"


@pytest.mark.parametrize("before", [0, MOST_LOGGED - 10, MOST_SHOWN - 10])
async def test_a_secret_is_taken_out_also_where_a_text_is_cut_in_its_middle(store, before):
    class Careless(QuickAgent):
        """An agent with a tool that tells what it should not."""

        @tool
        async def tell(self, what: str):
            """Tell."""
            return what

    secret = "hunter2-and-more"
    told = "x" * before + secret + "y" * 1_000
    async with office(store) as place:
        place.changes["redact"] = make_redactor([secret])
        place.claude.plan(Reply(tools=(("tell", {"what": told}),)), Reply(text=told))
        task = await place.do(f"Tell {told}"[:1_000], Careless)
    (call,) = await store.tool_calls()
    kept = [task.result, call, [turn.content for turn in await store.turns(task.id)]]
    shown = place.claude.requests[-1]["messages"][-1]["content"][0]["content"]
    for text in (str(kept), shown):
        assert "hunter" not in text
        assert "x" * 100 in text or not before


async def test_long_arguments_are_shortened_in_the_log(at_work, store):
    await call(at_work, "greet", name="A" * 5_000)

    (logged,) = await store.tool_calls()
    assert set(logged.arguments) == {"shortened"}
    assert len(logged.arguments["shortened"]) <= 2_100


async def test_what_is_remembered_is_recalled_by_the_same_agent_in_later_conversations(
    at_work, store
):
    await call(at_work, "remember", key="tone", value="friendly")
    await store.remember("content", "tone", "sober")

    answer, _ = await call(at_work, "recall", search="TONE")

    answer = json.loads(answer)
    assert answer["source"] == "own memory"
    (memory,) = answer["memories"]
    assert (memory["key"], memory["value"]) == ("tone", "friendly")


# Effects.

ADD_A_DEAL = Reply(tools=(("add_deal", {"name": "Ada"}),))


def last_answer(place):
    return json.loads(place.claude.requests[-1]["messages"][-1]["content"][0]["content"])


async def test_an_effect_that_is_asked_for_again_by_the_same_work_is_not_repeated(at_work, store):
    at_work.claude.plan(ADD_A_DEAL, ADD_A_DEAL, Reply(text="Done."))

    await at_work.do("Do it.", Toolbox)

    (deal,) = await store.select(DomainTable.DEAL_LOG, Query())
    assert last_answer(at_work) == {"id": deal["id"], "is_new": False}


async def test_other_work_may_have_the_same_effect_again(at_work, store):
    for _ in range(2):
        at_work.claude.plan(ADD_A_DEAL, Reply(text="Done."))
        await at_work.do("Do it.", Toolbox)

    assert len(await store.select(DomainTable.DEAL_LOG, Query())) == 2


@pytest.mark.parametrize("killed_in", ["insert", "finish_effect"])
async def test_an_effect_that_was_begun_and_never_finished_happens_once(at_work, store, killed_in):
    class Killed(Before):
        """The store as it looks to an agent that is killed in one of its verbs."""

        async def perform(self, verb, arguments):
            if verb.name == killed_in:
                reached.set()
                await trio.sleep_forever()
            return await super().perform(verb, arguments)

    reached = trio.Event()
    at_work.claude.plan(ADD_A_DEAL)
    task_id = await at_work.add()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(at_work.cancellable, Toolbox, store=Killed(store)))
        await reached.wait()
        nursery.cancel_scope.cancel()

    at_work.claude.plan(ADD_A_DEAL, Reply(text="Done."))
    at_work.start(Toolbox)
    await at_work.finished(task_id)

    (deal,) = await store.select(DomainTable.DEAL_LOG, Query())
    assert last_answer(at_work)["id"] == deal["id"]


async def test_an_effect_that_the_store_refuses_may_be_tried_again(at_work, store):
    class Refusing(Before):
        """A store that takes a row only at the second try."""

        tries = 0

        async def insert(self, **arguments):
            self.tries += 1
            if self.tries == 1:
                raise StoreError("not now")
            return await super().insert(**arguments)

    at_work.claude.plan(ADD_A_DEAL, ADD_A_DEAL, Reply(text="Done."))
    task_id = await at_work.add()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(at_work.cancellable, Toolbox, store=Refusing(store)))
        await at_work.finished(task_id)
        nursery.cancel_scope.cancel()

    assert last_answer(at_work)["is_new"]
