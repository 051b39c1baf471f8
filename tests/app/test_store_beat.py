"""The contract of the Store: the beat, and pauses."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from store_calls import LONG, SHORT, add, claim, lapse, live, register

from app.store.protocol import AgentBeat, Lease, Presence, RunOutcome, TaskStatus


async def beat(store, name="w1", **changes):
    values = {
        "agents": ["social", "content"],
        "tokens": [],
        "leases": [],
        "lease": LONG,
        "request": "r1",
        "presence": None,
    }
    return await store.beat(f"{name}-run", **{**values, **changes})


def presence(name="w1", *, agents=None, silent_after=LONG, heartbeats=()):
    return Presence(
        worker_id=name,
        agents=agents or {},
        silent_after=silent_after,
        heartbeats=list(heartbeats),
    )


async def test_a_beat_with_nothing_to_say_and_nothing_to_hear_brings_back_the_time(store):
    told = await beat(store)
    assert abs(told.now - await store.ping()) < timedelta(seconds=LONG)
    nothing = (told.work, told.restarts, told.pauses, told.ended, told.leases, told.dead)
    assert nothing == ([], [], [], [], [], [])
    assert told.unregistered == []
    assert await live(store) == []


async def test_a_beat_tells_which_queues_hold_work(store):
    await add(store, "t1", "content")
    await add(store, "t2", "revenue")
    assert (await beat(store)).work == ["content"]
    await claim(store, "k1", "content")
    assert (await beat(store)).work == []


async def test_a_task_that_waits_for_its_time_is_no_work_until_then(store):
    soon = await store.ping() + timedelta(seconds=0.4)
    await add(store, not_before=soon)
    assert (await beat(store)).work == []
    while await store.ping() < soon:  # noqa: ASYNC110  (the database's time)
        await trio.sleep(0.05)
    assert (await beat(store)).work == ["social"]
    assert (await claim(store)).id == "t1"


async def test_a_claim_that_ran_out_is_work(store):
    await add(store)
    await claim(store, lease=SHORT)
    await lapse()
    assert (await beat(store)).work == ["social"]


async def test_a_beat_says_that_the_daemon_and_its_agents_are_alive(store):
    await register(store, "social")
    await store.touch_worker("w1", "w1-run", {}, silent_after=LONG)
    await store.start_run("r1", "social", "w1-run")
    heart = AgentBeat(agent_id="social", status="running", health={"doing": "idle"})
    says = presence(agents={"social": "running"}, heartbeats=[heart])
    told = await beat(store, presence=says)
    assert told.unregistered == []
    (worker,) = await store.live_workers()
    assert worker.agents == {"social": "running"}
    (agent,) = await store.agents()
    assert (agent.status, agent.health, agent.worker_id) == ("running", {"doing": "idle"}, "w1")
    assert agent.heartbeat_age < LONG
    assert (await store.runs("social"))[0].last_heartbeat is not None


async def test_a_beat_forgets_daemons_that_are_silent(store):
    await store.touch_worker("dead", "dead-run", {}, silent_after=LONG)
    await add(store)
    await claim(store, worker="dead")
    await store.start_run("r1", "social", "dead-run")
    await lapse()
    told = await beat(store, "w2", presence=presence("w2", silent_after=SHORT))
    assert told.dead == ["dead"]
    assert told.work == ["social"]
    assert (await store.runs("social"))[0].outcome is RunOutcome.INTERRUPTED


async def test_a_beat_names_the_agents_that_the_registry_has_lost(store):
    await register(store, "content")
    says = presence(agents={"social": "running", "content": "standby"})
    assert (await beat(store, presence=says)).unregistered == ["social"]


async def test_a_restart_that_was_asked_for_is_told_once(store):
    await register(store, "social", "revenue")
    await store.set_needs_restart("social", value=True)
    await store.set_needs_restart("revenue", value=True)
    assert (await beat(store, request="r1")).restarts == ["social"]
    assert (await beat(store, request="r2")).restarts == []


async def test_a_beat_whose_answer_was_lost_tells_the_same_restarts_again(store):
    await register(store, "social")
    await store.set_needs_restart("social", value=True)
    assert (await beat(store, request="r1")).restarts == ["social"]
    assert (await beat(store, request="r1")).restarts == ["social"]


async def test_a_beat_prolongs_claims_once_a_third_of_their_time_has_passed(store):
    await add(store)
    task = await claim(store, lease=LONG)
    assert (await beat(store, tokens=["k1"])).ended == []
    assert (await store.task("t1")).lease_until == task.lease_until
    assert (await beat(store, tokens=["k1"], lease=LONG * 10)).ended == []
    until = (await store.task("t1")).lease_until
    assert until - task.lease_until > timedelta(seconds=LONG * 8)


async def test_a_beat_tells_which_claims_have_ended_and_why(store):
    for number in range(3):
        await add(store, f"t{number}")
        await claim(store, f"k{number}")
    await store.cancel_task("t1")
    await store.forget_worker("w1-run")
    await add(store, "t9", priority=9)
    await claim(store, "k9")
    await store.cancel_task("t9")
    told = await beat(store, tokens=["k0", "k9"])
    assert {each.token: each.state for each in told.ended} == {
        "k0": Lease.LOST,
        "k9": Lease.CANCEL_REQUESTED,
    }
    assert (await store.task("t0")).status is TaskStatus.QUEUED


async def test_a_beat_takes_named_leases_and_tells_who_has_them(store):
    await store.touch_worker("w1", "w1-run", {}, silent_after=LONG)
    await store.hold_lease("content", "w2-run", lease=LONG)
    told = await beat(store, leases=["social", "content"])
    holders = {lease.name: (lease.instance, lease.worker_id) for lease in told.leases}
    assert holders == {"social": ("w1-run", "w1"), "content": ("w2-run", "w2-run")}
    assert (await store.hold_lease("social", "w3-run", lease=LONG)).instance == "w1-run"


async def test_no_task_of_a_paused_agent_can_be_claimed_by_any_daemon(open_store):
    store, other = await open_store(), await open_store()
    await register(store, "social", "content")
    await add(store, "t1")
    await add(store, "t2", "content")
    assert await store.set_paused("social", "an operator")
    assert await claim(other) is None
    assert (await claim(other, "k2", "content")).id == "t2"
    told = await beat(other)
    assert told.work == []
    assert [(pause.agent_id, pause.paused_by) for pause in told.pauses] == [
        ("social", "an operator")
    ]
    assert await store.set_paused("social", None)
    told = await beat(other)
    assert (told.work, told.pauses) == (["social"], [])
    assert (await claim(other, "k3")).id == "t1"


async def test_a_pause_says_who_and_since_when_and_the_first_stands(store):
    await register(store, "social")
    await store.set_paused("social", "anna")
    (before,) = await store.agents()
    await store.set_paused("social", "ben")
    await register(store, "social")
    (agent,) = await store.agents()
    assert (agent.paused_by, agent.paused_at) == ("anna", before.paused_at)
    assert agent.paused_at is not None


async def test_an_agent_that_is_not_registered_cannot_be_paused(store):
    assert not await store.set_paused("nobody", "anna")


async def test_beats_of_many_daemons_at_once_all_come_through(open_store):
    stores = [await open_store() for _ in range(5)]
    await register(stores[0], "social", "content", "revenue")

    async def go_on(store, number):
        name = f"w{number}"
        names = ["social", "content", "revenue"]
        order = names if number % 2 else names[::-1]
        hearts = [AgentBeat(agent_id=each, status=None, health={}) for each in order]
        for count in range(6):
            await store.set_needs_restart(order[count % 3], value=True)
            says = presence(name, agents=dict.fromkeys(order, "running"), heartbeats=hearts)
            await beat(store, name, agents=order, request=f"{name}-{count}", presence=says)

    async with trio.open_nursery() as nursery:
        for number, store in enumerate(stores):
            nursery.start_soon(go_on, store, number)
    assert len(await live(stores[0])) == 5


@pytest.mark.parametrize("lease", [-1.0, float("nan")])
async def test_a_beat_with_a_lease_of_no_length_is_refused(store, lease):
    with pytest.raises(ValueError, match="duration"):
        await beat(store, lease=lease)
