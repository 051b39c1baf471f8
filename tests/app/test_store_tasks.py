"""The contract of the Store: the queue of tasks.

Here and there a test really waits, for hundredths of a second, so that a lease or another span
runs out: time is the database's, and no virtual clock moves that.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from store_calls import (
    LONG,
    SHORT,
    add,
    claim,
    claimed_ids,
    lapse,
)

from app.store.protocol import (
    Lease,
    StoreError,
    TaskStatus,
)


async def test_a_new_task_is_queued_with_what_it_was_given(store):
    task = await add(store, context={"post": "ü", "n": [1, 2.5, None]}, priority=7, max_attempts=5)
    assert task == await store.task("t1")
    assert (task.id, task.agent_type, task.goal) == ("t1", "social", "do it")
    assert task.context == {"post": "ü", "n": [1, 2.5, None]}
    assert (task.priority, task.max_attempts, task.attempts) == (7, 5, 0)
    assert task.status is TaskStatus.QUEUED
    assert task.cancel_requested is False
    assert task.created_at.utcoffset() == timedelta(0)
    assert (task.worker_id, task.lease_until, task.started_at, task.finished_at) == (None,) * 4


async def test_a_task_without_a_context_has_an_empty_one(store):
    assert (await add(store)).context == {}


async def test_adding_a_task_again_returns_it_unchanged(store):
    first = await add(store, priority=1)
    await claim(store)
    again = await store.add_task("t1", "content", "something else", priority=9)
    assert (again.goal, again.agent_type, again.priority) == ("do it", "social", 1)
    assert again.status is TaskStatus.RUNNING
    assert again.created_at == first.created_at


async def test_a_context_that_is_no_json_is_refused(store):
    for context in ({"x": object()}, {"x": float("nan")}, {"x": float("inf")}):
        with pytest.raises(StoreError, match="JSON"):
            await add(store, context=context)
    assert await store.tasks() == []


async def test_texts_come_back_as_they_were(store):
    goal = "line one\nline two\t'quotes\" -- ; drop table \U0001f600 " + "x" * 50_000
    await store.add_task("t1", "social", goal)
    assert (await store.task("t1")).goal == goal


UNHOLDABLE = "nul \0, half a \ud83d pair"
HELD = "nul \ufffd, half a \ufffd pair"


async def test_what_no_database_holds_in_a_text_is_replaced(store):
    """A tool that hands on what it read must not lose the rest of it."""
    await store.add_task("t1", "social", UNHOLDABLE, context={UNHOLDABLE: [UNHOLDABLE]})
    await claim(store)
    await store.finish_task(
        "t1", "k1", TaskStatus.FAILED, result={"a": UNHOLDABLE}, error=UNHOLDABLE
    )
    task = await store.task("t1")
    assert (task.goal, task.context, task.result, task.error) == (
        HELD,
        {HELD: [HELD]},
        {"a": HELD},
        HELD,
    )


async def test_a_backslash_before_what_looks_like_nul_stays(store):
    task = await add(store, context={"path": "C:\\u0000", "text": "\\u0000"})
    assert task.context == {"path": "C:\\u0000", "text": "\\u0000"}


async def test_an_unknown_task_is_none(store):
    assert await store.task("nothing") is None
    assert await store.cancel_task("nothing") is None
    assert await store.retry_task("nothing") is None


async def test_tasks_are_listed_newest_first_and_bounded(store):
    for number in range(6):
        await add(store, f"t{number}")
    assert [task.id for task in await store.tasks(limit=3)] == ["t5", "t4", "t3"]
    assert await store.tasks(limit=0) == []


async def test_tasks_are_listed_by_status_and_agent(store):
    await add(store, "t1", "social")
    await add(store, "t2", "content")
    await add(store, "t3", "social")
    await claim(store)

    async def ids(**conditions):
        return [task.id for task in await store.tasks(**conditions)]

    assert await ids(agent_type="social") == ["t3", "t1"]
    assert await ids(status=TaskStatus.RUNNING) == ["t1"]
    assert await ids(status=TaskStatus.QUEUED, agent_type="social") == ["t3"]
    assert await ids(status=TaskStatus.FAILED) == []


async def test_tasks_are_counted_by_agent_and_status(store):
    assert await store.count_tasks() == {}
    for number in range(3):
        await add(store, f"s{number}", "social")
    await add(store, "c0", "content")
    await claim(store)
    assert await store.count_tasks() == {
        "social": {TaskStatus.QUEUED: 2, TaskStatus.RUNNING: 1},
        "content": {TaskStatus.QUEUED: 1},
    }


async def test_an_empty_queue_gives_nothing(store):
    assert await claim(store) is None


async def test_a_claimed_task_is_running_under_a_lease(store):
    await add(store)
    before = await store.ping()
    task = await claim(store, lease=30)
    assert task == await store.task("t1")
    assert (task.status, task.attempts, task.worker_id) == (TaskStatus.RUNNING, 1, "w1")
    assert before <= task.started_at
    assert timedelta(seconds=29) < task.lease_until - before < timedelta(seconds=35)


async def test_tasks_of_other_agents_are_not_claimed(store):
    await add(store, agent_type="content")
    assert await claim(store, agent_type="social") is None


async def test_priority_goes_before_age(store):
    for number, priority in enumerate([0, 5, -3, 5, 0]):
        await add(store, f"t{number}", priority=priority)
    assert await claimed_ids(store) == ["t1", "t3", "t0", "t4", "t2"]


async def test_a_task_is_claimed_once(store):
    await add(store)
    assert await claim(store, "k1") is not None
    assert await claim(store, "k2") is None


async def test_the_same_token_claims_the_same_task_again(store):
    await add(store, "t1")
    await add(store, "t2")
    first = await claim(store, "k1")
    again = await claim(store, "k1")
    assert again == first
    assert [task.id for task in await store.tasks(status=TaskStatus.QUEUED)] == ["t2"]


async def test_a_lease_of_no_length_in_time_is_refused(store):
    await add(store)
    for lease in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="duration"):
            await claim(store, lease=lease)
    assert (await store.task("t1")).status is TaskStatus.QUEUED


async def test_twenty_claimers_claim_five_hundred_tasks_once_each(open_store):
    stores = [await open_store() for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for part in range(10):

            async def fill(part=part):
                for number in range(50):
                    await add(stores[part % 4], f"t{part * 50 + number}", priority=number % 3)

            nursery.start_soon(fill)
    claimed = []

    async def claimer(name, store):
        for number in range(10_000):
            task = await claim(store, f"{name}-{number}", worker=name)
            if task is None:
                return
            claimed.append(task.id)
            assert await store.finish_task(task.id, f"{name}-{number}", TaskStatus.SUCCEEDED)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(claimer, f"w{number}", stores[number % 4])
    assert len(claimed) == 500
    assert len(set(claimed)) == 500
    assert await stores[0].count_tasks() == {"social": {TaskStatus.SUCCEEDED: 500}}
    assert {task.attempts for task in await stores[0].tasks(limit=500)} == {1}


async def test_a_lease_that_ran_out_gives_the_task_to_the_next(store):
    await add(store)
    await claim(store, "late", lease=SHORT, worker="slow")
    await lapse()
    task = await claim(store, "k2", worker="quick")
    assert (task.id, task.attempts, task.worker_id) == ("t1", 2, "quick")
    assert "slow" in task.error


async def test_a_renewed_lease_does_not_run_out(store):
    await add(store)
    await claim(store, lease=SHORT)
    assert await store.renew_task("t1", "k1", lease=LONG) is Lease.HELD
    await lapse()
    assert await claim(store, "k2") is None


async def test_a_renewed_lease_ends_that_long_from_now(store):
    await add(store)
    await claim(store)
    await store.renew_task("t1", "k1", lease=300)
    left = (await store.task("t1")).lease_until - await store.ping()
    assert timedelta(seconds=290) < left <= timedelta(seconds=300)


async def test_a_lease_that_ran_out_is_held_until_another_claims(store):
    await add(store)
    await claim(store, lease=SHORT)
    await lapse()
    assert await store.renew_task("t1", "k1", lease=LONG) is Lease.HELD
    assert await claim(store, "k2") is None


async def test_a_late_worker_cannot_renew_finish_or_release(store):
    await add(store)
    await claim(store, "late", lease=SHORT)
    await lapse()
    await claim(store, "k2")
    assert await store.renew_task("t1", "late", lease=LONG) is Lease.LOST
    assert await store.finish_task("t1", "late", TaskStatus.FAILED, error="late") is False
    assert await store.release_task("t1", "late") is False
    task = await store.task("t1")
    assert (task.status, task.attempts) == (TaskStatus.RUNNING, 2)
    assert await store.finish_task("t1", "k2", TaskStatus.SUCCEEDED, result={"by": "k2"}) is True


async def test_a_late_worker_cannot_overwrite_a_result(store):
    await add(store)
    await claim(store, "late", lease=SHORT)
    await lapse()
    await claim(store, "k2")
    await store.finish_task("t1", "k2", TaskStatus.SUCCEEDED, result={"by": "k2"})
    assert await store.finish_task("t1", "late", TaskStatus.FAILED, error="late") is False
    task = await store.task("t1")
    assert (task.status, task.result, task.error) == (TaskStatus.SUCCEEDED, {"by": "k2"}, None)


async def test_after_the_last_attempt_a_lost_lease_fails_the_task_with_the_reason(store):
    await add(store, max_attempts=2)
    for attempt in (1, 2):
        assert (await claim(store, f"k{attempt}", lease=SHORT)).attempts == attempt
        await lapse()
    assert await claim(store, "k3") is None
    task = await store.task("t1")
    assert (task.status, task.attempts) == (TaskStatus.FAILED, 2)
    assert "lease" in task.error
    assert "2 of 2" in task.error
    assert task.finished_at is not None
    assert task.worker_id == "w1"


async def test_a_task_taken_back_keeps_its_place_in_the_queue(store):
    await add(store, "old")
    await add(store, "new")
    await claim(store, "k1", lease=SHORT)
    await lapse()
    assert await claimed_ids(store) == ["old", "new"]


async def test_renewing_what_was_never_claimed_is_lost(store):
    await add(store)
    assert await store.renew_task("t1", "k1", lease=LONG) is Lease.LOST
    assert await store.renew_task("nothing", "k1", lease=LONG) is Lease.LOST


@pytest.mark.parametrize(
    ("status", "result", "error"),
    [
        (TaskStatus.SUCCEEDED, {"answer": [1, {"a": "ü"}]}, None),
        (TaskStatus.FAILED, None, "out of ideas"),
        (TaskStatus.CANCELLED, None, "asked to"),
    ],
)
async def test_a_finished_task_keeps_its_result_and_error(store, status, result, error):
    await add(store)
    await claim(store)
    assert await store.finish_task("t1", "k1", status, result=result, error=error) is True
    task = await store.task("t1")
    assert (task.status, task.result, task.error) == (status, result, error)
    assert task.started_at <= task.finished_at
    assert task.lease_until is None
    assert await claim(store, "k2") is None


@pytest.mark.parametrize("status", [TaskStatus.QUEUED, TaskStatus.RUNNING])
async def test_a_task_is_not_finished_as_something_that_is_not_final(store, status):
    await add(store)
    await claim(store)
    with pytest.raises(ValueError, match=status.value):
        await store.finish_task("t1", "k1", status)


async def test_the_error_of_an_earlier_attempt_does_not_stay_on_a_success(store):
    await add(store)
    await claim(store)
    await store.release_task("t1", "k1", count_attempt=True, error="first try failed")
    assert (await store.task("t1")).error == "first try failed"
    await claim(store, "k2")
    await store.finish_task("t1", "k2", TaskStatus.SUCCEEDED)
    assert (await store.task("t1")).error is None


async def test_a_release_without_a_reason_keeps_the_error_of_an_earlier_attempt(store):
    await add(store)
    await claim(store)
    await store.release_task("t1", "k1", count_attempt=True, error="first try failed")
    await claim(store, "k2")
    await store.release_task("t1", "k2")
    task = await store.task("t1")
    assert (task.error, task.attempts) == ("first try failed", 1)


async def test_finishing_what_was_never_claimed_is_lost(store):
    await add(store)
    assert await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED) is False
    assert await store.finish_task("nothing", "k1", TaskStatus.SUCCEEDED) is False
    assert (await store.task("t1")).status is TaskStatus.QUEUED


async def test_a_released_task_is_queued_and_the_attempt_not_counted(store):
    await add(store, max_attempts=1)
    for number in range(3):
        assert (await claim(store, f"k{number}")).attempts == 1
        assert await store.release_task("t1", f"k{number}") is True
        task = await store.task("t1")
        assert (task.status, task.attempts, task.worker_id) == (TaskStatus.QUEUED, 0, None)
        assert (task.started_at, task.finished_at, task.lease_until) == (None, None, None)


async def test_a_counted_release_of_the_last_attempt_fails_with_the_error(store):
    await add(store, max_attempts=2)
    await claim(store, "k1")
    await store.release_task("t1", "k1", count_attempt=True, error="first")
    await claim(store, "k2")
    assert await store.release_task("t1", "k2", count_attempt=True, error="second") is True
    task = await store.task("t1")
    assert (task.status, task.attempts, task.error) == (TaskStatus.FAILED, 2, "second")
    assert task.finished_at is not None
    assert task.not_before is None


async def test_a_task_released_with_a_delay_waits_that_long(store):
    await add(store)
    await claim(store, "k1")
    await store.release_task("t1", "k1", delay=LONG)
    assert await claim(store, "k2") is None
    left = (await store.task("t1")).not_before - await store.ping()
    assert timedelta(seconds=LONG / 2) < left <= timedelta(seconds=LONG)


async def test_a_task_whose_delay_is_over_is_claimed(store):
    await add(store)
    await claim(store, "k1")
    await store.release_task("t1", "k1", delay=SHORT)
    await lapse()
    task = await claim(store, "k2")
    assert task.id == "t1"
    assert task.not_before is None


async def test_a_task_that_waits_holds_up_no_other(store):
    await add(store, "waits", priority=9)
    await claim(store, "k1")
    await store.release_task("waits", "k1", delay=LONG)
    await add(store, "ready", priority=0)
    assert await claimed_ids(store) == ["ready"]


async def test_a_released_task_cannot_be_released_or_finished_by_a_stranger(store):
    await add(store)
    await claim(store)
    assert await store.release_task("t1", "stranger") is False
    assert (await store.task("t1")).status is TaskStatus.RUNNING


async def test_a_late_repeat_of_a_release_does_not_take_the_task_from_the_next(store):
    await add(store)
    await claim(store, "k1")
    await store.release_task("t1", "k1")
    await claim(store, "k2")
    await store.release_task("t1", "k1")
    assert await store.renew_task("t1", "k2", lease=LONG) is Lease.HELD


async def test_a_queued_task_is_cancelled_at_once(store):
    await add(store)
    task = await store.cancel_task("t1")
    assert task == await store.task("t1")
    assert task.status is TaskStatus.CANCELLED
    assert task.finished_at is not None
    assert await claim(store) is None


async def test_a_running_task_is_asked_to_be_cancelled(store):
    await add(store)
    await claim(store)
    task = await store.cancel_task("t1")
    assert (task.status, task.cancel_requested) == (TaskStatus.RUNNING, True)
    assert await store.renew_task("t1", "k1", lease=LONG) is Lease.CANCEL_REQUESTED
    assert await store.finish_task("t1", "k1", TaskStatus.CANCELLED) is True
    assert (await store.task("t1")).status is TaskStatus.CANCELLED


async def test_a_task_that_succeeded_before_it_saw_the_cancelling_has_succeeded(store):
    await add(store)
    await claim(store)
    await store.cancel_task("t1")
    assert await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED, result={}) is True
    assert (await store.task("t1")).status is TaskStatus.SUCCEEDED


async def test_a_task_to_be_cancelled_is_not_queued_again_by_a_release(store):
    await add(store)
    await claim(store)
    await store.cancel_task("t1")
    assert await store.release_task("t1", "k1", delay=LONG) is True
    task = await store.task("t1")
    assert (task.status, task.not_before) == (TaskStatus.CANCELLED, None)


async def test_a_task_to_be_cancelled_is_not_queued_again_by_a_lost_lease(store):
    await add(store)
    await claim(store, lease=SHORT)
    await store.cancel_task("t1")
    await lapse()
    assert await claim(store, "k2") is None
    assert (await store.task("t1")).status is TaskStatus.CANCELLED


async def test_a_running_task_whose_lease_ran_out_is_cancelled_at_once(store):
    await add(store)
    await claim(store, lease=SHORT)
    await lapse()
    assert (await store.cancel_task("t1")).status is TaskStatus.CANCELLED
    assert await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED) is False


async def test_what_is_over_cannot_be_cancelled(store):
    await add(store)
    await claim(store)
    await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED, result={"x": 1})
    before = await store.task("t1")
    assert await store.cancel_task("t1") == before


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.CANCELLED])
async def test_a_task_tried_again_has_all_its_attempts_before_it(store, status):
    await add(store, max_attempts=1, priority=4)
    await claim(store)
    await store.cancel_task("t1")
    await store.finish_task("t1", "k1", status, error="no")
    task = await store.retry_task("t1")
    assert (task.status, task.attempts, task.error) == (TaskStatus.QUEUED, 0, None)
    assert (task.cancel_requested, task.finished_at, task.started_at) == (False, None, None)
    assert task.priority == 4
    assert (await claim(store, "k2")).attempts == 1
    assert await store.renew_task("t1", "k2", lease=LONG) is Lease.HELD


async def test_only_failed_and_cancelled_tasks_are_tried_again(store):
    queued = await add(store, "t1")
    assert await store.retry_task("t1") == queued
    running = await claim(store)
    assert await store.retry_task("t1") == running
    await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED, result={"x": 1})
    succeeded = await store.task("t1")
    assert await store.retry_task("t1") == succeeded


async def test_the_worker_of_a_failed_task_cannot_end_the_next_try(store):
    await add(store)
    await claim(store)
    await store.finish_task("t1", "k1", TaskStatus.FAILED, error="no")
    await store.retry_task("t1")
    assert await store.finish_task("t1", "k1", TaskStatus.FAILED, error="no") is False
    assert (await store.task("t1")).status is TaskStatus.QUEUED
