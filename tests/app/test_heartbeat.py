"""HealthHeartbeat: whom it vouches for, and who is stale."""

from __future__ import annotations

import pytest
import trio
from agents_stage import Flaky

from actp_supervise.service import make_redactor
from app.agents.activity import Activity
from app.beat import DaemonBeat
from app.desk import Desk
from app.heartbeat import HealthHeartbeat
from app.registry import AgentRegistry
from app.settings import load_settings
from app.store.outbox import store_outbox
from app.store.protocol import AgentRegistration
from app.worker import DaemonPresence


@pytest.fixture
async def store_of_two(store):
    await AgentRegistry(store, "worker-1").register_all(
        [
            AgentRegistration(agent_id=agent_id, class_name="X", model="m")
            for agent_id in ("social", "content")
        ]
    )
    return Flaky(store)


@pytest.fixture
async def heartbeat(store_of_two, nursery):
    """A heartbeat whose beats are sent every few seconds."""
    records = store_outbox()
    registry = AgentRegistry(store_of_two, "worker-1")
    heartbeat = HealthHeartbeat(registry, redact=make_redactor(["hunter2"]))
    settings = load_settings({"WORKER_ID": "worker-1"}, env_file=None)
    beat = DaemonBeat(
        Desk(store_of_two),
        presence=DaemonPresence(settings, "instance-1"),
        heartbeat=heartbeat,
        registry=registry,
        records=records,
        lease=60.0,
    )

    async def go_on():
        while True:
            await beat.once(["social", "content"])
            await beat.wait(10.0)

    nursery.start_soon(go_on)
    return heartbeat


def activity():
    return Activity(trio.lowlevel.current_clock().current_time)


async def keep_beating(activity):
    while True:
        activity.beat()
        await trio.sleep(10)


async def last_heartbeats(store):
    return {row.agent_id: row.last_heartbeat for row in await store.agents()}


async def test_a_heartbeat_sets_when_it_was_and_the_health(heartbeat, store_of_two):
    await heartbeat.send("social", {"doing": "idle", "tasks_done": 3})
    social = next(r for r in await store_of_two.agents() if r.agent_id == "social")
    assert social.health == {"doing": "idle", "tasks_done": 3}
    assert social.last_heartbeat is not None
    assert social.heartbeat_age < 60


async def test_a_heartbeat_tells_no_secret_of_what_an_agent_does(heartbeat, store_of_two):
    await heartbeat.send("social", {"doing": "asking with hunter2", "step": 3})
    social = next(r for r in await store_of_two.agents() if r.agent_id == "social")
    assert social.health == {"doing": "asking with [redacted]", "step": 3}


async def test_a_heartbeat_is_published_only_for_an_agent_whose_loop_turns(
    clock, heartbeat, store_of_two, nursery
):
    alive, hung = activity(), activity()
    nursery.start_soon(heartbeat.start, 30)
    await trio.sleep(1)
    heartbeat.watch("social", alive)
    heartbeat.watch("content", hung)
    await trio.sleep(1)
    nursery.start_soon(keep_beating, alive)
    await trio.sleep(7)
    first = await last_heartbeats(store_of_two)
    assert first["social"] is not None  # it does not wait for half a minute
    await trio.sleep(100)
    later = await last_heartbeats(store_of_two)
    assert later["social"] > first["social"]
    assert later["content"] is None


async def test_an_agent_that_hangs_has_no_heartbeat_any_more(
    clock, heartbeat, store_of_two, nursery
):
    agent = activity()
    nursery.start_soon(heartbeat.start, 30)
    await trio.sleep(1)
    heartbeat.watch("social", agent)
    await trio.sleep(1)
    agent.beat()
    await trio.sleep(10)
    last = await last_heartbeats(store_of_two)
    assert last["social"] is not None
    await trio.sleep(100)
    assert await last_heartbeats(store_of_two) == last


async def test_an_agent_that_has_ended_has_no_heartbeat(clock, heartbeat, store_of_two, nursery):
    gone = activity()
    nursery.start_soon(keep_beating, gone)
    heartbeat.watch("social", gone)
    heartbeat.forget("social")
    nursery.start_soon(heartbeat.start, 30)
    await trio.sleep(100)
    assert (await last_heartbeats(store_of_two))["social"] is None


async def test_an_agent_without_a_sign_of_life_is_stale_after_the_threshold(clock, heartbeat):
    silent, alive = activity(), activity()
    heartbeat.watch("social", silent)
    heartbeat.watch("content", alive)
    await trio.sleep(90)
    alive.beat()
    assert heartbeat.detect_stale(90) == {}
    await trio.sleep(1)
    assert heartbeat.detect_stale(90) == {"social": "its loop has not turned for 91 s"}
    assert heartbeat.detect_stale(100) == {}


async def test_a_store_that_is_away_makes_nobody_stale(clock, heartbeat, store_of_two, nursery):
    alive = activity()
    heartbeat.watch("social", alive)
    nursery.start_soon(keep_beating, alive)
    nursery.start_soon(heartbeat.start, 30)
    store_of_two.away = True
    await trio.sleep(100)
    assert heartbeat.detect_stale(90) == {}
    store_of_two.away = False
    await trio.sleep(45)
    assert (await last_heartbeats(store_of_two))["social"] is not None


async def test_what_a_beat_could_not_say_the_next_one_says(clock, heartbeat, store_of_two, nursery):
    alive = activity()
    nursery.start_soon(heartbeat.start, 1000)
    store_of_two.away = True
    await trio.sleep(1)
    heartbeat.watch("social", alive)
    nursery.start_soon(keep_beating, alive)
    await trio.sleep(100)
    assert [beat.agent_id for beat in heartbeat.due()] == ["social"]
    store_of_two.away = False
    await trio.sleep(10)
    assert heartbeat.due() == []
    assert (await last_heartbeats(store_of_two))["social"] is not None
