"""What the tree and the daemon's health add to the events."""

from __future__ import annotations

import pytest
import trio

from actp_supervise import Backoff, Restart, open_supervisor
from app.event_log import EventLog
from app.happenings import tell_of_changes, tell_of_tree


@pytest.fixture
def log(autojump_clock):
    return EventLog()


async def test_what_becomes_of_an_agent_is_told_in_words(log):
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


async def test_a_service_is_no_agent_and_routines_are_told_elsewhere(log):
    async def once():
        pass

    async with open_supervisor(name="worker", on_event=tell_of_tree(log, ["social"])) as tree:
        tree.start_soon(once, name="heartbeat", restart=Restart.TEMPORARY)
        tree.start_soon(once, name="routines", restart=Restart.TEMPORARY)
    assert {(event.agent_id, event.fields["path"]) for event in log.recent()} == {
        (None, "worker/heartbeat")
    }


async def test_changes_of_health_and_status_are_told_once_each(log):
    health = {"status": "healthy", "reasons": []}
    status = {"status": "running", "paused": None}
    async with trio.open_nursery() as nursery:

        async def tell():
            await tell_of_changes(log, health=lambda: health, statuses=lambda: {"a": status})

        nursery.start_soon(tell)
        await trio.sleep(5)
        assert log.recent() == []
        health.update(status="degraded", reasons=["the store is away"])
        status.update(paused="paused by an operator")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert [(event.kind, event.text) for event in log.recent()] == [
        ("agent_status", "a is paused"),
        ("health_changed", "degraded: the store is away"),
    ]
