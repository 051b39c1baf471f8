"""Tools whose calls a person has to approve: asked for, waited for, and gone on with."""

from __future__ import annotations

import json
from functools import partial
from typing import ClassVar

import pytest
import trio
from agents_at_work import QuickAgent
from store_calls import lapse
from test_agents_effects import killed_in
from typing_extensions import override

from app.agents.approvals import needs_approval
from app.agents.outcomes import RoutineFailedError
from app.agents.spec import AgentOptions
from app.agents.tools import current_call, tool
from app.demo.claude import Reply
from app.store.protocol import ApprovalStatus, Before, TaskStatus

MAIL = {"to": "ada@example.org", "text": "Hello"}
SENT = "ada@example.org: Hello"


class Careful(QuickAgent):
    """An agent with tools that act outside."""

    sent: ClassVar[list[str]] = []

    @tool(approve=True)
    async def send_mail(self, to: str, text: str):
        """Send a mail."""
        self.sent.append(f"{to}: {text}")
        return {"sent": to}

    @tool(effect="keyed")
    async def order(self, item: str):
        """Order something."""
        self.sent.append(item)
        return {"ordered": item, "key": current_call().key}

    @tool(effect="read")
    async def look(self):
        """Look."""
        self.sent.append("looked")
        return {"seen": True}

    async def run_daily_check(self):
        return await self.routine("run_daily_check", "Send the report.")


@pytest.fixture(autouse=True)
def _nothing_sent():
    Careful.sent = []


def calling(*tools, text="Ada wants to hear from us."):
    return Reply(text=text, tools=tools or (("send_mail", MAIL),))


def options(*patterns, **changes):
    return AgentOptions(approve=patterns, **changes)


async def waiting(place, *replies, **changes):
    """Have a task come to where it waits; its id and what it waits for."""
    place.claude.plan(*replies or (calling(),))
    task_id = await place.add()
    place.start(Careful, **changes)
    await place.when(task_id, lambda task: task.status is TaskStatus.WAITING)
    rows = await place.store.approvals(status=ApprovalStatus.WAITING, task_id=task_id)
    return task_id, rows


async def decide(place, row, *, approve=True, **more):
    return await place.store.decide_approval(row.id, approve=approve, decided_by="Grace", **more)


async def goes_on(place, task_id):
    """Wait for the end; what the model was told last of its tools."""
    place.claude.plan(Reply(text="Done."))
    assert (await place.finished(task_id)).status is TaskStatus.SUCCEEDED
    return place.claude.requests[-1]["messages"][-1]["content"]


async def test_a_tool_that_needs_approval_is_not_called_before_it_has_it(at_work):
    task_id, (row,) = await waiting(at_work)
    assert Careful.sent == []
    assert (row.tool, row.arguments, row.why) == ("send_mail", MAIL, "Ada wants to hear from us.")
    assert (row.agent_id, row.task_id) == ("social", task_id)
    assert (await at_work.store.task(task_id)).attempts == 0


async def test_approved_it_is_called_once_and_the_conversation_goes_on_behind_it(at_work, store):
    task_id, (row,) = await waiting(at_work)
    await decide(at_work, row)
    (block,) = await goes_on(at_work, task_id)
    assert json.loads(block["content"]) == {"sent": MAIL["to"]}
    assert Careful.sent == [SENT]
    assert len(at_work.claude.requests) == 2, "no reply is asked for twice"
    turns = await store.turns(task_id)
    assert [(turn.role, turn.step) for turn in turns] == [
        ("user", 0), ("assistant", 1), ("tool", 1), ("assistant", 2),
    ]  # fmt: skip


async def test_denied_it_is_never_called_and_the_model_is_told_why(at_work):
    task_id, (row,) = await waiting(at_work)
    await decide(at_work, row, approve=False, comment="Ada has left us.")
    (block,) = await goes_on(at_work, task_id)
    assert block["is_error"]
    assert "The operator denied this call and writes: Ada has left us." in block["content"]
    assert Careful.sent == []


async def test_what_nobody_decides_in_time_is_never_called(at_work, store):
    task_id, (row,) = await waiting(at_work, options=options(approval_timeout=0.01))
    await lapse()
    assert [each.id for each in await store.expire_approvals()] == [row.id]
    (block,) = await goes_on(at_work, task_id)
    assert block["is_error"]
    assert "Nobody approved this call in time" in block["content"]
    assert Careful.sent == []


async def test_the_comment_of_an_approval_is_told_before_the_answer(at_work):
    task_id, (row,) = await waiting(at_work)
    await decide(at_work, row, comment="And be brief.")
    (block,) = await goes_on(at_work, task_id)
    note, _, answer = block["content"].partition("\n")
    assert note == "The operator approved it and writes: And be brief."
    assert json.loads(answer) == {"sent": MAIL["to"]}


async def test_edited_arguments_are_what_it_is_called_with_and_the_model_is_told(at_work, store):
    task_id, (row,) = await waiting(at_work)
    await decide(at_work, row, arguments={**MAIL, "text": "Dear Ada"})
    (block,) = await goes_on(at_work, task_id)
    assert Careful.sent == ["ada@example.org: Dear Ada"]
    assert block["content"].startswith("The operator approved this call with other arguments: ")
    (call,) = await store.tool_calls(task_id=task_id)
    assert call.arguments["text"] == "Dear Ada"


async def test_edited_arguments_that_the_tool_refuses_call_nothing(at_work):
    task_id, (row,) = await waiting(at_work)
    await decide(at_work, row, arguments={"whom": "Ada"})
    (block,) = await goes_on(at_work, task_id)
    assert block["is_error"]
    assert "Invalid arguments" in block["content"]
    assert Careful.sent == []


async def test_of_calls_side_by_side_none_is_begun_before_all_are_decided(at_work):
    both = calling(("look", {}), ("send_mail", MAIL), ("send_mail", {**MAIL, "text": "Again"}))
    task_id, (second, first) = await waiting(at_work, both)
    await decide(at_work, first)
    assert (await at_work.store.task(task_id)).status is TaskStatus.WAITING
    assert Careful.sent == []
    await decide(at_work, second, approve=False)
    looked, sent, denied = await goes_on(at_work, task_id)
    assert sorted(Careful.sent) == [SENT, "looked"]
    assert not looked.get("is_error")
    assert not sent.get("is_error")
    assert denied["is_error"]


async def test_the_worker_does_other_tasks_meanwhile(at_work):
    task_id, _ = await waiting(at_work)
    at_work.claude.plan(Reply(text="That was easy."))
    other = await at_work.add()
    assert (await at_work.finished(other)).status is TaskStatus.SUCCEEDED
    assert (await at_work.store.task(task_id)).status is TaskStatus.WAITING


async def test_another_daemon_goes_on_after_a_restart(at_work):
    task_id, (row,) = await waiting(at_work)
    await at_work.tree.stop("social")
    await decide(at_work, row)
    at_work.claude.plan(Reply(text="Done."))
    at_work.start(Careful, name="other", worker_id="w2", instance="w2-run")
    assert (await at_work.finished(task_id)).status is TaskStatus.SUCCEEDED
    assert Careful.sent == [SENT]
    assert len(at_work.claude.requests) == 2


@pytest.mark.parametrize("verb", ["ask_approval", "park_task"])
async def test_a_kill_while_it_asks_asks_no_second_time(at_work, store, verb):
    at_work.claude.plan(calling())
    task_id = await at_work.add()
    dying, reached = killed_in(verb, store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(at_work.cancellable, Careful, store=dying, task_lease=1.0))
        await reached.wait()
        nursery.cancel_scope.cancel()
    at_work.start(Careful)
    await at_work.when(task_id, lambda task: task.status is TaskStatus.WAITING)
    (row,) = await store.approvals()
    await decide(at_work, row)
    await goes_on(at_work, task_id)
    assert Careful.sent == [SENT]


async def test_a_decision_made_before_the_task_is_parked_is_not_missed(at_work, store):
    class Prompt(Before):
        @override
        async def perform(self, verb, arguments):
            if verb.name == "park_task":
                for row in await store.approvals(status=ApprovalStatus.WAITING):
                    await decide(at_work, row)
            return await super().perform(verb, arguments)

    at_work.claude.plan(calling(), Reply(text="Done."))
    task_id = await at_work.add()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(at_work.cancellable, Careful, store=Prompt(store)))
        assert (await at_work.finished(task_id)).status is TaskStatus.SUCCEEDED
        nursery.cancel_scope.cancel()
    assert Careful.sent == [SENT]


async def test_an_operators_pattern_asks_for_a_tool_that_does_not(at_work):
    order = calling(("order", {"item": "paper"}))
    task_id, (row,) = await waiting(at_work, order, options=options("ord*"))
    assert (row.tool, Careful.sent) == ("order", [])
    await decide(at_work, row)
    await goes_on(at_work, task_id)
    assert Careful.sent == ["paper"]


async def test_an_operators_pattern_lets_a_tool_pass_that_asks(at_work):
    at_work.claude.plan(calling(), Reply(text="Done."))
    task = await at_work.do("Do it.", Careful, options=options("!send_mail"))
    assert task.status is TaskStatus.SUCCEEDED
    assert Careful.sent == [SENT]


async def test_what_was_denied_is_not_called_though_the_settings_ask_no_more(at_work):
    task_id, (row,) = await waiting(at_work)
    await at_work.tree.stop("social")
    await decide(at_work, row, approve=False)
    at_work.claude.plan(Reply(text="Done."))
    at_work.start(Careful, name="other", options=options("!send_mail"))
    assert (await at_work.finished(task_id)).status is TaskStatus.SUCCEEDED
    assert Careful.sent == []


def test_the_last_pattern_that_fits_counts():
    assert needs_approval("send_mail", ["*", "!send_*", "send_mail"])
    assert not needs_approval("send_mail", ["send_mail", "!*"])
    assert not needs_approval("send_mail", ["Send_*"])


async def test_a_once_tool_that_was_cut_off_is_asked_about_before_it_is_called_again(
    at_work, store
):
    task_id, (row,) = await waiting(at_work)
    await at_work.tree.stop("social")
    await decide(at_work, row)
    dying, reached = killed_in("record_answer", store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(at_work.cancellable, Careful, store=dying))
        await reached.wait()
        nursery.cancel_scope.cancel()
    at_work.start(Careful, name="other")
    await at_work.when(task_id, lambda task: task.status is TaskStatus.WAITING)
    (again,) = await store.approvals(status=ApprovalStatus.WAITING)
    assert "may have had its effect, or not" in again.why
    assert Careful.sent == [SENT]
    await decide(at_work, again)
    (block,) = await goes_on(at_work, task_id)
    assert not block.get("is_error")
    assert Careful.sent == [SENT, SENT], "once more, as approved"


async def test_what_a_person_changes_as_a_call_is_approved_again_is_what_is_called(at_work, store):
    task_id, (row,) = await waiting(at_work)
    await at_work.tree.stop("social")
    await decide(at_work, row, comment="Once.")
    dying, reached = killed_in("record_answer", store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(at_work.cancellable, Careful, store=dying))
        await reached.wait()
        nursery.cancel_scope.cancel()
    at_work.start(Careful, name="other")
    await at_work.when(task_id, lambda task: task.status is TaskStatus.WAITING)
    (again,) = await store.approvals(status=ApprovalStatus.WAITING)
    other = {**again.arguments, "to": "grace@example.org"}
    await decide(at_work, again, arguments=other, comment="To Grace.")
    (block,) = await goes_on(at_work, task_id)
    assert Careful.sent == [SENT, "grace@example.org: Hello"]
    assert "grace@example.org" in block["content"]
    assert "The operator approved it and writes: To Grace." in block["content"]
    assert "Once." not in block["content"]


async def test_a_once_tool_that_was_cut_off_and_is_denied_is_not_called_again(at_work, store):
    task_id, (row,) = await waiting(at_work)
    await at_work.tree.stop("social")
    await decide(at_work, row)
    dying, reached = killed_in("record_answer", store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(at_work.cancellable, Careful, store=dying))
        await reached.wait()
        nursery.cancel_scope.cancel()
    at_work.start(Careful, name="other")
    await at_work.when(task_id, lambda task: task.status is TaskStatus.WAITING)
    (again,) = await store.approvals(status=ApprovalStatus.WAITING)
    await decide(at_work, again, approve=False, comment="It is there.")
    (block,) = await goes_on(at_work, task_id)
    assert block["is_error"]
    assert block["content"].endswith("The operator writes: It is there.")
    assert Careful.sent == [SENT]


async def test_a_routine_that_has_to_wait_is_put_off_and_gone_on_with(at_work, store):
    at_work.claude.plan(calling())
    with pytest.raises(RoutineFailedError, match="put off: waits for the approval of send_mail"):
        await at_work.routine(Careful, "run_daily_check")
    (task,) = await store.tasks()
    assert task.status is TaskStatus.WAITING
    (row,) = await store.approvals()
    await decide(at_work, row)
    at_work.start(Careful)
    await goes_on(at_work, task.id)
    assert Careful.sent == [SENT]


async def test_a_tasks_budget_asks_where_the_operator_wants_it(at_work, store):
    at_work.claude.plan(calling(("look", {})), Reply(text="Done."))
    task_id = await at_work.add()
    at_work.start(Careful, options=options("budget", task_budget_usd=0.0001))
    await at_work.when(task_id, lambda task: task.status is TaskStatus.WAITING)
    (row,) = await store.approvals()
    assert row.tool == "budget"
    assert "the budget of this task" in row.why
    assert not at_work.claude.requests
    await decide(at_work, row, arguments={"task_budget_usd": 5})
    assert (await at_work.finished(task_id)).status is TaskStatus.SUCCEEDED
    assert len(await store.approvals()) == 1


async def test_a_budget_that_is_denied_ends_the_task_with_what_was_said(at_work, store):
    task_id = await at_work.add()
    at_work.start(Careful, options=options("budget", task_budget_usd=0.0001))
    await at_work.when(task_id, lambda task: task.status is TaskStatus.WAITING)
    (row,) = await store.approvals()
    await decide(at_work, row, approve=False, comment="Not worth it.")
    task = await at_work.finished(task_id)
    assert task.status is TaskStatus.FAILED
    assert task.error == "no higher budget was approved for this task: Not worth it."
