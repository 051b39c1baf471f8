"""What a person has approved, carried out by a tool of the user's: as it stands, and once."""

from __future__ import annotations

import json

import pytest
from agents_at_work import QuickAgent

from app.agents.spec import AgentOptions, ReleaseTool
from app.hands import HandError, Hands, OutcomeUnknownError
from app.hands.contract import Arguments, Hand, tool_of
from app.items import KINDS, Release, Said, decide, item_of
from app.store.protocol import Before, DomainTable, Query, StoreError, TaskStatus, Verdict

ACTIONS = DomainTable.ENGAGEMENT_ACTIONS
COMMENT = {
    "platform": "x",
    "action": "comment",
    "target": "https://x.example/ada/1",
    "content": "Well put.",
    "reason": "She is right.",
}


class Publish(Arguments):
    """Publish something."""

    id: str | None = None
    platform: str | None = None
    action: str | None = None
    target: str | None = None
    content: str | None = None
    reason: str | None = None
    text: str | None = None


class Poster:
    """A tool of the user's that publishes, as an MCP server's would."""

    def __init__(self):
        self.published = []
        self.errors = []
        self.away = None
        self.is_there = True

    async def publish(self, given, use):
        if self.errors:
            raise self.errors.pop(0)
        self.published.append(given.model_dump(exclude_none=True))
        return {"url": "https://x.example/us/1"}

    def open(self):
        tool = tool_of(
            "mcp__poster__publish",
            Publish,
            self.publish,
            effect="once",
            approve=True,
            acts=True,
            source="the MCP server 'poster'",
        )
        hand = Hand(
            name="poster",
            tools=lambda: (tool,) if self.is_there else (),
            problem=lambda: self.away,
        )
        return Hands([hand])


class CutOff(Before):
    """A store behind which the program dies as it records what has happened."""

    async def perform(self, verb, arguments):
        if verb.name == "finish_effect":
            raise StoreError("cut off")
        return await super().perform(verb, arguments)


@pytest.fixture
def poster():
    return Poster()


async def approve(store, row_id="a1", **said):
    """Have a person approve an action; what it releases."""
    found = await item_of(store, KINDS["actions"], row_id)
    verdict = said.pop("verdict", Verdict.APPROVED)
    review = await decide(
        store, KINDS["actions"], *found, Said(verdict=verdict, by="Grace", **said)
    )
    return Release(kind="actions", id=row_id, review=review.id)


async def carried_out(place, poster, release, *, arguments=None, tool="mcp__poster__publish"):
    """Have the agent do the task of a release; the task, and the action as it is then."""
    await place.store.add_task(release.task_id, "social", release.goal, context=release.context)
    options = AgentOptions(release=ReleaseTool(tool=tool, arguments=arguments or {}))
    child, _ = place.start(QuickAgent, hands=poster.open(), options=options)
    task = await place.finished(release.task_id)
    await place.tree.stop(child.name)
    return task, await row_of(place.store, release.id)


async def row_of(store, row_id="a1"):
    (row,) = await store.select(ACTIONS, Query(equal={"id": row_id}))
    return row


@pytest.fixture
async def queued(store):
    return await store.insert(ACTIONS, "a1", {**COMMENT, "status": "queued"})


async def test_an_approved_action_is_carried_out_as_it_stands_and_no_model_is_asked(
    at_work, store, poster, queued
):
    release = await approve(store, changes={"content": "Very well put."})

    task, row = await carried_out(at_work, poster, release)

    assert poster.published == [{**COMMENT, "id": "a1", "content": "Very well put."}]
    assert not at_work.claude.requests
    assert (task.status, row["status"]) == (TaskStatus.SUCCEEDED, "done")
    assert "https://x.example/us/1" in row["result"]
    assert row["settled_at"] >= row["created_at"]
    (call,) = await store.tool_calls(task_id=task.id)
    assert (call.tool, call.error) == ("mcp__poster__publish", None)


async def test_what_the_tool_answers_is_marked_as_written_by_others(at_work, store, poster, queued):
    _, row = await carried_out(at_work, poster, await approve(store))
    assert row["from_outside"] == "the MCP server 'poster'"


async def test_the_tool_s_parameters_get_the_fields_that_the_file_names(
    at_work, store, poster, queued
):
    names = {"text": "content", "target": "target"}
    await carried_out(at_work, poster, await approve(store), arguments=names)
    assert poster.published == [{"text": "Well put.", "target": COMMENT["target"]}]


async def test_a_draft_is_published_in_the_same_way(at_work, store, poster):
    values = {"name": "Tea", "platform": "x", "hook": "I", "body": "Drank.", "status": "draft"}
    await store.insert(DomainTable.VIRAL_TEMPLATES, "d1", values)
    found = await item_of(store, KINDS["drafts"], "d1")
    said = Said(verdict=Verdict.APPROVED, by="Grace")
    review = await decide(store, KINDS["drafts"], *found, said)
    release = Release(kind="drafts", id="d1", review=review.id)
    await store.add_task(release.task_id, "social", release.goal, context=release.context)
    tool = ReleaseTool(tool="mcp__poster__publish", arguments={"text": "body", "action": "hook"})
    child, _ = at_work.start(QuickAgent, hands=poster.open(), options=AgentOptions(release=tool))
    await at_work.finished(release.task_id)
    await at_work.tree.stop(child.name)

    assert poster.published == [{"text": "Drank.", "action": "I"}]
    ((draft, _),) = [await item_of(store, KINDS["drafts"], "d1")]
    assert draft.status == "done"


async def test_nothing_is_carried_out_that_nobody_has_approved(at_work, store, poster, queued):
    forged = Release(kind="actions", id="a1", review="no-review")
    await store.update(ACTIONS, "a1", {"status": "approved"})  # by a program

    task, row = await carried_out(at_work, poster, forged)

    assert poster.published == []
    assert (task.status, row["status"]) == (TaskStatus.FAILED, "approved")


async def test_what_was_rejected_meanwhile_is_left_alone(at_work, store, poster, queued):
    release = await approve(store)
    await approve(store, verdict=Verdict.REJECTED)

    task, row = await carried_out(at_work, poster, release)

    assert poster.published == []
    assert (task.status, row["status"]) == (TaskStatus.FAILED, "rejected")
    assert "the action is rejected" in task.error


async def test_one_approval_is_carried_out_once(at_work, store, poster, queued):
    release = await approve(store)
    await carried_out(at_work, poster, release)
    await store.add_task("another", "social", release.goal, context=release.context)
    child, _ = at_work.start(QuickAgent, hands=poster.open())
    task = await at_work.finished("another")
    await at_work.tree.stop(child.name)

    assert len(poster.published) == 1
    assert "the action is done already" in task.error


async def test_one_that_was_cut_off_is_not_carried_out_again_and_says_so(
    at_work, store, poster, queued
):
    release = await approve(store)
    poster.errors = [OutcomeUnknownError("the server died in the call")]
    task, row = await carried_out(at_work, poster, release)
    assert (task.status, row["status"]) == (TaskStatus.FAILED, "unknown")
    assert "the server died" in row["result"]

    again = await approve(store, comment="I looked: it is not there.")
    _, row = await carried_out(at_work, poster, again)
    assert (len(poster.published), row["status"]) == (1, "done")


async def test_killed_in_the_middle_of_the_call_it_is_not_made_again(
    at_work, store, poster, queued
):
    """The effect was begun, and its end is not recorded."""
    release = await approve(store)
    await store.add_task(release.task_id, "social", release.goal, context=release.context)
    options = AgentOptions(release=ReleaseTool(tool="mcp__poster__publish"))
    cut_off = CutOff(store)
    child, _ = at_work.start(QuickAgent, hands=poster.open(), options=options, store=cut_off)
    task = await at_work.finished(release.task_id)
    await at_work.tree.stop(child.name)

    assert task.attempts == 2
    row = await row_of(store)
    assert (len(poster.published), row["status"]) == (1, "unknown")


async def test_what_the_tool_refuses_has_failed_and_may_be_approved_again(
    at_work, store, poster, queued
):
    poster.errors = [HandError("The account is suspended.")]
    task, row = await carried_out(at_work, poster, await approve(store))
    assert (task.status, row["status"]) == (TaskStatus.FAILED, "failed")
    assert row["result"] == "The account is suspended."

    _, row = await carried_out(at_work, poster, await approve(store, comment="Paid."))
    assert (row["status"], len(poster.published)) == ("done", 1)


async def test_while_the_tool_is_away_the_task_waits(at_work, store, poster, queued):
    release = await approve(store)
    poster.is_there, poster.away = False, "the MCP server 'poster' is away"
    await store.add_task(release.task_id, "social", release.goal, context=release.context)
    options = AgentOptions(release=ReleaseTool(tool="mcp__poster__publish"))
    child, _ = at_work.start(QuickAgent, hands=poster.open(), options=options)
    task = await at_work.when(release.task_id, lambda task: task.error is not None)
    await at_work.tree.stop(child.name)

    assert (task.status, task.attempts) == (TaskStatus.QUEUED, 0)
    assert "the MCP server 'poster' is away" in task.error
    assert (await row_of(store))["status"] == "approved"


async def test_a_tool_that_is_none_of_the_agent_s_is_named(at_work, store, poster, queued):
    _, row = await carried_out(at_work, poster, await approve(store), tool="mcp__other__post")
    assert (row["status"], row["result"]) == (
        "failed",
        "there is no tool 'mcp__other__post' just now",
    )


async def test_without_a_tool_in_the_file_the_task_says_so(at_work, store, poster, queued):
    release = await approve(store)
    await store.add_task(release.task_id, "social", release.goal, context=release.context)
    child, _ = at_work.start(QuickAgent, hands=poster.open())
    task = await at_work.finished(release.task_id)
    await at_work.tree.stop(child.name)
    assert "names no tool that carries it out" in task.error
    assert json.dumps(task.result)
