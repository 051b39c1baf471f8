"""What the tree and the daemon's health add to the events."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import pytest
import trio

from actp_supervise import Backoff, Restart, open_supervisor
from actp_supervise.cron import ClockJumped, Cron, open_scheduler
from actp_supervise.testing import TrioWallClock
from app.event_kinds import EventKind
from app.event_log import EventLog
from app.happenings import tell_of_changes, tell_of_tree
from app.routine import TREE_NAME
from app.status import AgentState, Health, HealthState


@pytest.fixture
def log():
    return EventLog()


async def test_what_becomes_of_an_agent_is_told_in_words(log, autojump_clock):
    async def crashes():
        raise ValueError("the feed is gone")

    async with open_supervisor(
        name="agents", on_event=tell_of_tree(log, ["social"]), backoff=Backoff(initial=64.0)
    ) as tree:
        tree.start_soon(crashes, name="social")
        await trio.sleep(1)
        await tree.stop("social")
    assert [(event.kind, event.text) for event in log.recent()] == [
        ("child_started", "social started"),
        ("child_crashed", "social crashed: ValueError: the feed is gone"),
        ("restart_scheduled", "social restarts in 64 s"),
        ("child_stopped", "social stopped"),
    ]
    assert {event.agent_id for event in log.recent()} == {"social"}
    assert log.recent()[1].fields["path"] == "agents/social"


async def test_a_service_is_no_agent_and_routines_are_told_elsewhere(log, autojump_clock):
    async def once():
        pass

    async with open_supervisor(name="worker", on_event=tell_of_tree(log, ["social"])) as tree:
        tree.start_soon(once, name="heartbeat", restart=Restart.TEMPORARY)
        tree.start_soon(once, name="routines", restart=Restart.TEMPORARY)
    assert {(event.agent_id, event.fields["path"]) for event in log.recent()} == {
        (None, "worker/heartbeat")
    }


async def test_an_agent_that_is_started_again_says_how_often(log, autojump_clock):
    async def crashes():
        raise ValueError

    async with open_supervisor(
        name="agents", on_event=tell_of_tree(log, ["social"]), backoff=Backoff(initial=2.0)
    ) as tree:
        tree.start_soon(crashes, name="social")
        await trio.sleep(3)
        await tree.stop("social")
    assert [event.text for event in log.recent() if event.kind == "child_started"] == [
        "social started",
        "social started again (restart 1)",
    ]


@asynccontextmanager
async def routine(log, pipeline):
    """A scheduler as a child of the tree, with one job, due at 07:00 in UTC; it is 06:00."""
    clock = TrioWallClock(datetime(2026, 11, 23, 6, tzinfo=UTC))

    async def schedule(*, task_status):
        async with open_scheduler(
            name=TREE_NAME, wall_clock=clock, timezone="Europe/Berlin"
        ) as scheduler:
            scheduler.add(pipeline, trigger=Cron("0 8 * * *"), name="content.pipeline")
            task_status.started(scheduler)

    async with open_supervisor(name="worker", on_event=tell_of_tree(log, ["content"])) as tree:
        yield await tree.start(schedule, name="scheduler")
        await tree.shutdown()


def told_of_content(log):
    return [(event.kind, event.text) for event in log.recent() if event.agent_id == "content"]


async def test_a_routine_is_told_of_with_its_times(log, autojump_clock):
    async with routine(log, partial(trio.sleep, 90)):
        await trio.sleep(3700)
    started, finished = (event for event in log.recent() if event.agent_id == "content")
    assert (started.kind, started.text) == ("routine_started", "content.pipeline started")
    assert started.fields["scheduled_at"] == "2026-11-23T07:00:00+00:00"
    assert 0 <= started.fields["late"] < 1
    assert (finished.kind, finished.text) == ("routine_finished", "content.pipeline succeeded")
    assert finished.fields["seconds"] == pytest.approx(90)


async def test_a_routine_that_fails_by_hand_says_why(log, autojump_clock):
    async def fails():
        raise ValueError("no feed")

    async with routine(log, fails) as scheduler:
        await scheduler.run_now("content.pipeline")
    assert told_of_content(log) == [
        ("routine_started", "content.pipeline started"),
        ("routine_finished", "content.pipeline failed: ValueError: no feed"),
    ]


async def test_a_routine_that_is_left_out_is_told_of(log, autojump_clock):
    async with routine(log, partial(trio.sleep, 3000)) as scheduler, trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.run_now, "content.pipeline")
        await trio.sleep(10)
        await scheduler.run_now("content.pipeline")
        assert [kind for kind, _ in told_of_content(log)] == ["routine_started", "routine_finished"]
        assert log.recent()[-1].fields["outcome"] == "skipped"


async def test_a_clock_that_jumped_is_told_of(log, autojump_clock):
    place = {"path": ("worker", TREE_NAME), "time": 0.0, "sequence": 1}
    tell_of_tree(log, [])(ClockJumped(seconds=3600.0, **place))
    assert [(event.kind, event.text) for event in log.recent()] == [
        ("clock_jumped", "routines found the clock +3600 s away: it was set, or the machine slept")
    ]


async def test_changes_of_health_and_status_are_told_once_each(log, autojump_clock):
    health = Health(status=HealthState.HEALTHY, agents=1, uptime=1.0, reasons=())
    state = AgentState.RUNNING
    async with trio.open_nursery() as nursery:

        async def tell():
            await tell_of_changes(log, health=lambda: health, states=lambda: {"a": state})

        nursery.start_soon(tell)
        await trio.sleep(21)
        assert log.recent() == []
        reasons = ("the store is away",)
        health = dataclasses.replace(health, status=HealthState.DEGRADED, reasons=reasons)
        state = AgentState.PAUSED
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert [(event.kind, event.text) for event in log.recent()] == [
        ("agent_status", "a is paused"),
        ("health_changed", "degraded: the store is away"),
    ]


async def test_what_nothing_happens_to_is_judged_rarely_and_a_change_of_state_after_an_event(
    log, autojump_clock
):
    state, judged = AgentState.RUNNING, []

    def health():
        judged.append(trio.current_time())
        return Health(status=HealthState.HEALTHY, agents=1, uptime=1.0, reasons=())

    async with trio.open_nursery() as nursery:

        async def tell():
            await tell_of_changes(log, health=health, states=lambda: {"a": state})

        nursery.start_soon(tell)
        await trio.sleep(22.5)
        assert judged == [0.0, 20.0]
        log.publish(EventKind.TASK_QUEUED, "")
        await trio.sleep(0.25)
        state = AgentState.CRASHED
        log.publish(EventKind.CHILD_CRASHED, "")
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert judged == [0.0, 20.0, 23.5, 40.0]  # looked at again a second after 22.5
