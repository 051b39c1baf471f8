"""Agents that run in one daemon at a time: who has the lease, who waits, who takes over."""

from __future__ import annotations

import trio
from agents_stage import INSTANCE, Flaky, Recorder, hang, live_on, staged

from app.store.protocol import Before, RunOutcome, StoreError

SINGLE = {"SOCIAL_MEDIA_AGENT_SINGLE": "yes"}
OTHER = "instance-of-another"


async def of_another(store, *, lease=1000.0):
    """Have another daemon hold the agent's lease; the store's clock is the real one."""
    await store.touch_worker("worker-2", OTHER, {"social": "running"}, silent_after=1000)
    await store.hold_lease("social", OTHER, lease=lease)


async def test_the_only_daemon_runs_its_single_agents_at_once(clock, store):
    async with staged(store, Recorder(), environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        assert stage.status()["status"] == "running"
        holder = await store.hold_lease("social", OTHER, lease=60)
        assert holder.instance == INSTANCE


async def test_while_another_daemon_has_the_lease_an_agent_stands_by(clock, store):
    await of_another(store)
    agent = Recorder()
    async with staged(store, agent, environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(100)
        assert agent.starts == []
        assert stage.status()["status"] == "standby"
        assert stage.status()["runs_on"] == "worker-2"
        assert stage.status()["pid"] is None
        # The registry is the other one's to write.
        (row,) = await store.agents()
        assert row.status != "standby"
    assert await store.runs("social") == []


async def test_a_lease_that_cannot_be_taken_is_a_crash_that_counts(clock, store):
    class Corrupt(Before):
        async def hold_lease(self, *_args, **_options):
            raise StoreError("database disk image is malformed")

    async with staged(Corrupt(store), Recorder(), environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        assert "database disk image is malformed" in stage.status()["last_error"]
        assert stage.status()["error_count"] > 5
        assert stage.status()["status"] == "backing_off"


async def test_an_agent_that_stands_by_takes_over_when_the_lease_is_free(clock, store):
    await of_another(store)
    agent = Recorder()
    async with staged(store, agent, environ=SINGLE, single_lease=30.0) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(25)
        await store.drop_lease("social", OTHER)
        await trio.sleep(10)
        assert len(agent.starts) == 1
        assert stage.status()["status"] == "running"
        assert stage.status()["runs_on"] is None


async def test_an_agent_whose_lease_another_took_ends_and_stands_by_and_has_not_crashed(
    clock, store
):
    agent = Recorder()
    async with staged(store, agent, environ=SINGLE, single_lease=30.0) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await store.drop_lease("social", INSTANCE)
        await of_another(store)
        await trio.sleep(20)
        assert stage.status()["status"] == "standby"
        assert stage.status()["crashes"] == 0
        (run,) = await store.runs("social")
        assert run.outcome is RunOutcome.STOPPED


async def test_stopping_an_agent_hands_its_lease_back(clock, store):
    async with staged(store, live_on, environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.stop_agent("social")
        assert (await store.hold_lease("social", OTHER, lease=60)).instance == OTHER


async def test_a_lease_that_was_handed_back_has_to_be_taken_anew(clock, store):
    agent = Recorder()
    async with staged(store, agent, environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.stop_agent("social")
        await of_another(store)
        await stage.supervisor.start_agent("social")
        await trio.sleep(1)
        assert stage.status()["status"] == "standby"
        assert len(agent.starts) == 1


class Greedy(Flaky):
    """A store in which another daemon takes each lease as soon as it is handed back."""

    async def drop_lease(self, name, instance):
        await self.store.drop_lease(name, instance)
        await of_another(self.store)


async def test_a_restart_keeps_the_lease(clock, store):
    agent = Recorder()
    async with staged(Greedy(store), agent, environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        await stage.supervisor.restart_agent("social")
        await trio.sleep(1)
        assert len(agent.starts) == 2


async def test_a_crash_keeps_the_lease_for_the_next_run(clock, store):
    agent = Recorder(ends=[ValueError("no")])
    async with staged(Greedy(store), agent, environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        assert len(agent.starts) == 2
        assert stage.status()["last_error"].endswith("ValueError: no\n")
        assert "ExceptionGroup" not in stage.status()["last_error"]


async def test_after_a_crash_a_lease_that_is_still_ours_need_not_be_asked_for(clock, store):
    flaky, starts = Flaky(store), []

    async def crash_once(config, run):
        starts.append(trio.current_time())
        await trio.sleep(5 if len(starts) == 1 else 1000)
        raise ValueError("no")

    async with staged(flaky, crash_once, environ=SINGLE, single_lease=30.0) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        flaky.away = True
        await trio.sleep(10)
        assert starts == [0.0, 5.0]
        flaky.away = False


async def test_an_agent_that_takes_long_to_give_way_has_not_hung(clock, store):
    async def hold_out(config, run):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(200)

    options = {"single_lease": 30.0, "watch_interval": 50, "stale_threshold": 90}
    async with staged(store, hold_out, environ=SINGLE, **options) as stage:
        await stage.supervisor.start_all()
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(1)
        await store.drop_lease("social", INSTANCE)
        await of_another(store)
        await trio.sleep(250)
        assert stage.status()["status"] == "standby"
        assert stage.status()["crashes"] == 0


async def test_an_agent_that_stands_by_can_be_stopped(clock, store):
    await of_another(store)
    async with staged(store, hang, environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        with trio.fail_after(1):
            await stage.supervisor.stop_agent("social")
        assert stage.status()["status"] == "stopped"


async def test_a_restart_asked_for_is_left_to_the_daemon_that_runs_the_agent(clock, store):
    await of_another(store)
    async with staged(store, Recorder(), environ=SINGLE) as stage:
        await stage.supervisor.start_all()
        await store.set_needs_restart("social", value=True)
        stage.nursery.start_soon(stage.supervisor.watch_loop)
        await trio.sleep(35)
        (row,) = await store.agents()
        assert row.needs_restart


async def test_a_store_that_is_away_takes_no_agent_from_its_daemon(clock, store):
    flaky = Flaky(store)
    agent = Recorder()
    async with staged(flaky, agent, environ=SINGLE, single_lease=30.0) as stage:
        await stage.supervisor.start_all()
        await trio.sleep(1)
        flaky.away = True
        await trio.sleep(500)
        assert stage.status()["status"] == "running"
        flaky.away = False
        await trio.sleep(20)
        assert len(agent.starts) == 1


async def test_while_the_store_is_away_nobody_gets_a_lease(clock, store):
    flaky = Flaky(store)
    agent = Recorder()
    async with staged(flaky, agent, environ=SINGLE, single_lease=30.0) as stage:
        flaky.away = True
        await stage.supervisor.start_all()
        await trio.sleep(60)
        assert agent.starts == []
        assert stage.status()["status"] == "standby"
        flaky.away = False
        await trio.sleep(20)
        assert stage.status()["status"] == "running"
