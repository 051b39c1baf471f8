"""Tools: described to the model by their methods, checked, answered, logged."""

from __future__ import annotations

import gc
import json
from datetime import date
from typing import Annotated, Literal

import pytest
from agents_at_work import QuickAgent, office
from pydantic import Field

from actp_supervise.service import make_redactor
from app.agents.paging import PAGE
from app.agents.toolbox import MOST_LOGGED
from app.agents.toolbox import Toolbox as Runtime
from app.agents.tools import JSON, ToolError, current_call, tool, tools_of
from app.demo.claude import Garbage, Reply
from app.store.protocol import DomainTable, TaskStatus


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

    @tool(effect="keyed", target=("name",))
    async def add_deal(self, name: str, notes: str | None = None):
        """Add a deal, once."""
        values = {"name": name, "stage": "prospect", "notes": notes}
        return {"deal": await self.store.insert(DomainTable.DEAL_LOG, current_call().key, values)}


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
    assert "invalid_arguments: Unexpected keyword argument" in str(result["content"])
    (called,) = at_work.claude.requests[-1]["messages"][-2]["content"]
    assert called["input"] == {"invalid_arguments": arguments}, "the API wants an object"
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


async def test_a_long_answer_is_shortened_in_the_log(at_work, store):
    await call(at_work, "talk")

    (logged,) = await store.tool_calls()
    assert len(logged.result) <= 2_100


async def test_the_tools_of_a_task_that_is_done_are_freed(at_work):
    def tools():
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, Runtime)]

    others = tools()  # what other tests in this process have left
    at_work.start(Toolbox)
    for _ in range(3):
        at_work.claude.plan(Reply(tools=(("greet", {"name": "Ada"}),)), Reply(text="Done."))
        await at_work.finished(await at_work.add())

    known = {id(each) for each in others}
    alive = [each for each in tools() if id(each) not in known]
    assert len(alive) <= 1, "that of one task, which may not be put away yet"


@pytest.mark.parametrize("before", [0, MOST_LOGGED - 10, PAGE - 10])
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


def test_to_look_for_tools_runs_no_property_of_an_agent():
    class Curious:
        @property
        def agent(self) -> object:
            raise AssertionError("nobody has asked for it")

        @tool
        async def look(self) -> JSON:
            """Look."""
            return {}

    assert [each.name for each in tools_of(Curious())] == ["look"]
    assert [each.name for each in tools_of(Curious)] == ["look"]
