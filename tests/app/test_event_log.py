"""The daemon's events: what is kept, who reads them, and who is let go."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from actp_supervise.service import make_redactor
from actp_supervise.testing import TrioWallClock
from app.event_kinds import EventKind
from app.event_log import EventLog


@pytest.fixture
def log():
    return EventLog(
        redact=make_redactor(["hunter2"]),
        wall_clock=TrioWallClock(datetime(2026, 11, 23, 6, tzinfo=UTC)),
        kept=5,
    )


async def read(reader, into):
    async for event in reader:
        into.append(event.id)


async def test_an_event_says_what_when_and_of_whom(log, autojump_clock):
    log.publish(
        EventKind.TASK_CLAIMED, "content: taken", agent_id="content", task_id="t1", attempt=2
    )
    (event,) = log.recent()
    assert json.loads(event.to_json()) == {
        "id": 1,
        "time": "2026-11-23T06:00:00.000Z",
        "kind": "task_claimed",
        "agent_id": "content",
        "task_id": "t1",
        "text": "content: taken",
        "attempt": 2,
    }


async def test_no_secret_is_published_and_a_text_is_one_line(log, autojump_clock):
    log.publish(EventKind.STORE_BACK, "the key\nis hunter2 " + "a" * 900, error="hunter2 again")
    (event,) = log.recent()
    assert event.text.startswith("the key is [redacted] aaa")
    assert len(event.text) == 500
    assert "hunter2" not in event.to_json()


async def test_no_secret_is_published_however_deep_it_lies(log, autojump_clock):
    log.publish(
        EventKind.STORE_BACK, "", reasons=["the key is hunter2"], more={"why": ("hunter2",)}
    )
    (event,) = log.recent()
    assert event.fields == {"reasons": ["the key is [redacted]"], "more": {"why": ["[redacted]"]}}


async def test_facts_are_bounded_and_json_can_hold_them(log, autojump_clock):
    log.publish(EventKind.STORE_BACK, "", error="a" * 10_000, delay=float("inf"), path=Path("/tmp"))
    (event,) = log.recent()
    assert len(event.fields["error"]) == 2000
    assert json.loads(event.to_json())["delay"] == "inf"


async def test_the_newest_events_are_kept(log, autojump_clock):
    for number in range(8):
        log.publish(EventKind.STORE_BACK, str(number))
    assert [event.id for event in log.recent()] == [4, 5, 6, 7, 8]
    assert [event.id for event in log.recent(6)] == [7, 8]


async def test_a_night_of_steps_leaves_the_other_events_there(log, autojump_clock):
    log.publish(EventKind.CHILD_CRASHED, "in the evening")
    for kind in (EventKind.TURN, EventKind.MODEL_CALLED, EventKind.TOOL_CALLED) * 3:
        log.publish(kind, "")
    log.publish(EventKind.TASK_FINISHED, "in the morning")
    assert [event.id for event in log.recent()] == [7, 8, 9, 10, 11]
    assert [event.text for event in log.without_steps()] == ["in the evening", "in the morning"]


async def test_a_reader_gets_what_comes_and_what_it_has_missed(log, autojump_clock):
    now, earlier = [], []
    log.publish(EventKind.STORE_BACK, "one")
    log.publish(EventKind.STORE_BACK, "two")
    async with trio.open_nursery() as nursery:
        with log.subscribe() as one, log.subscribe(after=1) as two:
            nursery.start_soon(read, one, now)
            nursery.start_soon(read, two, earlier)
            await trio.testing.wait_all_tasks_blocked()
            log.publish(EventKind.STORE_BACK, "three")
            await trio.testing.wait_all_tasks_blocked()
            log.close()
    assert (now, earlier) == ([3], [2, 3])
    assert log.readers == 0


async def test_a_reader_may_take_what_waits_in_one_go(log, autojump_clock):
    with log.subscribe() as reader:
        for number in range(5):
            log.publish(EventKind.STORE_BACK, str(number))
        assert (await anext(reader)).id == 1
        assert [event.id for event in reader.waiting(3)] == [2, 3, 4]
        assert [event.id for event in reader.waiting(3)] == [5]


async def test_a_reader_that_is_too_slow_is_let_go_and_the_others_go_on(log, autojump_clock):
    got = []
    async with trio.open_nursery() as nursery:
        with log.subscribe(most=3) as slow, log.subscribe() as quick:
            nursery.start_soon(read, quick, got)
            for number in range(6):
                log.publish(EventKind.STORE_BACK, str(number))
                await trio.testing.wait_all_tasks_blocked()
            assert slow.too_slow
            assert log.readers == 1
            with pytest.raises(StopAsyncIteration):
                await anext(slow)
            assert slow.waiting(3) == []
            log.close()
    assert got == [1, 2, 3, 4, 5, 6]


async def test_a_reader_that_comes_when_all_is_over_gets_what_is_kept_and_ends(log, autojump_clock):
    log.publish(EventKind.STORE_BACK, "one")
    log.close()
    got = []
    with trio.fail_after(1), log.subscribe(after=0) as reader:
        await read(reader, got)
    assert got == [1]


async def test_listeners_get_each_event_at_once(log, autojump_clock):
    got = []
    log.listeners.append(lambda event: got.append(event.kind))
    log.publish(EventKind.STORE_AWAY, "")
    log.publish(EventKind.STORE_BACK, "")
    assert got == ["store_away", "store_back"]
