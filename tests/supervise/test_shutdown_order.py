"""How a supervisor stops: in which order, for which causes, how deep, and what is left."""

from __future__ import annotations

import math

import pytest
import trio
from actors import Actor, Crash, Log, crash_after, hold_out, live_on, states

from actp_supervise import (
    AutoShutdown,
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    ShutdownOrder,
    Strategy,
    current_child,
    open_supervisor,
)


async def start_three(supervisor, record, *, cleanup=1.0):
    for name in ("c", "a", "b"):
        await supervisor.start(Actor(name, record, cleanup=cleanup), shutdown_timeout=0.0)
    record.clear()


IN_ORDER = [("-b", 2.0), ("-a", 3.0), ("-c", 4.0)]  # asked at 1, each takes a second


# The order holds, whatever the cause.


async def test_leaving_the_block_waits_for_the_children_as_a_nursery_does(autojump_clock, record):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(trio.sleep, 3, restart=Restart.TRANSIENT)
        supervisor.start_soon(trio.sleep, 5, restart=Restart.TEMPORARY)
    assert trio.current_time() == 5.0


async def test_leaving_the_block_waits_for_children_that_are_started_meanwhile(autojump_clock):
    async def starts_another():
        await trio.sleep(3)
        supervisor.start_soon(trio.sleep, 4, restart=Restart.TRANSIENT)

    async with open_supervisor() as supervisor:
        supervisor.start_soon(starts_another, restart=Restart.TRANSIENT)
    assert trio.current_time() == 7.0


async def test_shutdown_stops_one_by_one_the_last_started_first(autojump_clock, record):
    async with open_supervisor() as supervisor:
        await start_three(supervisor, record)
        await trio.sleep(1)
        await supervisor.shutdown()
        assert trio.current_time() == 4.0
    assert record == IN_ORDER


async def test_each_child_is_gone_before_the_next_is_asked(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        for name in ("c", "a", "b"):
            supervisor.start_soon(hold_out, 1.0, name=name, shutdown_timeout=2.0)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert log.of("stop_requested", "child_stopped") == [
        ("b", "stop_requested", 1.0),
        ("b", "child_stopped", 4.0),
        ("a", "stop_requested", 4.0),
        ("a", "child_stopped", 7.0),
        ("c", "stop_requested", 7.0),
        ("c", "child_stopped", 10.0),
    ]


async def test_an_exception_in_the_body_stops_the_children_in_order_first(autojump_clock, record):
    with pytest.raises(Crash, match="in the body"):
        async with open_supervisor() as supervisor:
            await start_three(supervisor, record)
            await trio.sleep(1)
            raise Crash("in the body")
    assert record == IN_ORDER


@pytest.mark.parametrize("in_the_body", [True, False])
async def test_cancellation_from_outside_stops_the_children_in_order(
    autojump_clock, record, in_the_body
):
    with trio.move_on_after(1) as scope:
        async with open_supervisor() as supervisor:
            await start_three(supervisor, record)
            if in_the_body:
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert record == IN_ORDER


async def test_a_crash_beside_the_supervisor_stops_its_children_in_order(autojump_clock, record):
    with pytest.RaisesGroup(Crash):
        async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
            await start_three(supervisor, record)
            nursery.start_soon(crash_after, 1.0)
    assert record == IN_ORDER


async def test_escalation_stops_the_children_in_order(autojump_clock, record):
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(0)) as supervisor:
            await start_three(supervisor, record)
            supervisor.start_soon(crash_after, 1.0)
    assert record == IN_ORDER


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_inside_a_child_stops_its_siblings_in_order(
    autojump_clock, record, error
):
    async def interrupted():
        await trio.sleep(1)
        raise error

    with pytest.raises(error):
        async with open_supervisor() as supervisor:
            await start_three(supervisor, record)
            supervisor.start_soon(interrupted)
    assert record == IN_ORDER


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_the_body_stops_the_children_in_order(autojump_clock, record, error):
    with pytest.raises(error):
        async with open_supervisor() as supervisor:
            await start_three(supervisor, record)
            await trio.sleep(1)
            raise error
    assert record == IN_ORDER


async def test_auto_shutdown_stops_the_children_in_order(autojump_clock, record):
    async with open_supervisor(auto_shutdown=AutoShutdown.ANY_SIGNIFICANT) as supervisor:
        await start_three(supervisor, record)
        supervisor.start_soon(trio.sleep, 1, restart=Restart.TRANSIENT, significant=True)
    assert record == IN_ORDER


async def test_every_child_gets_its_own_time_though_another_took_all_of_its(autojump_clock):
    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(live_on, name="a", shutdown_timeout=3.0)
        supervisor.start_soon(hold_out, 10.0, name="b", shutdown_timeout=2.0)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert log.of("child_stopped") == [("b", "child_stopped", 13.0), ("a", "child_stopped", 16.0)]


async def test_a_further_cause_while_it_stops_changes_nothing(autojump_clock, record):
    with trio.move_on_after(1.5):
        async with open_supervisor() as supervisor:
            await start_three(supervisor, record)
            await trio.sleep(1)
            await supervisor.shutdown()
    assert record == IN_ORDER


# Together.


async def test_together_asks_all_at_once_and_cancels_the_late_ones_on_one_clock(autojump_clock):
    async def ends_after(seconds):
        await current_child().stopping.wait()
        await trio.sleep(seconds)

    log = Log()
    async with open_supervisor(
        shutdown_order=ShutdownOrder.TOGETHER, shutdown_timeout=4.0, on_event=log
    ) as supervisor:
        supervisor.start_soon(live_on, name="at once", shutdown_timeout=0.0)
        supervisor.start_soon(ends_after, 2.0, name="in time")
        supervisor.start_soon(live_on, name="late")
        supervisor.start_soon(ends_after, 6.0, name="without end", shutdown_timeout=math.inf)
        await trio.sleep(1)
        await supervisor.shutdown()
    asked = log.of("stop_requested")
    assert {name for name, *_ in asked} == {"at once", "in time", "late", "without end"}
    assert {time for *_, time in asked} == {1.0}
    assert log.of("child_stopped") == [
        ("at once", "child_stopped", 1.0),
        ("in time", "child_stopped", 3.0),
        ("late", "child_stopped", 5.0),
        ("without end", "child_stopped", 7.0),
    ]


@pytest.mark.parametrize("order", ShutdownOrder)
async def test_the_child_that_calls_shutdown_is_asked_like_the_others(autojump_clock, order):
    async def calls_shutdown():
        await trio.sleep(1)
        await supervisor.shutdown()
        await trio.sleep(2)
        finished_at.append(trio.current_time())

    finished_at = []
    async with open_supervisor(shutdown_order=order) as supervisor:
        supervisor.start_soon(calls_shutdown)
    assert finished_at == [3.0]
    assert states(supervisor) == {"calls_shutdown": "stopped"}


# Who may call shutdown.


async def test_shutdown_by_the_body_returns_when_all_is_stopped_and_the_body_goes_on(
    autojump_clock, record
):
    async with open_supervisor() as supervisor:
        await start_three(supervisor, record)
        await supervisor.shutdown()
        assert len(record) == 3
        await trio.sleep(1)
        record.append("the body went on")
    assert record[-1] == "the body went on"


async def test_shutdown_by_another_task_cancels_the_body(autojump_clock, record):
    async def operator():
        await trio.sleep(1)
        await supervisor.shutdown()
        record.append(("shutdown returned", trio.current_time()))

    async with trio.open_nursery() as nursery:
        async with open_supervisor() as supervisor:
            await start_three(supervisor, record)
            nursery.start_soon(operator)
            try:
                await trio.sleep_forever()
            finally:
                record.append(("body cancelled", trio.current_time()))
        record.append(("block left", trio.current_time()))
    assert record[0] == ("body cancelled", 1.0)
    assert record[1:4] == IN_ORDER
    assert sorted(record[4:]) == [("block left", 4.0), ("shutdown returned", 4.0)]


async def test_shutdown_from_inside_a_child_returns_when_that_child_is_asked(
    autojump_clock, record
):
    async def calls_shutdown():
        await trio.sleep(1)
        await supervisor.shutdown()
        record.append(("returned", trio.current_time()))

    async with open_supervisor(shutdown_timeout=math.inf) as supervisor:
        supervisor.start_soon(calls_shutdown)
        await supervisor.start(Actor("a", [], cleanup=2.0), shutdown_timeout=0.0)
    assert record == [("returned", 3.0)]
    assert trio.current_time() == 3.0


async def test_shutdown_from_deep_in_a_subtree_stops_the_whole_tree(autojump_clock, record):
    async def subtree(depth):
        async with open_supervisor(shutdown_timeout=math.inf) as below:
            below.start_soon(*((subtree, depth - 1) if depth else (calls_shutdown,)))

    async def calls_shutdown():
        await trio.sleep(1)
        await root.shutdown()
        record.append(trio.current_time())

    async with open_supervisor(shutdown_timeout=math.inf) as root:
        root.start_soon(subtree, 2)
        await trio.sleep_forever()
    assert record == [1.0]
    assert trio.current_time() == 1.0


async def test_shutdown_may_be_called_again_and_by_several_at_once(autojump_clock, record):
    async def operator():
        await supervisor.shutdown()
        record.append(trio.current_time())

    async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
        supervisor.start_soon(hold_out, 2.0, shutdown_timeout=0.0)
        await trio.sleep(1)
        nursery.start_soon(operator)
        nursery.start_soon(operator)
        await supervisor.shutdown()
        await supervisor.shutdown()
    assert record == [3.0, 3.0]
    await supervisor.shutdown()


async def test_a_caller_of_shutdown_that_is_cancelled_leaves_the_shutdown_going_on(
    autojump_clock,
):
    async with open_supervisor(shutdown_timeout=5.0) as supervisor:
        child = supervisor.start_soon(live_on)
        await trio.sleep(1)
        with trio.move_on_after(2):
            await supervisor.shutdown()
        assert (trio.current_time(), child.state) == (3.0, "stopping")
    assert (trio.current_time(), child.state) == (6.0, "stopped")


# Nothing begins once a supervisor stops.


async def test_a_supervisor_shut_down_before_it_got_going_starts_nothing(autojump_clock, record):
    for order in ShutdownOrder:
        for _ in range(10):  # Trio's scheduler has some choice here
            async with open_supervisor(shutdown_order=order) as supervisor:
                for name in "abc":
                    supervisor.start_soon(Actor(name, record))
                await supervisor.shutdown()
            assert set(states(supervisor).values()) == {"stopped"}
    assert record == []


async def test_a_crash_while_its_supervisor_stops_is_not_restarted(autojump_clock, record):
    async with open_supervisor(shutdown_timeout=10.0) as supervisor:
        await supervisor.start(Actor("a", record, 3.0))
        supervisor.start_soon(live_on)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert record == [("+a", 0.0), ("-a", 3.0)]
    assert supervisor["a"].state == "failed"


@pytest.mark.parametrize("strategy", [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE])
async def test_a_group_in_the_middle_of_its_restart_starts_no_further_member(
    autojump_clock, record, strategy
):
    async with open_supervisor(strategy=strategy, shutdown_timeout=0.0) as supervisor:
        await supervisor.start(Actor("a", record, 1.0, ready_after=2.0))
        await supervisor.start(Actor("b", record))
        record.clear()
        await trio.sleep(2)  # at 3 a crashes, at 5 it is ready again
        await supervisor.shutdown()
    assert record == [("-a", 3.0), ("-b", 3.0), ("+a", 3.0), ("-a", 4.0)]


async def test_a_group_that_is_being_stopped_for_its_restart_is_not_started(autojump_clock, record):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        await supervisor.start(Actor("a", record, 1.0))
        await supervisor.start(Actor("b", record, cleanup=3.0))
        record.clear()
        await trio.sleep(2)
        await supervisor.shutdown()
    assert record == [("-a", 1.0), ("-b", 4.0)]
    assert states(supervisor) == {"a": "stopped", "b": "stopped"}


async def test_an_empty_supervisor_is_left_at_once(autojump_clock):
    async with open_supervisor():
        pass
    assert trio.current_time() == 0.0


# Trees.


async def test_a_subtree_stops_as_one_child_of_its_parent_and_in_its_own_order(
    autojump_clock, record
):
    async def subtree():
        async with open_supervisor(name="sub") as below:
            await start_three(below, record)

    async with open_supervisor() as supervisor:
        await supervisor.start(Actor("first", record, cleanup=1.0), shutdown_timeout=0.0)
        supervisor.start_soon(subtree)
        await trio.sleep(0.5)
        await supervisor.start(Actor("last", record, cleanup=0.5), shutdown_timeout=0.0)
        record.clear()
        await supervisor.shutdown()
    assert record == [("-last", 1.0), *IN_ORDER, ("-first", 5.0)]


async def test_a_parents_timeout_does_not_cut_the_stop_of_a_subtree_short(autojump_clock, record):
    async def subtree():
        async with open_supervisor(name="sub") as below:
            await start_three(below, record)
            await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        supervisor.start_soon(subtree, shutdown_timeout=0.0)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert record == IN_ORDER


async def test_a_subtree_stops_in_order_when_its_root_is_cancelled_from_outside(
    autojump_clock, record
):
    async def subtree():
        async with open_supervisor(name="sub") as below:
            await start_three(below, record)

    with trio.move_on_after(1):
        async with open_supervisor(shutdown_timeout=0.0) as supervisor:
            supervisor.start_soon(subtree)
            await trio.sleep_forever()
    assert record == IN_ORDER


async def test_a_time_limit_around_the_block_is_not_seen_by_the_children(autojump_clock, record):
    async def child_fn():
        record.append(trio.current_effective_deadline())

    with trio.move_on_after(10):
        async with open_supervisor() as supervisor:
            supervisor.start_soon(child_fn, restart=Restart.TEMPORARY)
    assert record == [math.inf]


async def test_a_start_in_the_body_is_left_when_the_supervisor_stops(autojump_clock):
    async def never(*, task_status):
        await trio.sleep_forever()

    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(0), shutdown_timeout=0.0) as supervisor:
            supervisor.start_soon(crash_after, 1.0)
            await supervisor.start(never)
    assert trio.current_time() == 1.0
    assert [*states(supervisor)] == ["crash_after"]
