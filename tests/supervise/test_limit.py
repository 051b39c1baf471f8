"""When a supervisor gives up, what it does then, and what never counts."""

from __future__ import annotations

import logging

import pytest
import trio
from actors import Crash, Log, crash_after, crash_at_once, live_on, return_after, states

from actp_supervise import (
    Backoff,
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    open_supervisor,
)


class CrashesAt:
    """Crashes at each of these moments, one in each run; then it lives on."""

    def __init__(self, *moments):
        self.moments = list(moments)

    async def __call__(self):
        if self.moments:
            await trio.sleep_until(self.moments.pop(0))
            raise Crash
        await trio.sleep_forever()


# How many, and how far apart.


async def test_three_restarts_in_five_seconds_are_fine_and_the_fourth_ends_the_supervisor(
    autojump_clock,
):
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(CrashesAt(1.0, 2.0, 3.0))
        await trio.sleep(20)
        assert (child.state, child.restarts) == ("running", 3)
        await supervisor.shutdown()

    start = trio.current_time()
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor() as supervisor:
            supervisor.start_soon(CrashesAt(start + 1, start + 2, start + 3, start + 4))
    assert trio.current_time() == start + 4


async def test_restarts_further_apart_than_the_window_go_on_for_ever(autojump_clock):
    async with open_supervisor(limit=RestartLimit(1, 5.0)) as supervisor:
        child = supervisor.start_soon(crash_after, 5.25)
        await trio.sleep(5.25 * 1000 + 1)
        assert child.restarts == 1000
        await supervisor.shutdown()


async def test_a_restart_exactly_as_old_as_the_window_still_counts(autojump_clock):
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(1, 5.0)) as supervisor:
            supervisor.start_soon(CrashesAt(1.0, 6.0))


async def test_the_count_is_the_supervisors_over_all_its_children(autojump_clock):
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(shutdown_timeout=0.0) as supervisor:
            for i in range(4):
                supervisor.start_soon(CrashesAt(1.0 + i), name=f"c{i}")
    assert trio.current_time() == 4.0
    assert caught.value.path == ("supervisor", "c3")


async def test_supervisors_count_apart_from_each_other(autojump_clock):
    async def subtree():
        async with open_supervisor(name="sub") as below:
            below.start_soon(CrashesAt(1.0, 2.0, 3.0))
            await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        supervisor.start_soon(subtree)
        supervisor.start_soon(CrashesAt(1.5, 2.5, 3.5))
        await trio.sleep(20)
        assert [child.state for child in supervisor.children] == ["running", "running"]
        await supervisor.shutdown()


async def test_with_a_limit_of_none_at_all_the_first_crash_escalates(autojump_clock):
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(0, 5.0)) as supervisor:
            supervisor.start_soon(crash_after, 1.0)
    assert trio.current_time() == 1.0


async def test_without_a_limit_it_never_gives_up(autojump_clock, silent):
    async with open_supervisor(limit=None) as supervisor:
        child = supervisor.start_soon(crash_at_once)
        while child.restarts < 1000:
            await trio.lowlevel.checkpoint()
        await supervisor.shutdown()


async def test_a_permanent_childs_return_counts_as_its_crash_does(autojump_clock):
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(limit=RestartLimit(2, 100.0)) as supervisor:
            supervisor.start_soon(return_after, 1.0)
    assert trio.current_time() == 3.0
    assert caught.value.__cause__ is None


# What never counts.


async def test_a_restart_by_a_caller_never_counts(autojump_clock):
    async with open_supervisor(limit=RestartLimit(0, 1e9), shutdown_timeout=0.0) as supervisor:
        child = supervisor.start_soon(live_on)
        for _ in range(20):
            await trio.sleep(1)
            await supervisor.restart("live_on")
        assert (child.state, child.restarts, child.crashes) == ("running", 20, 0)
        await supervisor.shutdown()


async def test_what_is_not_restarted_does_not_count(autojump_clock):
    async with open_supervisor(limit=RestartLimit(0, 1e9)) as supervisor:
        for i in range(10):
            supervisor.start_soon(crash_after, 1.0 + i, restart=Restart.TEMPORARY)
            supervisor.start_soon(return_after, 1.5 + i, restart=Restart.TRANSIENT)
        await trio.sleep(20)
        await supervisor.shutdown()


# What happens then.


async def test_escalation_stops_the_others_in_reverse_order_with_their_own_time(autojump_clock):
    log = Log()
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(0), on_event=log) as supervisor:
            supervisor.start_soon(live_on, name="a", shutdown_timeout=3.0)
            supervisor.start_soon(crash_after, 1.0, name="b")
            supervisor.start_soon(live_on, name="c", shutdown_timeout=2.0)
    assert log.of()[3:] == [
        ("b", "child_crashed", 1.0),
        ("b", "restart_limit_reached", 1.0),
        ("c", "stop_requested", 1.0),
        ("c", "child_stopped", 3.0),
        ("a", "stop_requested", 3.0),
        ("a", "child_stopped", 6.0),
        ("supervisor", "supervisor_stopped", 6.0),
    ]
    assert states(supervisor) == {"a": "stopped", "b": "failed", "c": "stopped"}


async def test_what_leaves_the_block_names_the_child_and_the_limit_and_its_cause_is_the_crash(
    autojump_clock,
):
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(name="root", limit=RestartLimit(0, 7.0)) as supervisor:
            supervisor.start_soon(crash_at_once, name="c")
    error = caught.value
    assert str(error) == (
        "child 'c' of supervisor 'root' ended once too often: more than 0 restarts within 7.0 s"
    )
    assert (error.path, error.max_restarts, error.within) == (("root", "c"), 0, 7.0)
    assert isinstance(error.__cause__, Crash)
    assert error.__context__ is None or error.__context__ is error.__cause__


async def test_the_cause_shows_where_each_of_its_errors_was_raised(autojump_clock):
    async def child_fn():
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash_at_once)
        except ExceptionGroup as group:
            raise ValueError("wrapped") from group

    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(limit=RestartLimit(0)) as supervisor:
            supervisor.start_soon(child_fn)
    wrapped = caught.value.__cause__
    for error in (wrapped, wrapped.__cause__, wrapped.__cause__.exceptions[0]):
        assert error.__traceback__ is not None


async def test_a_subtree_that_gives_up_is_an_ordinary_crash_one_level_up(autojump_clock):
    log = Log()

    async def subtree():
        async with open_supervisor(name="sub", limit=RestartLimit(0)) as below:
            below.start_soon(crash_after, 1.0, name="c")

    async with open_supervisor(name="root", on_event=log) as supervisor:
        child = supervisor.start_soon(subtree, restart=Restart.TRANSIENT)
        await trio.sleep(2.5)
        assert (child.state, child.crashes, child.restarts) == ("running", 2, 2)
        assert "RestartLimitExceeded" in child.last_error
        await supervisor.shutdown()
    assert log.of("child_crashed")[:2] == [
        ("c", "child_crashed", 1.0),
        ("subtree", "child_crashed", 1.0),
    ]


async def test_a_restarted_subtree_has_the_children_that_its_function_starts_and_no_others(
    autojump_clock,
):
    async def subtree():
        nonlocal below
        async with open_supervisor(name="sub", limit=RestartLimit(0)) as below:
            below.start_soon(live_on, name="by its function")
            await trio.sleep_forever()

    below = None
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        supervisor.start_soon(subtree)
        await trio.sleep(1)
        below.start_soon(crash_after, 1.0, name="by somebody else")
        await trio.sleep(10)
        assert supervisor["subtree"].restarts == 1
        assert [child.name for child in below.children] == ["by its function"]
        await supervisor.shutdown()


async def test_escalation_climbs_as_many_levels_as_it_must(autojump_clock):
    async def subtree(depth):
        async with open_supervisor(name=f"level {depth}", limit=RestartLimit(1, 1e9)) as below:
            below.start_soon(*((subtree, depth - 1) if depth else (counted_crash,)), name="c")

    async def counted_crash():
        nonlocal crashes
        crashes += 1
        raise Crash

    crashes = 0
    with pytest.raises(RestartLimitExceeded) as caught:
        await subtree(2)
    assert crashes == 8
    causes = []
    error = caught.value
    while error is not None:
        causes.append(type(error))
        error = error.__cause__
    assert causes == [RestartLimitExceeded] * 3 + [Crash]


async def test_two_children_that_fail_at_one_moment_end_the_supervisor_once(autojump_clock):
    log = Log()
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(0), on_event=log) as supervisor:
            supervisor.start_soon(crash_after, 1.0, name="a")
            supervisor.start_soon(crash_after, 1.0, name="b")
    assert len(log.of("child_crashed")) in {1, 2}
    assert len(log.of("restart_limit_reached")) == 1


# A limit that its backoff makes unreachable.


async def test_a_limit_that_the_backoff_makes_unreachable_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "actp_supervise"):
        open_supervisor(name="slow", backoff=Backoff(initial=10.0))
        open_supervisor(name="quick", backoff=Backoff(initial=10.0), limit=RestartLimit(3, 3600.0))
        open_supervisor(name="for ever", backoff=Backoff(initial=10.0), limit=None)
    assert [record.getMessage().partition("'")[2][:4] for record in caplog.records] == ["slow"]
