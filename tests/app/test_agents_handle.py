"""The store as an agent has it while it is away, and what must not be left half done."""

from __future__ import annotations

import asyncio

import pytest
import trio
from agents_stage import Flaky

from actp_supervise import Restart, open_supervisor
from actp_supervise.bridge import asyncio_child
from app.agents.activity import WAITING_FOR_STORE, Activity
from app.agents.handle import AgentStore, finish_anyway
from app.store.protocol import Store, StoreUnavailable, TaskStatus


class Prompt(Store):
    """A store that answers each verb at once, with its name."""

    async def perform(self, verb, arguments):
        return verb.name


@pytest.fixture
def away():
    store = Flaky(Prompt())
    store.away = True
    return store


def new_activity():
    return Activity(trio.lowlevel.current_clock().current_time)


async def back_after(seconds, store):
    await trio.sleep(seconds)
    store.away = False


async def test_what_is_to_be_recorded_waits_for_the_store_also_when_the_agent_is_to_stop(
    autojump_clock, away
):
    recorded = []

    async def code():
        recorded.append(
            await AgentStore(away, new_activity()).finish_task("t", "k", TaskStatus.FAILED)
        )

    async with (
        trio.open_nursery() as nursery,
        open_supervisor(shutdown_timeout=60.0) as supervisor,
    ):
        supervisor.start_soon(asyncio_child(code), restart=Restart.TEMPORARY)
        nursery.start_soon(back_after, 30.0, away)
        await trio.sleep(1)
        await supervisor.shutdown()

    assert recorded == ["finish_task"]


async def test_a_claim_gives_up_when_the_agent_is_to_stop(autojump_clock, away):
    given_up_at = []

    async def code():
        with pytest.raises(StoreUnavailable):
            await AgentStore(away, new_activity()).claim_task(
                "a", worker_id="w", instance="i", token="k", lease=1.0
            )
        given_up_at.append(trio.current_time())

    async with open_supervisor(shutdown_timeout=60.0) as supervisor:
        supervisor.start_soon(asyncio_child(code), restart=Restart.TEMPORARY)
        await trio.sleep(10)
        await supervisor.shutdown()

    assert given_up_at == [10.0]


@pytest.mark.parametrize("meanwhile", [None, "turn 2"])
async def test_what_an_agent_does_is_shown_again_when_the_store_is_back_or_what_it_does_by_then(
    autojump_clock, away, meanwhile
):
    activity, shown = new_activity(), []

    async def code():
        activity.progress("turn 1")
        asking = asyncio.create_task(AgentStore(away, activity).ping())
        await asyncio.sleep(0.1)
        shown.append(activity.doing)
        if meanwhile is not None:
            activity.progress(meanwhile)
        away.away = False
        await asking
        shown.append(activity.doing)

    await asyncio_child(code)()

    assert shown == [WAITING_FOR_STORE, meanwhile or "turn 1"]


@pytest.mark.parametrize(("takes", "ended"), [(0.5, ("finished", 0.5)), (5.0, ("cut", 1.1))])
async def test_what_must_not_be_left_half_done_has_a_second_more_once_it_is_cancelled(
    autojump_clock, takes, ended
):
    record = []

    async def begun():
        try:
            await asyncio.sleep(takes)
            record.append(("finished", trio.current_time()))
        except asyncio.CancelledError:
            record.append(("cut", trio.current_time()))
            raise

    async def code():
        await finish_anyway(begun())

    with trio.move_on_after(0.1) as scope:
        await asyncio_child(code)()

    assert scope.cancelled_caught
    assert record == [ended]
