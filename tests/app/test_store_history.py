"""The contract of the Store: what became of tasks over time, by sums that are kept."""

from __future__ import annotations

from datetime import timedelta

import trio
from store_calls import add, claim, claimed_ids, lapse

from app.store.protocol import Kept, TaskStatus

DAY = timedelta(days=1)


async def today(store):
    """Return the sums of the day up to now, by agent; nothing was before it."""
    now = await store.ping()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    rows = await store.task_history([midnight - 2 * DAY, midnight - DAY])
    assert {row.since for row in rows} <= {midnight - DAY, midnight - 2 * DAY}
    return {row.agent_type: row for row in rows}


def ended(row):
    return row.succeeded, row.failed, row.cancelled


async def test_tasks_that_end_are_counted_by_agent_and_by_how_they_ended(store):
    assert await today(store) == {}
    for number, status in enumerate(["succeeded", "succeeded", "failed"]):
        await add(store, f"t{number}")
        await claim(store, f"k{number}")
        await store.finish_task(f"t{number}", f"k{number}", TaskStatus(status))
    await add(store, "c", "content")
    await store.cancel_task("c")
    await add(store, "open")
    found = await today(store)
    assert {name: ended(row) for name, row in found.items()} == {
        "social": (2, 1, 0),
        "content": (0, 0, 1),
    }
    assert (found["social"].begun, found["content"].begun) == (3, 0)


async def test_a_task_that_is_retried_ends_twice(store):
    await add(store, max_attempts=1)
    for token in ("k1", "k2"):
        await claim(store, token)
        await store.release_task("t1", token, count_attempt=True, error="no")
        await store.retry_task("t1")
    row = (await today(store))["social"]
    assert ended(row) == (0, 2, 0)
    assert row.begun == 2


async def test_a_wait_is_from_when_a_task_could_have_been_claimed(store):
    await add(store, "t1")
    await trio.sleep(0.1)
    await claim(store, "k1")
    waited = (await today(store))["social"].waited
    assert waited >= 0.1
    now = await store.ping()
    await add(store, "t2", "content", not_before=now + timedelta(seconds=0.3))
    while not await claimed_ids(store, "content"):  # noqa: ASYNC110  (no event tells)
        await trio.sleep(0.02)
    row = (await today(store))["content"]
    assert row.begun == 1
    assert 0 <= row.waited < 0.3


async def test_the_time_of_an_attempt_and_until_a_retry_is_no_wait(store):
    await add(store)
    await claim(store, "k1")
    await trio.sleep(0.3)
    await store.release_task("t1", "k1")
    await claim(store, "k2")
    await store.finish_task("t1", "k2", TaskStatus.FAILED, error="no")
    await trio.sleep(0.3)
    await store.retry_task("t1")
    await claim(store, "k3")
    row = (await today(store))["social"]
    assert row.begun == 3
    assert row.waited < 0.3


async def test_the_sums_stay_when_the_tasks_are_deleted(store):
    await add(store)
    await claim(store)
    await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
    before = await today(store)
    await lapse()
    assert await store.forget_old(Kept.TASKS, older_than=0.0, limit=10) == 1
    assert await today(store) == before


async def test_a_span_begins_with_its_edge(store):
    await add(store)
    await claim(store)
    await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
    now = await store.ping()
    assert await store.task_history([now + timedelta(hours=1)]) == []
    edges = [now - 3 * DAY, now - 2 * DAY, now - DAY]
    (row,) = await store.task_history(edges)
    assert row.since == edges[-1]
    assert await store.task_history([]) == []


async def test_old_sums_are_deleted_and_young_ones_stay(store):
    await add(store)
    await claim(store)
    await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
    before = await today(store)
    assert await store.forget_old(Kept.HISTORY, older_than=2 * 3600.0, limit=10) == 0
    assert await today(store) == before
    assert await store.forget_old(Kept.HISTORY, older_than=0.0, limit=10) > 0
    assert await today(store) == {}
