"""The contract of the Store: a copy of a request that arrives when its repeat was answered.

A caller that waits in vain for an answer asks again, under the same token. The first request may be
on its way still, and be carried out at any later time.
"""

from __future__ import annotations

import pytest
from store_calls import (
    EPOCH,
    LONG,
    SHORT,
    add,
    ask,
    begin,
    claim,
    cost,
    decide,
    lapse,
    register,
    reserve,
)

from app.store.protocol import Kept, TaskStatus


async def finish(store):
    await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)


async def release(store):
    await store.release_task("t1", "k1")


async def release_after_an_error(store):
    await store.release_task("t1", "k1", count_attempt=True, error="no")


async def go_to_another(store):
    await store.release_task("t1", "k1")
    assert (await claim(store, "another")).id == "t1"


async def park(store):
    await ask(store)
    await store.park_task("t1", "k1")


async def park_and_go_on(store):
    await park(store)
    await decide(store)


async def be_retried(store):
    await store.finish_task("t1", "k1", TaskStatus.FAILED, error="no")
    assert (await store.retry_task("t1")).status is TaskStatus.QUEUED


async def be_cancelled(store):
    await store.cancel_task("t1")
    await store.release_task("t1", "k1")


async def lose_its_lease(store):
    await store.renew_task("t1", "k1", lease=SHORT)
    await lapse()
    assert (await claim(store, "another")).id == "t1"


async def lose_its_daemon(store):
    await store.touch_worker("w1", "w1-run", {}, silent_after=LONG)
    await store.forget_worker("w1-run")


async def be_forgotten(store):
    await finish(store)
    await lapse()
    assert await store.forget_old(Kept.TASKS, older_than=SHORT, limit=10) == 1


ENDS = (
    finish,
    release,
    release_after_an_error,
    go_to_another,
    park,
    park_and_go_on,
    be_retried,
    be_cancelled,
    lose_its_lease,
    lose_its_daemon,
)
"""How a claim ends, and what its task may become."""


async def where_all_stand(store):
    return {task.id: (task.status, task.attempts) for task in await store.tasks()}


@pytest.mark.parametrize("end", [*ENDS, be_forgotten])
async def test_a_claim_that_arrives_late_takes_nothing_however_the_claim_ended(store, end):
    await add(store, "t1", max_attempts=2)
    await add(store, "t2")
    assert (await claim(store, "k1")).id == "t1"
    await end(store)
    before = await where_all_stand(store)

    assert await claim(store, "k1") is None

    assert await where_all_stand(store) == before
    assert before["t2"] == (TaskStatus.QUEUED, 0)
    assert (await claim(store, "fresh")) is not None


async def test_a_claim_that_arrives_late_takes_nothing_where_there_was_nothing(store):
    assert await claim(store, "k1") is None
    await add(store)
    assert await claim(store, "k1") is None
    assert (await claim(store, "k2")).id == "t1"


async def test_a_claim_that_arrives_late_takes_nothing_where_the_agent_was_paused(store):
    await register(store, "social")
    await add(store)
    await store.set_paused("social", "an operator")
    assert await claim(store, "k1") is None
    await store.set_paused("social", None)
    assert await claim(store, "k1") is None
    assert (await claim(store, "k2")).id == "t1"


async def test_a_token_that_holds_a_task_gets_no_other_one_for_another_agent(store):
    await add(store, "t1")
    await add(store, "t2", "content")
    assert (await claim(store, "k1")).id == "t1"
    assert await claim(store, "k1", "content") is None
    assert (await store.task("t2")).status is TaskStatus.QUEUED


@pytest.mark.parametrize("end", ENDS)
async def test_a_task_begun_at_once_is_not_begun_again_by_a_request_that_arrives_late(store, end):
    await begin(store, "t1", "k1")
    await end(store)
    before = await where_all_stand(store)
    assert await begin(store, "t1", "k1") is None
    assert await where_all_stand(store) == before


async def test_for_how_long_claims_are_remembered_is_the_callers_to_say(store):
    await add(store, "t1")
    await add(store, "t2")
    await claim(store, "k1")
    await finish(store)
    await lapse()
    assert await store.forget_old(Kept.REQUESTS, older_than=LONG, limit=10) == 0
    assert await store.forget_old(Kept.REQUESTS, older_than=SHORT, limit=10) == 1
    assert (await claim(store, "k1")).id == "t2"


# Money.


async def test_money_is_not_set_aside_again_by_a_request_that_arrives_when_the_call_is_booked(
    store,
):
    assert await reserve(store, "b1", amount=6)
    await store.record_cost(cost("c1", 6.0), reservation="b1")
    assert await reserve(store, "b1", amount=6), "it was granted"
    assert await reserve(store, "b2", amount=4)


async def test_a_call_that_came_to_nothing_is_not_booked_by_a_request_that_arrives_late(store):
    assert await reserve(store, "b1", amount=6, task_id="t1")
    await store.release_budget("b1")
    assert await reserve(store, "b1", amount=6, task_id="t1", lifetime=SHORT)
    await lapse()
    assert (await store.settle_task("t1")).cost_usd == 0.0
    assert await store.costs(since=EPOCH) == []


async def test_what_was_not_granted_may_be_asked_for_again(store):
    assert await reserve(store, "b1", amount=6)
    assert not await reserve(store, "b2", amount=6)
    await store.release_budget("b1")
    assert await reserve(store, "b2", amount=6)
    assert not await reserve(store, "b3", amount=6)
