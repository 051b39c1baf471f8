"""What a tool's call may do again, how long it may take, and how its answer is paged."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import ClassVar

import pytest
import trio
from agents_at_work import QuickAgent
from typing_extensions import override

from app.agents.paging import PAGE, Pages
from app.agents.spec import AgentOptions
from app.agents.tools import ToolError, current_call, tool
from app.demo.claude import Reply
from app.store.protocol import Before, DomainTable, Query, TaskStatus

DEALS = DomainTable.DEAL_LOG


class Handy(QuickAgent):
    """An agent with a tool of each kind, that notes its calls."""

    calls: ClassVar[list[str]] = []

    @tool
    async def send_email(self, to: str):
        """Send an email."""
        self.calls.append(f"sent to {to}")
        return {"sent": to}

    @tool(effect="keyed", target=("name",))
    async def add_deal(self, name: str, notes: str | None = None):
        """Add a deal."""
        self.calls.append(f"added {name}")
        values = {"name": name, "stage": "prospect", "notes": notes}
        return {"deal": await self.store.insert(DEALS, current_call().key, values)}

    @tool(effect="keyed", target="call")
    async def set_tone(self, tone: str):
        """Set the tone."""
        self.calls.append(tone)
        return {"tone": tone}

    @tool(effect="keyed")
    async def refuse_first(self, name: str):
        """Refuse at first."""
        self.calls.append(name)
        if len(self.calls) == 1:
            raise ToolError("not yet")
        return {"done": name}

    @tool(effect="read", timeout=0.2)
    async def look_for_ever(self):
        """Look for ever."""
        await asyncio.sleep(10**9)

    @tool
    async def send_for_ever(self):
        """Send for ever."""
        await asyncio.sleep(10**9)

    @tool(effect="read", timeout=0.2)
    async def ignore_all(self):
        """Go on whatever comes."""
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.calls.append("ignored")
                await asyncio.sleep(30)
                raise

    @tool(effect="read")
    async def meet(self, name: str):
        """Wait until two are here."""
        self.calls.append(name)
        while len(self.calls) < 2:  # noqa: ASYNC110  (what the other call does sets no event)
            await asyncio.sleep(0.01)
        return {"met": name}

    @tool(effect="read")
    async def list_many(self, rows: int, size: int = 100):
        """List."""
        return {"source": "here", "rows": [{"n": n, "text": "x" * size} for n in range(rows)]}


@pytest.fixture(autouse=True)
def _nothing_called():
    Handy.calls = []


async def told(place, *replies, **options):
    """Have a task done by these replies; what the model was told after the last but one."""
    place.claude.plan(*replies, Reply(text="Done."))
    task = await place.do("Do it.", Handy, **options)
    assert task.status is TaskStatus.SUCCEEDED, task.error
    return place.claude.requests[-1]["messages"][-1]["content"]


def once(tool, **arguments):
    return Reply(tools=((tool, arguments),))


def killed_in(verb_name, store):
    """Make the store of an agent that is killed in a verb, and the event of it."""
    reached = trio.Event()

    class Killed(Before):
        @override
        async def perform(self, verb, arguments):
            if verb.name == verb_name:
                reached.set()
                await trio.sleep_forever()
            return await super().perform(verb, arguments)

    return Killed(store), reached


async def kill_and_go_on(place, store, verb_name, reply):
    """Kill an agent in a verb of a reply's tool, and have another go on; what the model is told."""
    place.claude.plan(reply)
    task_id = await place.add()
    dying, reached = killed_in(verb_name, store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(place.cancellable, Handy, store=dying))
        await reached.wait()
        nursery.cancel_scope.cancel()
    place.claude.plan(Reply(text="Done."))
    place.start(Handy)
    assert (await place.finished(task_id)).status is TaskStatus.SUCCEEDED
    return place.claude.requests[-1]["messages"][-1]["content"][0]


async def test_of_a_once_tool_that_began_and_whose_end_nobody_knows_the_model_is_told(
    at_work, store
):
    answer = await kill_and_go_on(at_work, store, "record_answer", once("send_email", to="bob"))

    assert answer["is_error"]
    assert "send_email was begun with these arguments" in answer["content"]
    assert "Do not simply call it again" in answer["content"]
    assert Handy.calls == ["sent to bob"], "and it is not called again"


async def test_a_once_tool_that_had_not_begun_is_called(at_work, store):
    answer = await kill_and_go_on(at_work, store, "begin_effect", once("send_email", to="bob"))

    assert json.loads(answer["content"]) == {"sent": "bob"}
    assert Handy.calls == ["sent to bob"]


@pytest.mark.parametrize("verb", ["begin_effect", "insert", "record_answer"])
async def test_a_keyed_tool_is_called_again_with_its_key_and_has_its_effect_once(
    at_work, store, verb
):
    answer = await kill_and_go_on(at_work, store, verb, once("add_deal", name="Ada"))

    (deal,) = await store.select(DEALS, Query())
    assert json.loads(answer["content"])["deal"]["id"] == deal["id"]


async def test_a_keyed_tool_is_done_once_for_its_target_in_one_task_and_again_in_another(
    at_work, store
):
    both = (once("add_deal", name="Ada", notes="first"), once("add_deal", name=" ADA "))
    (block,) = await told(at_work, *both)

    (deal,) = await store.select(DEALS, Query())
    assert Handy.calls == ["added Ada"]
    assert json.loads(block["content"])["deal"]["id"] == deal["id"]

    await told(at_work, both[0])
    assert len(await store.select(DEALS, Query())) == 2


async def test_two_parallel_calls_about_one_target_have_one_effect(at_work, store):
    await told(at_work, Reply(tools=(("add_deal", {"name": "Ada"}), ("add_deal", {"name": "ada"}))))
    assert len(await store.select(DEALS, Query())) == 1


async def test_what_sets_a_value_is_done_each_time_it_is_asked_for(at_work):
    await told(at_work, *(once("set_tone", tone=tone) for tone in ("glad", "sad", "glad")))
    assert Handy.calls == ["glad", "sad", "glad"]


async def test_what_a_keyed_tool_refused_may_be_tried_again(at_work):
    (block,) = await told(at_work, *[once("refuse_first", name="Ada")] * 2)
    assert json.loads(block["content"]) == {"done": "Ada"}


def test_a_tool_is_once_unless_it_says_what_else():
    with pytest.raises(ValueError, match="effect must be"):
        tool(effect="twice")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only a keyed tool has a target"):
        tool(effect="read", target=("name",))
    with pytest.raises(ValueError, match="has no parameter 'nme'"):

        class Wrong:
            @tool(effect="keyed", target=("nme",))
            async def add(self, name: str): ...


def test_a_key_is_for_a_tool_that_is_being_called():
    with pytest.raises(RuntimeError, match="current_call"):
        current_call()


# Time.


async def test_a_tool_that_takes_too_long_is_an_error_for_the_model_and_no_crash(at_work):
    options = AgentOptions(tool_timeout=0.3)
    looked, sent = await told(
        at_work, Reply(tools=(("look_for_ever", {}), ("send_for_ever", {}))), options=options
    )

    assert looked["is_error"]
    assert "look_for_ever took longer than 0.2 s" in looked["content"]
    assert "you may call it again" in looked["content"]
    assert "may have had its effect, or not" in sent["content"]


async def test_a_tool_that_ignores_its_end_is_left_behind(at_work):
    (block,) = await told(at_work, once("ignore_all"))
    assert "took longer" in block["content"]
    assert Handy.calls == ["ignored"]


async def test_parallel_calls_run_side_by_side_and_are_answered_in_their_order(at_work):
    answers = await told(at_work, Reply(tools=(("meet", {"name": "a"}), ("meet", {"name": "b"}))))
    assert [json.loads(answer["content"])["met"] for answer in answers] == ["a", "b"]


# Pages.


async def test_a_long_answer_comes_in_pages_of_whole_rows(at_work):
    (block,) = await told(at_work, once("list_many", rows=1_000))
    first = json.loads(block["content"])

    assert len(block["content"]) <= PAGE + 500
    assert first["source"] == "here"
    assert first["_page"]["page"] == 1
    name, pages = first["_page"]["answer"], first["_page"]["pages"]

    rows = list(first["rows"])
    kept = Pages(str)
    kept.first({"rows": [{"n": n, "text": "x" * 100} for n in range(1_000)]}, name)
    for page in range(2, pages + 1):
        rows += json.loads(kept.read(name, page))["rows"]
    assert [row["n"] for row in rows] == list(range(1_000))


async def test_the_model_reads_on_with_the_tool_that_the_page_names(at_work):
    at_work.claude.plan(once("list_many", rows=400))
    task_id = await at_work.add()
    at_work.claude._of_its_own_accord = _read_on
    at_work.start(Handy)
    task = await at_work.finished(task_id)

    assert task.result["text"] == "399 was the last row."


def _read_on(body):
    """Read page after page, as a model would."""
    shown = json.loads(body["messages"][-1]["content"][0]["content"])
    about = shown["_page"]
    if "next" in about:
        assert "read_more" in about["next"]
        return once("read_more", answer=about["answer"], page=about["page"] + 1)
    return Reply(text=f"{shown['rows'][-1]['n']} was the last row.")


@pytest.mark.parametrize(
    "value",
    ["y" * 60_000, {"text": "y" * 60_000}, {"rows": ["y" * 30_000] * 2}, ["a" * 9_000] * 7],
    ids=["text", "field", "large rows", "list"],
)
def test_each_page_of_whatever_is_json_and_nothing_is_lost(value):
    pages = Pages(str)
    first = json.loads(pages.first(value, "a"))
    texts = [json.dumps(first)] + [
        pages.read("a", page) for page in range(2, first["_page"]["pages"] + 1)
    ]
    assert all(isinstance(json.loads(text), dict) for text in texts)
    assert sum(text.count("y") + text.count("aaaa") for text in texts) >= 15_000
    with pytest.raises(ToolError, match="page: must be from 1"):
        pages.read("a", 99)
    with pytest.raises(ToolError, match="no longer kept"):
        pages.read("b", 1)


async def test_a_list_tool_goes_on_by_its_cursor(at_work, store):
    for number in range(25):
        await store.insert(
            DomainTable.ENGAGEMENT_ACTIONS,
            f"a{number:02}",
            {"platform": "x", "action": "like", "target": f"@{number}", "status": "queued"},
        )
    seen, cursor = [], None
    for _ in range(3):
        given = {"limit": 10} if cursor is None else {"limit": 10, "cursor": cursor}
        answer = await at_work.call(QuickAgent, "list_engagement_actions", **given)
        seen += [row["id"] for row in answer["actions"]]
        cursor = answer.get("next_cursor")

    assert cursor is None
    assert sorted(seen) == [f"a{number:02}" for number in range(25)]
