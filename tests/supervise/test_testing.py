"""What the library offers to tests of supervised programs."""

from __future__ import annotations

import pytest
import trio
from actors import crash_after, hold_out, live_on, return_after

from actp_supervise import (
    Backoff,
    ChildState,
    Restart,
    RestartLimit,
    Strategy,
    SupervisionError,
    open_supervisor,
)
from actp_supervise.events import ChildCrashed, ChildFinished
from actp_supervise.testing import crashing, wait_for_event, wait_for_state


async def test_a_child_crashes_on_schedule_and_then_lives_until_it_is_asked_to_stop(
    autojump_clock,
):
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(crashing(1.0, 2.0, error=OSError))
        seen = []
        for _ in range(5):
            seen.append((child.crashes, child.restarts))
            await trio.sleep(1.25)
        assert seen == [(0, 0), (1, 1), (1, 1), (2, 2), (2, 2)]
        assert child.last_error.endswith("OSError\n")
        await supervisor.stop("crashing")
        assert trio.current_time() == 6.25


async def test_a_child_that_crashes_on_schedule_is_ready_at_once(autojump_clock):
    async with open_supervisor(limit=None, backoff=Backoff(initial=10.0)) as supervisor:
        await supervisor.start(crashing(0.0), name="c")
        assert trio.current_time() == 0.0
        await supervisor.shutdown()


async def test_a_state_is_waited_for_and_one_that_is_there_is_not(autojump_clock):
    async with open_supervisor(limit=None, backoff=Backoff(initial=10.0)) as supervisor:
        child = supervisor.start_soon(crash_after, 1.0)
        wanted = [ChildState.RUNNING, ChildState.BACKING_OFF, ChildState.RUNNING]
        moments = []
        for state in wanted:
            assert await wait_for_state(child, state) is state
            assert await wait_for_state(child, ChildState.FAILED, state) is state
            moments.append(trio.current_time())
        assert moments == [0.0, 1.0, 11.0]
        await supervisor.shutdown()
        assert await wait_for_state(child, ChildState.STOPPED) == "stopped"


async def test_a_state_that_never_comes_is_an_error_when_the_supervisor_is_gone(autojump_clock):
    async def waits():
        with pytest.raises(SupervisionError, match="'return_after' is finished, not failed"):
            await wait_for_state(child, ChildState.FAILED)
        gave_up_at.append(trio.current_time())

    gave_up_at = []
    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        child = supervisor.start_soon(return_after, 3.0, restart=Restart.TRANSIENT)
        nursery.start_soon(waits)
    assert gave_up_at == [3.0]


async def test_a_member_of_a_group_that_is_stopped_while_it_waits_is_seen_to_stop(autojump_clock):
    async with (
        open_supervisor(
            strategy=Strategy.ONE_FOR_ALL, backoff=Backoff(initial=60.0), limit=None
        ) as supervisor,
        trio.open_nursery() as nursery,
    ):
        child = supervisor.start_soon(crash_after, 1.0)
        await wait_for_state(child, ChildState.BACKING_OFF)
        nursery.start_soon(supervisor.stop, "crash_after")
        await wait_for_state(child, ChildState.STOPPED)
        assert trio.current_time() == 1.0


async def test_the_next_event_of_a_kind_and_child_is_waited_for(autojump_clock):
    async def subtree():
        async with open_supervisor(name="sub") as below:
            below.start_soon(crash_after, 2.0, name="deep", restart=Restart.TEMPORARY)

    async with open_supervisor(limit=RestartLimit(100)) as supervisor:
        supervisor.start_soon(crash_after, 1.5, name="often")
        supervisor.start_soon(subtree, restart=Restart.TRANSIENT)
        event = await wait_for_event(supervisor, ChildCrashed, child="deep")
        assert (event.path[-1], event.time) == ("deep", 2.0)
        event = await wait_for_event(supervisor, ChildCrashed)
        assert (event.path[-1], event.time) == ("often", 3.0)
        await supervisor.shutdown()


async def test_an_event_that_never_comes_is_an_error_when_the_supervisor_is_gone(autojump_clock):
    async def waits():
        with pytest.raises(SupervisionError, match="no ChildFinished of child 'c' before"):
            await wait_for_event(supervisor, ChildFinished, child="c")

    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        supervisor.start_soon(hold_out, 2.0, shutdown_timeout=0.0)
        supervisor.start_soon(live_on, name="c")
        nursery.start_soon(waits)
        await trio.sleep(1)
        await supervisor.shutdown()
