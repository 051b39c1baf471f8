"""What is done through the store is told of, once, with the facts that matter."""

from __future__ import annotations

import pytest
from store_calls import LONG, SHORT, add, claim, cost, lapse, tool_call, turn

from app.event_log import EventLog
from app.observed_store import ObservedStore
from app.store.protocol import TaskStatus


@pytest.fixture
def log():
    return EventLog()


@pytest.fixture
def seen(store, log):
    return ObservedStore(store, log)


def told(log):
    return [(event.kind, event.agent_id, event.task_id) for event in log.recent()]


async def test_a_task_is_followed_from_the_queue_to_its_end(seen, log):
    await add(seen)
    await claim(seen)
    await seen.finish_task("t1", "k1", TaskStatus.SUCCEEDED, result={"text": "done"})
    assert told(log) == [
        ("task_queued", "social", "t1"),
        ("task_claimed", "social", "t1"),
        ("task_finished", "social", "t1"),
    ]
    queued, claimed, finished = log.recent()
    assert queued.text == "social: queued: do it"
    assert claimed.fields == {"attempt": 1}
    assert finished.fields["outcome"] == "succeeded"
    assert 0 <= finished.fields["seconds"] < LONG


async def test_a_task_that_is_posted_again_while_it_is_done_is_no_news(seen, log):
    await add(seen)
    await claim(seen)
    await add(seen)
    assert [kind for kind, *_ in told(log)] == ["task_queued", "task_claimed"]


async def test_an_empty_queue_is_no_news(seen, log):
    assert await claim(seen) is None
    assert told(log) == []


async def test_an_end_that_is_repeated_after_a_lost_answer_is_told_once(seen, log):
    await add(seen)
    await claim(seen)
    for _ in range(2):
        assert await seen.finish_task("t1", "k1", TaskStatus.FAILED, error="no")
    assert [kind for kind, *_ in told(log)].count("task_finished") == 1


async def test_a_lost_lease_is_no_end(seen, log):
    await add(seen)
    await claim(seen)
    assert not await seen.finish_task("t1", "another", TaskStatus.SUCCEEDED)
    assert told(log)[-1][0] == "task_claimed"


@pytest.mark.parametrize("verb", ["renew", "finish", "release"])
async def test_a_task_that_another_took_is_lost_once(seen, log, verb):
    await add(seen)
    await claim(seen, "old", lease=SHORT)
    await lapse()
    await claim(seen, "new", worker="w2")
    for _ in range(2):
        if verb == "renew":
            await seen.renew_task("t1", "old", lease=LONG)
        elif verb == "finish":
            await seen.finish_task("t1", "old", TaskStatus.SUCCEEDED)
        else:
            await seen.release_task("t1", "old")
    assert [kind for kind, *_ in told(log)].count("task_lost") == 1
    assert await seen.finish_task("t1", "new", TaskStatus.SUCCEEDED)
    assert told(log)[-1] == ("task_finished", "social", "t1")


async def test_a_task_handed_back_says_why(seen, log):
    await add(seen)
    await claim(seen)
    await seen.release_task("t1", "k1", error="the model is overloaded")
    assert log.recent()[-1].kind == "task_released"
    assert log.recent()[-1].text == "social: task handed back: the model is overloaded"


async def test_a_task_handed_back_for_the_last_time_has_failed(seen, log, store):
    await add(seen, max_attempts=2)
    for attempt in (1, 2):
        await claim(seen, f"k{attempt}")
        await seen.release_task("t1", f"k{attempt}", count_attempt=True, error="it crashed")
    assert [event.kind for event in log.recent()][-3:] == [
        "task_released",
        "task_claimed",
        "task_finished",
    ]
    assert log.recent()[-1].fields["outcome"] == (await store.task("t1")).status == "failed"
    assert log.recent()[-1].text == "social: task failed: it crashed"


async def test_a_task_handed_back_after_somebody_cancelled_it_is_cancelled(seen, log, store):
    await add(seen)
    await claim(seen)
    await store.cancel_task("t1")  # by another daemon
    await seen.renew_task("t1", "k1", lease=LONG)
    await seen.release_task("t1", "k1")
    assert log.recent()[-1].fields["outcome"] == (await store.task("t1")).status == "cancelled"


async def test_cancelling_and_trying_again_are_told_once_each_also_if_repeated(seen, log):
    await add(seen, "t1")
    for command in (seen.cancel_task, seen.retry_task):
        await command("t1")
        await command("t1")
    await claim(seen)
    await seen.cancel_task("t1")
    await seen.cancel_task("t1")
    await seen.finish_task("t1", "k1", TaskStatus.CANCELLED)
    await seen.cancel_task("t1")
    assert [kind for kind, *_ in told(log)] == [
        "task_queued",
        "task_finished",
        "task_queued",
        "task_claimed",
        "task_cancel_requested",
        "task_finished",
    ]


async def test_what_agents_do_is_told_with_its_figures(seen, log):
    await seen.record_tool_call(tool_call("c1", duration=0.25, error="no such post"))
    await seen.record_cost(cost("e1", usd=0.5, duration=2.5))
    await seen.record_turn(turn("turn-1", step=3))
    called, asked, said = log.recent()
    assert called.text == "social: list_actions in 0.25 s, failed: no such post"
    assert called.fields == {"tool": "list_actions", "seconds": 0.25, "failed": True}
    assert asked.kind == "model_called"
    assert asked.fields.items() >= {"usd": 0.5, "output_tokens": 20, "seconds": 2.5}.items()
    assert said.fields == {"turn": "turn-1", "step": 3, "role": "assistant"}


async def test_all_else_passes_through(seen, store, log):
    await seen.remember("social", "tone", "warm")
    assert (await seen.recall("social"))[0].value == "warm"
    assert seen.where == store.where
    assert told(log) == []
