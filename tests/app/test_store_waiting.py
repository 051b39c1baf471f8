"""The contract of the Store: tasks that wait on purpose, one of a kind, many at once."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from store_calls import LONG, add, claim, claimed_ids

from app.store.protocol import TaskFilter, TaskStatus


async def test_a_task_is_not_begun_before_its_time_and_holds_up_no_other(store):
    later = await store.ping() + timedelta(hours=1)
    task = await add(store, "later", priority=9, not_before=later)
    assert task.not_before == later
    await add(store, "now")
    assert await claimed_ids(store) == ["now"]
    assert (await store.task("later")).status is TaskStatus.QUEUED


async def test_a_time_that_is_over_makes_no_task_wait(store):
    past = await store.ping() - timedelta(hours=1)
    assert (await add(store, not_before=past)).not_before is None
    assert await claimed_ids(store) == ["t1"]


async def test_once_its_time_has_come_a_task_is_claimed_by_priority_and_age(store):
    await add(store, "old")
    await claim(store)
    soon = await store.ping() + timedelta(seconds=0.3)
    await add(store, "soon", priority=1, not_before=soon)
    await add(store, "now")
    while await store.ping() < soon:  # noqa: ASYNC110  (the database's time)
        await trio.sleep(0.05)
    assert await claimed_ids(store) == ["soon", "now"]


async def test_a_task_that_waits_on_purpose_does_not_count_as_the_oldest(store):
    await add(store, "t1")
    await claim(store)
    await store.release_task("t1", "k1", delay=LONG)
    assert await store.oldest_queued() == {}
    await add(store, "t2", "content")
    assert (await store.oldest_queued()).keys() == {"content"}


async def test_of_one_kind_there_is_one_task_while_it_waits_or_runs(store):
    assert (await add(store, "t1", unique_key="report")).id == "t1"
    assert (await add(store, "t2", unique_key="report")).id == "t1"
    assert (await add(store, "t3", "content", unique_key="report")).id == "t3"
    assert (await add(store, "t4", unique_key="other")).id == "t4"
    await claim(store)
    assert (await add(store, "t5", unique_key="report")).id == "t1"
    await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
    assert (await add(store, "t6", unique_key="report")).id == "t6"
    assert {task.id for task in await store.tasks()} == {"t1", "t3", "t4", "t6"}


async def test_of_many_that_are_added_at_once_one_of_the_kind_is(open_store):
    stores = [await open_store() for _ in range(6)]
    ids = set()

    async def post(store, number):
        ids.add((await add(store, f"t{number}", unique_key="report")).id)

    async with trio.open_nursery() as nursery:
        for number, store in enumerate(stores):
            nursery.start_soon(post, store, number)
    assert len(ids) == len(await stores[0].tasks()) == 1


async def test_a_task_is_not_retried_while_another_of_its_kind_waits(store):
    await add(store, "t1", unique_key="report")
    await store.cancel_task("t1")
    await add(store, "t2", unique_key="report")
    assert (await store.retry_task("t1")).status is TaskStatus.CANCELLED
    await store.cancel_task("t2")
    assert (await store.retry_task("t1")).status is TaskStatus.QUEUED
    assert (await store.retry_task("t2")).status is TaskStatus.CANCELLED


async def test_a_task_keeps_its_time_out_and_its_attempts(store):
    task = await add(store, timeout=2.5, max_attempts=7)
    assert (task.timeout, task.max_attempts) == (2.5, 7)
    assert (await add(store, "t2")).timeout is None


async def fail(store, task_id):
    await claim(store, f"of {task_id}")
    assert await store.finish_task(task_id, f"of {task_id}", TaskStatus.FAILED, error="no")


@pytest.fixture
async def failed(store):
    for number in range(3):
        await store.add_task(f"t{number}", "social", f"Post number {number}")
        await fail(store, f"t{number}")
    await store.add_task("c", "content", "Draft a POST")
    await store.cancel_task("c")
    return store


async def queued(store):
    return sorted(task.id for task in await store.tasks(status=TaskStatus.QUEUED))


async def test_all_tasks_that_failed_or_were_cancelled_are_retried(failed):
    assert await failed.retry_tasks(TaskFilter()) == 4
    assert await queued(failed) == ["c", "t0", "t1", "t2"]
    assert await failed.retry_tasks(TaskFilter()) == 0


@pytest.mark.parametrize(
    ("which", "ids"),
    [
        ({"agent_type": "social"}, ["t0", "t1", "t2"]),
        ({"status": TaskStatus.CANCELLED}, ["c"]),
        ({"text": "post"}, ["c", "t0", "t1", "t2"]),
        ({"text": "NUMBER 1"}, ["t1"]),
        ({"text": "%"}, []),
        ({"status": TaskStatus.QUEUED}, []),
    ],
)
async def test_a_filter_says_which_tasks_are_retried(failed, which, ids):
    assert await failed.retry_tasks(TaskFilter(**which)) == len(ids)
    assert await queued(failed) == ids


async def test_a_filter_by_time_takes_what_was_made_in_between(failed):
    moments = {task.id: task.created_at for task in await failed.tasks()}
    which = TaskFilter(since=moments["t1"], until=moments["c"])
    later = [name for name, at in moments.items() if moments["t1"] <= at < moments["c"]]
    assert await failed.retry_tasks(which) == len(later)
    assert await queued(failed) == sorted(later)


async def test_of_many_the_oldest_are_retried_first(failed):
    assert await failed.retry_tasks(TaskFilter(), limit=2) == 2
    assert await queued(failed) == ["t0", "t1"]


async def test_of_several_of_a_kind_one_is_retried(store):
    for number in range(3):
        await add(store, f"t{number}", unique_key="report")
        await store.cancel_task(f"t{number}")
    assert await store.retry_tasks(TaskFilter()) == 1
    assert await queued(store) == ["t0"]


async def test_many_tasks_are_cancelled_at_once_and_workers_are_asked_to(store):
    for number in range(3):
        await add(store, f"t{number}")
    await add(store, "c", "content")
    await claim(store)
    assert await store.cancel_tasks(TaskFilter(agent_type="social")) == 3
    statuses = {task.id: (task.status, task.cancel_requested) for task in await store.tasks()}
    assert statuses == {
        "t0": (TaskStatus.RUNNING, True),
        "t1": (TaskStatus.CANCELLED, False),
        "t2": (TaskStatus.CANCELLED, False),
        "c": (TaskStatus.QUEUED, False),
    }
