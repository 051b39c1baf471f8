"""Conversations and money in the store: what is recorded under which claim, and what is booked."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from store_calls import (
    EPOCH,
    LONG,
    SHORT,
    add,
    begin,
    claim,
    cost,
    lapse,
    reserve,
    tool_call,
    turn,
)

from app.store.protocol import Effect, Limits, Reservation, Scope, TaskStatus

SAID = [{"type": "thinking", "thinking": "Hm.", "signature": "c2lnbmVk"}]
ANSWER = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sent"}]


async def test_a_step_is_kept_with_all_that_is_known_of_it(store):
    meta = {"format": 1, "model": "opus", "usage": {"input_tokens": 3}}
    assert await store.record_turn(turn("one", content=SAID, meta=meta)) is True

    (only,) = await store.turns("t1")
    assert (only.content, only.meta) == (SAID, meta)


async def test_a_step_is_recorded_only_under_the_claim_that_does_the_task(store):
    await add(store)
    await claim(store, "k1", lease=SHORT)
    assert await store.record_turn(turn("first"), token="k1") is True
    await lapse()
    await claim(store, "k2")

    assert await store.record_turn(turn("late"), token="k1") is False
    assert await store.record_turn(turn("second"), token="k2") is True
    assert await store.record_turn(turn("first"), token="k1") is True, "its answer was lost"

    assert [each.id for each in await store.turns("t1")] == ["first", "second"]


async def test_a_step_of_a_task_that_is_over_is_not_recorded(store):
    await add(store)
    await claim(store, "k1")
    await store.finish_task("t1", "k1", TaskStatus.SUCCEEDED)
    assert await store.record_turn(turn("late"), token="k1") is False


async def test_an_answer_is_a_step_a_line_of_the_log_and_the_result_of_its_effect(store):
    await store.begin_effect("mail", agent_id="social", task_id="t1", token="one")
    answer = turn("answer", role="tool", content=ANSWER)

    assert await store.record_answer(answer, call=tool_call("c1"), effect="mail") is True

    assert [each.content for each in await store.turns("t1")] == [ANSWER]
    assert [each.id for each in await store.tool_calls(task_id="t1")] == ["c1"]
    effect = await store.begin_effect("mail", agent_id="social", task_id="t1", token="two")
    assert (effect.state, effect.result) == (Effect.DONE, ANSWER)


async def test_of_a_tool_whose_claim_was_lost_all_but_the_step_is_recorded(store):
    await add(store)
    await claim(store, "k1")
    await store.begin_effect("mail", agent_id="social", task_id="t1", token="one")
    answer = turn("answer", role="tool", content=ANSWER)

    kept = await store.record_answer(answer, call=tool_call("c1"), effect="mail", token="stale")

    assert kept is False
    assert await store.turns("t1") == []
    assert len(await store.tool_calls(task_id="t1")) == 1
    effect = await store.begin_effect("mail", agent_id="social", task_id="t1", token="two")
    assert effect.state is Effect.DONE


# Tasks that are begun at once.


async def test_a_task_that_is_begun_is_held_by_who_began_it(store):
    task = await begin(store, "r1", "k1", routine="social.tidy/2026-11-29", context={"a": 1})

    assert (task.status, task.attempts, task.worker_id) == (TaskStatus.RUNNING, 1, "w1")
    assert (task.routine, task.context) == ("social.tidy/2026-11-29", {"a": 1})
    assert await claim(store, "k2") is None
    assert await begin(store, "r1", "k2") is None, "it is another's"
    assert (await begin(store, "r1", "k1")).id == "r1", "the answer was lost"
    assert await store.finish_task("r1", "k1", TaskStatus.SUCCEEDED, result={"text": "Tidy."})
    assert (await store.task("r1")).routine == "social.tidy/2026-11-29"


async def test_a_task_that_was_begun_and_left_is_gone_on_with_by_another(store):
    await begin(store, "r1", "k1", lease=SHORT, routine="social.tidy/2026-11-29")
    await lapse()

    task = await claim(store, "k2")

    assert (task.id, task.attempts, task.routine) == ("r1", 2, "social.tidy/2026-11-29")


# Money.


async def ask(store, reservation, amount, limits, *, task_id="t1", agent_id="social", since=EPOCH):
    call = Reservation(
        id=reservation,
        agent_id=agent_id,
        run_id=None,
        task_id=task_id,
        model="opus",
        amount_usd=amount,
    )
    return await store.reserve(call, since=since, limits=limits, lifetime=LONG)


async def test_a_task_an_agent_and_all_agents_have_limits_of_their_own(store):
    await store.record_cost(cost("c1", 2.0, task_id="t1"))
    await store.record_cost(cost("c2", 3.0, task_id="t2"))
    await store.record_cost(cost("c3", 4.0, task_id="t3", agent_id="content"))

    over_task = await ask(store, "b1", 1.5, Limits(task=3.0, agent=100.0, total=100.0))
    over_agent = await ask(store, "b2", 1.5, Limits(task=100.0, agent=6.0, total=100.0))
    over_total = await ask(store, "b3", 1.5, Limits(task=100.0, agent=100.0, total=10.0))

    assert (over_task.over, over_task.spent) == (Scope.TASK, 2.0)
    assert (over_agent.over, over_agent.spent) == (Scope.AGENT, 5.0)
    assert (over_total.over, over_total.spent) == (Scope.TOTAL, 9.0)
    assert (await ask(store, "b4", 1.0, Limits(task=3.0, agent=6.0, total=10.0))).over is None


async def test_what_others_hold_is_told_apart_from_what_is_spent(store):
    await ask(store, "b1", 3.0, Limits(), agent_id="content", task_id="t9")
    refused = await ask(store, "b2", 1.5, Limits(total=4.0))
    assert (refused.over, refused.spent, refused.held) == (Scope.TOTAL, 0.0, 3.0)


async def test_a_tasks_limit_counts_all_days_and_an_agents_only_today(store):
    await store.record_cost(cost("c1", 5.0, task_id="t1"))
    tomorrow = await store.ping() + timedelta(days=1)

    assert (await ask(store, "b1", 1.0, Limits(agent=5.5), since=tomorrow)).over is None
    assert (await ask(store, "b2", 1.0, Limits(task=5.5), since=tomorrow)).over is Scope.TASK


async def test_a_call_that_nobody_settles_is_booked_at_what_it_may_have_cost(store):
    await reserve(store, "lost", amount=3.0, lifetime=SHORT, task_id="t1")
    await lapse()

    assert await reserve(store, "next", amount=8.0, limit=10.0) is False

    spent = await store.settle_task("t1")
    assert (spent.calls, spent.cost_usd, spent.estimated_usd) == (1, 3.0, 3.0)


async def test_the_open_calls_of_a_task_that_is_taken_over_are_booked(store):
    await reserve(store, "lost", amount=3.0, task_id="t1")
    await reserve(store, "of another", amount=5.0, task_id="t2")
    await store.record_cost(cost("known", 1.0, task_id="t1", cache_read_tokens=7))

    spent = await store.settle_task("t1")

    assert (spent.calls, spent.cost_usd, spent.estimated_usd) == (2, 4.0, 3.0)
    assert (spent.input_tokens, spent.output_tokens, spent.cache_read_tokens) == (10, 20, 7)
    assert await store.settle_task("t1") == spent
    assert await reserve(store, "rest", amount=1.0, limit=10.0)


async def test_what_a_call_really_cost_takes_the_place_of_the_estimate_and_never_the_reverse(store):
    await reserve(store, "b1", amount=3.0, task_id="t1")
    await store.settle_task("t1")

    await store.record_cost(cost("b1", 0.5, task_id="t1"), reservation="b1")
    spent = await store.settle_task("t1")
    assert (spent.calls, spent.cost_usd, spent.estimated_usd) == (1, 0.5, 0.0)

    await store.record_cost(cost("b1", 3.0, task_id="t1", estimated=True))
    assert (await store.settle_task("t1")).cost_usd == 0.5


async def test_a_task_without_calls_has_cost_nothing(store):
    spent = await store.settle_task("nothing")
    assert (spent.calls, spent.cost_usd) == (0, 0.0)


@pytest.mark.parametrize("scope", ["task", "agent", "total"])
async def test_calls_that_race_for_a_limit_never_exceed_it(open_store, scope):
    stores = [await open_store() for _ in range(3)]
    granted = []

    async def want(number):
        answer = await ask(stores[number % 3], f"b{number}", 1.0, Limits(**{scope: 7.0}))
        if answer.over is None:
            granted.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(want, number)
    assert len(granted) == 7
