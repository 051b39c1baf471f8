"""The contract of the Store: tool calls, costs, budgets, effects, memory, the journal.

Here and there a test really waits, for hundredths of a second, so that a lease or another span
runs out: time is the database's, and no virtual clock moves that.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone

import pytest
import trio
from store_calls import (
    EPOCH,
    NOON,
    SHORT,
    cost,
    lapse,
    reserve,
    tool_call,
)

from app.store.protocol import (
    Effect,
)


async def test_a_tool_call_comes_back_whole_with_its_time(store):
    call = tool_call("c1", arguments={"a": [1]}, error="no such post", result="…")
    before = await store.ping()
    await store.record_tool_call(call)
    (logged,) = await store.tool_calls()
    assert before <= logged.called_at
    assert replace(logged, called_at=None) == call


async def test_tool_calls_are_listed_by_agent_and_task_newest_first(store):
    for call_id, agent_id, task_id in (
        ("c1", "social", "t1"),
        ("c2", "content", "t2"),
        ("c3", "social", "t2"),
        ("c4", "social", None),
    ):
        await store.record_tool_call(tool_call(call_id, agent_id=agent_id, task_id=task_id))

    async def ids(**conditions):
        return [call.id for call in await store.tool_calls(**conditions)]

    assert await ids() == ["c4", "c3", "c2", "c1"]
    assert await ids(limit=2) == ["c4", "c3"]
    assert await ids(agent_id="social") == ["c4", "c3", "c1"]
    assert await ids(task_id="t2") == ["c3", "c2"]
    assert await ids(agent_id="social", task_id="t2") == ["c3"]


async def test_tool_statistics_count_errors_and_durations(store):
    for number, (tool, duration, error) in enumerate(
        [("a", 1.0, None), ("b", 0.25, None), ("b", 0.75, "bad"), ("b", 2.0, None)]
    ):
        await store.record_tool_call(
            tool_call(f"c{number}", tool=tool, duration=duration, error=error)
        )
    await store.record_tool_call(tool_call("other", agent_id="content", tool="b"))
    first, second = await store.tool_stats("social")
    assert (first.tool, first.calls, first.errors) == ("b", 3, 1)
    assert (first.mean_duration, first.max_duration) == (1.0, 2.0)
    assert first.last_called_at == (await store.tool_calls(agent_id="social"))[0].called_at
    assert (second.tool, second.calls, second.errors) == ("a", 1, 0)


async def test_tool_statistics_end_at_the_window(store):
    await store.record_tool_call(tool_call("c1"))
    await lapse()
    assert await store.tool_stats("social", within=SHORT) == []
    assert await store.tool_stats("social") != []


async def test_costs_are_summed_by_agent_model_and_day(store):
    await store.record_cost(cost("c1", 0.5, cache_read_tokens=3, cache_write_5m_tokens=4))
    await store.record_cost(cost("c2", 0.25, cache_write_1h_tokens=5, priced=False, request_id="q"))
    await store.record_cost(cost("c3", 4.0, model="haiku"))
    await store.record_cost(cost("c4", 8.0, agent_id="content"))
    day = (await store.ping()).date()
    sums = await store.costs(since=EPOCH)
    assert [(s.agent_id, s.model, s.calls, s.cost_usd) for s in sums] == [
        ("content", "opus", 1, 8.0),
        ("social", "haiku", 1, 4.0),
        ("social", "opus", 2, 0.75),
    ]
    # The tests may run over midnight.
    assert all(timedelta(0) <= day - s.day <= timedelta(days=1) for s in sums)
    opus = sums[2]
    assert (opus.input_tokens, opus.output_tokens) == (20, 40)
    assert (opus.cache_read_tokens, opus.cache_write_tokens) == (3, 9)


async def test_costs_of_one_agent_since_a_moment(store):
    await store.record_cost(cost("c1"))
    await store.record_cost(cost("c2", agent_id="content"))
    assert [s.agent_id for s in await store.costs(since=EPOCH, agent_id="content")] == ["content"]
    tomorrow = await store.ping() + timedelta(days=1)
    assert await store.costs(since=tomorrow) == []


async def test_a_naive_moment_is_refused(store):
    naive = EPOCH.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        await store.costs(since=naive)
    with pytest.raises(ValueError, match="time zone"):
        await store.claim_fire("daily", naive, "run-1")
    with pytest.raises(ValueError, match="time zone"):
        await reserve(store, since=naive)


async def test_a_moment_in_another_zone_is_the_same_moment(store):
    await store.record_cost(cost("c1"))
    zone = timezone(timedelta(hours=9))
    now = await store.ping()
    assert await store.costs(since=(now + timedelta(minutes=5)).astimezone(zone)) == []
    assert len(await store.costs(since=(now - timedelta(minutes=5)).astimezone(zone))) == 1


async def test_a_reservation_fits_until_the_limit_is_reached(store):
    assert await reserve(store, "b1", amount=6, limit=10) is True
    assert await reserve(store, "b2", amount=6, limit=10) is False
    assert await reserve(store, "b3", amount=4, limit=10) is True
    assert await reserve(store, "b4", amount=0.01, limit=10) is False


async def test_thirds_of_a_limit_fit_three_times(store):
    answers = [await reserve(store, f"b{n}", amount=0.1, limit=0.3) for n in range(4)]
    assert answers == [True, True, True, False]


async def test_a_refused_reservation_leaves_nothing_behind(store):
    assert await reserve(store, "big", amount=20, limit=10) is False
    assert await reserve(store, "small", amount=10, limit=10) is True


async def test_spend_counts_against_the_limit_from_its_moment_on(store):
    await store.record_cost(cost("c1", 8.0))
    assert await reserve(store, "b1", amount=3, limit=10) is False
    later = await store.ping() + timedelta(minutes=1)
    assert await reserve(store, "b2", amount=3, limit=10, since=later) is True


async def test_budgets_of_agents_are_apart(store):
    await store.record_cost(cost("c1", 10.0, agent_id="content"))
    await reserve(store, "b1", amount=10, agent_id="content", limit=20)
    assert await reserve(store, "b2", amount=10, limit=10) is True


async def test_recording_the_cost_settles_the_reservation(store):
    await reserve(store, "b1", amount=9)
    await store.record_cost(cost("c1", 0.5), reservation="b1")
    assert await reserve(store, "b2", amount=9.5) is True


async def test_a_released_reservation_is_free_again(store):
    await reserve(store, "b1", amount=10)
    await store.release_budget("b1")
    assert await reserve(store, "b2", amount=10) is True


async def test_reservations_raced_for_never_exceed_the_limit(open_store):
    stores = [await open_store() for _ in range(3)]
    granted = []

    async def ask(number):
        if await reserve(stores[number % 3], f"b{number}", amount=1, limit=7):
            granted.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(ask, number)
    assert len(granted) == 7


async def test_an_effect_is_new_then_done_with_its_result(store):
    begun = await store.begin_effect("post:1", agent_id="social", task_id="t1")
    assert begun.state is Effect.NEW
    await store.finish_effect("post:1", {"id": 7, "tags": ["ü"]})
    again = await store.begin_effect("post:1", agent_id="social", task_id="t1")
    assert again.state is Effect.DONE
    assert again.result == {"id": 7, "tags": ["ü"]}


@pytest.mark.parametrize("result", [None, "text", 5, [1, "2"], {"a": None}, "null", True])
async def test_the_result_of_an_effect_may_be_any_json(store, result):
    await store.begin_effect("k", agent_id="social", task_id=None)
    await store.finish_effect("k", result)
    done = await store.begin_effect("k", agent_id="social", task_id=None)
    assert (done.state, done.result) == (Effect.DONE, result)


async def test_an_effect_begun_and_never_finished_is_unknown(store):
    await store.begin_effect("k", agent_id="social", task_id="t1", token="one")
    again = await store.begin_effect("k", agent_id="social", task_id="t1", token="two")
    assert again.state is Effect.UNKNOWN
    without = await store.begin_effect("k", agent_id="social", task_id="t1")
    assert without.state is Effect.UNKNOWN


async def test_without_a_token_no_effect_is_taken_for_one_of_ours(store):
    await store.begin_effect("k", agent_id="social", task_id="t1")
    again = await store.begin_effect("k", agent_id="social", task_id="t1")
    assert again.state is Effect.UNKNOWN


async def test_a_lost_answer_does_not_make_an_effect_unknown(store):
    for _ in range(2):
        begun = await store.begin_effect("k", agent_id="social", task_id="t1", token="one")
        assert begun.state is Effect.NEW


async def test_a_dropped_effect_may_be_tried_again(store):
    await store.begin_effect("k", agent_id="social", task_id="t1")
    await store.drop_effect("k")
    again = await store.begin_effect("k", agent_id="social", task_id="t1")
    assert again.state is Effect.NEW


async def test_an_effect_that_happened_cannot_be_dropped_or_changed(store):
    await store.begin_effect("k", agent_id="social", task_id="t1")
    await store.finish_effect("k", "first")
    await store.finish_effect("k", "second")
    await store.drop_effect("k")
    done = await store.begin_effect("k", agent_id="social", task_id="t1")
    assert (done.state, done.result) == (Effect.DONE, "first")


async def test_an_effect_raced_for_is_new_to_one(open_store):
    stores = [await open_store() for _ in range(3)]
    answers = []

    async def begin(number):
        begun = await stores[number % 3].begin_effect(
            "k", agent_id="social", task_id="t1", token=f"token-{number}"
        )
        answers.append(begun.state)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(begin, number)
    assert sorted(answers) == [Effect.NEW] + [Effect.UNKNOWN] * 11


async def test_what_is_remembered_is_recalled_by_key(store):
    await store.remember("social", "tone", "dry")
    await store.remember("social", "topic", "trees")
    (memory,) = await store.recall("social", key="tone")
    assert (memory.agent_id, memory.key, memory.value) == ("social", "tone", "dry")
    assert memory.updated_at <= await store.ping()


async def test_a_known_key_is_overwritten_and_becomes_the_newest(store):
    await store.remember("social", "a", "1")
    await store.remember("social", "b", "2")
    await trio.sleep(0.01)
    await store.remember("social", "a", "3")
    assert [(m.key, m.value) for m in await store.recall("social")] == [("a", "3"), ("b", "2")]


async def test_agents_do_not_share_their_memories(store):
    await store.remember("social", "tone", "dry")
    assert await store.recall("content") == []
    assert await store.forget("content", "tone") is False


@pytest.mark.parametrize("search", ["GRÜ", "grün", "ton", "TON"])
async def test_memories_are_found_by_a_text_in_key_or_value_in_either_case(store, search):
    await store.remember("social", "Ton", "Grün ist gut")
    await store.remember("social", "other", "nothing")
    found = await store.recall("social", search=search)
    assert [m.key for m in found] == ["Ton"]


@pytest.mark.parametrize("search", ["%", "_", "*", "\\", "'"])
async def test_wildcards_are_plain_text_in_a_search(store, search):
    await store.remember("social", "plain", "text")
    await store.remember("social", "special", f"a{search}b")
    found = await store.recall("social", search=search)
    assert [m.key for m in found] == ["special"]


async def test_recall_is_bounded(store):
    for number in range(5):
        await store.remember("social", f"k{number}", "v")
    assert len(await store.recall("social", limit=3)) == 3


async def test_a_forgotten_memory_is_gone(store):
    await store.remember("social", "tone", "dry")
    assert await store.forget("social", "tone") is True
    assert await store.forget("social", "tone") is False
    assert await store.recall("social") == []


async def test_a_moment_of_a_job_is_claimed_by_one_daemon(store):
    await store.touch_worker("w1", "run-1", {}, silent_after=1000.0)
    assert await store.claim_fire("daily", NOON, "run-1") is True
    assert await store.claim_fire("daily", NOON, "run-2") is False
    assert await store.claim_fire("weekly", NOON, "run-2") is True
    assert await store.claim_fire("daily", NOON + timedelta(days=1), "run-2") is True
    _, fire = await store.fires("daily")
    assert (fire.job_name, fire.scheduled_at, fire.worker_id) == ("daily", NOON, "w1")
    assert (fire.finished_at, fire.outcome, fire.error) == (None, None, None)


async def test_a_daemon_that_repeats_its_claim_has_it_until_the_fire_is_finished(store):
    for _ in range(2):
        assert await store.claim_fire("daily", NOON, "run-1") is True
    await store.finish_fire("daily", NOON, "succeeded", None)
    assert await store.claim_fire("daily", NOON, "run-1") is False


async def test_the_same_moment_in_another_zone_is_the_same_fire(store):
    assert await store.claim_fire("daily", NOON, "run-1") is True
    there = NOON.astimezone(timezone(timedelta(hours=-5)))
    assert await store.claim_fire("daily", there, "run-2") is False


async def test_a_finished_fire_keeps_its_first_outcome(store):
    await store.claim_fire("daily", NOON, "run-1")
    await store.finish_fire("daily", NOON, "failed", "boom")
    await store.finish_fire("daily", NOON, "succeeded", None)
    (fire,) = await store.fires("daily")
    assert (fire.outcome, fire.error) == ("failed", "boom")
    assert fire.claimed_at <= fire.finished_at


async def test_the_last_fire_is_the_latest_moment_however_claimed(store):
    assert await store.last_fire("daily") is None
    await store.claim_fire("daily", NOON, "run-1")
    await store.claim_fire("daily", NOON - timedelta(days=1), "run-1")
    await store.claim_fire("weekly", NOON + timedelta(days=1), "run-1")
    assert await store.last_fire("daily") == NOON


async def test_fires_are_listed_latest_first_and_bounded(store):
    moments = [NOON + timedelta(microseconds=n, hours=n) for n in range(5)]
    for moment in moments:
        await store.claim_fire("daily", moment, "run-1")
    listed = [fire.scheduled_at for fire in await store.fires("daily", limit=3)]
    assert listed == [moments[4], moments[3], moments[2]]


async def test_a_moment_raced_for_fires_once(open_store):
    stores = [await open_store() for _ in range(3)]
    won = []

    async def ask(number):
        if await stores[number % 3].claim_fire("daily", NOON, f"run-{number}"):
            won.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(15):
            nursery.start_soon(ask, number)
    assert len(won) == 1
