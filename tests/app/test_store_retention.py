"""The contract of the Store: what is deleted when it is old, and the sums that are kept."""

from __future__ import annotations

from datetime import timedelta

import pytest
from store_calls import EPOCH, LONG, NOON, SHORT, add, claim, cost, lapse, tool_call, turn

from app.store.protocol import Effect, Kept, RunOutcome, TaskStatus


async def forget(store, what, *, older_than=SHORT, limit=100):
    return await store.forget_old(what, older_than=older_than, limit=limit)


async def finish(store, task_id, status=TaskStatus.SUCCEEDED):
    await add(store, task_id, priority=9)
    await claim(store, f"of {task_id}")
    assert await store.finish_task(task_id, f"of {task_id}", status)


async def test_of_old_turns_the_oldest_are_forgotten_first(store):
    for name in ("one", "two", "three"):
        await store.record_turn(turn(name))
    await lapse()
    assert await forget(store, Kept.TURNS, older_than=LONG) == 0
    assert await forget(store, Kept.TURNS, limit=2) == 2
    assert [each.id for each in await store.turns("t1")] == ["three"]
    assert await forget(store, Kept.TURNS) == 1
    assert await store.turns("t1") == []


async def test_of_tasks_those_that_are_over_are_forgotten_with_what_was_said(store):
    await finish(store, "t1")
    await store.record_turn(turn("said", task_id="t1"))
    await add(store, "t2")
    await add(store, "t3")
    await claim(store, "k3")
    await lapse()
    assert await forget(store, Kept.TASKS, older_than=LONG) == 0
    assert await forget(store, Kept.TASKS) == 1
    assert {task.id for task in await store.tasks()} == {"t2", "t3"}
    assert await store.turns("t1") == []


async def test_of_runs_those_that_ended_are_forgotten(store):
    await store.start_run("r1", "social", "w1-run")
    await store.start_run("r2", "social", "w1-run")
    await store.finish_run("r1", RunOutcome.STOPPED)
    await lapse()
    assert await forget(store, Kept.RUNS) == 1
    assert [run.id for run in await store.runs("social")] == ["r2"]


async def test_of_fires_the_latest_of_each_job_stays(store):
    for day in range(3):
        moment = NOON + timedelta(days=day)
        await store.claim_fire("daily", moment, "w1-run")
        await store.finish_fire("daily", moment, "succeeded", None)
    await lapse()
    assert await forget(store, Kept.FIRES) == 2
    assert await forget(store, Kept.FIRES) == 0
    assert await store.last_fire("daily") == NOON + timedelta(days=2)


async def test_calls_effects_and_daemons_that_ended_are_forgotten(store):
    await store.record_tool_call(tool_call("c1"))
    await store.begin_effect("e1", agent_id="social", task_id=None)
    await store.touch_worker("w1", "w1-run", {}, silent_after=LONG)
    await store.touch_worker("w2", "w2-run", {}, silent_after=LONG)
    await store.forget_worker("w1-run")
    await lapse()
    assert await forget(store, Kept.TOOL_CALLS) == 1
    assert await store.tool_calls() == []
    assert await forget(store, Kept.EFFECTS) == 1
    again = await store.begin_effect("e1", agent_id="social", task_id=None)
    assert again.state is Effect.NEW
    assert await forget(store, Kept.WORKERS) == 1
    assert len(await store.live_workers()) == 1


async def test_the_sums_of_costs_outlast_the_costs(store):
    await store.record_cost(cost("c1", 1.5))
    await store.record_cost(cost("c2", 2.0, model="haiku"))
    await store.record_cost(cost("c2", 99.0, model="haiku"))
    before = await store.costs(since=EPOCH)
    assert [(each.model, each.calls, each.cost_usd) for each in before] == [
        ("haiku", 1, 2.0),
        ("opus", 1, 1.5),
    ]
    await lapse()
    assert await forget(store, Kept.COSTS) == 2
    assert await store.costs(since=EPOCH) == before


async def test_costs_since_a_moment_within_a_day_leave_out_what_came_before(store):
    await store.record_cost(cost("c1", 1.0))
    await lapse()
    moment = await store.ping()
    await lapse()
    await store.record_cost(cost("c2", 2.0))
    assert sum(each.cost_usd for each in await store.costs(since=moment)) == 2.0
    assert sum(each.cost_usd for each in await store.costs(since=EPOCH)) == 3.0
    tomorrow = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert await store.costs(since=tomorrow) == []


@pytest.mark.parametrize("limit", [1, 100])
async def test_the_counts_of_tasks_are_those_of_the_tasks_there_are(store, limit):
    for number in range(4):
        await finish(store, f"s{number}")
    await finish(store, "f", TaskStatus.FAILED)
    await add(store, "q")
    await add(store, "c", "content")
    await store.cancel_task("c")
    await store.retry_task("f")
    expected = {
        "social": {TaskStatus.SUCCEEDED: 4, TaskStatus.QUEUED: 2},
        "content": {TaskStatus.CANCELLED: 1},
    }
    assert await store.count_tasks() == expected
    await lapse()
    while await forget(store, Kept.TASKS, limit=limit):
        pass
    assert await store.count_tasks() == {"social": {TaskStatus.QUEUED: 2}}
