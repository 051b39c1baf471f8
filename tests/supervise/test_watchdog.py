"""Children that must show that they get on."""

from __future__ import annotations

import threading

import pytest
import trio
from actors import Actor, Crash, Log, hold_out, live_on, states
from trio.testing import wait_all_tasks_blocked

from actp_supervise import (
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    Stalled,
    Strategy,
    current_child,
    open_supervisor,
)


async def beats(*moments):
    """Beat at these moments of each run, then hang."""
    start = trio.current_time()
    for moment in moments:
        await trio.sleep_until(start + moment)
        current_child().beat()
    await trio.sleep_forever()


async def test_a_child_that_does_not_beat_is_cancelled_and_counts_as_a_crash(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        child = supervisor.start_soon(beats, 4.0, 8.0, name="c", watchdog=5.0)
        await trio.sleep(14)
        assert (child.state, child.crashes, child.restarts) == ("running", 1, 1)
        await supervisor.shutdown()
    assert log.of()[:5] == [
        ("c", "child_started", 0.0),
        ("c", "child_stalled", 13.0),
        ("c", "child_crashed", 13.0),
        ("c", "restart_scheduled", 13.0),
        ("c", "child_started", 13.0),
    ]
    assert log.last("child_stalled").watchdog == 5.0


async def test_a_child_that_beats_often_enough_lives_on(autojump_clock):
    async def worker():
        while True:
            await trio.sleep(4.75)
            current_child().beat()

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(worker, watchdog=5.0)
        await trio.sleep(10_000)
        assert (child.state, child.crashes) == ("running", 0)
        await supervisor.shutdown()


async def test_the_error_of_a_stall_says_so(autojump_clock):
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(limit=RestartLimit(0)) as supervisor:
            child = supervisor.start_soon(live_on, watchdog=5.0)
    assert repr(caught.value.__cause__) == "Stalled('no beat for 5.0 s')"
    assert "Stalled: no beat for 5.0 s" in child.last_error


async def test_a_child_without_a_watchdog_may_beat_or_not(autojump_clock):
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(beats, 1.0)
        await trio.sleep(10_000)
        assert (child.state, child.crashes) == ("running", 0)
        await supervisor.shutdown()


async def test_a_temporary_child_that_stalls_is_not_restarted(autojump_clock):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(live_on, watchdog=5.0, restart=Restart.TEMPORARY)
    assert trio.current_time() == 5.0


async def test_the_watchdog_begins_when_the_child_is_ready(autojump_clock):
    async def slow_start(*, task_status):
        await trio.sleep(60)
        task_status.started()
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        await supervisor.start(slow_start, name="c", watchdog=5.0)
        child = supervisor["c"]
        await trio.sleep(4)
        assert (trio.current_time(), child.state) == (64.0, "running")
        await trio.sleep(2)
        assert (child.crashes, child.state) == (1, "starting")
        await trio.sleep(58)
        assert (child.crashes, child.state) == (1, "starting")
        await supervisor.shutdown()


async def test_each_run_has_its_time_anew(autojump_clock):
    async def crashes_first():
        if child.restarts == 0:
            await trio.sleep(3)
            raise Crash
        await trio.sleep(4)
        current_child().beat()
        await trio.sleep_forever()

    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        child = supervisor.start_soon(crashes_first, watchdog=5.0)
        await trio.sleep(13)
        await supervisor.shutdown()
    assert log.of("child_stalled") == [("crashes_first", "child_stalled", 12.0)]


async def test_a_child_that_is_stopping_need_not_beat(autojump_clock):
    log = Log()
    async with open_supervisor(shutdown_timeout=20.0, on_event=log) as supervisor:
        child = supervisor.start_soon(live_on, watchdog=5.0)
        await trio.sleep(1)
        await supervisor.stop("live_on")
    assert (trio.current_time(), child.state, child.crashes) == (21.0, "stopped", 0)
    assert log.of("child_stalled") == []


async def test_a_child_that_is_done_need_not_beat(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(trio.sleep, 1, watchdog=5.0, restart=Restart.TRANSIENT)
        await trio.sleep(20)
    assert log.of("child_stalled", "child_crashed") == []


async def test_leaving_the_block_does_not_wait_for_the_watchdog_of_a_child_that_is_done(
    autojump_clock,
):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(trio.sleep, 1, watchdog=5.0, restart=Restart.TRANSIENT)
    assert trio.current_time() == 1.0


async def test_a_stalled_child_that_swallows_its_cancellation_has_crashed_all_the_same(
    autojump_clock,
):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        child = supervisor.start_soon(hold_out, 7.0, name="c", watchdog=5.0)
        await trio.sleep(13)
        assert (child.crashes, child.restarts, child.state) == (1, 1, "running")
        await supervisor.shutdown()
    assert log.of("child_stalled", "stop_overdue", "child_crashed")[:3] == [
        ("c", "child_stalled", 5.0),
        ("c", "stop_overdue", 10.0),
        ("c", "child_crashed", 12.0),
    ]


async def test_what_a_stalled_child_raises_is_the_cause_of_the_stall(autojump_clock):
    async def crashes_on_cancel():
        try:
            await trio.sleep_forever()
        finally:
            raise Crash("in the cleanup")

    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(limit=RestartLimit(0)) as supervisor:
            supervisor.start_soon(crashes_on_cancel, watchdog=5.0)
    stalled = caught.value.__cause__
    assert isinstance(stalled, Stalled)
    assert stalled.__cause__.args == ("in the cleanup",)


async def test_stopping_a_stalled_child_leaves_it_stopped(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        child = supervisor.start_soon(hold_out, 7.0, watchdog=5.0)
        await trio.sleep(6)
        assert child.state == "stopping"
        await supervisor.stop("hold_out")
        assert (trio.current_time(), child.state, child.restarts) == (12.0, "stopped", 0)
    assert log.of("stop_overdue") == [("hold_out", "stop_overdue", 10.0)]  # cancelled at 5


async def test_restarting_a_stalled_child_is_that_restart_and_no_crash(autojump_clock):
    async with open_supervisor(limit=RestartLimit(0)) as supervisor:
        child = supervisor.start_soon(hold_out, 7.0, watchdog=5.0)
        await trio.sleep(6)
        await supervisor.restart("hold_out")
        assert (trio.current_time(), child.state) == (12.0, "running")
        assert (child.restarts, child.crashes) == (1, 0)
        await supervisor.shutdown()


async def test_a_stall_takes_the_group_with_it_as_any_crash_does(autojump_clock):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        supervisor.start_soon(live_on, name="a", watchdog=5.0)
        supervisor.start_soon(live_on, name="b")
        await trio.sleep(6)
        assert states(supervisor) == {"a": "running", "b": "running"}
        assert [child.restarts for child in supervisor.children] == [1, 1]
        await supervisor.shutdown()


async def test_a_stalled_child_that_its_group_waits_for_has_crashed_all_the_same(autojump_clock):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        first = supervisor.start_soon(Actor("a", [], 6.0))
        stalled = supervisor.start_soon(hold_out, 7.0, watchdog=5.0)
        await trio.sleep(13)
        assert (first.started_at, stalled.started_at, stalled.crashes) == (12.0, 12.0, 1)
        await supervisor.shutdown()


async def test_a_beat_from_a_task_or_a_function_below_counts(autojump_clock):
    async def helper():
        while True:
            await trio.sleep(3)
            current_child().beat()

    async def child_fn():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(helper)

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn, watchdog=5.0)
        await trio.sleep(100)
        assert child.crashes == 0
        await supervisor.shutdown()


# A promise of a later sign of life.


async def test_a_longer_promise_holds_once(autojump_clock):
    async def long_call():
        current_child().beat(within=600.0)
        await trio.sleep(599)
        current_child().beat()
        await trio.sleep_forever()

    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(long_call, name="c", watchdog=5.0, restart=Restart.TEMPORARY)
    assert log.of("child_stalled") == [("c", "child_stalled", 604.0)]


async def test_a_promise_that_is_not_kept_is_a_stall(autojump_clock):
    async def long_call():
        current_child().beat(within=60.0)
        await trio.sleep_forever()

    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(long_call, name="c", watchdog=5.0, restart=Restart.TEMPORARY)
    assert log.of("child_stalled") == [("c", "child_stalled", 60.0)]


@pytest.mark.parametrize("within", [2.0, 1_000.0, float("inf")])
async def test_a_beat_takes_an_earlier_promise_back(autojump_clock, within):
    async def child_fn():
        current_child().beat(within=within)
        await trio.sleep(1)
        current_child().beat()
        await trio.sleep_forever()

    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(child_fn, name="c", watchdog=5.0, restart=Restart.TEMPORARY)
    assert log.of("child_stalled") == [("c", "child_stalled", 6.0)]


@pytest.mark.parametrize("within", [0, -1.0, float("nan"), "5", True])
async def test_a_promise_that_is_no_duration_is_refused(autojump_clock, within):
    async def child_fn():
        with pytest.raises((TypeError, ValueError), match="within must be"):
            current_child().beat(within=within)

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child_fn, watchdog=5.0, restart=Restart.TRANSIENT)


# From whatever thread. It sleeps really, for a short while: a thread has no virtual time.


async def test_a_beat_counts_from_a_thread_of_the_child():
    def works():
        for _ in range(8):
            threading.Event().wait(0.1)
            child.beat()

    async with open_supervisor() as supervisor:

        async def child_fn():
            await trio.to_thread.run_sync(works)

        child = supervisor.start_soon(child_fn, watchdog=0.5, restart=Restart.TEMPORARY)
    assert child.last_error is None


# A judge that was late accuses nobody. `MockClock.jump` is what a blocked loop or SIGSTOP is to the
# clock: time passes, and nothing runs.


async def beats_each(seconds):
    while True:
        current_child().beat()
        await trio.sleep(seconds)


@pytest.mark.parametrize("late", [0.001, 3.0, 9.0, 86_400.0])
async def test_nobody_is_accused_when_the_loop_itself_was_late(mock_clock, late):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        for number in range(20):
            supervisor.start_soon(beats_each, 1.0, name=str(number), watchdog=3.0)
        for _ in range(20):
            mock_clock.jump(3.0 + late)
            await wait_all_tasks_blocked()
        await supervisor.shutdown()
    assert log.of("child_stalled") == []


async def test_one_that_hangs_is_accused_though_the_loop_was_late(mock_clock):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(live_on, name="hangs", watchdog=3.0, restart=Restart.TEMPORARY)
        await wait_all_tasks_blocked()
        mock_clock.jump(8.0)  # the judge wakes 5 s late, and grants as much
        await wait_all_tasks_blocked()
        assert log.of("child_stalled") == []
        mock_clock.jump(5.0)
        await wait_all_tasks_blocked()
    assert log.of("child_stalled") == [("hangs", "child_stalled", 13.0)]


async def test_a_beat_at_the_very_last_moment_is_in_time(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        for number in range(30):  # which of two tasks is first at one moment is Trio's to choose
            supervisor.start_soon(beats_each, 3.0, name=str(number), watchdog=3.0)
        await trio.sleep(100)
        await supervisor.shutdown()
    assert log.of("child_stalled") == []


def test_no_sibling_of_one_that_blocks_the_loop_is_accused():
    """Really blocked, for a second: what `MockClock` does not show is what the loop does first."""

    async def blocks():
        for _ in range(2):
            await trio.sleep(0.1)
            threading.Event().wait(0.6)
        await trio.sleep_forever()

    async def main():
        async with open_supervisor(on_event=log) as supervisor:
            for number in range(10):
                supervisor.start_soon(beats_each, 0.05, name=str(number), watchdog=0.5)
            supervisor.start_soon(blocks)
            await trio.sleep(1.6)
            await supervisor.shutdown()

    log = Log()
    trio.run(main)
    assert log.of("child_stalled") == []
