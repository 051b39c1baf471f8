"""How a child waits for its restart, and what cuts the wait short."""

from __future__ import annotations

import random

import pytest
import trio
from actors import Actor, Crash, Log, crash_after, crash_at_once, live_on, return_after, states

from actp_supervise import (
    Backoff,
    Restart,
    open_supervisor,
)


def starts(record):
    return [time for what, time in record if what.startswith("+")]


# The wait.


async def test_crashes_from_before_this_program_count_until_they_are_forgotten(
    autojump_clock, record
):
    backoff = Backoff(initial=64.0, free_restarts=5, window=3600.0)
    async with open_supervisor(limit=None, backoff=backoff) as supervisor:
        supervisor.start_soon(
            Actor("a", record, 1.0, 30.0), crash_ages=(4000.0, 3590.0, 30.0, 20.0, 10.0, 5.0)
        )
        await trio.sleep(1000)
        assert supervisor["a"].crashes == 2
        await supervisor.shutdown()
    # At 1 s the sixth in an hour; at 95 s the one of 3590 s before is forgotten.
    assert starts(record) == [0.0, 65.0, 159.0]


async def test_each_further_crash_waits_longer_and_nothing_starts_before_its_delay_is_over(
    autojump_clock, record
):
    async with open_supervisor(
        limit=None, backoff=Backoff(initial=4.0, maximum=20.0)
    ) as supervisor:
        supervisor.start_soon(Actor("a", record, *[1.0] * 5))
        await trio.sleep(100)
        await supervisor.shutdown()
    assert starts(record) == [0.0, 5.0, 14.0, 31.0, 52.0, 73.0]


async def test_the_sixth_crash_of_an_agent_in_an_hour_is_the_first_to_wait(autojump_clock, record):
    backoff = Backoff(initial=64, factor=2, maximum=300, free_restarts=5)
    async with open_supervisor(limit=None, backoff=backoff) as supervisor:
        supervisor.start_soon(Actor("a", record, *[1.0] * 9))
        await trio.sleep(2000)
        await supervisor.shutdown()
    assert starts(record) == [0, 1, 2, 3, 4, 5, 70, 199, 456, 757]


async def test_a_child_that_waits_is_shown_as_backing_off_with_the_time_of_its_restart(
    autojump_clock,
):
    log = Log()
    async with open_supervisor(
        backoff=Backoff(initial=60.0), limit=None, on_event=log
    ) as supervisor:
        child = supervisor.start_soon(Actor("a", [], 1.0))
        await trio.sleep(10)
        assert (child.state, child.restart_at, child.uptime) == ("backing_off", 61.0, 0.0)
        assert (child.crashes, child.restarts) == (1, 0)
        assert log.last("restart_scheduled").delay == 60.0
        await trio.sleep(60)
        assert (child.state, child.restart_at, child.uptime) == ("running", None, 9.0)
        await supervisor.shutdown()


async def test_a_child_that_waits_keeps_its_name_and_its_place(autojump_clock):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:
        supervisor.start_soon(crash_at_once, name="a")
        supervisor.start_soon(live_on, name="b")
        await trio.sleep(10)
        assert states(supervisor) == {"a": "backing_off", "b": "running"}
        with pytest.raises(ValueError, match="backing_off"):
            supervisor.start_soon(live_on, name="a")
        await supervisor.shutdown()


async def test_only_the_failed_child_waits_and_healthy_ones_run_on(autojump_clock):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:
        supervisor.start_soon(crash_at_once)
        healthy = supervisor.start_soon(live_on)
        await trio.sleep(30)
        assert (healthy.state, healthy.uptime) == ("running", 30.0)
        await supervisor.shutdown()


async def test_another_childs_failure_does_not_prolong_the_wait(autojump_clock, record):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:
        supervisor.start_soon(Actor("a", record, 1.0))
        supervisor.start_soon(Actor("b", [], 31.0))
        await trio.sleep(100)
        assert starts(record) == [0.0, 61.0]
        await supervisor.shutdown()


async def test_a_child_may_have_a_backoff_of_its_own(autojump_clock, record):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:
        supervisor.start_soon(Actor("a", record, 1.0), backoff=Backoff(initial=5.0))
        await trio.sleep(10)
        assert starts(record) == [0.0, 6.0]
        await supervisor.shutdown()


async def test_crashes_older_than_the_window_are_forgotten(autojump_clock, record):
    backoff = Backoff(initial=10.0, window=100.0)
    async with open_supervisor(backoff=backoff, limit=None) as supervisor:
        supervisor.start_soon(Actor("a", record, 1.0, 1.0, 150.0, 1.0))
        await trio.sleep(400)
        await supervisor.shutdown()
    # Waits of 10, 20, then of 10 again, because the two before were long ago, and of 20.
    assert starts(record) == [0.0, 11.0, 32.0, 192.0, 213.0]


async def test_a_crash_exactly_as_old_as_the_window_still_counts(autojump_clock, record):
    backoff = Backoff(initial=10.0, window=100.0)
    async with open_supervisor(backoff=backoff, limit=None) as supervisor:
        supervisor.start_soon(Actor("a", record, 1.0, 90.0))
        await trio.sleep(400)
        await supervisor.shutdown()
    assert starts(record) == [0.0, 11.0, 121.0]


async def test_a_permanent_childs_return_waits_like_a_crash(autojump_clock):
    async with open_supervisor(backoff=Backoff(initial=10.0), limit=None) as supervisor:
        child = supervisor.start_soon(return_after, 1.0)
        await trio.sleep(5)
        assert (child.state, child.restart_at) == ("backing_off", 11.0)
        await supervisor.shutdown()


async def test_jitter_comes_from_the_supervisors_generator(autojump_clock):
    async def delays(seed):
        log = Log()
        start = trio.current_time()
        async with open_supervisor(
            backoff=Backoff(initial=10.0, factor=1.0, jitter=0.5),
            limit=None,
            rng=random.Random(seed),
            on_event=log,
        ) as supervisor:
            supervisor.start_soon(crash_after, 1.0)
            await trio.sleep_until(start + 200)
            await supervisor.shutdown()
        return [event.delay for event in log if event.action == "restart_scheduled"]

    waits = await delays(seed=1)
    assert len(set(waits)) == len(waits) > 10
    assert all(5 <= wait <= 15 for wait in waits)
    assert await delays(seed=1) == waits
    assert await delays(seed=2) != waits


async def test_a_child_that_fails_again_before_it_is_ready_is_scheduled_again(autojump_clock):
    async def fails_to_start(*, task_status):
        nonlocal runs
        runs += 1
        if 1 < runs < 5:
            raise Crash
        task_status.started()
        await trio.sleep(1)
        if runs == 1:
            raise Crash
        await trio.sleep_forever()

    runs = 0
    async with open_supervisor(backoff=Backoff(initial=10.0), limit=None) as supervisor:
        await supervisor.start(fails_to_start)
        await trio.sleep(1 + 10 + 20 + 40 + 80 + 1)
        assert (runs, supervisor.children[0].state) == (5, "running")
        await supervisor.shutdown()


# What cuts it short.


async def test_restart_cuts_the_wait_short(autojump_clock):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:
        child = supervisor.start_soon(Actor("a", [], 1.0))
        await trio.sleep(10)
        await supervisor.restart("a")
        assert (child.state, child.started_at, child.restarts) == ("running", 10.0, 1)
        await trio.sleep(100)
        assert child.restarts == 1
        await supervisor.shutdown()


async def test_stop_ends_the_wait_at_once_and_for_good(autojump_clock):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:
        child = supervisor.start_soon(Actor("a", [], 1.0))
        await trio.sleep(10)
        await supervisor.stop("a")
        assert trio.current_time() == 10.0
        assert (child.state, child.restart_at) == ("stopped", None)
        await trio.sleep(100)
        assert (child.state, child.restarts) == ("stopped", 0)


async def test_remove_ends_the_wait_for_good(autojump_clock, record):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:
        supervisor.start_soon(Actor("a", record, 1.0))
        await trio.sleep(10)
        await supervisor.remove("a")
        assert trio.current_time() == 10.0
        assert supervisor.children == ()
        await trio.sleep(100)
    assert starts(record) == [0.0]


async def test_shutdown_ends_the_wait_at_once_and_starts_nothing(autojump_clock, record):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:
        supervisor.start_soon(Actor("a", record, 1.0))
        await trio.sleep(10)
        await supervisor.shutdown()
        assert trio.current_time() == 10.0
        assert states(supervisor) == {"a": "stopped"}
    assert starts(record) == [0.0]


async def test_a_wait_that_is_due_while_the_supervisor_stops_starts_nothing(autojump_clock, record):
    async with open_supervisor(backoff=Backoff(initial=3.0), limit=None) as supervisor:
        supervisor.start_soon(Actor("a", record, 1.0))
        supervisor.start_soon(live_on, shutdown_timeout=50.0)
        await trio.sleep(2)
        await supervisor.shutdown()
    assert trio.current_time() == 52.0
    assert starts(record) == [0.0]
    assert states(supervisor) == {"a": "stopped", "live_on": "stopped"}


async def test_leaving_the_block_waits_for_a_child_that_backs_off(autojump_clock, record):
    async with open_supervisor(backoff=Backoff(initial=60.0), limit=None) as supervisor:

        async def crashes_once():
            record.append(trio.current_time())
            if len(record) == 1:
                raise Crash

        supervisor.start_soon(crashes_once, restart=Restart.TRANSIENT)
    assert record == [0.0, 60.0]
