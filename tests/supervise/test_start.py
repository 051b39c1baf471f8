"""How children are added and get ready, and what is refused."""

from __future__ import annotations

import inspect
import math
from datetime import timedelta
from functools import partial

import pytest
import trio
from actors import (
    Actor,
    Crash,
    Log,
    crash_at_once,
    live_on,
    never_ready,
    ready_and_live_on,
    return_after,
    states,
)
from trio.testing import wait_all_tasks_blocked

from actp_supervise import (
    AutoShutdown,
    Backoff,
    ChildNotFoundError,
    DoNotRestart,
    DuplicateChildError,
    Restart,
    RestartLimit,
    Strategy,
    SupervisionError,
    Supervisor,
    SupervisorClosedError,
    current_child,
    open_supervisor,
)

# Readiness.


async def test_start_waits_until_the_child_is_ready_and_returns_what_it_gave(autojump_clock):
    async def server(port, *, task_status):
        await trio.sleep(2)
        assert supervisor["server"].state == "starting"
        task_status.started(f"listening on {port}")
        await trio.sleep_forever()

    log = Log()
    async with open_supervisor(on_event=log) as supervisor:
        assert await supervisor.start(server, 80, name="server") == "listening on 80"
        assert trio.current_time() == 2.0
        assert supervisor["server"].state == "running"
        assert log.of() == [("server", "child_started", 0.0), ("server", "child_ready", 2.0)]
        await supervisor.shutdown()


async def test_children_started_one_after_the_other_are_each_ready_before_the_next_begins(
    autojump_clock, record
):
    async with open_supervisor(shutdown_timeout=0.0) as supervisor:
        for name in "cab":
            await supervisor.start(Actor(name, record, ready_after=1.0))
        await supervisor.shutdown()
    assert record[:3] == [("+c", 0.0), ("+a", 1.0), ("+b", 2.0)]


async def test_a_child_that_fails_before_it_is_ready_raises_in_the_caller_and_is_not_kept(
    autojump_clock,
):
    log = Log()
    async with open_supervisor(on_event=log, limit=RestartLimit(0)) as supervisor:
        with pytest.raises(Crash) as caught:
            await supervisor.start(raises_before_ready, Crash("no port"), name="c")
        assert caught.value.args == ("no port",)
        assert "c" not in supervisor
        assert log.of() == [("c", "child_started", 0.0), ("c", "child_failed", 1.0)]
        supervisor.start_soon(live_on, name="c")
        await supervisor.shutdown()


async def raises_before_ready(error, *, task_status):
    await trio.sleep(1)
    raise error


async def test_the_error_of_a_failed_start_keeps_the_tracebacks_of_all_its_parts(autojump_clock):
    async def child_fn(*, task_status):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_at_once)

    async with open_supervisor() as supervisor:
        with pytest.raises(ExceptionGroup) as caught:
            await supervisor.start(child_fn)
    assert caught.value.exceptions[0].__traceback__ is not None


async def test_a_child_that_returns_before_it_is_ready_is_an_error_in_the_caller(autojump_clock):
    async with open_supervisor() as supervisor:
        with pytest.raises(RuntimeError, match=r"without calling task_status\.started"):
            await supervisor.start(returns_before_ready)
        assert supervisor.children == ()


async def returns_before_ready(*, task_status):
    await trio.sleep(1)


async def test_a_child_declines_to_start_by_do_not_restart(autojump_clock):
    async with open_supervisor() as supervisor:
        with pytest.raises(DoNotRestart, match="not on this machine"):
            await supervisor.start(raises_before_ready, DoNotRestart("not on this machine"))
        assert supervisor.children == ()


def test_a_stray_cancelled_of_a_failed_start_does_not_look_like_the_callers_own():
    async def child_fn(*, task_status):
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                stray = cancelled
        raise stray

    async def main():
        async with open_supervisor() as supervisor:
            with pytest.raises(SupervisionError, match="child_fn") as caught:
                await supervisor.start(child_fn)
            assert isinstance(caught.value.__cause__, trio.Cancelled)
            assert supervisor.children == ()

    trio.run(main)  # pytest-trio's nursery would swallow it


async def test_an_error_in_the_body_at_start_up_stops_those_before_it_in_reverse(
    autojump_clock, record
):
    with pytest.raises(Crash, match="no port"):
        async with open_supervisor(shutdown_timeout=0.0) as supervisor:
            await supervisor.start(Actor("a", record, cleanup=1.0))
            await supervisor.start(Actor("b", record, cleanup=1.0))
            await supervisor.start(raises_before_ready, Crash("no port"))
    assert record[2:] == [("-b", 2.0), ("-a", 3.0)]


async def test_a_crash_after_started_is_an_ordinary_one(autojump_clock, record):
    async with open_supervisor() as supervisor:
        assert await supervisor.start(Actor("a", record, 0.0)) == 1
        await trio.sleep(1)
        child = supervisor["a"]
        assert (child.state, child.crashes, child.restarts) == ("running", 1, 1)
        await supervisor.shutdown()


async def test_each_restart_of_a_child_that_was_started_with_start_awaits_readiness_too(
    autojump_clock, record
):
    async with open_supervisor() as supervisor:
        await supervisor.start(Actor("a", record, 1.0, ready_after=2.0))
        await trio.sleep(2)
        assert supervisor["a"].state == "starting"
        await trio.sleep(2)
        assert supervisor["a"].state == "running"
        await supervisor.shutdown()


async def test_a_restart_returns_what_the_child_gave_at_readiness(autojump_clock, record):
    async with open_supervisor() as supervisor:
        assert await supervisor.start(Actor("a", record)) == 1
        assert await supervisor.restart("a") == 2
        await supervisor.shutdown()


async def test_started_may_be_called_once_in_a_run(autojump_clock):
    async def twice(*, task_status):
        task_status.started()
        with pytest.raises(RuntimeError, match="called twice"):
            task_status.started()

    async with open_supervisor() as supervisor:
        await supervisor.start(twice, restart=Restart.TRANSIENT)
    assert states(supervisor) == {"twice": "finished"}


async def test_started_called_by_something_that_a_dead_run_left_behind_is_ignored(autojump_clock):
    statuses = []

    async def child_fn(*, task_status):
        statuses.append(task_status)
        if len(statuses) == 1:
            task_status.started()
        await trio.sleep(1)
        if len(statuses) < 3:
            raise Crash
        await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        await supervisor.start(child_fn)
        await trio.sleep(5)
        statuses[1].started()
        assert supervisor["child_fn"].state == "starting"
        statuses[2].started()
        assert supervisor["child_fn"].state == "running"
        await supervisor.shutdown()


async def test_a_child_that_gets_ready_while_it_is_being_stopped_has_started_and_stops(
    autojump_clock,
):
    async def ready_when_asked(*, task_status):
        await current_child().stopping.wait()
        task_status.started("late")
        assert supervisor["c"].state == "stopping"
        await trio.sleep(1)

    async def caller():
        values.append(await supervisor.start(ready_when_asked, name="c"))

    values = []
    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await trio.sleep(1)
        await supervisor.stop("c")
        assert values == ["late"]
        assert states(supervisor) == {"c": "stopped"}


# Callers of start that go away, and supervisors that do.


async def test_a_caller_of_start_that_is_cancelled_takes_the_child_with_it(autojump_clock):
    async with open_supervisor() as supervisor:
        with trio.move_on_after(3) as scope:
            await supervisor.start(never_ready, shutdown_timeout=math.inf)
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert supervisor.children == ()
        assert trio.current_time() == 3.0


async def test_a_time_limit_around_start_ends_with_readiness(autojump_clock):
    async with open_supervisor() as supervisor:
        with trio.move_on_after(3) as scope:
            await supervisor.start(ready_and_live_on)
        await trio.sleep(10)
        assert not scope.cancelled_caught
        assert states(supervisor) == {"ready_and_live_on": "running"}
        await supervisor.shutdown()


async def test_a_start_under_way_when_its_supervisor_stops_fails_in_the_caller(autojump_clock):
    async def caller():
        with pytest.raises(SupervisorClosedError, match="began to stop before"):
            await supervisor.start(never_ready)
        outcome.append(trio.current_time())

    outcome = []
    async with (
        trio.open_nursery() as nursery,
        open_supervisor(shutdown_timeout=2.0) as supervisor,
    ):
        nursery.start_soon(caller)
        await trio.sleep(1)
        await supervisor.shutdown()
    assert outcome == [3.0]


async def test_a_child_that_is_stopped_before_it_is_ready_fails_in_the_caller_of_start(
    autojump_clock,
):
    async def caller():
        with pytest.raises(SupervisionError, match="stopped before it was ready"):
            await supervisor.start(never_ready, name="c")
        outcome.append(trio.current_time())

    outcome = []
    async with open_supervisor(shutdown_timeout=2.0) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await trio.sleep(1)
        await supervisor.stop("c")
        assert "c" not in supervisor
        await supervisor.shutdown()
    assert outcome == [3.0]


async def test_a_child_that_is_removed_before_it_is_ready_fails_in_the_caller_of_start(
    autojump_clock,
):
    async def caller():
        with pytest.raises(ChildNotFoundError, match="removed before it was ready"):
            await supervisor.start(never_ready, name="c")

    async with open_supervisor(shutdown_timeout=2.0) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await trio.sleep(1)
        await supervisor.remove("c")
        await supervisor.shutdown()


async def test_a_restart_before_the_child_was_ever_ready_gives_both_callers_the_new_run(
    autojump_clock,
):
    async def ready_the_second_time(*, task_status):
        nonlocal runs
        runs += 1
        if runs == 2:
            task_status.started("second")
        await trio.sleep_forever()

    async def caller():
        values.append(await supervisor.start(ready_the_second_time, name="c"))

    runs, values = 0, []
    async with open_supervisor(shutdown_timeout=0.0) as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await trio.sleep(1)
        values.append(await supervisor.restart("c"))
        await wait_all_tasks_blocked()
        assert values == ["second", "second"]
        await supervisor.shutdown()


# Names.


async def test_an_unnamed_child_is_called_after_its_function(autojump_clock):
    class Worker:
        async def __call__(self):
            await trio.sleep_forever()

        async def method(self):
            await trio.sleep_forever()

    async with open_supervisor() as supervisor:
        supervisor.start_soon(live_on)
        supervisor.start_soon(partial(partial(return_after, seconds=1e9)))
        supervisor.start_soon(Worker())
        supervisor.start_soon(Worker().method)
        assert [*states(supervisor)] == ["live_on", "return_after", "Worker", "method"]
        await supervisor.shutdown()


async def test_unnamed_children_of_one_function_are_numbered(autojump_clock):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(live_on, name="live_on-2")
        for _ in range(3):
            supervisor.start_soon(live_on)
        assert [*states(supervisor)] == ["live_on-2", "live_on", "live_on-3", "live_on-4"]
        await supervisor.shutdown()


async def test_a_name_that_is_taken_is_refused_and_the_error_says_what_its_owner_does(
    autojump_clock,
):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(live_on, name="c")
        await wait_all_tasks_blocked()
        with pytest.raises(DuplicateChildError, match=r"child 'c' already \(running\)"):
            supervisor.start_soon(live_on, name="c")
        await supervisor.stop("c")
        with pytest.raises(DuplicateChildError, match=r"child 'c' already \(stopped\)"):
            await supervisor.start(ready_and_live_on, name="c")
        await supervisor.remove("c")
        supervisor.start_soon(live_on, name="c")
        await supervisor.shutdown()


async def test_a_name_that_nobody_has_is_an_error_in_every_call(autojump_clock):
    async with open_supervisor() as supervisor:
        for call in (supervisor.stop, supervisor.restart, supervisor.remove):
            with pytest.raises(ChildNotFoundError, match="no child 'c'"):
                await call("c")
        with pytest.raises(ChildNotFoundError, match="no child 'c'"):
            supervisor["c"]
        assert "c" not in supervisor
        assert 5 not in supervisor


async def test_children_are_found_by_name_and_listed_in_start_order(autojump_clock):
    async with open_supervisor() as supervisor:
        children = tuple(supervisor.start_soon(live_on, name=name) for name in "cab")
        assert supervisor.children == children
        assert supervisor["a"] is children[1]
        assert "a" in supervisor
        await supervisor.shutdown()
    assert supervisor.children == children


# What is refused, before anything starts.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": 5}, TypeError, "name must be of type str"),
        ({"restart": "permanent!"}, TypeError, "restart must be of type Restart"),
        ({"backoff": 3.0}, TypeError, "backoff must be of type Backoff"),
        ({"shutdown_timeout": -1.0}, ValueError, "shutdown_timeout must be a number of seconds"),
        ({"shutdown_timeout": math.nan}, ValueError, "shutdown_timeout must be"),
        ({"shutdown_timeout": "5"}, TypeError, "shutdown_timeout must be a number of seconds"),
        ({"watchdog": 0}, ValueError, "watchdog must be a positive number of seconds, not 0"),
        ({"watchdog": math.nan}, ValueError, "watchdog must be"),
        ({"watchdog": "1"}, TypeError, "watchdog must be"),
        ({"watchdog": True}, TypeError, "watchdog must be a number of seconds, not True"),
        ({"watchdog": timedelta(seconds=5)}, TypeError, "watchdog must be"),
        ({"shutdown_timeout": False}, TypeError, "shutdown_timeout must be"),
        ({"name": ""}, ValueError, "name must be printable text on one line, not ''"),
        ({"name": "  "}, ValueError, "name must be printable"),
        ({"name": "two\nlines"}, ValueError, "name must be printable"),
        ({"name": "\x1b[2J"}, ValueError, "name must be printable"),
        ({"restart": None}, TypeError, "restart must be of type Restart, or a function"),
        ({"restart": crash_at_once}, TypeError, "restart is called at once"),
        ({"significant": "yes"}, TypeError, "significant must be of type bool"),
        ({"crash_ages": 5.0}, TypeError, "crash_ages must be a sequence of numbers"),
        ({"crash_ages": ["5"]}, TypeError, "crash_ages must be"),
        ({"crash_ages": [-1.0]}, ValueError, "crash_ages must be"),
        ({"watchdgo": 5.0}, TypeError, "unexpected option 'watchdgo'; did you mean 'watchdog'"),
        ({"colour": "red"}, TypeError, "unexpected option 'colour'"),
        (
            {"significant": True, "restart": Restart.PERMANENT},
            ValueError,
            "a significant child is never permanent",
        ),
        ({"significant": True}, ValueError, "never permanent"),
    ],
)
async def test_a_bad_option_of_a_child_is_an_error_at_the_call(
    autojump_clock, options, error, message
):
    log = Log()
    async with open_supervisor(
        auto_shutdown=AutoShutdown.ANY_SIGNIFICANT, on_event=log
    ) as supervisor:
        with pytest.raises(error, match=message):
            supervisor.start_soon(live_on, **options)
        with pytest.raises(error, match=message):
            await supervisor.start(ready_and_live_on, **options)
        assert supervisor.children == ()
        assert log == []


async def test_significant_without_auto_shutdown_is_refused(autojump_clock):
    async with open_supervisor() as supervisor:
        with pytest.raises(ValueError, match="without auto_shutdown"):
            supervisor.start_soon(live_on, restart=Restart.TRANSIENT, significant=True)
        assert supervisor.children == ()


@pytest.mark.parametrize("not_a_function", [None, 5, "worker"])
async def test_what_cannot_be_called_is_refused(not_a_function):
    async with open_supervisor() as supervisor:
        with pytest.raises(TypeError, match="a child is an async function"):
            supervisor.start_soon(not_a_function)
        assert supervisor.children == ()


async def test_a_coroutine_in_place_of_its_function_is_refused():
    async with open_supervisor() as supervisor:
        with pytest.raises(TypeError, match="not a coroutine object"):
            supervisor.start_soon(live_on())
        assert supervisor.children == ()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": 5}, TypeError, "name must be of type str"),
        ({"name": "\t"}, ValueError, "name must be printable"),
        ({"strategy": "all"}, TypeError, "strategy must be of type Strategy"),
        ({"shutdown_timeout": "5"}, TypeError, "shutdown_timeout must be"),
        ({"limitt": None}, TypeError, r"open_supervisor\(\) .* 'limitt'; did you mean 'limit'"),
        ({"limit": 3}, TypeError, "limit must be of type RestartLimit"),
        ({"backoff": 1.0}, TypeError, "backoff must be of type Backoff"),
        ({"shutdown_timeout": -1}, ValueError, "shutdown_timeout must be"),
        ({"shutdown_order": "reverse!"}, TypeError, "shutdown_order must be of type ShutdownOrder"),
        ({"auto_shutdown": True}, TypeError, "auto_shutdown must be of type AutoShutdown"),
        ({"on_event": 5}, TypeError, "on_event must be callable"),
        ({"rng": 7}, TypeError, "rng must be of type Random"),
    ],
)
def test_a_bad_option_of_a_supervisor_is_an_error_at_the_call(options, error, message):
    with pytest.raises(error, match=message):
        open_supervisor(**options)


@pytest.mark.parametrize(
    ("function", "option"),
    [
        (open_supervisor, "limit"),
        (Supervisor.start_soon, "watchdog"),
        (Supervisor.start, "backoff"),
    ],
)
def test_the_options_are_shown_by_help_and_to_tools(function, option):
    parameters = inspect.signature(function).parameters
    assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY


async def test_a_child_may_be_listed_without_being_started(autojump_clock, record):
    async with open_supervisor(strategy=Strategy.ONE_FOR_ALL) as supervisor:
        child = supervisor.start_soon(Actor("later", record), autostart=False)
        supervisor.start_soon(Actor("now", record, 2.0))
        await trio.sleep(3)  # its group was restarted meanwhile, and it was not
        assert (child.state, child.restarts, child.is_live) == ("stopped", 0, False)
        await supervisor.restart("later")
        assert (child.state, child.restarts, child.started_at) == ("running", 0, 3.0)
        await supervisor.shutdown()
    assert [time for what, time in record if what == "+later"] == [3.0]


async def test_a_child_that_was_never_started_holds_up_nobody(autojump_clock):
    async with open_supervisor() as supervisor:
        supervisor.start_soon(live_on, name="never", autostart=False)
        await supervisor.stop("never")
        supervisor.start_soon(live_on, name="removed", autostart=False)
        await supervisor.remove("removed")
        assert states(supervisor) == {"never": "stopped"}


async def test_a_permanent_child_that_returns_again_is_warned_of_once(autojump_clock, caplog):
    async with open_supervisor(limit=None) as supervisor:
        supervisor.start_soon(return_after, 1.0, name="download")
        await trio.sleep(10)
        await supervisor.shutdown()
    (warning,) = (r for r in caplog.records if r.action == "permanent_child_returns")
    assert "supervisor/download returns and is started again and again" in warning.getMessage()
    assert "restart=Restart.TRANSIENT" in warning.getMessage()


async def test_a_supervisor_cannot_be_opened_a_second_time(autojump_clock):
    manager = open_supervisor()
    async with manager:
        with pytest.raises(RuntimeError, match="second time"):
            await manager.__aenter__()
    with pytest.raises(RuntimeError, match="second time"):
        await manager.__aenter__()


async def test_the_defaults_are_those_that_the_reference_names(autojump_clock):
    async with open_supervisor() as supervisor:
        child = supervisor.start_soon(live_on)
        assert (supervisor.name, supervisor.strategy) == ("supervisor", "one_for_one")
        assert (child.restart, child.backoff) == ("permanent", Backoff())
        assert (child.shutdown_timeout, child.watchdog, child.significant) == (None, None, False)
        await supervisor.shutdown()
    assert (RestartLimit().max_restarts, RestartLimit().within) == (3, 5.0)
