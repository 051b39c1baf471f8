"""How one child is asked, cancelled and awaited, and how the code inside cooperates."""

from __future__ import annotations

import contextlib
import logging
import math
import threading

import pytest
import trio
from actors import Crash, Log, crash_after, hold_out, live_on, return_after, states
from trio.testing import wait_all_tasks_blocked

from actp_supervise import (
    ChildState,
    Restart,
    RestartLimit,
    current_child,
    open_supervisor,
)

# Asked first, cancelled later.


async def test_a_child_is_asked_first_and_cancelled_after_its_time(autojump_clock, record):
    async def ignores_it():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            record.append(("cancelled", trio.current_time()))
            raise

    async with open_supervisor(shutdown_timeout=5.0) as supervisor:
        child = supervisor.start_soon(ignores_it)
        await trio.sleep(1)
        assert not child.stopping
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop, "ignores_it")
            await trio.sleep(1)
            assert child.stopping
            assert (child.state, record) == ("stopping", [])
        assert (child.state, record) == ("stopped", [("cancelled", 6.0)])


async def test_an_idle_wait_ends_at_once_while_work_in_flight_goes_on(autojump_clock, record):
    async def worker():
        child = current_child()
        while not child.stopping:
            with child.cancel_on_stop():
                await trio.sleep(10)
            if not child.stopping:
                await trio.sleep(3)
                record.append(("worked", trio.current_time()))
        record.append(("ended", trio.current_time()))

    for asked_at, end in ((5.0, 5.0), (11.0, 13.0)):
        record.clear()
        start = trio.current_time()
        async with open_supervisor(shutdown_timeout=60.0) as supervisor:
            supervisor.start_soon(worker)
            await trio.sleep(asked_at)
            await supervisor.shutdown()
        assert record[-1] == ("ended", start + end)


async def test_a_timeout_of_zero_cancels_at_once(autojump_clock):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(live_on, shutdown_timeout=0.0)
        await trio.sleep(1)
        await supervisor.stop("live_on")
        assert trio.current_time() == 1.0


async def test_a_timeout_of_infinity_waits_for_ever(autojump_clock):
    async def takes_its_time():
        await current_child().stopping.wait()
        await trio.sleep(50_000)

    log = Log()
    async with open_supervisor(shutdown_timeout=math.inf, on_event=log) as supervisor:
        supervisor.start_soon(takes_its_time)
        await trio.sleep(1)
        await supervisor.stop("takes_its_time")
        assert trio.current_time() == 50_001
        assert log.of("stop_overdue") == []


async def test_a_child_has_the_supervisors_time_to_stop_unless_it_has_its_own(autojump_clock):
    async with open_supervisor(shutdown_timeout=2.0) as supervisor:
        supervisor.start_soon(live_on, name="a")
        supervisor.start_soon(live_on, name="b", shutdown_timeout=4.0)
        await trio.sleep(1)
        await supervisor.stop("a")
        assert trio.current_time() == 3.0
        await supervisor.stop("b")
        assert trio.current_time() == 7.0


async def test_the_event_of_a_stop_says_how_long_the_child_has(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(live_on, shutdown_timeout=4.0)
        await trio.sleep(1)
        await supervisor.stop("live_on")
    assert log.last("stop_requested").timeout == 4.0


# The stop signal.


async def test_the_stop_signal_can_be_asked_awaited_or_used_as_a_truth(autojump_clock, record):
    async def child_fn():
        stopping = current_child().stopping
        assert not stopping.is_set()
        assert not stopping
        await stopping.wait()
        assert stopping.is_set()
        assert stopping
        await stopping.wait()
        record.append(trio.current_time())

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child_fn)
        await trio.sleep(1)
        await supervisor.stop("child_fn")
    assert record == [1.0]


async def test_a_signal_taken_after_the_child_was_asked_is_set(autojump_clock, record):
    async def looks_late():
        await trio.sleep(2)
        await current_child().stopping.wait()
        record.append(trio.current_time())
        with current_child().cancel_on_stop() as scope:
            await trio.sleep_forever()
        record.append(scope.cancelled_caught)

    async with open_supervisor(shutdown_timeout=5.0) as supervisor:
        supervisor.start_soon(looks_late)
        await trio.sleep(1)
        await supervisor.stop("looks_late")
    assert record == [2.0, True]


async def test_each_run_has_a_signal_of_its_own(autojump_clock):
    async def child_fn():
        signals.append(current_child().stopping)
        await signals[-1].wait()

    signals = []
    async with open_supervisor() as supervisor:
        supervisor.start_soon(child_fn)
        await trio.sleep(1)
        await supervisor.restart("child_fn")
        await wait_all_tasks_blocked()
        assert [signal.is_set() for signal in signals] == [True, False]
        await supervisor.shutdown()


async def test_blocks_that_end_on_a_stop_may_be_nested_and_left_before(autojump_clock, record):
    async def child_fn():
        with current_child().cancel_on_stop() as outer:
            with current_child().cancel_on_stop() as inner:
                await trio.sleep(1)
            assert not inner.cancelled_caught
            await trio.sleep_forever()
        record.append((outer.cancelled_caught, inner.cancel_called))

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child_fn)
        await trio.sleep(3)
        await supervisor.stop("child_fn")
    assert record == [(True, False)]


# Children that clean up slowly, crash while stopping, or refuse.


async def test_cleanup_that_shields_itself_is_waited_for(autojump_clock):
    async with open_supervisor(shutdown_timeout=1.0) as supervisor:
        child = supervisor.start_soon(hold_out, 3.0)
        await trio.sleep(1)
        await supervisor.stop("hold_out")
        assert (trio.current_time(), child.state) == (5.0, "stopped")


async def test_a_child_that_swallows_its_cancellation_is_stopped_when_it_returns(autojump_clock):
    async def swallows():
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep_forever()

    async with open_supervisor(shutdown_timeout=1.0) as supervisor:
        child = supervisor.start_soon(swallows)
        await trio.sleep(1)
        await supervisor.stop("swallows")
        assert (child.state, child.restarts) == ("stopped", 0)


async def test_a_child_that_crashes_while_it_is_cancelled_is_stopped_and_reported(
    autojump_clock, caplog
):
    async def crashes_on_cancel():
        try:
            await trio.sleep_forever()
        finally:
            raise Crash("in the cleanup")

    caplog.set_level(logging.WARNING, "actp_supervise")
    log = Log()
    async with open_supervisor(
        shutdown_timeout=1.0, on_event=log, limit=RestartLimit(0)
    ) as supervisor:
        child = supervisor.start_soon(crashes_on_cancel)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert (child.state, child.crashes) == ("stopped", 0)
    assert repr(log.last("child_stopped").error) == "Crash('in the cleanup')"
    assert [(r.levelname, r.action) for r in caplog.records] == [("WARNING", "child_stopped")]


async def test_a_child_that_will_not_stop_is_reported_again_on_each_doubling_and_waited_for(
    autojump_clock,
):
    log = Log()
    async with open_supervisor(name="root", shutdown_timeout=2.0, on_event=log) as supervisor:
        child = supervisor.start_soon(hold_out, 50.0, name="c")
        await trio.sleep(1)
        with trio.move_on_after(7.5):
            await supervisor.stop("c")
        assert child.overdue
        assert "c: stopping, overdue" in str(supervisor.tree())
    # Asked at 1 and cancelled at 3.
    assert [
        (event.path, event.time, event.overdue) for event in log if event.action == "stop_overdue"
    ] == [
        (("root", "c"), 8.0, 5.0),
        (("root", "c"), 13.0, 10.0),
        (("root", "c"), 23.0, 20.0),
        (("root", "c"), 43.0, 40.0),
    ]
    assert log.last("child_stopped").time == 53.0
    assert (child.state, child.overdue) == ("stopped", False)


async def test_several_who_wait_for_it_have_it_reported_once(autojump_clock):
    log = Log()
    async with (
        open_supervisor(shutdown_timeout=0.0, on_event=log) as supervisor,
        trio.open_nursery() as nursery,
    ):
        supervisor.start_soon(hold_out, 12.0, name="c")
        await trio.sleep(1)
        for _ in range(3):
            nursery.start_soon(supervisor.stop, "c")
    assert [time for _, _, time in log.of("stop_overdue")] == [6.0, 11.0]


async def test_a_child_that_was_removed_just_before_is_not_reported_as_overdue(autojump_clock):
    log = Log()
    async with open_supervisor(shutdown_timeout=0.0, on_event=log) as supervisor:
        supervisor.start_soon(live_on, name="c")
        supervisor.start_soon(live_on, name="d", shutdown_timeout=30.0)
        await trio.sleep(1)
        await supervisor.remove("c")
        await supervisor.shutdown()
    assert log.of("stop_overdue") == []


async def test_a_child_that_is_restarted_is_not_overdue_any_more(autojump_clock):
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        child = supervisor.start_soon(hold_out, 8.0)
        await trio.sleep(1)
        await supervisor.restart("hold_out")
        assert (trio.current_time(), child.state, child.overdue) == (9.0, "running", False)
        await supervisor.shutdown()


async def test_a_thread_that_cannot_be_cancelled_is_reported_and_waited_for():
    # In real time: a thread knows no other.
    async def in_a_thread():
        await trio.to_thread.run_sync(release.acquire)

    release = threading.Semaphore(0)
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        child = supervisor.start_soon(in_a_thread)
        await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop, "in_a_thread")
            await trio.sleep(0.05)
            assert child.state == "stopping"
            release.release()
        assert child.state == "stopped"


async def test_a_child_cannot_outlive_the_block_whatever_it_does(autojump_clock, record):
    async def shields_itself():
        with trio.CancelScope(shield=True):
            await trio.sleep(1000)
        record.append("done")

    async with open_supervisor() as supervisor:
        supervisor.start_soon(shields_itself)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert (record, trio.current_time()) == (["done"], 1000.0)


async def test_tasks_that_a_child_started_end_with_it(autojump_clock, record):
    async def helper():
        try:
            await trio.sleep_forever()
        finally:
            record.append(trio.current_time())

    async def child_fn():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(helper)
            await trio.sleep(1)
            raise Crash

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child_fn, restart=Restart.TEMPORARY)
        await trio.sleep(2)
    assert record == [1.0]


# Not asked: a child that ends meanwhile.


async def test_a_child_that_ends_by_itself_while_others_are_stopped_delays_nobody(autojump_clock):
    log = Log()
    async with open_supervisor(shutdown_timeout=10.0, on_event=log) as supervisor:
        supervisor.start_soon(crash_after, 3.0, name="a")
        supervisor.start_soon(return_after, 4.0, name="b")
        supervisor.start_soon(live_on, name="c")
        await trio.sleep(1)
        await supervisor.shutdown()
    assert trio.current_time() == 11.0
    assert log.of("stop_requested", "child_crashed", "child_finished", "child_stopped") == [
        ("c", "stop_requested", 1.0),
        ("a", "child_crashed", 3.0),
        ("b", "child_finished", 4.0),
        ("c", "child_stopped", 11.0),
    ]
    assert states(supervisor) == {"a": "failed", "b": "finished", "c": "stopped"}


async def test_nobody_escalates_once_the_supervisor_stops(autojump_clock):
    async with open_supervisor(shutdown_timeout=10.0, limit=RestartLimit(0)) as supervisor:
        child = supervisor.start_soon(crash_after, 3.0)
        supervisor.start_soon(live_on)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert (child.state, child.restarts) == (ChildState.FAILED, 0)


@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_child_that_somebody_stops_during_a_shutdown_is_asked_out_of_its_turn(
    autojump_clock, name
):
    async def operator():
        await trio.sleep(2)
        await supervisor.stop(name)
        stopped_at.append(trio.current_time())

    stopped_at = []
    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        supervisor.start_soon(live_on, name="a", shutdown_timeout=1.0)
        supervisor.start_soon(live_on, name="b", shutdown_timeout=10.0)
        nursery.start_soon(operator)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert stopped_at == [{"a": 3.0, "b": 11.0}[name]]
