"""Which runs are asked to stop before they are cancelled, and how long they have."""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager

import pytest
import trio
from actors import Actor, Log, live_on, states

from actp_supervise import (
    ShutdownOrder,
    Strategy,
    current_child,
    open_scheduler,
    open_supervisor,
)


async def listens_by_reading():
    assert not current_child().stopping
    await trio.sleep_forever()


async def listens_by_a_block():
    with current_child().cancel_on_stop():
        await trio.sleep(1)
    await trio.sleep_forever()


async def listens_by_a_supervisor():
    async with open_supervisor():
        await trio.sleep(1)
    await trio.sleep_forever()


async def listens_by_a_scheduler():
    async with open_scheduler(timezone="UTC") as scheduler:
        await scheduler.shutdown()
    await trio.sleep_forever()


async def listens_in_a_task_below():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listens_by_reading)


LISTENERS = [
    listens_by_reading,
    listens_by_a_block,
    listens_by_a_supervisor,
    listens_by_a_scheduler,
    listens_in_a_task_below,
]


# Who listens, and who does not.


@asynccontextmanager
async def left_by(how):
    """A block of ten plain children that is ended in some way after a second."""
    with trio.CancelScope() as outside:
        async with open_supervisor() as supervisor:
            for _ in range(10):
                supervisor.start_soon(live_on)
            await trio.sleep(1)
            yield supervisor
            if how == "shutdown":
                await supervisor.shutdown()
            elif how == "cancelled":
                outside.cancel()
                await trio.sleep_forever()
            else:
                raise KeyError(how)


@pytest.mark.parametrize("how", ["shutdown", "cancelled", "body fails"])
async def test_children_that_do_not_listen_are_cancelled_at_once(autojump_clock, how):
    try:
        async with left_by(how) as supervisor:
            children = supervisor.children
    except KeyError:
        assert how == "body fails"
    assert trio.current_time() == 1.0
    assert {child.state for child in children} == {"stopped"}


async def test_a_group_of_children_that_do_not_listen_restarts_at_once(autojump_clock, record):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        for name in "abc":
            supervisor.start_soon(live_on, name=name)
        child = supervisor.start_soon(Actor("d", record, 2.0))
        await trio.sleep(3)
        assert {child.started_at for child in supervisor.children} == {2.0}
        assert (child.restarts, supervisor["a"].restarts) == (1, 1)
        await supervisor.shutdown()


async def test_a_time_limit_around_a_block_of_plain_children_is_kept(autojump_clock):
    with trio.move_on_after(8):
        async with open_supervisor() as supervisor:
            for _ in range(10):
                supervisor.start_soon(live_on)
    assert trio.current_time() == 8.0


@pytest.mark.parametrize("listens", LISTENERS, ids=lambda fn: fn.__name__)
async def test_a_child_that_listens_has_five_seconds_by_default(autojump_clock, listens):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(listens)
        await trio.sleep(2)
        await supervisor.shutdown()
    assert trio.current_time() == 7.0


async def test_a_child_also_listens_by_a_look_from_its_own_thread():
    async def child_fn():
        await trio.to_thread.run_sync(lambda: current_child().stopping.is_set())
        looked.set()
        await released.wait()

    log = Log()
    looked, released = trio.Event(), trio.Event()
    async with open_supervisor(on_event=log) as supervisor:
        supervisor.start_soon(child_fn)
        await looked.wait()
        supervisor.request_shutdown()
        released.set()
    assert log.last("stop_requested").timeout == 5.0


async def test_a_look_from_outside_does_not_make_a_child_listen(autojump_clock):
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(live_on)
        await trio.sleep(1)
        assert not child.stopping
        await supervisor.shutdown()
        assert child.stopping
    assert trio.current_time() == 1.0


async def test_each_run_listens_anew(autojump_clock):
    looks = iter([True, False])

    async def child_fn():
        if next(looks):
            assert not current_child().stopping
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child_fn, name="c")
        await trio.sleep(1)
        await supervisor.restart("c")
        assert trio.current_time() == 6.0
        await supervisor.stop("c")
        assert trio.current_time() == 6.0


# How long it has.


@pytest.mark.parametrize("child_fn", [live_on, listens_by_reading])
@pytest.mark.parametrize("timeout", [0.0, 2.0, 7.0])
async def test_a_number_holds_for_either_kind(autojump_clock, child_fn, timeout):
    async with open_supervisor(shutdown_timeout=timeout) as supervisor:
        supervisor.start_soon(child_fn)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert trio.current_time() == 1.0 + timeout


async def test_a_plain_child_with_work_that_must_finish_is_given_a_number(autojump_clock, record):
    async def works():
        await trio.sleep(4)
        record.append(trio.current_time())

    async with open_supervisor() as supervisor:
        supervisor.start_soon(works, shutdown_timeout=30.0)
        supervisor.start_soon(live_on)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert record == [4.0]
    assert trio.current_time() == 4.0


async def test_infinity_waits_for_ever_also_for_one_that_does_not_listen(autojump_clock):
    async with open_supervisor(shutdown_timeout=math.inf) as supervisor:
        supervisor.start_soon(trio.sleep, 1000)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert trio.current_time() == 1000.0


@pytest.mark.parametrize("order", ShutdownOrder)
async def test_those_who_listen_are_waited_for_among_those_who_do_not(autojump_clock, order):
    async def takes_a_second():
        await current_child().stopping.wait()
        await trio.sleep(1)

    async with open_supervisor(shutdown_order=order) as supervisor:
        for number in range(3):
            supervisor.start_soon(takes_a_second, name=f"a{number}")
            supervisor.start_soon(live_on, name=f"b{number}")
        await trio.sleep(1)
        await supervisor.shutdown()
    assert trio.current_time() == (2.0 if order is ShutdownOrder.TOGETHER else 4.0)


# What is said meanwhile.


async def test_a_wait_of_over_a_second_is_logged_with_the_name_of_the_child(autojump_clock, caplog):
    caplog.set_level(logging.WARNING, "actp_supervise")
    async with open_supervisor(name="root") as supervisor:
        supervisor.start_soon(listens_by_reading, name="slow")
        supervisor.start_soon(live_on, name="quick")
        supervisor.start_soon(trio.sleep, 4, name="patient", shutdown_timeout=math.inf)
        await trio.sleep(1)
        await supervisor.shutdown()
    waits = [r for r in caplog.records if getattr(r, "action", "") == "waiting_for_stop"]
    assert [(record.path, record.getMessage()) for record in waits] == [
        (
            "root/patient",
            "root/patient: still waiting for it to stop; it is never cancelled",
        ),
        (
            "root/slow",
            "root/slow: still waiting for it to stop; it is cancelled in 4.0 s",
        ),
    ]


async def test_a_child_is_shown_as_stopping_until_it_is_gone(autojump_clock):
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        supervisor.start_soon(listens_by_reading, name="c")
        await trio.sleep(1)
        nursery.start_soon(supervisor.stop, "c")
        await trio.sleep(4)
        assert states(supervisor) == {"c": "stopping"}
        await trio.sleep(2)
        assert states(supervisor) == {"c": "stopped"}
        await supervisor.shutdown()
