"""Which ends of a child restart it, and what each run starts with."""

from __future__ import annotations

import contextvars

import pytest
import trio
from actors import (
    Actor,
    Crash,
    Log,
    crash_after,
    crash_at_once,
    live_on,
    ready_and_live_on,
    return_after,
    states,
)

from actp_supervise import (
    Child,
    ChildState,
    DoNotRestart,
    Restart,
    RestartLimitExceeded,
    Strategy,
    Supervisor,
    current_child,
    open_supervisor,
)

variable = contextvars.ContextVar("variable", default="unset")


# By restart kind.


@pytest.mark.parametrize("end", [return_after, crash_after])
async def test_a_permanent_child_is_started_again_after_a_return_and_after_a_crash(
    autojump_clock, end
):
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(end, 1.0, restart=Restart.PERMANENT)
        await trio.sleep(2.5)
        assert (child.state, child.restarts, child.started_at) == ("running", 2, 2.0)
        await supervisor.shutdown()


async def test_a_child_is_permanent_unless_said_otherwise(autojump_clock):
    async with open_supervisor() as supervisor:
        assert supervisor.start_soon(live_on).restart is Restart.PERMANENT
        await supervisor.start(ready_and_live_on)
        assert supervisor.children[1].restart is Restart.PERMANENT
        await supervisor.shutdown()


async def test_a_transient_child_that_returned_stays_in_the_list_as_finished(autojump_clock):
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(return_after, 1.0, name="t", restart=Restart.TRANSIENT)
        await trio.sleep(100)
        assert states(supervisor) == {"t": "finished"}
        assert (child.restarts, child.crashes) == (0, 0)


async def test_a_transient_child_that_crashed_is_started_again(autojump_clock, record):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(Actor("t", record, 1.0), restart=Restart.TRANSIENT)
        await trio.sleep(2)
        await supervisor.shutdown()
    assert record == [("+t", 0.0), ("-t", 1.0), ("+t", 1.0), ("-t", 2.0)]


@pytest.mark.parametrize("end", [return_after, crash_after])
async def test_a_temporary_child_is_never_started_again_and_its_name_is_free(autojump_clock, end):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(end, 1.0, name="t", restart=Restart.TEMPORARY)
        await trio.sleep(2)
        assert "t" not in supervisor
        assert supervisor.start_soon(live_on, name="t").restarts == 0
        await supervisor.shutdown()


async def test_a_temporary_child_that_was_stopped_leaves_the_list_too(autojump_clock):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(live_on, name="t", restart=Restart.TEMPORARY)
        await supervisor.stop("t")
        assert supervisor.children == ()


@pytest.mark.parametrize("strategy", Strategy)
async def test_a_crash_of_a_temporary_child_leaves_its_siblings_alone(autojump_clock, strategy):
    async with open_supervisor(strategy=strategy) as supervisor:
        before = supervisor.start_soon(live_on)
        supervisor.start_soon(crash_after, 1.0, restart=Restart.TEMPORARY)
        after = supervisor.start_soon(live_on)
        await trio.sleep(2)
        for sibling in (before, after):
            assert (sibling.state, sibling.restarts, sibling.uptime) == ("running", 0, 2.0)
        await supervisor.shutdown()


@pytest.mark.parametrize(
    "error",
    [
        Crash("bare"),
        ExceptionGroup("group", [Crash("one"), ValueError("two")]),
        trio.TooSlowError("a timeout of its own"),
        StopIteration("an odd one"),
    ],
)
async def test_any_exception_is_a_crash_and_so_is_a_group_of_them(autojump_clock, error):
    async def child_fn():
        await trio.sleep(1)
        if child.restarts == 0:
            raise error
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn)
        await trio.sleep(3)
        assert (child.state, child.crashes, child.restarts) == ("running", 1, 1)
        await supervisor.shutdown()


async def test_the_crash_of_a_nursery_inside_a_child_is_one_crash(autojump_clock):
    async def child_fn():
        if child.restarts:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_after, 1.0)
            nursery.start_soon(live_on)

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn)
        await trio.sleep(2)
        assert (child.state, child.crashes) == ("running", 1)
        await supervisor.shutdown()


async def async_generator():
    yield 1


@pytest.mark.parametrize("fn", [lambda: None, async_generator, print, dict])
async def test_what_is_no_async_function_is_refused_at_once(autojump_clock, fn):
    async with open_supervisor() as supervisor:
        with pytest.raises(TypeError, match="a child is an async function, but"):
            supervisor.start_soon(fn)
        with pytest.raises(TypeError, match=r"a child is an async function, but|task_status"):
            await supervisor.start(fn)
        assert supervisor.children == ()


async def test_a_function_that_is_called_with_wrong_arguments_is_refused_at_once(autojump_clock):
    async with open_supervisor() as supervisor:
        with pytest.raises(TypeError, match="positional argument"):
            supervisor.start_soon(crash_after, name="c")
        assert "c" not in supervisor


async def test_a_function_that_turns_out_to_be_none_at_a_restart_crashes(autojump_clock):
    functions = iter([crash_after(1.0), None, None, None])
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor() as supervisor:
            supervisor.start_soon(lambda: next(functions))
    assert isinstance(caught.value.__cause__, TypeError)


# Do not restart.


@pytest.mark.parametrize("restart", [Restart.PERMANENT, Restart.TRANSIENT])
@pytest.mark.parametrize("strategy", Strategy)
async def test_do_not_restart_ends_a_child_for_good_and_its_siblings_go_on(
    autojump_clock, restart, strategy
):
    async def gives_up():
        await trio.sleep(1)
        raise DoNotRestart("nothing left to do")

    log = Log()
    async with open_supervisor(strategy=strategy, on_event=log) as supervisor:
        sibling = supervisor.start_soon(live_on)
        child = supervisor.start_soon(gives_up, restart=restart)
        await trio.sleep(100)
        assert (child.state, child.restarts, child.crashes) == ("failed", 0, 0)
        assert (sibling.state, sibling.restarts) == ("running", 0)
        assert "nothing left to do" in child.last_error
        assert log.of("child_crashed", "child_failed") == [("gives_up", "child_failed", 1.0)]
        await supervisor.shutdown()


async def test_a_temporary_child_that_raises_do_not_restart_leaves_the_list(autojump_clock):
    async def gives_up():
        raise DoNotRestart

    async with open_supervisor() as supervisor:
        supervisor.start_soon(gives_up, restart=Restart.TEMPORARY)
        await trio.sleep(1)
        assert supervisor.children == ()


async def test_do_not_restart_holds_when_a_nursery_inside_the_child_wraps_it(autojump_clock):
    async def gives_up():
        raise DoNotRestart

    async def child_fn():
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(live_on)
            inner.start_soon(gives_up)

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn)
        await trio.sleep(1)
        assert (child.state, child.restarts) == ("failed", 0)


async def test_do_not_restart_together_with_another_error_is_a_crash(autojump_clock):
    async def child_fn():
        if child.restarts == 0:
            raise ExceptionGroup("both", [DoNotRestart(), Crash()])
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn)
        await trio.sleep(1)
        assert (child.state, child.crashes) == ("running", 1)
        await supervisor.shutdown()


async def test_only_restart_starts_a_child_again_that_failed_for_good(autojump_clock):
    async def gives_up_once():
        if child.restarts == 0:
            raise DoNotRestart
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(gives_up_once)
        await trio.sleep(1)
        await supervisor.restart("gives_up_once")
        assert (child.state, child.restarts) == ("running", 1)
        await supervisor.shutdown()


# Cancelled.


async def test_a_cancelled_that_nobody_sent_is_a_crash(autojump_clock):
    async def keeps_one_and_raises_it():
        if child.restarts:
            await trio.sleep_forever()
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                stray = cancelled
        raise stray

    async with open_supervisor() as supervisor:
        sibling = supervisor.start_soon(live_on)
        child = supervisor.start_soon(keeps_one_and_raises_it)
        await trio.sleep(1)
        assert (child.state, child.crashes, child.restarts) == ("running", 1, 1)
        assert "Cancelled" in child.last_error
        assert (sibling.state, sibling.restarts) == ("running", 0)
        await supervisor.shutdown()


async def test_a_stray_cancelled_in_a_group_is_a_crash_too(autojump_clock):
    async def child_fn():
        if child.restarts:
            await trio.sleep_forever()
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                stray = cancelled
        raise BaseExceptionGroup("group", [stray, Crash()])

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn)
        await trio.sleep(1)
        assert (child.state, child.crashes) == ("running", 1)
        await supervisor.shutdown()


async def test_a_child_that_cancels_a_scope_of_its_own_returned(autojump_clock):
    async def child_fn():
        with trio.move_on_after(1):
            await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn, restart=Restart.TRANSIENT)
        await trio.sleep(2)
        assert (child.state, child.crashes) == ("finished", 0)


# What each run starts with.


async def test_each_run_is_a_fresh_trio_task_named_as_the_child():
    tasks = []

    async def child_fn():
        tasks.append(trio.lowlevel.current_task())
        if len(tasks) == 3:
            raise DoNotRestart

    async with open_supervisor() as supervisor:
        supervisor.start_soon(child_fn, name="c")
    assert len(set(tasks)) == 3
    assert {task.name for task in tasks} == {"c"}


async def test_context_variables_of_a_run_are_those_of_the_first_start(autojump_clock):
    seen = []

    async def child_fn():
        seen.append(variable.get())
        variable.set("left by a run")
        await trio.sleep(1)
        raise Crash

    async def operator(supervisor):
        variable.set("the operator's")
        await supervisor.restart("child_fn")

    variable.set("when it was started")
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        supervisor.start_soon(child_fn)
        variable.set("later")
        await trio.sleep(1.5)
        nursery.start_soon(operator, supervisor)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert seen == ["when it was started"] * 3


async def test_a_child_knows_itself_and_outside_of_one_that_is_an_error(autojump_clock):
    found = []

    async def child_fn():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            found.append(current_child())

    with pytest.raises(RuntimeError, match="only inside a supervised child"):
        current_child()
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(child_fn, restart=Restart.TRANSIENT)
    assert found == [child]
    with pytest.raises(RuntimeError, match="only inside a supervised child"):
        current_child()


async def test_children_and_supervisors_are_made_only_by_their_supervisor():
    with pytest.raises(TypeError, match="start_soon"):
        Child()
    with pytest.raises(TypeError, match="open_supervisor"):
        Supervisor()


# Where there is no delay, no time passes.


async def test_a_child_that_crashes_at_once_is_restarted_at_the_same_moment(autojump_clock):
    log = Log()
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(on_event=log) as supervisor:
            child = supervisor.start_soon(crash_at_once)
    assert log.of("child_started") == [("crash_at_once", "child_started", 0.0)] * 4
    assert (child.state, child.crashes, child.restarts) == (ChildState.FAILED, 4, 3)


async def test_a_child_that_returns_at_once_counts_as_restarted_and_escalates(autojump_clock):
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor() as supervisor:
            child = supervisor.start_soon(trio.lowlevel.checkpoint, name="c")
    assert caught.value.__cause__ is None
    assert (child.state, child.crashes, child.restarts) == (ChildState.FINISHED, 0, 3)


async def test_a_dead_run_never_shows_as_up(autojump_clock):
    seen = []

    async with open_supervisor(on_event=lambda event: seen.append(child.uptime)) as supervisor:
        child = supervisor.start_soon(crash_after, 1.5)
        seen.clear()
        await trio.sleep(2)
        assert child.uptime == 0.5
        assert seen == [0.0, 0.0, 0.0, 0.0]  # started, crashed, restart scheduled, started
        await supervisor.stop("crash_after")
        assert child.uptime == 0.0
