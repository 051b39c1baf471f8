"""The contract of the Store: daemons that show themselves or die, and leases among them.

Here and there a test really waits, for hundredths of a second, so that a lease or another span
runs out: time is the database's, and no virtual clock moves that.
"""

from __future__ import annotations

from functools import partial

import pytest
import trio
from store_calls import LONG, NOON, SHORT, add, claim, lapse, live, register, turn

from app.store.protocol import RunOutcome, StoreError, TaskStatus


async def touch(store, name="w1", *, agents=None, silent_after=LONG):
    return await store.touch_worker(name, f"{name}-run", agents or {}, silent_after=silent_after)


async def test_a_daemon_says_who_it_is_and_how_its_agents_are(store):
    await touch(store, agents={"social": "starting"})
    await touch(store, agents={"social": "running", "content": "standby"})
    (worker,) = await store.live_workers()
    assert (worker.worker_id, worker.instance) == ("w1", "w1-run")
    assert worker.agents == {"social": "running", "content": "standby"}
    assert worker.started_at <= worker.last_seen
    assert 0 <= worker.seen_age < LONG


async def test_a_daemon_that_shows_itself_is_seen_later_than_before(store):
    await touch(store)
    (before,) = await store.live_workers()
    await trio.sleep(0.02)
    await touch(store)
    (after,) = await store.live_workers()
    assert after.last_seen > before.last_seen
    assert after.started_at == before.started_at


async def test_a_silent_daemon_is_forgotten_with_all_it_had(store):
    await touch(store, "dead")
    await add(store)
    await claim(store, worker="dead")
    await store.start_run("r1", "social", "dead-run")
    await store.hold_lease("social", "dead-run", lease=LONG)
    await lapse()
    assert await touch(store, "w2", silent_after=SHORT) == ["dead"]
    assert await live(store) == [("w2", "w2-run")]
    assert (await store.task("t1")).status is TaskStatus.QUEUED
    assert (await store.runs("social"))[0].outcome is RunOutcome.INTERRUPTED
    assert (await store.hold_lease("social", "w2-run", lease=LONG)).instance == "w2-run"


async def test_a_silent_daemon_is_forgotten_once(open_store):
    stores = [await open_store() for _ in range(4)]
    await touch(stores[0], "dead")
    await lapse()
    told = []

    async def look(store, number):
        told.extend(await touch(store, f"w{number}", silent_after=SHORT))

    async with trio.open_nursery() as nursery:
        for number, store in enumerate(stores):
            nursery.start_soon(look, store, number)
    assert told.count("dead") == 1


async def test_one_that_showed_itself_lately_is_left_alone(store):
    await touch(store, "w1")
    assert await touch(store, "w2") == []
    assert len(await live(store)) == 2


async def test_a_daemon_does_not_forget_itself(store):
    await touch(store)
    await lapse()
    assert await touch(store, silent_after=0.0) == []
    assert await live(store) == [("w1", "w1-run")]


async def test_a_daemon_that_was_forgotten_and_comes_back_is_there_again(store):
    await touch(store)
    await store.forget_worker("w1-run")
    assert await live(store) == []
    await touch(store)
    assert await live(store) == [("w1", "w1-run")]


async def test_what_a_daemon_has_begun_goes_on_when_it_was_taken_for_dead_and_is_back(store):
    await touch(store)
    await store.start_run("goes on", "social", "w1-run")
    await store.start_run("crashed meanwhile", "social", "w1-run")
    await store.start_run("another's", "social", "w2-run")
    await store.claim_fire("daily", NOON, "w1-run")
    for worker in ("w1", "w2"):
        await store.forget_worker(f"{worker}-run")
    await store.finish_run("crashed meanwhile", RunOutcome.CRASHED, error="Traceback ...")
    await touch(store)
    outcomes = {run.id: run.outcome for run in await store.runs("social")}
    assert outcomes == {
        "goes on": None,
        "crashed meanwhile": RunOutcome.CRASHED,
        "another's": RunOutcome.INTERRUPTED,
    }
    assert len(await store.crash_ages("social", within=LONG)) == 1
    (fire,) = await store.fires("daily")
    assert (fire.outcome, fire.finished_at) == (None, None)
    assert await store.claim_fire("daily", NOON, "w1-run") is True


async def test_a_fire_ends_as_its_daemon_says_though_it_was_taken_for_dead(store):
    await touch(store)
    await store.claim_fire("daily", NOON, "w1-run")
    await store.forget_worker("w1-run")
    assert await store.claim_fire("daily", NOON, "w2-run") is False
    assert await store.claim_fire("daily", NOON, "w1-run") is True
    await store.finish_fire("daily", NOON, "succeeded", None)
    await touch(store)
    (fire,) = await store.fires("daily")
    assert fire.outcome == "succeeded"


async def test_a_run_that_was_interrupted_stays_so_for_a_daemon_that_only_shows_itself(store):
    await touch(store)
    await store.start_run("r1", "social", "w1-run")
    await store.forget_worker("w1-run")
    await touch(store, "w2")
    assert (await store.runs("social"))[0].outcome is RunOutcome.INTERRUPTED


async def test_a_free_lease_is_taken_and_says_who_has_it(store):
    await touch(store)
    holder = await store.hold_lease("social", "w1-run", lease=LONG)
    assert (holder.instance, holder.worker_id) == ("w1-run", "w1")


async def test_a_lease_that_another_holds_is_not_taken(store):
    await touch(store)
    await store.hold_lease("social", "w1-run", lease=LONG)
    holder = await store.hold_lease("social", "w2-run", lease=LONG)
    assert (holder.instance, holder.worker_id) == ("w1-run", "w1")
    assert (await store.hold_lease("content", "w2-run", lease=LONG)).instance == "w2-run"


async def test_of_a_single_agent_only_the_daemon_that_has_its_lease_claims_tasks(store):
    await add(store, "t1")
    await add(store, "t2")
    await add(store, "t3", "content")
    assert await claim(store, "before", worker="w1") is not None
    await store.hold_lease("social", "w2-run", lease=LONG)
    assert await claim(store, "back", worker="w1") is None
    assert await claim(store, "its own", "content", worker="w1") is not None
    assert (await claim(store, "before", worker="w1")).id == "t1"
    assert (await claim(store, "holder", worker="w2")).id == "t2"


async def test_a_lease_that_ran_out_keeps_nobody_from_claiming(store):
    await add(store)
    await store.hold_lease("social", "w2-run", lease=SHORT)
    await lapse()
    assert await claim(store, worker="w1") is not None


async def test_a_lease_that_ran_out_is_anybodys(store):
    await store.hold_lease("social", "w1-run", lease=SHORT)
    await lapse()
    assert (await store.hold_lease("social", "w2-run", lease=LONG)).instance == "w2-run"
    assert (await store.hold_lease("social", "w1-run", lease=LONG)).instance == "w2-run"


async def test_a_lease_is_prolonged_by_its_holder(store):
    await store.hold_lease("social", "w1-run", lease=SHORT)
    await store.hold_lease("social", "w1-run", lease=LONG)
    await lapse()
    assert (await store.hold_lease("social", "w2-run", lease=LONG)).instance == "w1-run"


async def test_a_dropped_lease_is_free(store):
    await store.hold_lease("social", "w1-run", lease=LONG)
    await store.drop_lease("social", "w2-run")
    assert (await store.hold_lease("social", "w2-run", lease=LONG)).instance == "w1-run"
    await store.drop_lease("social", "w1-run")
    assert (await store.hold_lease("social", "w2-run", lease=LONG)).instance == "w2-run"


async def test_of_many_daemons_one_gets_a_lease_and_all_know_which(open_store):
    stores = [await open_store() for _ in range(6)]
    assert len(await holders_of("social", stores)) == 1


async def test_of_many_daemons_one_gets_a_lease_that_ran_out(open_store):
    stores = [await open_store() for _ in range(6)]
    await stores[0].hold_lease("social", "gone-run", lease=SHORT)
    await lapse()
    assert len(await holders_of("social", stores)) == 1


async def test_of_many_daemons_one_gets_the_lease_of_one_that_is_forgotten_meanwhile(open_store):
    stores = [await open_store() for _ in range(4)]
    await touch(stores[0], "dead")
    await stores[0].hold_lease("social", "dead-run", lease=LONG)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stores[0].forget_worker, "dead-run")
        nursery.start_soon(holders_of, "social", stores[1:])
    holder = await holders_of("social", stores)
    assert len(holder) == 1
    assert holder != {"dead-run"}


async def holders_of(name, stores):
    """Have a daemon by each store ask for a lease at once; who has it, as they were told."""
    holders = set()

    async def ask(store, number):
        holders.add((await store.hold_lease(name, f"w{number}-run", lease=LONG)).instance)

    async with trio.open_nursery() as nursery:
        for number, store in enumerate(stores):
            nursery.start_soon(ask, store, number)
    return holders


async def test_however_many_notice_that_a_daemon_died_its_tasks_go_back_once(open_store):
    stores = [await open_store() for _ in range(6)]
    await touch(stores[0], "dead")
    for number in range(10):
        await add(stores[0], f"t{number}")
        await claim(stores[0], f"k{number}", worker="dead")
    await lapse()
    async with trio.open_nursery() as nursery:
        for store in stores[:3]:
            nursery.start_soon(store.forget_worker, "dead-run")
        for number, store in enumerate(stores[3:]):
            nursery.start_soon(partial(touch, store, f"w{number}", silent_after=SHORT))
    tasks = await stores[0].tasks()
    assert {(task.status, task.attempts) for task in tasks} == {(TaskStatus.QUEUED, 1)}
    assert len(tasks) == 10


@pytest.mark.parametrize("lease", [-1.0, float("nan"), float("inf")])
async def test_a_lease_of_no_length_is_refused(store, lease):
    with pytest.raises(ValueError, match="duration"):
        await store.hold_lease("social", "w1-run", lease=lease)


async def test_a_heartbeat_may_bring_the_status_with_it(store):
    await register(store, "social", worker_id="w1")
    await store.record_heartbeat("social", {"doing": "idle"}, status="running", worker_id="w2")
    (agent,) = await store.agents()
    assert (agent.status, agent.worker_id, agent.health) == ("running", "w2", {"doing": "idle"})
    await store.record_heartbeat("social", {"doing": "idle"})
    (agent,) = await store.agents()
    assert (agent.status, agent.worker_id) == ("running", "w2")


async def test_a_heartbeat_vouches_for_the_runs_of_its_own_daemon(store):
    await register(store, "social")
    await touch(store, "w1")
    await touch(store, "w2")
    await store.start_run("r1", "social", "w1-run")
    await store.start_run("r2", "social", "w2-run")
    await store.record_heartbeat("social", {}, worker_id="w2")
    beats = {run.id: run.last_heartbeat for run in await store.runs("social")}
    assert beats["r1"] is None
    assert beats["r2"] is not None


async def test_the_oldest_task_that_waits_is_known_of_each_agent(store):
    assert await store.oldest_queued() == {}
    await add(store, "t1")
    await trio.sleep(0.05)
    await add(store, "t2")
    await add(store, "t3", "content")
    ages = await store.oldest_queued()
    assert ages.keys() == {"social", "content"}
    assert ages["content"] < ages["social"] < LONG
    await claim(store)
    assert (await store.oldest_queued())["social"] < ages["social"] + 1
    await claim(store, "k2")
    assert "social" not in await store.oldest_queued()


async def test_a_conversation_is_told_in_order_and_from_where_one_left_off(store):
    for number in range(5):
        await store.record_turn(turn(f"turn-{number}", step=number))
    await store.record_turn(turn("foreign", task_id="t2"))
    told = await store.turns("t1")
    assert [each.id for each in told] == [f"turn-{number}" for number in range(5)]
    assert told[0].content == [{"type": "text", "text": "Let me look."}]
    assert told[0].created_at is not None
    assert [t.id for t in await store.turns("t1", after="turn-2")] == ["turn-3", "turn-4"]
    assert [t.id for t in await store.turns("t1", limit=2)] == ["turn-0", "turn-1"]
    assert await store.turns("t1", after="turn-4") == []
    assert await store.turns("nothing") == []


async def test_a_turn_that_was_recorded_stays_as_it_was(store):
    await store.record_turn(turn("one"))
    await store.record_turn(turn("one", content=[{"type": "text", "text": "Something else."}]))
    (only,) = await store.turns("t1")
    assert only.content == [{"type": "text", "text": "Let me look."}]


async def test_after_a_turn_that_is_not_there_a_conversation_is_told_whole(store):
    await store.record_turn(turn("one"))
    assert [each.id for each in await store.turns("t1", after="never")] == ["one"]


async def test_a_turn_needs_content_that_is_json(store):
    with pytest.raises(StoreError, match="JSON"):
        await store.record_turn(turn("one", content=[{"text": object()}]))
    assert await store.turns("t1") == []
