"""What leaves the block, bare or in a group, and what Ctrl-C and exits do to a tree."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from actors import Actor, Crash, Log, crash_after, crash_at_once, hold_out, live_on, states

from actp_supervise import (
    ChildNotFoundError,
    DoNotRestart,
    DuplicateChildError,
    Restart,
    RestartLimit,
    RestartLimitExceeded,
    Stalled,
    SupervisionError,
    SupervisorClosedError,
    current_child,
    open_supervisor,
)

# What leaves the block.


async def test_an_error_of_the_body_leaves_bare_and_as_it_was(autojump_clock):
    error = Crash("in the body")
    with pytest.raises(Crash) as caught:
        async with open_supervisor(shutdown_timeout=0.0) as supervisor:
            supervisor.start_soon(live_on)
            raise error
    assert caught.value is error
    assert error.__context__ is None
    assert error.__cause__ is None


async def test_an_error_of_the_body_keeps_its_own_context(autojump_clock):
    with pytest.raises(Crash) as caught:
        async with open_supervisor():
            try:
                raise ValueError("first")
            except ValueError:
                raise Crash("second")  # noqa: B904
    assert isinstance(caught.value.__context__, ValueError)


async def test_a_group_raised_by_the_body_leaves_as_it_is(autojump_clock):
    group = ExceptionGroup("of the body", [Crash("one")])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_supervisor():
            raise group
    assert caught.value is group


async def test_giving_up_leaves_bare(autojump_clock):
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(limit=RestartLimit(0)) as supervisor:
            supervisor.start_soon(crash_at_once)
            await trio.sleep_forever()


async def test_only_both_at_once_make_a_group(autojump_clock):
    with pytest.RaisesGroup(RestartLimitExceeded, pytest.RaisesExc(Crash, match="body")):
        async with open_supervisor(name="s", limit=RestartLimit(0)) as supervisor:
            supervisor.start_soon(crash_after, 1.0)
            try:
                await trio.sleep_forever()
            finally:
                raise Crash("body")


async def test_an_error_of_a_body_that_was_shut_down_leaves_bare(autojump_clock):
    async def operator():
        await trio.sleep(1)
        await supervisor.shutdown()

    with pytest.RaisesGroup(Crash):  # of the nursery alone
        async with trio.open_nursery() as nursery, open_supervisor() as supervisor:
            nursery.start_soon(operator)
            try:
                await trio.sleep_forever()
            finally:
                raise Crash


async def test_giving_up_while_being_cancelled_from_outside_still_leaves_bare(autojump_clock):
    with pytest.raises(RestartLimitExceeded), trio.move_on_after(2):
        async with open_supervisor(limit=RestartLimit(0), shutdown_timeout=0.0) as supervisor:
            supervisor.start_soon(hold_out, 5.0)
            supervisor.start_soon(crash_after, 1.0)
            await trio.sleep_forever()


async def test_an_outer_cancellation_passes_through_and_is_caught_by_its_own_scope(autojump_clock):
    with trio.CancelScope() as outer, trio.move_on_after(1) as inner:
        async with open_supervisor(shutdown_timeout=0.0) as supervisor:
            supervisor.start_soon(live_on)
            await trio.sleep_forever()
    assert inner.cancelled_caught
    assert not outer.cancelled_caught


async def test_a_crash_of_a_child_never_leaves_the_block_by_itself(autojump_clock):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(crash_after, 1.0, restart=Restart.TEMPORARY)
        supervisor.start_soon(Actor("a", [], 2.0, 1.0))
        await trio.sleep(5)
        await supervisor.shutdown()


async def test_the_traceback_of_a_body_error_has_no_frame_of_the_library(autojump_clock):
    with pytest.raises(Crash) as caught:
        async with open_supervisor():
            raise Crash
    library = [entry for entry in caught.traceback if "actp_supervise" in str(entry.path)]
    assert library == []


# The errors themselves.


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (DuplicateChildError, (ValueError,)),
        (ChildNotFoundError, (LookupError,)),
        (SupervisorClosedError, (RuntimeError,)),
        (RestartLimitExceeded, ()),
        (Stalled, ()),
        (DoNotRestart, ()),
    ],
)
def test_every_error_of_the_library_is_a_supervision_error_and_of_pythons_kind(error, kinds):
    assert issubclass(error, (SupervisionError, *kinds))
    assert not issubclass(SupervisionError, (ValueError, LookupError, RuntimeError))


# KeyboardInterrupt, SystemExit and their like.


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_exception_is_no_crash_and_leaves_bare(autojump_clock, error):
    async def child_fn():
        await trio.sleep(1)
        raise error("why")

    log = Log()
    with pytest.raises(error, match="why"):
        async with open_supervisor(on_event=log) as supervisor:
            child = supervisor.start_soon(child_fn)
            await trio.sleep_forever()
    assert (child.state, child.crashes, child.restarts) == ("failed", 0, 0)
    assert log.of("child_crashed") == []
    assert isinstance(log.last("supervisor_stopped").error, error)


async def test_an_interrupt_wrapped_by_a_nursery_inside_the_child_leaves_bare_too(autojump_clock):
    async def interrupted():
        raise KeyboardInterrupt

    async def child_fn():
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(live_on)
            inner.start_soon(interrupted)

    with pytest.raises(KeyboardInterrupt):
        async with open_supervisor() as supervisor:
            supervisor.start_soon(child_fn)


async def test_an_interrupt_together_with_an_error_leaves_as_their_group(autojump_clock):
    async def child_fn():
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), Crash()])

    with pytest.RaisesGroup(KeyboardInterrupt, Crash):
        async with open_supervisor() as supervisor:
            supervisor.start_soon(child_fn)


async def test_an_interrupt_deep_in_a_tree_passes_through_every_level(autojump_clock, record):
    async def interrupted():
        await trio.sleep(1)
        raise SystemExit(3)

    async def subtree():
        async with open_supervisor(name="sub") as below:
            await below.start(Actor("below", record), shutdown_timeout=0.0)
            below.start_soon(interrupted)

    with pytest.raises(SystemExit) as caught:
        async with open_supervisor() as supervisor:
            await supervisor.start(Actor("above", record), shutdown_timeout=0.0)
            supervisor.start_soon(subtree)
    assert caught.value.code == 3
    assert record[2:] == [("-below", 1.0), ("-above", 1.0)]


async def test_an_interrupt_while_a_child_is_being_stopped_is_not_lost(autojump_clock):
    async def interrupted_in_cleanup():
        try:
            await trio.sleep_forever()
        finally:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with open_supervisor(shutdown_timeout=0.0) as supervisor:
            supervisor.start_soon(live_on)
            supervisor.start_soon(interrupted_in_cleanup)
            await trio.sleep(1)
            await supervisor.shutdown()
    assert set(states(supervisor).values()) == {"stopped", "failed"}


async def test_of_two_exits_the_first_one_counts(autojump_clock):
    async def exits(code):
        try:
            await trio.sleep(code)
        finally:
            raise SystemExit(code)

    with pytest.raises(SystemExit) as caught:
        async with open_supervisor(shutdown_timeout=0.0) as supervisor:
            supervisor.start_soon(exits, 1)
            supervisor.start_soon(exits, 2)
    assert caught.value.code == 1


async def test_an_interrupt_inside_a_child_that_is_being_stopped_ends_all_patience(autojump_clock):
    async def interrupted():
        await current_child().stopping.wait()
        raise KeyboardInterrupt

    async def subtree():
        async with open_supervisor(shutdown_timeout=600.0) as below:
            below.start_soon(live_on)

    with pytest.raises(KeyboardInterrupt):
        async with open_supervisor(shutdown_timeout=600.0) as supervisor:
            supervisor.start_soon(subtree)
            supervisor.start_soon(live_on)
            supervisor.start_soon(interrupted)
            await trio.sleep(1)
            await supervisor.shutdown()
    assert trio.current_time() == 1.0


async def test_a_child_that_exits_before_it_is_ready_ends_the_tree_not_only_its_start(
    autojump_clock,
):
    async def exits(*, task_status):
        raise SystemExit("no configuration")

    with pytest.raises(SystemExit, match="no configuration"):
        async with open_supervisor() as supervisor:
            await supervisor.start(exits)


# Ctrl-C for real, in a process of its own and in real time: a signal knows no other.

PROGRAM = Path(__file__).with_name("ctrl_c_program.py")


@contextlib.contextmanager
def program(*arguments):
    with subprocess.Popen(
        [sys.executable, PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "arguments",
    [[], ["wait"], ["busy"], ["busy", "wait"]],
    ids=["while the block waits", "in the body", "in a child", "in a child, with a body"],
)
def test_ctrl_c_stops_the_tree_in_order_and_passes_through(arguments):
    with program(*arguments) as process:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert output.splitlines() == [
        "last gone",
        "below gone",
        "first gone",
        "left by KeyboardInterrupt()",
    ]


@pytest.mark.parametrize("where", ["stubborn", "deep"])
def test_a_second_ctrl_c_does_not_wait_for_those_that_take_their_time(where):
    with program(where) as process:
        process.send_signal(signal.SIGINT)
        while process.stdout.readline() != "witness gone\n":
            pass
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    lines = output.splitlines()
    assert "stubborn gone" in lines
    assert lines[-1] == "left by KeyboardInterrupt()"
