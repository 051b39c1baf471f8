"""Approvals over HTTP: listed, decided once, and shown on the pages and in the terminal."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import pytest
import trio
from http_daemon import TOKEN, make_daemon, served
from store_calls import LONG, MAIL, SHORT, add, ask, claim, decide, lapse

from actp_supervise.testing import TrioWallClock
from app.event_log import EventLog
from app.facts import to_json
from app.health import APPROVAL_WAITS, of_work
from app.logged_errors import ErrorsOfAgents
from app.reasons import ReasonKind
from app.store.protocol import ApprovalRow, ApprovalStatus, TaskStatus
from app.terminal.approvals import in_words
from app.waiting_approvals import LOOK_IDLE, WaitingApprovals
from app.work_watch import WorkWatch


@pytest.fixture
def daemon(store):
    return make_daemon(store)


@pytest.fixture
async def client(daemon):
    async with served(daemon) as client:
        yield client


@pytest.fixture
async def parked(store):
    """A store with a task that waits for an approval."""
    await add(store)
    await claim(store)
    await ask(store)
    await store.park_task("t1", "k1")
    return store


async def test_what_waits_is_listed_with_all_that_will_be_done(client, parked):
    (row,) = (await client.get("/approvals", params={"status": "waiting"})).json()
    assert row == to_json(await parked.approval("a1"))
    assert set(row) == {field.name for field in dataclasses.fields(ApprovalRow)}
    assert (row["tool"], row["arguments"], row["status"]) == ("send_mail", MAIL, "waiting")
    assert (await client.get("/approvals/a1")).json() == row
    assert (await client.get("/approvals", params={"task_id": "t2"})).json() == []


@pytest.mark.parametrize(("approve", "status"), [(True, "approved"), (False, "denied")])
async def test_a_decision_is_kept_and_the_agent_is_woken(daemon, client, parked, approve, status):
    answer = await client.post("/approvals/a1", json={"approve": approve, "comment": "Well."})
    assert answer.status_code == 200
    assert answer.json()["status"] == status
    assert (answer.json()["comment"], answer.json()["decided_by"]) == ("Well.", "API")
    assert (await parked.task("t1")).status is TaskStatus.QUEUED
    assert ("notify", "social") in daemon.supervisor.asked


async def test_who_decides_may_be_told(client, parked):
    answer = await client.post("/approvals/a1", json={"approve": True, "by": "Grace"})
    assert answer.json()["decided_by"] == "Grace"


async def test_the_same_decision_again_is_answered_alike_and_another_is_refused(client, parked):
    body = {"approve": True, "comment": "Yes."}
    first = await client.post("/approvals/a1", json=body)
    assert (await client.post("/approvals/a1", json=body)).json() == first.json()
    other = await client.post("/approvals/a1", json={"approve": False})
    assert other.status_code == 409
    assert "It was decided before: approved by API" in other.json()["detail"]


async def test_edited_arguments_are_approved_and_what_was_asked_is_kept(client, parked):
    edited = {**MAIL, "text": "Dear Ada"}
    answer = await client.post("/approvals/a1", json={"approve": True, "arguments": edited})
    assert (answer.json()["arguments"], answer.json()["asked"]) == (edited, MAIL)


async def test_arguments_that_were_not_changed_are_no_edit(client, parked):
    same = dict(reversed(MAIL.items()))
    answer = await client.post("/approvals/a1", json={"approve": True, "arguments": same})
    assert answer.json()["asked"] is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"approve": "yes"}, 422),
        ({"approve": True, "why": "x"}, 422),
        ({"approve": False, "arguments": {}}, 422),
        ({"approve": True, "arguments": [1]}, 422),
        ({"approve": True, "comment": "x" * 4001}, 422),
    ],
)
async def test_what_is_no_decision_decides_nothing(client, parked, body, status):
    assert (await client.post("/approvals/a1", json=body)).status_code == status
    assert (await parked.approval("a1")).status is ApprovalStatus.WAITING


async def test_an_approval_that_is_not_there_is_a_404(client, parked):
    assert (await client.get("/approvals/nope")).status_code == 404
    assert (await client.post("/approvals/nope", json={"approve": True})).status_code == 404
    assert (await client.get("/approvals", params={"status": "maybe"})).status_code == 422


async def test_a_decision_that_is_too_late_is_a_409(client, store):
    await add(store)
    await ask(store, expires_in=SHORT)
    await lapse()
    answer = await client.post("/approvals/a1", json={"approve": True})
    assert answer.status_code == 409
    assert "expired" in answer.json()["detail"]


async def test_a_decision_needs_the_token(store, parked):
    daemon = make_daemon(store, api_token=TOKEN)
    async with served(daemon) as client:
        answer = await client.post("/approvals/a1", json={"approve": True})
    assert answer.status_code == 401
    assert (await parked.approval("a1")).status is ApprovalStatus.WAITING


async def test_a_task_that_waits_can_be_cancelled(client, parked):
    assert (await client.post("/tasks/t1/cancel")).status_code == 200
    assert (await parked.approval("a1")).status is ApprovalStatus.EXPIRED


# Events and figures.


async def test_what_is_asked_and_decided_is_told_once(daemon, store):
    seen = daemon.store
    await add(seen)
    await claim(seen)
    for _ in range(2):
        await ask(seen)
    await seen.park_task("t1", "k1")
    for _ in range(2):
        await decide(seen, comment="Go.")
    events = daemon.events.recent()
    assert [event.kind for event in events] == [
        "task_queued", "task_claimed", "approval_asked", "approval_asked", "task_parked",
        "approval_decided",
    ]  # fmt: skip
    asked, decided = events[2], events[-1]
    assert asked.fields == {"approval": "a1", "tool": "send_mail", "status": "waiting"}
    assert (asked.agent_id, asked.task_id) == ("social", "t1")
    assert decided.text == "social: send_mail approved by Grace by the page: Go."


async def test_what_expires_is_ended_counted_and_told(daemon, client, store):
    await add(store)
    await ask(store, "a1", expires_in=SHORT)
    await ask(store, "a2", about="use 2", expires_in=LONG)
    await lapse()
    daemon.approvals = WaitingApprovals(daemon.store)
    await daemon.approvals.look()
    assert daemon.approvals.count == 1
    assert [event.kind for event in daemon.events.recent()] == ["approval_decided"]
    assert "actp_approvals_waiting 1.0" in (await client.get("/metrics")).text


async def test_what_is_asked_here_is_counted_at_once(daemon, store):
    daemon.approvals = WaitingApprovals(daemon.store)
    daemon.events.listeners.append(daemon.approvals.notice)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.approvals.watch)
        await add(daemon.store)
        await ask(daemon.store)
        with trio.fail_after(LOOK_IDLE / 10):
            while not daemon.approvals.count:  # noqa: ASYNC110  (a look sets no event)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_what_waits_long_is_a_reason_of_the_health(store):
    await add(store)
    await ask(store, "a1", about="use 1")
    (row,) = await store.approvals()
    later = row.created_at + timedelta(seconds=APPROVAL_WAITS + 1)
    approvals = WaitingApprovals(store, TrioWallClock(later))
    await approvals.look()
    work = WorkWatch(store, EventLog(), ErrorsOfAgents(), approvals, instance="here")
    (reason,) = of_work(work.facts(), {}, later, longest_wait=LONG)
    assert (reason.key, reason.agent_id, reason.number) == (
        ReasonKind.APPROVALS_WAIT,
        row.agent_id,
        1,
    )
    await decide(store)
    await approvals.look()
    assert of_work(work.facts(), {}, later, longest_wait=LONG) == []


# Pages and the terminal.


async def test_the_page_shows_what_will_be_done_why_and_the_buttons(client, store):
    await add(store)
    await ask(store, arguments={"text": "<script>"}, why="Ada asked & waits.")
    html = (await client.get("/ui/approvals")).text
    assert "Ada asked &amp; waits." in html
    assert "&lt;script&gt;" in html
    assert "<script>" not in html.partition("<main")[2]
    assert 'data-approval="a1"' in html
    assert "Approve</button>" in html
    assert "Deny</button>" in html


async def test_the_page_shows_who_has_decided_and_what(client, store):
    await add(store)
    await ask(store)
    await decide(store, comment="Go on.", arguments={"text": "Dear Ada"})
    html = (await client.get("/ui/approvals")).text
    assert "Nothing waits." in html
    assert "Grace by the page" in html
    assert "Go on." in html
    assert "What it had asked for" in html


async def test_the_first_page_counts_what_waits_and_the_tasks_page_has_it(client, parked):
    assert "1 call waits for your approval" in (await client.get("/")).text
    html = (await client.get("/ui/tasks/t1")).text
    assert 'data-approval="a1"' in html
    assert "a person&#39;s approval" in html or "a person's approval" in html
    await decide(parked)
    assert "for your approval" not in (await client.get("/?fresh=1&steps=yes")).text


def test_the_terminal_shows_what_will_be_done_and_no_control_characters():
    row = ApprovalRow(
        id="a1",
        task_id="t1",
        agent_id="social",
        tool="send_mail",
        arguments={"text": "one\ntwo"},
        why="Ada asked\x1b[2J.",
        status=ApprovalStatus.WAITING,
        comment=None,
        decided_at=None,
        decided_by=None,
        told_at=None,
        expires_at=None,
        created_at=datetime(2026, 11, 29, 6, tzinfo=UTC),
    )
    text = in_words(row)
    assert "social wants to call send_mail (task t1, asked 2026-11-29 06:00 UTC)" in text
    assert json.dumps("one\ntwo") in text
    assert "\x1b" not in text
