"""AgentRegistry: what is read back from the database."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from agents_stage import Flaky, live_on, staged

from app.registry import AgentRegistry
from app.routine import DailyRoutineScheduler
from app.settings import load_settings
from app.shutdown import GracefulShutdown
from app.store.protocol import AgentRegistration, StoreUnavailable


def registration(agent_id, status="starting"):
    return AgentRegistration(agent_id=agent_id, class_name="X", model="m", status=status)


@pytest.fixture
async def registry(store):
    registry = AgentRegistry(store, "worker-1")
    await store.touch_worker("worker-1", "instance-1", {}, silent_after=1000.0)
    await registry.register_all([registration("social"), registration("content")])
    return registry


async def statuses(store):
    return {row.agent_id: row.status for row in await store.agents()}


async def test_registry_deregisters_on_shutdown(store):
    agent_ids = ("social", "content")
    async with staged(store, live_on, agent_ids=agent_ids) as stage:
        routines = DailyRoutineScheduler(
            [], run=live_on, store=store, instance="i", timezone=load_settings({}).timezone
        )
        shutdown = GracefulShutdown(stage.supervisor, routines, stage.registry, stage.records)
        await stage.supervisor.start_all()
        await stage.settle()
        assert await statuses(store) == {"social": "running", "content": "running"}
        assert await shutdown.drain_wait(5)
        await shutdown.force_stop()
        assert await statuses(store) == {"social": "stopped", "content": "stopped"}


async def test_every_agent_gets_a_row(store, registry):
    rows = {row.agent_id: row for row in await store.agents()}
    assert rows.keys() == {"social", "content"}
    assert rows["social"].status == "starting"
    assert rows["social"].worker_id == "worker-1"
    assert rows["social"].last_seen is not None


async def test_a_status_is_set_with_when_it_was_seen(store, registry):
    before = (await store.agents())[0].last_seen
    await trio.sleep(0.01)  # the database's clock is the real one
    await registry.set_status("content", "running")
    row = (await store.agents())[0]
    assert (row.agent_id, row.status) == ("content", "running")
    assert row.last_seen > before


async def test_each_restart_request_is_returned_once(registry):
    assert await registry.poll_restart_requests() == []
    assert await registry.set_needs_restart("social", True)
    assert await registry.poll_restart_requests() == ["social"]
    assert await registry.poll_restart_requests() == []


async def test_a_request_can_be_taken_back(registry):
    await registry.set_needs_restart("social", True)
    await registry.set_needs_restart("social", False)
    assert await registry.poll_restart_requests() == []


async def test_a_request_for_an_agent_that_is_disabled_here_is_left_to_others(store, registry):
    other = AgentRegistry(store, "worker-2")
    await other.register_all([registration("social", "disabled"), registration("content")])
    await registry.set_needs_restart("social", True)
    assert await other.poll_restart_requests() == []
    assert await registry.poll_restart_requests() == ["social"]


async def test_a_restart_of_an_agent_that_nobody_registered_cannot_be_asked_for(registry):
    assert not await registry.set_needs_restart("scoial", True)


async def test_a_request_survives_an_answer_that_was_lost(store):
    class LosesAnAnswer(Flaky):
        async def take_restart_requests(self, agent_ids, *, token):
            taken = await self.store.take_restart_requests(agent_ids, token=token)
            if self.away:
                raise StoreUnavailable("connection reset")
            return taken

    flaky = LosesAnAnswer(store)
    registry = AgentRegistry(flaky, "worker-1")
    await registry.register_all([registration("social")])
    await registry.set_needs_restart("social", True)
    flaky.away = True
    with pytest.raises(StoreUnavailable):
        await registry.poll_restart_requests()
    flaky.away = False
    assert await registry.poll_restart_requests() == ["social"]
    assert await registry.poll_restart_requests() == []


async def test_what_another_daemon_has_taken_over_stays_as_that_one_says(store, registry):
    other = AgentRegistry(store, "worker-2")
    await store.touch_worker("worker-2", "instance-2", {}, silent_after=1000.0)
    await other.register_all([registration("social")])
    await other.set_status("social", "running")
    await registry.deregister_all()
    assert await statuses(store) == {"social": "running", "content": "stopped"}
    await other.deregister_all()
    assert (await statuses(store))["social"] == "stopped"


async def test_an_agent_disabled_here_does_not_overwrite_what_another_daemon_says(store, registry):
    await registry.set_status("social", "running")
    other = AgentRegistry(store, "worker-2")
    await other.register_all(
        [registration("social", "disabled"), registration("revenue", "disabled")]
    )
    assert (await statuses(store))["social"] == "running"
    assert (await statuses(store))["revenue"] == "disabled"


async def test_what_a_daemon_that_has_ended_said_does_not_stand(store, registry):
    await registry.set_status("social", "running")
    await store.forget_worker("instance-1")
    other = AgentRegistry(store, "worker-2")
    await other.register_all([registration("social", "disabled")])
    assert (await statuses(store))["social"] == "disabled"
