"""Approvals in the store: asked once, decided once, and the tasks that wait for them."""

from __future__ import annotations

import pytest
import trio
from store_calls import LONG, MAIL, SHORT, add, ask, claim, claimed_ids, decide, lapse, turn

from app.store.approvals.sqlite import TASK_IS_OVER
from app.store.protocol import ApprovalStatus, Kept, TaskStatus


@pytest.fixture
async def parked(store):
    """A store with a task that waits for an approval."""
    await add(store)
    await claim(store, "k1")
    await ask(store)
    assert await store.park_task("t1", "k1")
    return store


async def test_what_is_asked_is_kept_whole(store):
    await add(store)
    asked = await ask(store, expires_in=LONG)
    assert (asked.tool, asked.arguments, asked.why) == ("send_mail", MAIL, "Ada asked for it.")
    assert asked.status is ApprovalStatus.WAITING
    assert asked.expires_at > asked.created_at
    assert (asked.decided_at, asked.decided_by, asked.told_at) == (None, None, None)
    assert await store.approval("a1") == asked
    assert await store.approval("another") is None


async def test_asked_again_it_is_the_same_approval_with_its_answer(store):
    await add(store)
    first = await ask(store)
    assert await ask(store, "a2") == first
    decided = await decide(store, comment="Go on.")
    assert await ask(store, "a3") == decided
    assert len(await store.approvals()) == 1


async def test_a_task_that_waits_has_no_worker_and_no_lease_and_the_attempt_does_not_count(parked):
    task = await parked.task("t1")
    assert (task.status, task.attempts) == (TaskStatus.WAITING, 0)
    assert (task.worker_id, task.lease_until, task.finished_at) == (None, None, None)
    assert await claimed_ids(parked) == []
    assert (await parked.count_tasks())["social"] == {TaskStatus.WAITING: 1}
    assert await parked.oldest_queued() == {}
    assert [each.id for each in await parked.tasks(status=TaskStatus.WAITING)] == ["t1"]


async def test_the_claim_of_a_parked_task_is_over(parked):
    assert await parked.park_task("t1", "k1"), "its answer was lost"
    assert not await parked.finish_task("t1", "other", TaskStatus.FAILED)
    assert await parked.record_turn(turn("late"), token="k1") is False
    assert not await parked.park_task("t1", "other")


@pytest.mark.parametrize(
    ("approve", "status"), [(True, ApprovalStatus.APPROVED), (False, ApprovalStatus.DENIED)]
)
async def test_a_decision_is_kept_with_who_and_when_and_the_task_is_queued_again(
    parked, approve, status
):
    decided = await decide(parked, approve=approve, comment="As you said.")
    assert (decided.status, decided.comment) == (status, "As you said.")
    assert decided.decided_by == "Grace by the page"
    assert decided.decided_at >= decided.created_at
    assert (decided.arguments, decided.asked) == (MAIL, None)
    task = await claim(parked, "k2")
    assert (task.id, task.attempts) == ("t1", 1)


async def test_the_first_decision_stands(parked):
    first = await decide(parked)
    assert await decide(parked, approve=False, comment="No!") == first


async def test_of_decisions_at_once_exactly_one_counts(parked, open_store):
    answers = []

    async def press(approve):
        other = await open_store()
        answers.append(await decide(other, approve=approve, comment=str(approve)))

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(press, number % 2 == 0)
    assert len({(answer.status, answer.comment, answer.decided_at) for answer in answers}) == 1


async def test_other_arguments_may_be_approved_and_what_was_asked_is_kept_too(parked):
    edited = {**MAIL, "text": "Dear Ada"}
    decided = await decide(parked, arguments=edited)
    assert (decided.arguments, decided.asked) == (edited, MAIL)


async def test_a_task_goes_on_when_the_last_of_its_approvals_is_decided(store):
    await add(store)
    await claim(store, "k1")
    await ask(store, "a1", about="one")
    await ask(store, "a2", about="two")
    await store.park_task("t1", "k1")
    await decide(store, "a1")
    assert (await store.task("t1")).status is TaskStatus.WAITING
    await decide(store, "a2", approve=False)
    assert (await store.task("t1")).status is TaskStatus.QUEUED


async def test_what_is_decided_before_its_task_is_parked_does_not_leave_it_waiting(store):
    await add(store)
    await claim(store, "k1")
    await ask(store)
    await decide(store)
    assert (await store.task("t1")).status is TaskStatus.RUNNING
    assert await store.park_task("t1", "k1")
    assert (await store.task("t1")).status is TaskStatus.QUEUED


async def test_parking_and_deciding_at_once_never_leaves_a_task_waiting(open_store):
    store, other = await open_store(), await open_store()
    for number in range(20):
        task_id, approval_id = f"t{number}", f"a{number}"
        await add(store, task_id)
        await claim(store, f"k{number}")
        await ask(store, approval_id, task_id=task_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.park_task, task_id, f"k{number}")
            nursery.start_soon(decide, other, approval_id)
        assert (await store.task(task_id)).status is TaskStatus.QUEUED
        await store.cancel_task(task_id)


async def test_an_approval_that_nobody_decides_in_time_expires_and_its_task_goes_on(store):
    await add(store)
    await claim(store, "k1")
    await ask(store, expires_in=SHORT)
    await store.park_task("t1", "k1")
    await lapse()
    (expired,) = await store.expire_approvals()
    assert (expired.status, expired.decided_by) == (ApprovalStatus.EXPIRED, None)
    assert expired.decided_at is not None
    assert (await store.task("t1")).status is TaskStatus.QUEUED
    assert await store.expire_approvals() == []
    assert await ask(store, "a2") == expired, "and is not asked again"


async def test_a_decision_that_comes_too_late_is_none(store):
    await add(store)
    await ask(store, expires_in=SHORT)
    await lapse()
    assert (await decide(store)).status is ApprovalStatus.EXPIRED


async def test_without_a_time_it_waits_for_ever(parked):
    await lapse()
    assert await parked.expire_approvals() == []
    assert (await parked.approval("a1")).status is ApprovalStatus.WAITING


async def test_a_task_that_waits_is_cancelled_at_once_and_its_question_is_withdrawn(parked):
    assert (await parked.cancel_task("t1")).status is TaskStatus.CANCELLED
    withdrawn = await parked.approval("a1")
    assert (withdrawn.status, withdrawn.comment) == (ApprovalStatus.EXPIRED, TASK_IS_OVER)
    assert (await decide(parked)).status is ApprovalStatus.EXPIRED
    assert (await parked.task("t1")).status is TaskStatus.CANCELLED


async def test_a_task_that_was_cancelled_and_is_wanted_again_asks_anew(parked):
    await parked.cancel_task("t1")
    await parked.retry_task("t1")
    assert (await ask(parked, "a2")).status is ApprovalStatus.WAITING
    assert [row.id for row in await parked.approvals()] == ["a2", "a1"]


async def test_a_task_whose_cancelling_was_asked_for_is_not_parked_but_cancelled(store):
    await add(store)
    await claim(store, "k1")
    await ask(store)
    await store.cancel_task("t1")
    assert await store.park_task("t1", "k1")
    assert (await store.task("t1")).status is TaskStatus.CANCELLED


async def test_what_a_task_that_is_over_has_asked_for_expires(store):
    await add(store)
    await claim(store, "k1")
    await ask(store)
    await store.finish_task("t1", "k1", TaskStatus.FAILED)
    (expired,) = await store.expire_approvals()
    assert expired.comment == TASK_IS_OVER


async def test_a_task_that_waits_is_not_retried(parked):
    assert (await parked.retry_task("t1")).status is TaskStatus.WAITING


@pytest.mark.parametrize("what", [Kept.TURNS, Kept.EFFECTS, Kept.APPROVALS])
async def test_what_a_task_that_waits_needs_is_kept_until_it_is_over(store, what):
    await add(store)
    await claim(store, "k1")
    await store.record_turn(turn("said"), token="k1")
    await store.begin_effect("mail", agent_id="social", task_id="t1")
    await ask(store, "a1")
    await decide(store, "a1")
    await ask(store, "a2", about="use 2")
    await store.park_task("t1", "k1")
    await lapse()
    assert await store.forget_old(what, older_than=0.0, limit=10) == 0
    await store.cancel_task("t1")
    await lapse()
    assert await store.forget_old(what, older_than=0.0, limit=10) > 0


async def test_approvals_are_listed_newest_first_by_status_and_by_task(store):
    await add(store, "t1")
    await add(store, "t2")
    await ask(store, "a1")
    await ask(store, "a2", task_id="t2")
    await ask(store, "a3", about="use 2")
    await decide(store, "a1")
    assert [row.id for row in await store.approvals()] == ["a3", "a2", "a1"]
    assert [row.id for row in await store.approvals(limit=1)] == ["a3"]
    waiting = await store.approvals(status=ApprovalStatus.WAITING)
    assert [row.id for row in waiting] == ["a3", "a2"]
    assert [row.id for row in await store.approvals(task_id="t2")] == ["a2"]
    assert await store.count_waiting_approvals() == 2


async def test_that_the_operator_was_told_is_kept(parked):
    await parked.told_approval("a1")
    first = (await parked.approval("a1")).told_at
    await parked.told_approval("a1")
    assert (await parked.approval("a1")).told_at == first is not None
