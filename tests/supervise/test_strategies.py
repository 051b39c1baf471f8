"""Which children a restart takes with it, in which order, and what may happen meanwhile."""

from __future__ import annotations

import math

import pytest
import trio
from actors import Actor, Crash, Log, crash_after, live_on, return_after, states

from actp_supervise import (
    Backoff,
    DoNotRestart,
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    Strategy,
    current_child,
    open_supervisor,
)

GROUPS = [Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE]


async def start_all(supervisor, *actors, **options):
    for actor in actors:
        await supervisor.start(actor, **options)


# Who, and in which order.


async def test_one_for_one_restarts_the_failed_child_alone(autojump_clock, record):
    async with open_supervisor() as supervisor:
        await start_all(supervisor, Actor("a", record), Actor("b", record, 1.0), Actor("c", record))
        record.clear()
        await trio.sleep(3)
        assert record == [("-b", 1.0), ("+b", 1.0)]
        await supervisor.shutdown()


async def test_one_for_all_stops_all_in_reverse_start_order_and_starts_all_in_start_order(
    autojump_clock, record
):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        await start_all(
            supervisor,
            Actor("c", record, cleanup=1.0),
            Actor("a", record, 1.0),
            Actor("b", record, cleanup=2.0),
        )
        record.clear()
        await trio.sleep(4.5)
        assert record == [
            ("-a", 1.0),
            ("-b", 3.0),
            ("-c", 4.0),
            ("+c", 4.0),
            ("+a", 4.0),
            ("+b", 4.0),
        ]
        await supervisor.shutdown()


async def test_rest_for_one_takes_those_started_later_and_leaves_the_earlier_ones_alone(
    autojump_clock, record
):
    async with open_supervisor(strategy=Strategy.REST_FOR_ONE, shutdown_timeout=0.0) as supervisor:
        await start_all(
            supervisor,
            Actor("d", record, cleanup=1.0),
            Actor("a", record, 1.0),
            Actor("c", record, cleanup=1.0),
            Actor("b", record, cleanup=1.0),
        )
        record.clear()
        await trio.sleep(3.5)
        assert record == [
            ("-a", 1.0),
            ("-b", 2.0),
            ("-c", 3.0),
            ("+a", 3.0),
            ("+c", 3.0),
            ("+b", 3.0),
        ]
        await supervisor.shutdown()


async def test_a_restarted_child_keeps_its_place_in_the_order(autojump_clock, record):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        await start_all(supervisor, Actor("a", record, 1.0), Actor("b", record), Actor("c", record))
        await supervisor.restart("a")
        await trio.sleep(8)
        assert [child.name for child in supervisor.children] == ["a", "b", "c"]
        await supervisor.shutdown()


async def test_each_member_is_ready_before_the_next_is_started(autojump_clock, record):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        await start_all(
            supervisor,
            Actor("a", record, ready_after=2.0),
            Actor("b", record, ready_after=3.0),
            Actor("c", record, 1.0),
        )
        assert record == [("+a", 0.0), ("+b", 2.0), ("+c", 5.0)]
        record.clear()
        await trio.sleep(7)
        assert record[-3:] == [("+a", 6.0), ("+b", 8.0), ("+c", 11.0)]
        await supervisor.shutdown()


async def test_members_have_their_own_time_to_stop(autojump_clock):
    log = Log()
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, on_event=log) as supervisor:
        supervisor.start_soon(crash_after, 1.0, name="a", restart=Restart.TRANSIENT)
        supervisor.start_soon(live_on, name="b", shutdown_timeout=2.0)
        supervisor.start_soon(live_on, name="c", shutdown_timeout=3.0)
        await trio.sleep(6.5)
        assert log.of("stop_requested", "child_stopped") == [
            ("c", "stop_requested", 1.0),
            ("c", "child_stopped", 4.0),
            ("b", "stop_requested", 4.0),
            ("b", "child_stopped", 6.0),
        ]
        await supervisor.shutdown()


async def test_a_member_that_crashes_when_it_is_asked_is_started_again_and_does_not_count(
    autojump_clock,
):
    async def crashes_when_stopped():
        try:
            await trio.sleep_forever()
        finally:
            raise Crash("on the way out")

    async with open_supervisor(
        strategy=Strategy.ONE_FOR_ALL, limit=RestartLimit(1, 100.0), shutdown_timeout=0.0
    ) as supervisor:
        supervisor.start_soon(Actor("a", [], 1.0))
        other = supervisor.start_soon(crashes_when_stopped)
        await trio.sleep(2)
        assert (other.state, other.restarts, other.crashes) == ("running", 1, 0)
        assert "on the way out" in other.last_error
        await supervisor.shutdown()


# Who is not started again, and who is.


@pytest.mark.parametrize("strategy", GROUPS)
async def test_a_temporary_bystander_is_stopped_leaves_the_list_and_does_not_count(
    autojump_clock, strategy
):
    async with open_supervisor(strategy=strategy, limit=RestartLimit(1, 100.0)) as supervisor:
        supervisor.start_soon(Actor("a", [], 1.0))
        supervisor.start_soon(live_on, name="t", restart=Restart.TEMPORARY)
        supervisor.start_soon(live_on, name="b")
        await trio.sleep(20)
        assert states(supervisor) == {"a": "running", "b": "running"}
        await supervisor.shutdown()


@pytest.mark.parametrize("strategy", GROUPS)
async def test_a_member_that_had_finished_well_is_started_again(autojump_clock, strategy):
    async with open_supervisor(strategy=strategy) as supervisor:
        supervisor.start_soon(Actor("a", [], 2.0))
        done = supervisor.start_soon(return_after, 1.0, name="b", restart=Restart.TRANSIENT)
        await trio.sleep(1.5)
        assert done.state == "finished"
        await trio.sleep(1)
        assert (done.state, done.restarts) == ("running", 1)
        await supervisor.shutdown()


async def test_rest_for_one_leaves_an_earlier_child_that_had_finished_finished(autojump_clock):
    async with open_supervisor(strategy=Strategy.REST_FOR_ONE) as supervisor:
        done = supervisor.start_soon(return_after, 1.0, restart=Restart.TRANSIENT)
        supervisor.start_soon(Actor("a", [], 2.0))
        await trio.sleep(10)
        assert (done.state, done.restarts) == ("finished", 0)
        await supervisor.shutdown()


@pytest.mark.parametrize("strategy", GROUPS)
async def test_what_somebody_stopped_stays_stopped(autojump_clock, strategy):
    async with open_supervisor(strategy=strategy) as supervisor:
        supervisor.start_soon(Actor("a", [], 10.0))
        held = supervisor.start_soon(live_on, name="b")
        await trio.sleep(1)
        await supervisor.stop("b")
        await trio.sleep(20)
        assert (supervisor["a"].restarts, held.state, held.restarts) == (1, "stopped", 0)
        await supervisor.shutdown()


async def test_what_somebody_stopped_and_restarted_belongs_to_its_group_again(autojump_clock):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        supervisor.start_soon(Actor("a", [], 10.0))
        child = supervisor.start_soon(live_on, name="b")
        await trio.sleep(1)
        await supervisor.stop("b")
        await supervisor.restart("b")
        await trio.sleep(10)
        assert (child.state, child.restarts) == ("running", 2)
        await supervisor.shutdown()


async def test_what_somebody_stopped_and_restarted_is_started_again_also_if_it_had_finished(
    autojump_clock,
):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        supervisor.start_soon(Actor("a", [], 10.0))
        child = supervisor.start_soon(return_after, 3.0, name="b", restart=Restart.TRANSIENT)
        await trio.sleep(1)
        await supervisor.stop("b")
        await supervisor.restart("b")
        await trio.sleep(5)
        assert child.state == "finished"
        await trio.sleep(5)
        assert (child.state, child.restarts) == ("running", 2)
        await supervisor.shutdown()


async def test_no_member_starts_while_one_that_somebody_stopped_is_still_on_its_way_out(
    autojump_clock,
):
    async with (
        open_supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor,
        trio.open_nursery() as nursery,
    ):
        child = supervisor.start_soon(Actor("a", [], 2.0))
        supervisor.start_soon(live_on, name="b", shutdown_timeout=5.0)
        await trio.sleep(1)
        nursery.start_soon(supervisor.stop, "b")
        await trio.sleep(8)
        assert (child.started_at, states(supervisor)["b"]) == (6.0, "stopped")
        await supervisor.shutdown()


@pytest.mark.parametrize("strategy", GROUPS)
async def test_what_failed_for_good_stays_failed(autojump_clock, strategy):
    async def gives_up():
        raise DoNotRestart

    async with open_supervisor(strategy=strategy) as supervisor:
        supervisor.start_soon(Actor("a", [], 1.0))
        failed = supervisor.start_soon(gives_up)
        await trio.sleep(5)
        assert (supervisor["a"].restarts, failed.state, failed.restarts) == (1, "failed", 0)
        await supervisor.shutdown()


# The delay of a group.


async def test_siblings_stop_at_the_crash_and_start_when_the_delay_is_over(autojump_clock, record):
    async with open_supervisor(
        strategy=Strategy.ONE_FOR_ALL, backoff=Backoff(initial=30.0), shutdown_timeout=0.0
    ) as supervisor:
        await start_all(supervisor, Actor("a", record, 1.0), Actor("b", record, cleanup=2.0))
        record.clear()
        await trio.sleep(10)
        assert record == [("-a", 1.0), ("-b", 3.0)]
        assert states(supervisor) == {"a": "backing_off", "b": "backing_off"}
        assert {child.restart_at for child in supervisor.children} == {31.0}
        record.clear()
        await trio.sleep(22)
        assert record == [("+a", 31.0), ("+b", 31.0)]
        assert [(c.restart_at, c.uptime) for c in supervisor.children] == [(None, 1.0)] * 2
        await supervisor.shutdown()


async def test_a_sibling_that_fails_meanwhile_joins_and_the_longest_delay_holds(
    autojump_clock, record
):
    async with open_supervisor(
        strategy=Strategy.ONE_FOR_ALL, limit=RestartLimit(1, 1000.0)
    ) as supervisor:
        await start_all(supervisor, Actor("a", record, 1.0), backoff=Backoff(initial=10.0))
        await start_all(supervisor, Actor("b", record, 3.0), backoff=Backoff(initial=30.0))
        await start_all(supervisor, Actor("c", record), shutdown_timeout=8.0)
        record.clear()
        await trio.sleep(100)
        # c is asked at 1 and cancelled at 9; b crashes at 3 by itself, so the group waits until 33.
        assert record == [
            ("-a", 1.0),
            ("-b", 3.0),
            ("-c", 9.0),
            ("+a", 33.0),
            ("+b", 33.0),
            ("+c", 33.0),
        ]
        await supervisor.shutdown()


async def test_a_later_but_shorter_delay_does_not_hurry_a_group(autojump_clock, record):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        await start_all(supervisor, Actor("a", record, 1.0), backoff=Backoff(initial=30.0))
        await start_all(supervisor, Actor("b", record, 3.0), backoff=Backoff(initial=10.0))
        await start_all(supervisor, Actor("c", record), shutdown_timeout=8.0)
        record.clear()
        await trio.sleep(100)
        assert record[-3:] == [("+a", 31.0), ("+b", 31.0), ("+c", 31.0)]
        await supervisor.shutdown()


# A start that fails during a group's restart.


class FailsToStart:
    """Ready at once in its first run and from a given moment on; in between it cannot start."""

    def __init__(self, name, record, until):
        self.__name__ = name
        self.record = record
        self.until = until
        self.runs = 0

    async def __call__(self, *, task_status):
        self.runs += 1
        self.record.append(("+" + self.__name__, trio.current_time()))
        if self.runs > 1 and trio.current_time() < self.until:
            raise Crash("cannot start")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.record.append(("-" + self.__name__, trio.current_time()))


async def test_one_for_all_stops_those_already_restarted_and_retries_all(autojump_clock, record):
    async with open_supervisor(
        strategy=Strategy.ONE_FOR_ALL,
        backoff=Backoff(initial=10.0, factor=1.0),
        shutdown_timeout=0.0,
    ) as supervisor:
        await start_all(
            supervisor,
            Actor("a", record, 1.0),
            FailsToStart("b", record, until=20.0),
            Actor("c", record),
        )
        record.clear()
        await trio.sleep(30)
        assert record == [
            ("-a", 1.0),
            ("-c", 1.0),
            ("-b", 1.0),
            ("+a", 11.0),
            ("+b", 11.0),
            ("-a", 11.0),
            ("+a", 21.0),
            ("+b", 21.0),
            ("+c", 21.0),
        ]
        await supervisor.shutdown()


async def test_rest_for_one_keeps_those_already_restarted_and_retries_from_the_failed_one(
    autojump_clock, record
):
    async with open_supervisor(
        strategy=Strategy.REST_FOR_ONE,
        backoff=Backoff(initial=10.0, factor=1.0),
        shutdown_timeout=0.0,
    ) as supervisor:
        await start_all(
            supervisor,
            Actor("a", record, 1.0),
            FailsToStart("b", record, until=20.0),
            Actor("c", record),
        )
        record.clear()
        await trio.sleep(15)
        assert states(supervisor) == {"a": "running", "b": "backing_off", "c": "backing_off"}
        await trio.sleep(15)
        assert record == [
            ("-a", 1.0),
            ("-c", 1.0),
            ("-b", 1.0),
            ("+a", 11.0),
            ("+b", 11.0),
            ("+b", 21.0),
            ("+c", 21.0),
        ]
        await supervisor.shutdown()


async def test_a_member_that_declines_to_start_again_does_not_hold_up_the_others(autojump_clock):
    async def starts_once(*, task_status):
        if trio.current_time() > 0:
            raise DoNotRestart
        task_status.started()
        await trio.sleep_forever()

    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        await start_all(supervisor, Actor("a", [], 1.0))
        await supervisor.start(starts_once, name="b")
        await start_all(supervisor, Actor("c", []))
        await trio.sleep(2)
        assert states(supervisor) == {"a": "running", "b": "failed", "c": "running"}
        await supervisor.shutdown()


@pytest.mark.parametrize("strategy", GROUPS)
async def test_a_start_that_fails_during_a_groups_restart_counts_again(autojump_clock, strategy):
    async with open_supervisor(strategy=strategy, limit=RestartLimit(2, 1000.0)) as supervisor:
        await start_all(supervisor, Actor("a", [], 1.0), FailsToStart("b", [], until=0.0))
        await trio.sleep(20)  # one for a's crash
        await supervisor.shutdown()
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(strategy=strategy, limit=RestartLimit(2, 1000.0)) as supervisor:
            await start_all(supervisor, Actor("a", [], 1.0), FailsToStart("b", [], until=1e9))
            await trio.sleep_forever()
    assert caught.value.path == ("supervisor", "b")
    assert caught.value.__cause__.args == ("cannot start",)


@pytest.mark.parametrize("strategy", GROUPS)
async def test_one_restart_of_a_group_counts_once_however_many_it_moves(autojump_clock, strategy):
    async with open_supervisor(strategy=strategy, limit=RestartLimit(2, 1000.0)) as supervisor:
        await start_all(supervisor, Actor("a", [], 1.0, 20.0))
        for name in "bcdefg":
            await start_all(supervisor, Actor(name, []), shutdown_timeout=0.0)
        await trio.sleep(50)
        assert {child.restarts for child in supervisor.children} == {2}
        await supervisor.shutdown()


async def test_members_that_fail_while_their_group_waits_count_with_it(autojump_clock):
    async with open_supervisor(
        strategy=Strategy.ONE_FOR_ALL, limit=RestartLimit(1, 1000.0), shutdown_timeout=10.0
    ) as supervisor:
        await start_all(supervisor, *(Actor(name, [], 1.0 + i) for i, name in enumerate("abcd")))
        await trio.sleep(50)
        assert {child.restarts for child in supervisor.children} == {1}
        assert [child.crashes for child in supervisor.children] == [1, 1, 1, 0]
        await supervisor.shutdown()


# Calls and stops while a group is being restarted.


async def open_retrying_group(supervisor):
    """At 1 s a crashes; b cannot be started again, which is tried every 10 s; c has to wait."""
    await start_all(supervisor, Actor("a", [], 1.0), FailsToStart("b", [], until=1e9))
    await start_all(supervisor, Actor("c", []))
    await trio.sleep(15)


RETRYING = {
    "strategy": Strategy.REST_FOR_ONE,
    "limit": None,
    "backoff": Backoff(initial=10.0, factor=1.0),
    "shutdown_timeout": 0.0,
}


async def test_while_a_group_is_retried_its_supervisor_answers(autojump_clock):
    async with open_supervisor(**RETRYING) as supervisor:
        await open_retrying_group(supervisor)
        assert states(supervisor) == {"a": "running", "b": "backing_off", "c": "backing_off"}
        assert "b: backing_off, restarts in 6.0 s" in str(supervisor.tree())
        assert supervisor.start_soon(live_on, name="d").name == "d"
        await supervisor.restart("a")
        await supervisor.stop("a")
        assert trio.current_time() == 15.0
        assert states(supervisor)["a"] == "stopped"
        await supervisor.shutdown()
        assert trio.current_time() == 15.0


async def test_a_member_that_waits_can_be_stopped_and_the_others_go_on_without_it(autojump_clock):
    async with open_supervisor(**RETRYING) as supervisor:
        await open_retrying_group(supervisor)
        await supervisor.stop("b")
        assert trio.current_time() == 15.0
        await trio.sleep(10)
        assert states(supervisor) == {"a": "running", "b": "stopped", "c": "running"}
        await supervisor.shutdown()


async def test_a_member_that_waits_can_be_removed_which_frees_its_name(autojump_clock):
    async with open_supervisor(**RETRYING) as supervisor:
        await open_retrying_group(supervisor)
        await supervisor.remove("b")
        assert trio.current_time() == 15.0
        supervisor.start_soon(live_on, name="b")
        await trio.sleep(10)
        assert states(supervisor) == {"a": "running", "c": "running", "b": "running"}
        await supervisor.shutdown()


async def test_restart_of_a_member_that_waits_starts_the_group_now(autojump_clock, record):
    async with open_supervisor(
        strategy=Strategy.ONE_FOR_ALL, backoff=Backoff(initial=100.0), shutdown_timeout=0.0
    ) as supervisor:
        await start_all(supervisor, Actor("a", record, 1.0), Actor("b", record))
        await trio.sleep(50)
        assert await supervisor.restart("b") == 2
        assert states(supervisor) == {"a": "running", "b": "running"}
        assert record[-2:] == [("+a", 50.0), ("+b", 50.0)]
        await supervisor.shutdown()


async def test_a_group_that_nobody_waits_for_any_more_does_not_delay_the_next_one(
    autojump_clock, record
):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        await supervisor.start(Actor("a", record, 1.0), backoff=Backoff(initial=100.0))
        await supervisor.start(Actor("b", record, math.inf, 3.0))
        await trio.sleep(2)
        await supervisor.stop("a")
        await supervisor.stop("b")
        await supervisor.restart("b")
        await trio.sleep(5)
        assert record[-3:] == [("+b", 2.0), ("-b", 5.0), ("+b", 5.0)]
        await supervisor.shutdown()


async def test_a_member_that_is_restarted_while_it_gets_ready_holds_up_the_next_one(
    autojump_clock, record
):
    async with (
        open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=2.0) as supervisor,
        trio.open_nursery() as nursery,
    ):
        await supervisor.start(Actor("a", record, ready_after=5.0))
        await supervisor.start(Actor("b", record, 1.0))
        record.clear()
        await trio.sleep(4)  # b has crashed after 1 s and a was stopped 2 s later
        nursery.start_soon(supervisor.restart, "a")
        await trio.sleep(10)
        assert record == [
            ("-b", 6.0),
            ("-a", 8.0),
            ("+a", 8.0),
            ("-a", 11.0),
            ("+a", 11.0),
            ("+b", 16.0),
        ]
        await supervisor.shutdown()


async def test_restart_by_a_caller_takes_no_sibling_with_it(autojump_clock):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=0.0) as supervisor:
        await start_all(supervisor, Actor("a", []), Actor("b", []))
        await supervisor.restart("a")
        await trio.sleep(10)
        assert [child.restarts for child in supervisor.children] == [1, 0]
        await supervisor.shutdown()


async def test_restart_of_a_member_that_is_being_stopped_brings_it_back_with_its_group(
    autojump_clock,
):
    async with (
        open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=10.0) as supervisor,
        trio.open_nursery() as nursery,
    ):
        await start_all(supervisor, Actor("a", [], 1.0), Actor("b", []))
        await trio.sleep(2)
        nursery.start_soon(supervisor.stop, "b")
        await trio.sleep(1)
        assert await supervisor.restart("b") == 2
        assert trio.current_time() == 11.0
        assert states(supervisor) == {"a": "running", "b": "running"}
        await supervisor.shutdown()


async def test_a_start_under_way_when_its_group_is_restarted_gets_the_new_run(autojump_clock):
    async def first_ready_when_asked(*, task_status):
        run = supervisor["b"].restarts
        if run == 0:
            await current_child().stopping.wait()
        task_status.started(run)
        await trio.sleep(1 if run == 0 else math.inf)

    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        await supervisor.start(Actor("a", [], 1.0))
        assert await supervisor.start(first_ready_when_asked, name="b") == 1
        assert trio.current_time() == 2.0
        assert states(supervisor) == {"a": "running", "b": "running"}
        await supervisor.shutdown()


async def test_a_child_started_while_its_group_waits_runs_at_once(autojump_clock):
    async with open_supervisor(
        strategy=Strategy.ONE_FOR_ALL, backoff=Backoff(initial=100.0), shutdown_timeout=0.0
    ) as supervisor:
        await start_all(supervisor, Actor("a", [], 1.0))
        await trio.sleep(50)
        await start_all(supervisor, Actor("b", []))
        assert states(supervisor) == {"a": "backing_off", "b": "running"}
        await trio.sleep(100)
        assert [child.restarts for child in supervisor.children] == [1, 0]
        await supervisor.shutdown()


async def test_a_member_stopped_by_a_caller_while_the_group_stops_it_stays_stopped(autojump_clock):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL, shutdown_timeout=10.0) as supervisor:
        await start_all(supervisor, Actor("a", [], 1.0), Actor("b", []))
        await trio.sleep(5)
        assert states(supervisor) == {"a": "backing_off", "b": "stopping"}
        await supervisor.stop("b")
        await trio.sleep(1)
        assert trio.current_time() == 12.0
        assert states(supervisor) == {"a": "running", "b": "stopped"}
        await supervisor.shutdown()


async def test_shutdown_ends_a_group_that_waits_at_once(autojump_clock, record):
    async with open_supervisor(
        strategy=Strategy.ONE_FOR_ALL, backoff=Backoff(initial=100.0), shutdown_timeout=0.0
    ) as supervisor:
        await start_all(supervisor, Actor("a", record, 1.0), Actor("b", record))
        await trio.sleep(50)
        await supervisor.shutdown()
        assert trio.current_time() == 50.0
        assert states(supervisor) == {"a": "stopped", "b": "stopped"}
    assert record == [("+a", 0.0), ("+b", 0.0), ("-a", 1.0), ("-b", 1.0)]
